package worker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective/transport/auto"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// residentCopies is a Resident whose registered memory the Mirror brings up to date, and that counts how often gradients came to the host.
type residentCopies struct {
	*copies
	on *sharedDevice
}

func (r *residentCopies) Gradients() (kernels.Device, kernels.Buffer) { return r.on, r.on.grads }

func (r *residentCopies) PullGradients(first, end int) error {
	_ = r.on.Sync()
	r.pulled++
	return r.copies.PullGradients(first, end)
}

func (r *residentCopies) PushGradients() error {
	_ = r.on.Sync()
	return r.copies.PushGradients()
}

func (r *residentCopies) ClearGradients() error {
	_ = r.on.Sync()
	return r.copies.ClearGradients()
}

// resident makes l a worker on a device of h.
func (h *fakeHost) resident(t *testing.T, l *linear) *linear {
	l.copies, l.shared = &copies{}, &sharedDevice{t: t, host: h, room: -1}
	return l
}

// wide makes l's gradients long enough for every rank to own some.
func wide(l *linear) *linear {
	l.width = 700
	return l
}

// apart has a worker's memory pass by messages over sockets, so that the race detector sees whether what is shared is read in time.
func apart(cfg *Config, p *proc) { cfg.Host = string(p.id) }

// sending has workers that are apart exchange gradients between their devices.
func sending(cfg *Config, p *proc) {
	apart(cfg, p)
	cfg.GPUReduce = GPUReduceNCCL
}

// ways are those in which gradients are reduced on devices.
var ways = map[string]func(cfg *Config, p *proc){"ipc": apart, "nccl": sending}

// requireHere checks that no gradient went by way of the host, and that nothing of the peers is open.
func requireHere(t *testing.T, h *fakeHost, procs ...*proc) {
	t.Helper()
	for _, p := range procs {
		require.Zero(t, p.trainer.copies.pulled, "%s", p.id)
	}
	h.requireClosed(t)
}

func (h *fakeHost) opened() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

func (h *fakeHost) requireClosed(t *testing.T) {
	t.Helper()
	require.Positive(t, h.imports+h.joins)
	require.False(t, h.imports > 0 && h.joins > 0, "one way is enough")
	require.Zero(t, h.open)
}

// TestResidentGivesTheSameWeights compares with workers on the host, for worlds whose ranges are one node, several, or empty.
func TestResidentGivesTheSameWeights(t *testing.T) {
	const steps = 12
	for _, shards := range []int{1, 7, 8} {
		want := alone(t, newLinear(steps, shards))
		h := &fakeHost{}
		require.Equal(t, want, alone(t, h.resident(t, newLinear(steps, shards))))
		for world := 2; world <= min(6, shards); world++ {
			for name, way := range ways {
				t.Run(fmt.Sprintf("S=%d W=%d %s", shards, world, name), func(t *testing.T) {
					h := &fakeHost{}
					c := newCoordinator(t, elastic.Policy{Min: world})
					var procs []*proc
					for i := range world {
						procs = append(procs, launch(c, i, h.resident(t, wide(newParts(steps, shards))), way))
					}
					requireSame(c, alone(t, wide(newParts(steps, shards))), procs...)
					requireHere(t, h, procs...)
					require.Equal(t, name == "nccl", h.joins > 0)
				})
			}
		}
	}
}

