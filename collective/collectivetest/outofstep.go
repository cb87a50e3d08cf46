package collectivetest

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

// disagreement is two ways to call the same operation.
type disagreement struct {
	name string
	// change makes the call of the last rank from that of the others.
	change func(s *shape)
	of     []collective.OpKind // nil: all
}

var rooted = []collective.OpKind{collective.OpBroadcast, collective.OpReduce}

var reducing = []collective.OpKind{collective.OpAllReduce, collective.OpReduceScatter, collective.OpReduce}

var disagreements = []disagreement{
	{"lengths", func(s *shape) { s.elements++ }, kinds[:6]},
	{"nothing", func(s *shape) { s.elements = 0 }, kinds[:6]},
	{"types", func(s *shape) { s.dtype = collective.Int32 }, kinds[:6]},
	{"reductions", func(s *shape) { s.op = collective.Max }, reducing},
	{"roots", func(s *shape) { s.root = 1 }, rooted},
}

// testOutOfStep checks that ranks which disagree on an operation all get an error that names two ranks and
// what they are at, whatever the algorithm, and that none hangs.
func testOutOfStep(t *testing.T, mesh Mesh) {
	const n = 100
	for i, kind := range kinds {
		for _, a := range (*cluster)(nil).algorithms(kind) {
			most := shape{kind: kind, algorithm: a, elements: n}
			for _, name := range []string{"default", "many chunks"} {
				tuning := tunings[name]
				run := func(what string, most, last shape) {
					t.Run(fmt.Sprintf("%s/%v/%v/%s", what, kind, a, name), func(t *testing.T) { checkOutOfStep(t, mesh, tuning, most, last) })
				}
				for _, d := range disagreements {
					if d.has(kind) {
						last := most
						d.change(&last)
						run(d.name, most, last)
					}
				}
				if name == "default" {
					other := kinds[(i+1)%len(kinds)]
					run("orders", most, shape{kind: other, elements: n})
					none := most
					none.elements = 0
					run("empty buffers", none, shape{kind: other})
				}
			}
		}
	}
	for _, a := range collective.OpAllReduce.Algorithms() {
		if a != collective.Shared && a != collective.Ring {
			most, last := shape{kind: collective.OpAllReduce, elements: n, algorithm: collective.Ring}, shape{elements: n}
			last.kind, last.algorithm = most.kind, a
			t.Run(fmt.Sprintf("algorithms/%v", a), func(t *testing.T) { checkOutOfStep(t, mesh, collective.Tuning{}, most, last) })
		}
	}
	t.Run("send and receive", func(t *testing.T) {
		c := newCluster(t, mesh(t, 2), collective.Tuning{})
		defer c.close(t)
		errs := c.each(func(g *collective.Group) error {
			if g.Rank() == 0 {
				if err := g.Send(context.Background(), 1, make([]byte, 10)); err != nil {
					return err
				}
				return g.Recv(context.Background(), 1, make([]byte, 1))
			}
			return g.Recv(context.Background(), 0, make([]byte, 11))
		})
		requirePeer(t, errs[0], 1)
		var step *collective.OutOfStepError
		require.ErrorAs(t, errs[1], &step)
		require.EqualValues(t, 10, step.GotBytes)
		require.EqualValues(t, 11, step.WantBytes)
	})
}

func (d *disagreement) has(kind collective.OpKind) bool {
	for _, k := range d.of {
		if k == kind {
			return true
		}
	}
	return d.of == nil
}

// checkOutOfStep lets the last of the ranks call another operation than the rest.
func checkOutOfStep(t *testing.T, mesh Mesh, tuning collective.Tuning, most, last shape) {
	for _, world := range []int{2 + int(most.kind+collective.OpKind(most.algorithm))%3} {
		leakFree(t)
		c := newCluster(t, mesh(t, world), tuning)
		defer c.close(t)
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		errs := c.each(func(g *collective.Group) error {
			s := most
			if g.Rank() == world-1 {
				s = last
			}
			if err := s.run(g, func(call *collective.Call) error { return g.Do(ctx, call) }, false); err != nil {
				return err
			}
			for { // a rank whose part was over before it could know finds out in the next operation
				if err := g.Barrier(ctx); err != nil {
					return err
				}
			}
		})
		for r, err := range errs {
			var pe *collective.PeerError
			require.ErrorAs(t, err, &pe, "rank %d", r)
			var step *collective.OutOfStepError
			require.ErrorAs(t, err, &step, "rank %d", r)
			witness := step.Witness - 1
			if witness < 0 {
				witness = r
			}
			require.NotEqual(t, r, pe.Rank, "%v", err)
			require.NotEqual(t, pe.Rank, witness, "%v", err)
			require.True(t, step.Got != step.Want || step.GotBytes != step.WantBytes, "%v", err)
			if step.Got.Seq == 1 && step.Want.Seq == 1 {
				require.Contains(t, []int{pe.Rank, witness}, world-1, "rank %d does not name the one that differs: %v", r, err)
			}
		}
	}
}
