package checkpoint

import (
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

func inMemory(c *crashFS) *Dir { return &Dir{path: "/ckpt", files: c} }

// saveInTurn is save without goroutines, so that operations have the same numbers each time.
func saveInTurn(d *Dir, m Meta, tensors []Tensor, parts int) error {
	for p := range parts {
		if err := d.SavePart(context.Background(), m, tensors, p, parts); err != nil {
			return err
		}
	}
	return d.Commit(context.Background(), m, tensors, parts)
}

// requireOneOf checks that the newest checkpoint is good, is one of those allowed, and holds what was saved there.
func requireOneOf(t *testing.T, d *Dir, allowed map[elastic.Step][]Tensor) elastic.Step {
	info, err := d.Latest()
	require.NoError(t, err)
	want, ok := allowed[info.Step]
	require.True(t, ok, "step %d", info.Step)
	require.NoError(t, d.Verify(t.Context(), info.Step))
	got := blank(want)
	m, skipped, err := d.LoadLatest(t.Context(), "gpt tiny", got)
	require.NoError(t, err)
	require.Empty(t, skipped)
	require.Equal(t, info.Step, m.Step)
	requireSame(t, want, got)
	return info.Step
}

// Row 19 of the fault table: a power cut at each operation of a save leaves the old checkpoint or the new one.
func TestCrashAtEveryOperation(t *testing.T) {
	older, newer := state(1), state(2)
	acknowledged, crashes := 0, 0
	for k := 1; ; k++ {
		files := newCrashFS()
		d := inMemory(files)
		require.NoError(t, saveInTurn(d, meta(1, 1), older, 2))
		files.crashAt = files.ops + k
		err := saveInTurn(d, meta(2, 1), newer, 3)
		acked := err == nil
		if acked {
			acknowledged++
			_, err = d.Prune(1)
		}
		if err == nil && !files.crashed {
			break
		}
		crashes++
		require.ErrorIs(t, err, errCrashed)
		for i := range 10 {
			seed := uint64(k*1000 + i)
			var r *rand.Rand
			if i > 0 {
				r = rand.New(rand.NewPCG(seed, 0))
			}
			after := files.reboot(r)
			d := inMemory(after)
			allowed := map[elastic.Step][]Tensor{1: older, 2: newer}
			if acked {
				delete(allowed, 1)
			}
			requireOneOf(t, d, allowed)

			// Life goes on: the restarted job is a new generation, here on another number of workers.
			parts := 1 + i%4
			require.NoError(t, saveInTurn(d, meta(2, 2), newer, parts), "crash at %d, seed %d", k, seed)
			require.Equal(t, elastic.Step(2), requireOneOf(t, d, map[elastic.Step][]Tensor{2: newer}))
			_, err := d.Prune(1)
			require.NoError(t, err)
			require.Empty(t, after.temps())
			requireOneOf(t, inMemory(after.reboot(nil)), map[elastic.Step][]Tensor{2: newer})
		}
	}
	t.Logf("%d crashes, %d of them after the save was acknowledged", crashes, acknowledged)
	require.Greater(t, crashes, 30)
	require.Greater(t, acknowledged, 3)
}

// Rows 20 and 21: an error at any operation is either reported, or harmless; never acknowledged and lost.
func TestErrorAtEveryOperation(t *testing.T) {
	older, newer := state(1), state(2)
	kinds := map[string]func(k int, err error) func(op int, kind string) error{
		"once": func(k int, err error) func(int, string) error {
			return func(op int, _ string) error {
				if op == k {
					return err
				}
				return nil
			}
		},
		"from then on, but for removing": func(k int, err error) func(int, string) error {
			return func(op int, kind string) error {
				if op >= k && kind != "remove" {
					return err
				}
				return nil
			}
		},
		"read-only from then on": func(k int, err error) func(int, string) error {
			return func(op int, _ string) error {
				if op >= k {
					return err
				}
				return nil
			}
		},
	}
	for name, kind := range kinds {
		for _, injected := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
			failures := 0
			for k := 1; ; k++ {
				files := newCrashFS()
				d := inMemory(files)
				require.NoError(t, saveInTurn(d, meta(1, 1), older, 2))
				last := files.ops + k
				removeFailed := false
				fail := kind(last, injected)
				files.fail = func(op int, kind string) error {
					err := fail(op, kind)
					removeFailed = removeFailed || err != nil && kind == "remove"
					return err
				}
				err := saveInTurn(d, meta(2, 1), newer, 3)
				if files.ops < last {
					require.NoError(t, err)
					break
				}
				allowed := map[elastic.Step][]Tensor{1: older, 2: newer}
				if err == nil {
					delete(allowed, 1) // acknowledged
				} else {
					failures++
					require.ErrorIs(t, err, injected, name)
					require.ErrorContains(t, err, "/ckpt")
				}
				requireOneOf(t, inMemory(files.reboot(nil)), allowed)
				requireOneOf(t, d, allowed)
				if !removeFailed {
					require.Empty(t, files.temps(), "%s: %v at operation %d", name, injected, k)
				}
				files.fail = nil
				require.NoError(t, saveInTurn(d, meta(2, 1), newer, 3), "once the disk is mended")
				requireOneOf(t, inMemory(files.reboot(nil)), map[elastic.Step][]Tensor{2: newer})
			}
			require.Greater(t, failures, 20)
		}
	}
}

