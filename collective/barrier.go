package collective

// tokens are a barrier's one-byte messages.
type tokens struct{ out, in [1]byte }

func (t *tokens) message(_, _ int) []byte { return t.out[:] }

// barrier is the dissemination barrier (Hensgen, Finkel and Manber 1988): in round i a rank tells the rank 2^i
// further that it, and all that it has heard of, have arrived. It takes ceil(log2 world) rounds.
func (g *Group) barrier() error {
	w, rank := g.World(), g.Rank()
	for d := 1; d < w; d *= 2 {
		g.post((rank+d)%w, &g.tokens, 1, 1)
		if err := g.settle(g.tr.Recv((rank-d+w)%w, g.tokens.in[:])); err != nil {
			return err
		}
	}
	return nil
}

// meet is an operation on empty buffers. Every rank hears from every other one, so that a rank whose buffer is not empty
// is found out here and not by a hang later.
func (g *Group) meet() error {
	return g.exchange(g.tokens.out[:], func(int) []byte { return g.tokens.in[:] })
}
