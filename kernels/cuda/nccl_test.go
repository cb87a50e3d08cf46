//go:build cuda

package cuda

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

func needNCCL(t testing.TB, d *device) {
	t.Helper()
	_, missing := d.Place()
	skipWithout(t, missing)
}

// patient is a context that ends with a cause which no test expects.
func patient(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, errors.New("nothing was noticed"))
	t.Cleanup(cancel)
	return ctx
}

// joined gives an exchange of devices of this process.
func joined(t testing.TB, devices ...*device) []kernels.Exchange {
	t.Helper()
	id, err := devices[0].NewExchange()
	require.NoError(t, err)
	all, errs := make([]kernels.Exchange, len(devices)), make([]error, len(devices))
	each(devices, func(rank int, d *device) { all[rank], errs[rank] = d.JoinExchange(patient(t), id, rank, len(devices)) })
	require.NoError(t, errors.Join(errs...))
	t.Cleanup(func() {
		for _, x := range all {
			require.NoError(t, x.Close())
		}
	})
	return all
}

// each has f done for all devices at once.
func each(devices []*device, f func(rank int, d *device)) {
	var wg sync.WaitGroup
	for rank, d := range devices {
		wg.Go(func() { f(rank, d) })
	}
	wg.Wait()
}

func devices(t testing.TB, n int) (list []*device) {
	for rank := range n {
		list = append(list, deviceOf(t, rank))
	}
	return list
}

// requireWorks checks that d is as good as before.
func requireWorks(t testing.TB, d *device) {
	t.Helper()
	b := uploaded(t, d, 1, 2, 3)
	d.Add(b, b, b)
	require.Equal(t, []float32{2, 4, 6}, downloaded(t, d, b))
	require.Empty(t, d.exchanges)
}

// TestExchangeWithItself is what one GPU can show.
func TestExchangeWithItself(t *testing.T) {
	d := newDevice(t)
	needNCCL(t, d)
	x := joined(t, d)[0]
	from, to := uploaded(t, d, counted(shareTestLen)...), uploaded(t, d, make([]float32, shareTestLen)...)
	want := counted(shareTestLen)
	for range 3 {
		d.Scale(from, 2)
		require.NoError(t, x.Swap(patient(t), []kernels.Message{{Peer: 0, Buffer: from}}, []kernels.Message{{Peer: 0, Buffer: to}}))
		d.Add(to, to, from)
		for i := range want {
			want[i] *= 2
		}
		require.NoError(t, x.Sync(patient(t)))
		for i, v := range downloaded(t, d, to) {
			require.Equal(t, 2*want[i], v)
		}
	}
	require.NoError(t, x.Close())
	require.NoError(t, x.Close())
	require.ErrorContains(t, x.Swap(patient(t), nil, nil), "the exchange was closed")
	require.ErrorContains(t, x.Sync(patient(t)), "the exchange was closed")
	requireWorks(t, d)
}

// TestExchangeSwaps: three GPUs send to each other, several messages of other lengths to each, in order with kernels before and after.
func TestExchangeSwaps(t *testing.T) {
	for _, lazy := range []string{"LAZY=0", "LAZY=1"} {
		t.Run(lazy, func(t *testing.T) {
			if !emulated(t, "GPUS=3", lazy) {
				return
			}
			const world, rounds = 3, 4
			length := func(from, to, k int) int { return 1000*from + 100*to + 37*k }
			all := devices(t, world)
			xs := joined(t, all...)
			each(all, func(rank int, d *device) {
				for round := range rounds {
					var sends, recvs []kernels.Message
					for peer := range world {
						for k := range 3 { // the first from rank 0 to itself is empty
							out, in := make([]float32, length(rank, peer, k)), make([]float32, length(peer, rank, k))
							for i := range out {
								out[i] = float32(round + 10*rank + 100*peer + 1000*k)
							}
							b := uploaded(t, d, out...)
							d.Scale(b, 2)
							sends = append(sends, kernels.Message{Peer: peer, Buffer: b})
							recvs = append(recvs, kernels.Message{Peer: peer, Buffer: uploaded(t, d, in...)})
						}
					}
					if err := xs[rank].Swap(patient(t), sends, recvs); err != nil {
						t.Errorf("rank %d: %v", rank, err)
						return
					}
					for _, m := range append(sends, recvs...) {
						d.Scale(m.Buffer, 0.5) // what was sent is what was there before
					}
					if err := xs[rank].Sync(patient(t)); err != nil {
						t.Errorf("rank %d: %v", rank, err)
						return
					}
					for i, m := range recvs {
						for _, v := range downloaded(t, d, m.Buffer) {
							if want := float32(round + 10*m.Peer + 100*rank + 1000*(i%3)); v != want {
								t.Errorf("rank %d, round %d, message %d: %g, not %g", rank, round, i, v, want)
								return
							}
						}
					}
				}
			})
			for rank, d := range all {
				require.NoError(t, xs[rank].Close())
				requireWorks(t, d)
			}
		})
	}
}