func TestFullDiskSaysWhatToDo(t *testing.T) {
	for _, tc := range []struct {
		err error
		say string
	}{{syscall.ENOSPC, "free space there"}, {syscall.EDQUOT, "free space there"}, {syscall.EROFS, "mount it writable"}} {
		files := newCrashFS()
		files.fail = func(_ int, kind string) error {
			if kind == "write" {
				return tc.err
			}
			return nil
		}
		err := inMemory(files).SavePart(t.Context(), meta(3, 1), state(1), 0, 2)
		require.ErrorContains(t, err, tc.say)
		require.ErrorContains(t, err, "/ckpt/step-00000003/part-0-of-2.safetensors")
		require.Empty(t, files.temps())
	}
}

func TestCommitWaitsForTheParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, tensors := inMemory(newCrashFS()), state(1)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- d.Commit(t.Context(), meta(1, 1), tensors, 2) }()
		require.NoError(t, d.SavePart(t.Context(), meta(1, 1), tensors, 1, 2))
		time.Sleep(time.Hour)
		select {
		case err := <-done:
			require.Failf(t, "committed without part 0", "%v", err)
		default:
		}
		_, err := d.Latest()
		require.ErrorIs(t, err, ErrNone)
		require.NoError(t, d.SavePart(t.Context(), meta(1, 1), tensors, 0, 2))
		require.NoError(t, <-done)
		require.LessOrEqual(t, time.Since(began), time.Hour+lastPoll)
		require.NoError(t, d.Verify(t.Context(), 1))
	})
}

func TestCommitSaysWhichPartsItMissed(t *testing.T) {
	d, tensors := inMemory(newCrashFS()), state(1)
	require.NoError(t, d.SavePart(t.Context(), meta(1, 1), tensors, 1, 6))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the job moved on"))
	err := d.Commit(ctx, meta(1, 1), tensors, 6)
	require.EqualError(t, err, "checkpoint: commit /ckpt/step-00000001: the job moved on while waiting for 5 of 6 parts: "+
		"part-0-of-6.safetensors: missing; part-2-of-6.safetensors: missing; part-3-of-6.safetensors: missing; and 2 more")
}

// A part of an attempt that was given up is never mixed with those of the next one, though the step and the number are the same.
func TestPartsOfAnotherGenerationDoNotCount(t *testing.T) {
	d, stale, tensors := inMemory(newCrashFS()), state(8), state(1)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, d.SavePart(t.Context(), meta(1, 5), stale, 0, 2))
	require.NoError(t, d.SavePart(t.Context(), meta(1, 6), tensors, 1, 2))
	require.ErrorContains(t, d.Commit(gone, meta(1, 6), tensors, 2), `part-0-of-2.safetensors: left by job "job" generation 5`)

	require.NoError(t, d.SavePart(t.Context(), meta(1, 6), tensors, 0, 2))
	require.ErrorIs(t, d.SavePart(t.Context(), meta(1, 5), stale, 0, 2), ErrSuperseded)
	require.NoError(t, d.Commit(t.Context(), meta(1, 6), tensors, 2))
	requireOneOf(t, d, map[elastic.Step][]Tensor{1: tensors})
}