// The rounded wire rounds every node where it is, too. What NCCL would send is twice as long as asked for: where memory is not shared, that goes by
// way of the host.
func TestResidentRounds(t *testing.T) {
	const steps = 12
	rounds := func(cfg *Config, p *proc) {
		apart(cfg, p)
		cfg.Wire = WireBF16
	}
	for _, shards := range []int{1, 7, 8} {
		want, err := runAlone(t, Config{Wire: WireBF16}, wide(newLinear(steps, shards)))
		require.NoError(t, err)
		h := &fakeHost{}
		on, err := runAlone(t, Config{Wire: WireBF16}, h.resident(t, wide(newLinear(steps, shards))))
		require.NoError(t, err)
		require.Equal(t, want, on)
		for world := 2; world <= min(5, shards); world++ {
			for _, shared := range []bool{true, false} {
				t.Run(fmt.Sprintf("S=%d W=%d shared=%t", shards, world, shared), func(t *testing.T) {
					h := &fakeHost{}
					c := newCoordinator(t, elastic.Policy{Min: world})
					var procs []*proc
					for i := range world {
						l := h.resident(t, wide(newLinear(steps, shards)))
						if !shared {
							l.shared.refuse = func(at string) error {
								if at == "import" {
									return errors.New("no peer access")
								}
								return nil
							}
						}
						procs = append(procs, launch(c, i, l, rounds))
					}
					requireSame(c, want, procs...)
					if shared {
						requireHere(t, h, procs...)
						return
					}
					require.Zero(t, h.joins)
					require.Positive(t, procs[0].trainer.copies.pulled)
				})
			}
		}
	}
}

// A worker without a device, or one that can neither share nor send, has all go by way of the host; so has a knob.
func TestResidentWithOthers(t *testing.T) {
	const steps, shards = 10, 8
	want := alone(t, newLinear(steps, shards))
	broken := errors.New("no peer access")
	refuse := func(l *linear, what ...string) {
		l.shared.refuse = func(at string) error {
			if slices.Contains(what, at) {
				return broken
			}
			return nil
		}
	}
	all := []int{0, 1, 2}
	for name, c := range map[string]struct {
		change func(cfg *Config, p *proc)
		odd    func(l *linear)
		of     []int // whom odd changes; nil: the second alone
		here   bool  // gradients stay on the devices
	}{
		"host alone":         {change: apart, odd: func(l *linear) { l.copies, l.shared = nil, nil }},
		"mirror":             {change: apart, odd: func(l *linear) { l.shared = nil }},
		"export":             {change: apart, odd: func(l *linear) { refuse(l, "export") }, here: true},
		"import":             {change: apart, odd: func(l *linear) { refuse(l, "import") }, here: true},
		"import and place":   {change: apart, odd: func(l *linear) { refuse(l, "import", "place") }},
		"import, one GPU":    {change: apart, odd: func(l *linear) { refuse(l, "import"); l.shared.gpu = "one" }, of: all},
		"memory":             {change: apart, odd: func(l *linear) { l.shared.room = 2 }},
		"memory of inboxes":  {change: sending, odd: func(l *linear) { l.shared.room = 5 }},
		"nccl, place":        {change: sending, odd: func(l *linear) { refuse(l, "place") }},
		"nccl, id":           {change: sending, odd: func(l *linear) { refuse(l, "id") }, of: all},
		"nccl, join":         {change: sending, odd: func(l *linear) { refuse(l, "join") }},
		"nccl, first swap":   {change: sending, odd: func(l *linear) { refuse(l, "swap") }},
		"nccl, first number": {change: sending, odd: func(l *linear) { l.shared.garble = true }},
		"nccl, export":       {change: sending, odd: func(l *linear) { refuse(l, "export", "import") }, of: all, here: true},
		"ipc": {odd: func(l *linear) { refuse(l, "import") }, change: func(cfg *Config, p *proc) {
			apart(cfg, p)
			cfg.GPUReduce = GPUReduceIPC
		}},
		"unlike": {odd: func(*linear) {}, change: func(cfg *Config, p *proc) {
			apart(cfg, p)
			cfg.GPUReduce = map[elastic.MemberID]string{"w0": GPUReduceIPC, "w1": GPUReduceNCCL, "w2": GPUReduceAuto}[p.id]
		}},
		"asked for": {odd: func(l *linear) { refuse(l, "import", "place") }, of: all, change: func(cfg *Config, p *proc) {
			apart(cfg, p)
			cfg.GPUReduce = GPUReduceHost
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := &fakeHost{}
			co := newCoordinator(t, elastic.Policy{Min: 3})
			var procs []*proc
			for i := range 3 {
				l := h.resident(t, newLinear(steps, shards))
				if slices.Contains(c.of, i) || c.of == nil && i == 1 {
					c.odd(l)
				}
				procs = append(procs, launch(co, i, l, c.change))
			}
			requireSame(co, want, procs...)
			for _, i := range []int{0, 2} {
				require.Equal(t, c.here, procs[i].trainer.copies.pulled == 0)
			}
			require.Zero(t, h.open)
		})
	}
	t.Run("transport", func(t *testing.T) {
		for _, mode := range []string{GPUReduceAuto, GPUReduceIPC, GPUReduceNCCL} {
			h := &fakeHost{}
			c := newCoordinator(t, elastic.Policy{Min: 2})
			tcp := func(cfg *Config, p *proc) { cfg.Transport, cfg.GPUReduce = string(auto.TCP), mode }
			requireSame(c, want, launch(c, 0, h.resident(t, newLinear(steps, shards)), tcp), launch(c, 1, h.resident(t, newLinear(steps, shards)), tcp))
			require.Equal(t, mode == GPUReduceIPC, h.imports > 0)
			require.Equal(t, mode == GPUReduceNCCL, h.joins > 0)
		}
	})
}