// peerOf has the rank of the other process of these tests, in a world of two unless what it reads says otherwise.
const peerOf = "FARANDOLE_TEST_PEER"

// TestPeer is the other process: no test by itself. It joins, and waits to be killed or told to send.
func TestPeer(t *testing.T) {
	var rank, world int
	if _, err := fmt.Sscan(os.Getenv(peerOf), &rank); err != nil {
		t.Skip("the other process of these tests")
	}
	d := deviceOf(t, rank)
	b := uploaded(t, d, counted(shareTestLen)...)
	var x kernels.Exchange
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var what, text string
		_, _ = fmt.Sscan(lines.Text(), &what, &text, &world)
		id, err := hex.DecodeString(text)
		require.NoError(t, err)
		switch what {
		case "join":
			if x, err = d.JoinExchange(t.Context(), id, rank, world); err != nil {
				fmt.Println(err)
				continue
			}
		case "begin": // without an end
			fmt.Println("ok")
			_, err = d.JoinExchange(t.Context(), id, rank, world)
			require.NoError(t, err)
		case "send":
			require.NoError(t, x.Swap(t.Context(), []kernels.Message{{Peer: 0, Buffer: b}}, nil))
			require.NoError(t, x.Sync(t.Context()))
		}
		fmt.Println("ok")
	}
}

// withPeer gives GPU 0 of two in an exchange with another process on GPU 1.
func withPeer(t *testing.T) (*device, kernels.Exchange, *exporter) {
	t.Helper()
	d, peer := newDevice(t), newOther(t, "TestPeer", peerOf, 1)
	id, err := d.NewExchange()
	require.NoError(t, err)
	answer := make(chan string, 1)
	go func() { answer <- peer.do("join " + hex.EncodeToString(id) + " 2") }()
	x, err := d.JoinExchange(patient(t), id, 0, 2)
	require.NoError(t, err)
	require.Equal(t, "ok", <-answer)
	return d, x, peer
}

// TestExchangeWithAnotherProcess: what it sent arrives, also after it has died.
func TestExchangeWithAnotherProcess(t *testing.T) {
	if !emulated(t, "GPUS=2", "LAZY=1") {
		return
	}
	d, x, peer := withPeer(t)
	require.Equal(t, "ok", peer.do("send 00 0"))
	b := uploaded(t, d, make([]float32, shareTestLen)...)
	require.NoError(t, x.Swap(patient(t), nil, []kernels.Message{{Peer: 1, Buffer: b}}))
	require.NoError(t, x.Sync(patient(t)))
	require.Equal(t, counted(shareTestLen), downloaded(t, d, b))
	require.NoError(t, x.Close())
	requireWorks(t, d)
}