func TestAnotherJobIsNotFenced(t *testing.T) {
	d, tensors := inMemory(newCrashFS()), state(1)
	require.NoError(t, d.SavePart(t.Context(), meta(1, 9), tensors, 0, 1))
	next := meta(1, 1)
	next.Job = "next job"
	require.NoError(t, saveInTurn(d, next, tensors, 1))
}

func TestSavingIsIdempotent(t *testing.T) {
	files, tensors := newCrashFS(), state(1)
	d := inMemory(files)
	contents := func() map[string]string {
		out := map[string]string{}
		for name, f := range files.files() {
			out[name] = string(f.live)
		}
		return out
	}
	require.NoError(t, d.SavePart(t.Context(), meta(1, 1), tensors, 0, 2))
	once := contents()
	require.NoError(t, d.SavePart(t.Context(), meta(1, 1), tensors, 0, 2))
	require.Equal(t, once, contents())

	require.NoError(t, saveInTurn(d, meta(1, 1), tensors, 2))
	whole := contents()
	again := newCrashFS()
	require.NoError(t, saveInTurn(inMemory(again), meta(1, 1), tensors, 2))
	for name, f := range again.files() {
		require.Equal(t, whole[name], string(f.live), name)
	}
	for _, next := range []struct {
		m     Meta
		parts int
	}{{meta(1, 1), 2}, {meta(1, 2), 2}, {meta(1, 2), 5}, {meta(1, 0), 1}} {
		require.NoError(t, saveInTurn(d, next.m, tensors, next.parts))
		require.Equal(t, whole, contents(), "a complete step is left alone")
	}
}

func TestPartsOfAnotherNumberAreIgnoredAndRemoved(t *testing.T) {
	files, tensors := newCrashFS(), state(1)
	d := inMemory(files)
	for p := range 4 {
		require.NoError(t, d.SavePart(t.Context(), meta(1, 1), state(9), p, 5))
	}
	require.NoError(t, saveInTurn(d, meta(1, 2), tensors, 2))
	requireOneOf(t, d, map[elastic.Step][]Tensor{1: tensors})
	var names []string
	for name := range files.files() {
		names = append(names, name)
	}
	require.ElementsMatch(t, []string{"step-00000001/COMMIT", "step-00000001/manifest.json",
		"step-00000001/part-0-of-2.safetensors", "step-00000001/part-1-of-2.safetensors"}, names)
}

// After a corrupt checkpoint was skipped, training reaches its step again: that save must not be acknowledged on the strength of the
// old COMMIT.
func TestCorruptStepIsWrittenAnew(t *testing.T) {
	for _, parts := range []int{2, 3} {
		for victim := range 4 {
			files, tensors := newCrashFS(), state(1)
			d := inMemory(files)
			require.NoError(t, saveInTurn(d, meta(1, 1), tensors, 2))
			name := "step-00000001/" + []string{"part-0-of-2.safetensors", "part-1-of-2.safetensors", manifestName, commitName}[victim]
			f := files.files()[name]
			f.live[len(f.live)-2] ^= 4
			require.Error(t, d.Verify(t.Context(), 1))
			require.NoError(t, saveInTurn(d, meta(1, 2), tensors, parts))
			requireOneOf(t, d, map[elastic.Step][]Tensor{1: tensors})
			requireOneOf(t, inMemory(files.reboot(nil)), map[elastic.Step][]Tensor{1: tensors})
		}
	}
}

func TestAnotherRunsStepIsNotAcknowledged(t *testing.T) {
	d, tensors := inMemory(newCrashFS()), state(1)
	require.NoError(t, saveInTurn(d, meta(1, 1), tensors, 2))
	change := map[string]func(*Meta){
		"program": func(m *Meta) { m.Program = "mnist" },
		"seed":    func(m *Meta) { m.Seed++ },
		"shards":  func(m *Meta) { m.Shards++ },
		"class":   func(m *Meta) { m.Class = "tf32" },
	}
	for name, f := range change {
		m := meta(1, 2)
		f(&m)
		var mismatch *MismatchError
		require.ErrorAs(t, d.SavePart(t.Context(), m, tensors, 0, 2), &mismatch, name)
		require.ErrorAs(t, d.Commit(t.Context(), m, tensors, 2), &mismatch, name)
	}
	var mismatch *MismatchError
	require.ErrorAs(t, d.Commit(t.Context(), meta(1, 1), tensors[1:], 2), &mismatch)
	requireOneOf(t, d, map[elastic.Step][]Tensor{1: tensors})
}