// TestResidentIsBarred: ranks that are all alive and could not join do not wait for each other in every generation.
func TestResidentIsBarred(t *testing.T) {
	const steps, shards = 30, 8
	want := alone(t, newLinear(steps, shards))
	h := &fakeHost{}
	c := newCoordinator(t, elastic.Policy{Min: 2, Start: 2})
	g := gate{15, make(chan struct{})}
	var procs []*proc
	for i := range 2 {
		l := h.resident(t, gated(steps, shards, g))
		l.shared.refuse = func(at string) error {
			if i == 1 && at == "join" {
				return errors.New("a firewall")
			}
			return nil
		}
		procs = append(procs, launch(c, i, l, sending))
	}
	c.until("two", func() bool { return len(c.views) > 0 && len(c.views[len(c.views)-1].Roster) == 2 })
	procs = append(procs, launch(c, 2, h.resident(t, newLinear(steps, shards)), sending))
	c.until("three", func() bool { return c.views[len(c.views)-1].RankOf("w2") >= 0 })
	close(g.open)
	requireSame(c, want, procs...)
	require.Equal(t, 2, h.joins)
	require.Zero(t, h.open)
}

// TestResidentKills kills a worker wherever its device is waited for: in each part of the reduction, while its neighbours read
// its memory. Another takes its place.
func TestResidentKills(t *testing.T) {
	const steps, shards = 30, 8
	want := alone(t, wide(newLinear(steps, shards)))
	for name, way := range ways {
		for at := 33; at < 45; at++ { // the waits of more than one step
			t.Run(fmt.Sprintf("%s, wait %d", name, at), func(t *testing.T) {
				h := &fakeHost{}
				c := newCoordinator(t, elastic.Policy{Min: 2, Start: 3})
				g := gate{15, make(chan struct{})}
				procs := make([]*proc, 3)
				for i := range procs {
					l := h.resident(t, wide(gated(steps, shards, g)))
					if i == 1 {
						l.shared.onSync = func(n int) {
							if n == at {
								procs[1].kill()
								c.feed(elastic.Lost{ID: procs[1].id, Reason: "killed in a wait"})
							}
						}
					}
					procs[i] = launch(c, i, l, way)
				}
				require.ErrorIs(t, procs[1].wait(), errKilled)
				procs[1] = launch(c, 3, h.resident(t, wide(newLinear(steps, shards))), way)
				c.until("three again", func() bool { return c.views[len(c.views)-1].RankOf("w3") >= 0 })
				close(g.open)
				requireSame(c, want, procs...)
				h.requireClosed(t)
			})
		}
	}
}

// TestResidentFreeze: a worker that neither sends nor ends keeps nobody, as soon as the coordinator knows.
func TestResidentFreeze(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, wide(newLinear(steps, shards)))
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			h := &fakeHost{}
			c := newCoordinator(t, elastic.Policy{Min: 2, Start: 3})
			thaw := make(chan struct{})
			procs := make([]*proc, 3)
			for i := range procs {
				l := h.resident(t, wide(newLinear(steps, shards)))
				if i == 1 {
					l.shared.onSync = func(n int) {
						if n == 40 {
							c.freeze(procs[1].id)
							<-thaw
						}
					}
				}
				procs[i] = launch(c, i, l, way)
			}
			requireSame(c, want, procs[0], procs[2])
			procs[1].kill()
			close(thaw)
			require.ErrorIs(t, procs[1].wait(), errKilled)
			h.requireClosed(t)
		})
	}
}