// TestExchangeWhosePeerDies: the one that waits for it gets an error by itself, the device is as good as before, and a new exchange works.
func TestExchangeWhosePeerDies(t *testing.T) {
	const gone = "remote process exited or there was a network error (status 6); NCCL_DEBUG=WARN in the environment tells more"
	for _, when := range []string{"begins", "sends", "is idle"} {
		for _, lazy := range []string{"LAZY=0", "LAZY=1"} {
			t.Run(when+" "+lazy, func(t *testing.T) {
				if !emulated(t, "GPUS=3", lazy) {
					return
				}
				if when == "begins" {
					d, peer := newDevice(t), newOther(t, "TestPeer", peerOf, 1)
					id, err := d.NewExchange()
					require.NoError(t, err)
					require.Equal(t, "ok", peer.do("begin "+hex.EncodeToString(id)+" 3"))
					timer := time.AfterFunc(100*time.Millisecond, peer.kill) // its connection is there by then, or is refused later
					defer timer.Stop()
					ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, errors.New("nobody came"))
					defer cancel()
					_, err = d.JoinExchange(ctx, id, 0, 3)
					require.EqualError(t, err, d.Name()+": JoinExchange: NCCL: a rank is gone, or cannot be reached: "+gone)
					requireWorks(t, d)
					return
				}
				d, x, peer := withPeer(t)
				b := uploaded(t, d, make([]float32, shareTestLen)...)
				wanted := []kernels.Message{{Peer: 1, Buffer: b}}
				if when == "sends" {
					time.AfterFunc(20*time.Millisecond, peer.kill)
				} else {
					peer.kill()
				}
				err := x.Swap(patient(t), nil, wanted)
				d.Scale(b, 2)
				if err == nil {
					err = x.Sync(patient(t))
				}
				require.ErrorContains(t, err, gone)
				require.Equal(t, err, x.Sync(patient(t)), "it stays")
				require.Equal(t, err, x.Swap(patient(t), nil, wanted))
				require.NoError(t, x.Close())
				requireWorks(t, d)
				other := deviceOf(t, 1)
				xs := joined(t, d, other)
				each([]*device{d, other}, func(rank int, d *device) {
					b := uploaded(t, d, 1, 2)
					require.NoError(t, xs[rank].Swap(patient(t), []kernels.Message{{Peer: 1 - rank, Buffer: b}}, []kernels.Message{{Peer: 1 - rank, Buffer: b.Slice(0, 2)}}))
					require.NoError(t, xs[rank].Sync(patient(t)))
				})
			})
		}
	}
}

// TestExchangeEndsWithItsContext: a rank that never comes, and one that never sends, keep nobody.
func TestExchangeEndsWithItsContext(t *testing.T) {
	for _, lazy := range []string{"LAZY=0", "LAZY=1"} {
		t.Run(lazy, func(t *testing.T) {
			if !emulated(t, "GPUS=2", lazy) {
				return
			}
			moved := errors.New("the generation moved on")
			soon := func() context.Context {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(20*time.Millisecond, func() { cancel(moved) })
				return ctx
			}
			all := devices(t, 2)
			d := all[0]
			id, err := d.NewExchange()
			require.NoError(t, err)
			_, err = d.JoinExchange(soon(), id, 0, 2)
			require.ErrorIs(t, err, moved)
			requireWorks(t, d)

			x := joined(t, all...)[0]
			b := uploaded(t, d, 0)
			require.NoError(t, x.Swap(patient(t), nil, []kernels.Message{{Peer: 1, Buffer: b}}))
			d.Scale(b, 2)
			require.ErrorIs(t, x.Sync(soon()), moved)
			requireWorks(t, d)
		})
	}
}

// TestDeviceThatClosesWithAnExchange does not wait for what never comes.
func TestDeviceThatClosesWithAnExchange(t *testing.T) {
	if !emulated(t, "GPUS=2", "LAZY=1") {
		return
	}
	dev, err := kernels.Open("cuda", kernels.Config{})
	require.NoError(t, err)
	d := dev.(*device)
	x := joined(t, d, deviceOf(t, 1))[0]
	b := uploaded(t, d, 0)
	require.NoError(t, x.Swap(patient(t), nil, []kernels.Message{{Peer: 1, Buffer: b}}))
	require.NoError(t, d.Close())
	require.NoError(t, x.Close())
	require.Error(t, x.Sync(patient(t)))
}

