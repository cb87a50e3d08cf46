package collective

import "github.com/farandole-ml/farandole/kernels"

// direct is the one-round algorithm for small buffers: every rank sends what it has to every other rank, and each
// computes the result for itself, all in the same order.
type direct struct {
	mine    []byte
	scratch []float32
}

func (d *direct) message(_, _ int) []byte { return d.mine }

// exchange sends mine to every other rank and receives theirs at the places that at names.
func (g *Group) exchange(mine []byte, at func(rank int) []byte) error {
	g.direct.mine = mine
	w, rank := g.World(), g.Rank()
	for i := 1; i < w; i++ {
		g.post((rank+i)%w, &g.direct, 1, 1)
	}
	var err error
	for i := 1; i < w && err == nil; i++ {
		from := (rank + w - i) % w
		err = g.tr.Recv(from, at(from))
	}
	err = g.settle(err)
	g.direct.mine = nil
	return err
}

// directSum adds the ranks' buffers in rank order.
func (g *Group) directSum(b []float32) error {
	n, w := len(b), g.World()
	all := grow(&g.direct.scratch, n*w)
	copy(all[n*g.Rank():], b)
	if err := g.exchange(bytesOf(b), func(r int) []byte { return bytesOf(all[n*r : n*(r+1)]) }); err != nil {
		return err
	}
	copy(b, all[:n])
	for r := 1; r < w; r++ {
		kernels.AddF32(b, b, all[n*r:n*(r+1)])
	}
	return nil
}

func (g *Group) directGather(out []byte, n int) error {
	r := g.Rank()
	return g.exchange(out[n*r:n*(r+1)], func(r int) []byte { return out[n*r : n*(r+1)] })
}