// TestResidentLaggard kills a worker that has the sum while its neighbour has not: the neighbour gets the sum of the step from a
// device, by way of the host.
func TestResidentLaggard(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, wide(newLinear(steps, shards)))
	for _, way := range ways {
		for _, point := range []string{PointReduce, PointReduced, PointApplied} {
			h := &fakeHost{}
			c := newCoordinator(t, elastic.Policy{Min: 2, Start: 3})
			procs := make([]*proc, 3)
			for i := range procs {
				change := way
				if i == 1 {
					die := dieAt(c, Fault{Point: point, Step: 7, Rank: -1})
					change = func(cfg *Config, p *proc) { way(cfg, p); die(cfg, p) }
				}
				procs[i] = launch(c, i, h.resident(t, wide(newLinear(steps, shards))), change)
			}
			require.ErrorIs(t, procs[1].wait(), errKilled)
			requireSame(c, want, procs[0], procs[2])
			h.requireClosed(t)
		}
	}
}

// TestResidentGivesUp: a worker gives up, and writes its memory, while its neighbour still copies from there. The neighbour has all the messages
// that its sum needs, and yet must not count the step.
func TestResidentGivesUp(t *testing.T) {
	const steps, shards, step = 10, 8, 5
	want := alone(t, wide(newLinear(steps, shards)))
	h := &fakeHost{}
	c := newCoordinator(t, elastic.Policy{Min: 2})
	var procs [2]*proc
	slow, other := h.resident(t, wide(newLinear(steps, shards))), h.resident(t, wide(newLinear(steps, shards)))
	once := false
	slow.shared.onSync = func(int) {
		if !slow.shared.others || slow.shared.copied.Load() != step-1 || once {
			return
		}
		once = true
		own := h.opened() / 2
		wait := func(done func() bool) { require.Eventually(t, done, 20*time.Second, time.Millisecond) }
		wait(func() bool { return other.shared.copied.Load() >= step })
		time.Sleep(10 * time.Millisecond) // its message is probably here; if not the step fails sooner
		procs[1].s.pos.current().abort(errors.New("gives up"))
		wait(func() bool { return h.opened() <= own })
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, x := range h.exported {
			if x.owner == other.shared {
				for i := range x.x {
					x.x[i] = 1e6
				}
			}
		}
	}
	procs[0], procs[1] = launch(c, 0, slow, apart), launch(c, 1, other, apart)
	requireSame(c, want, procs[:]...)
	require.True(t, once)
}

// TestResidentNaN: the sentence names the shard and the tensor, and a step that is left out leaves the same weights.
func TestResidentNaN(t *testing.T) {
	const steps, shards = 10, 8
	for _, policy := range []string{NaNStop, NaNSkip} {
		want, _ := runAlone(t, Config{NaN: policy}, poison(newLinear(steps, shards), 4, 5))
		h := &fakeHost{}
		c := newCoordinator(t, elastic.Policy{Min: 3})
		var procs []*proc
		for i := range 3 {
			procs = append(procs, launch(c, i, poison(h.resident(t, newLinear(steps, shards)), 4, 5), func(cfg *Config, p *proc) {
				apart(cfg, p)
				cfg.NaN = policy
			}))
		}
		if policy == NaNSkip {
			requireSame(c, want, procs...)
			continue
		}
		for _, p := range procs {
			require.ErrorContains(t, p.wait(), "step 4: the gradient has a NaN or Inf: shard 5 brought it, in b;")
		}
	}
	l := (&fakeHost{}).resident(t, newLinear(5, 4))
	_, err := runAlone(t, Config{Fault: &Fault{Point: PointGradients, Step: 3, Rank: 0, Action: ActionNaN}}, l)
	require.ErrorContains(t, err, "step 3: the gradient has a NaN or Inf: shard 0 brought it, in w")
}