// TestExchangeIsRefused: nothing of it makes a device useless.
func TestExchangeIsRefused(t *testing.T) {
	if !emulated(t, "GPUS=2") {
		return
	}
	all := devices(t, 3) // the third is on GPU 0 once more
	refused := func(says string, id []byte, ranks ...int) {
		t.Helper()
		errs := make([]error, len(all))
		each(all[:len(ranks)], func(i int, _ *device) {
			_, errs[i] = all[ranks[i]].JoinExchange(patient(t), id, i, len(ranks))
		})
		for i, r := range ranks {
			require.ErrorContains(t, errs[i], says)
			requireWorks(t, all[r])
		}
	}
	id, err := all[0].NewExchange()
	require.NoError(t, err)
	refused("JoinExchange: NCCL: a rank is gone, or cannot be reached: invalid usage (status 5)", id, 0, 2)
	place := func(i int) string {
		at, err := all[i].Place()
		require.NoError(t, err)
		return string(at)
	}
	require.Equal(t, place(0), place(2))
	require.NotEqual(t, place(0), place(1))
	refused("this is no name of an exchange", id[:20], 0)
	refused("invalid argument", make([]byte, len(id)), 0)

	xs := joined(t, all[0], all[1])
	errs := make([]error, 2)
	each(all[:2], func(rank int, d *device) { // what is sent has another length than what is wanted
		b := uploaded(t, d, make([]float32, 10+rank)...)
		m := []kernels.Message{{Peer: 1 - rank, Buffer: b}}
		require.NoError(t, xs[rank].Swap(patient(t), m, m))
		errs[rank] = xs[rank].Sync(patient(t))
	})
	require.ErrorContains(t, errors.Join(errs...), "invalid usage")
	require.NotContains(t, errors.Join(errs...).Error(), "nothing was noticed")
	for _, d := range all {
		requireWorks(t, d)
	}
	require.Panics(t, func() {
		_ = joined(t, all[0])[0].Swap(t.Context(), []kernels.Message{{Peer: 1, Buffer: uploaded(t, all[0], 1)}}, nil)
	})
	require.Panics(t, func() {
		_ = joined(t, all[0])[0].Swap(t.Context(), []kernels.Message{{Peer: 0, Buffer: uploaded(t, all[1], 1)}}, nil)
	})
}

// TestExchangeThatDoesNotBegin: one rank's trouble is told to the others.
func TestExchangeThatDoesNotBegin(t *testing.T) {
	if !emulated(t, "GPUS=2", "NCCL_FAIL=1") {
		return
	}
	all := devices(t, 2)
	id, err := all[0].NewExchange()
	require.NoError(t, err)
	_, err = all[1].JoinExchange(patient(t), id, 1, 2)
	require.ErrorContains(t, err, "unhandled system error (status 2)")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(err) // the ranks tell each other
	_, also := all[0].JoinExchange(ctx, id, 0, 2)
	require.ErrorIs(t, also, err)
	requireWorks(t, all[0])
	requireWorks(t, all[1])
}

// TestExchangeOnAFailedDevice: what is told is the device's own failure.
func TestExchangeOnAFailedDevice(t *testing.T) {
	if !emulated(t, "GPUS=2", "LAZY=1", "FAIL=0:1") {
		return
	}
	d := newDevice(t)
	x := joined(t, d)[0]
	b := uploaded(t, d, 1)
	d.ReLU(b, b)
	err := x.Sync(patient(t))
	var failed *kernels.DeviceError
	require.ErrorAs(t, err, &failed)
	require.ErrorContains(t, err, "unspecified launch failure")
	_, err = d.JoinExchange(patient(t), make([]byte, 128), 0, 1)
	require.ErrorAs(t, err, &failed)
}

// Where the library is not, or is too old, one sentence says so, and nothing else needs it.
func TestNoNCCL(t *testing.T) {
	if os.Getenv(childOf) != t.Name() {
		needEmulator(t)
		dir := t.TempDir()
		for _, file := range []string{"libcuda.so.1", "libnvidia-ml.so.1"} {
			for _, at := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
				if _, err := os.Stat(filepath.Join(at, file)); err == nil {
					require.NoError(t, os.Symlink(filepath.Join(at, file), filepath.Join(dir, file)))
					break
				}
			}
		}
		t.Setenv("LD_LIBRARY_PATH", dir)
		emulated(t)
		return
	}
	requireNoExchange(t, "NCCL is not here (libnccl.so.2: cannot open", "LD_LIBRARY_PATH")
}

func TestOldNCCL(t *testing.T) {
	if emulated(t, "NCCL_VERSION=21405") {
		requireNoExchange(t, "NCCL is here in version 2.14.5: install 2.18.3 or newer")
	}
	require.Equal(t, "2.8.4", ncclVersion(2804))
}

func requireNoExchange(t *testing.T, says ...string) {
	t.Helper()
	d := newDevice(t)
	_, place := d.Place()
	_, id := d.NewExchange()
	_, join := d.JoinExchange(t.Context(), make([]byte, 128), 0, 1)
	for _, err := range []error{place, id, join} {
		for _, s := range says {
			require.ErrorContains(t, err, s)
		}
		require.True(t, strings.HasPrefix(err.Error(), d.Name()))
	}
	requireWorks(t, d)
}
