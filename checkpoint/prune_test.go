package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/farandole-ml/farandole/elastic"
)

func steps(t *testing.T, d *Dir) (out []elastic.Step) {
	infos, err := d.List()
	require.NoError(t, err)
	for _, i := range infos {
		out = append(out, i.Step)
	}
	return out
}

func TestPrune(t *testing.T) {
	// In the order of steps: g good, c complete but corrupt, t torn.
	cases := []struct {
		have string
		keep int
		left []elastic.Step
	}{
		{"", 3, nil},
		{"ggggg", 2, []elastic.Step{4, 5}},
		{"ggggg", 1, []elastic.Step{5}},
		{"ggggg", 0, []elastic.Step{5}},
		{"ggggg", -1, []elastic.Step{5}},
		{"gg", 5, []elastic.Step{1, 2}},
		{"tgtgt", 2, []elastic.Step{2, 4, 5}},
		{"tgtgt", 1, []elastic.Step{4, 5}},
		{"gct", 1, []elastic.Step{1, 2, 3}}, // the good one is the only one, what is newer is left to people
		{"gcg", 2, []elastic.Step{1, 3}},
		{"ggcc", 1, []elastic.Step{2, 3, 4}},
		{"ttt", 1, []elastic.Step{1, 2, 3}},
		{"ccc", 1, []elastic.Step{1, 2, 3}},
	}
	for _, tc := range cases {
		t.Run(fmt.Sprintf("%s keep %d", tc.have, tc.keep), func(t *testing.T) {
			files := newCrashFS()
			d := inMemory(files)
			var all []elastic.Step
			for i, kind := range tc.have {
				step := elastic.Step(i + 1)
				all = append(all, step)
				if kind == 't' {
					require.NoError(t, d.SavePart(t.Context(), meta(step, 1), state(1), 0, 2))
					continue
				}
				require.NoError(t, saveInTurn(d, meta(step, 1), state(1), 2))
				if kind == 'c' {
					files.files()[stepDir(step)+"/"+manifestName].live[5]++
				}
			}
			deleted, err := d.Prune(tc.keep)
			require.NoError(t, err)
			require.Equal(t, tc.left, steps(t, d))
			want := slices.DeleteFunc(all, func(s elastic.Step) bool { return slices.Contains(tc.left, s) })
			require.ElementsMatch(t, want, deleted)
			require.True(t, slices.IsSorted(deleted))
		})
	}
}

// While a checkpoint is deleted, a power cut leaves it whole or torn, never complete with files missing.
func TestCrashAtEveryOperationOfPrune(t *testing.T) {
	for k := 1; ; k++ {
		files := newCrashFS()
		d := inMemory(files)
		for step := range elastic.Step(3) {
			require.NoError(t, saveInTurn(d, meta(step, 1), state(uint64(step)), 2))
		}
		files.crashAt = files.ops + k
		if _, err := d.Prune(1); err == nil {
			require.Greater(t, k, 10)
			return
		}
		for i := range 10 {
			var r *rand.Rand
			if i > 0 {
				r = rand.New(rand.NewPCG(uint64(i), uint64(k)))
			}
			after := inMemory(files.reboot(r))
			infos, err := after.List()
			require.NoError(t, err)
			for _, info := range infos {
				if info.Complete {
					require.NoError(t, after.Verify(t.Context(), info.Step))
				}
			}
			requireOneOf(t, after, map[elastic.Step][]Tensor{2: state(2)})
			_, err = after.Prune(1)
			require.NoError(t, err)
			require.Equal(t, []elastic.Step{2}, steps(t, after))
		}
	}
}

func TestPruneKeepsAwayFromWhatIsNotACheckpoint(t *testing.T) {
	d := open(t)
	for _, name := range []string{"step-1", "step-000000012", "step--0000001", "notes", "step-00000001.bak"} {
		require.NoError(t, os.Mkdir(d.full(name), 0o755))
	}
	outside := filepath.Join(t.TempDir(), "precious")
	require.NoError(t, os.WriteFile(outside, nil, 0o600))
	save(t, d, meta(1, 1), state(1), 1)
	require.NoError(t, os.Symlink(filepath.Dir(outside), d.full("step-00000001/link")))
	require.NoError(t, os.MkdirAll(d.full("step-00000001/made/by/someone"), 0o755))
	save(t, d, meta(123456789, 1), state(1), 1)
	require.Equal(t, []elastic.Step{1, 123456789}, steps(t, d))
	deleted, err := d.Prune(1)
	require.NoError(t, err)
	require.Equal(t, []elastic.Step{1}, deleted)
	require.FileExists(t, outside)
	left, err := os.ReadDir(d.Path())
	require.NoError(t, err)
	require.Len(t, left, 6)
}

func TestLoadRefusesAnotherProgramAndOtherTensors(t *testing.T) {
	d, tensors := inMemory(newCrashFS()), state(1)
	require.NoError(t, saveInTurn(d, meta(1, 1), tensors, 3))
	_, skipped, err := d.LoadLatest(t.Context(), "mnist", blank(tensors))
	require.EqualError(t, err, `checkpoint /ckpt/step-00000001 does not fit: its program is "gpt tiny" and this program's is "mnist"; choose another checkpoint directory`)
	require.Empty(t, skipped)

	change := map[string]struct {
		f   func(ts []Tensor) []Tensor
		say string
	}{
		"one less":      {func(ts []Tensor) []Tensor { return ts[:len(ts)-1] }, "this program's is absent"},
		"one more":      {func(ts []Tensor) []Tensor { return append(ts, Tensor{Name: "x", Shape: []int{0}}) }, `tensor "x" is absent`},
		"another name":  {func(ts []Tensor) []Tensor { ts[0].Name = "x"; return ts }, `tensor "x" is absent`},
		"another shape": {func(ts []Tensor) []Tensor { ts[len(ts)-1].Shape = []int{5, 17}; return ts }, `shape of "wte.weight" is [17 5] and this program's is [5 17]`},
	}
	for name, tc := range change {
		var mismatch *MismatchError
		_, err := d.Load(t.Context(), 1, "gpt tiny", tc.f(blank(tensors)))
		require.ErrorAs(t, err, &mismatch, name)
		require.ErrorContains(t, err, tc.say)
	}
}

func TestLatestAndListOfDirectoriesWithoutGoodCheckpoints(t *testing.T) {
	files := newCrashFS()
	d := inMemory(files)
	_, err := d.Latest()
	require.ErrorIs(t, err, ErrNone)
	require.ErrorIs(t, d.Verify(t.Context(), 1), ErrNone)
	_, err = d.Load(t.Context(), 1, "gpt tiny", blank(state(1)))
	require.ErrorIs(t, err, ErrNone)

	require.NoError(t, d.SavePart(t.Context(), meta(1, 1), state(1), 0, 2))
	_, err = d.Latest()
	require.ErrorIs(t, err, ErrNone)
	require.ErrorIs(t, d.Verify(t.Context(), 1), ErrNone)
	infos, err := d.List()
	require.NoError(t, err)
	require.Equal(t, []Info{{Meta: Meta{Step: 1}, Path: "/ckpt/step-00000001", Problem: "not complete: it has no COMMIT"}}, infos)

	require.NoError(t, saveInTurn(d, meta(2, 1), state(1), 1))
	files.files()["step-00000002/"+commitName].live[0] ^= 1
	infos, err = d.List()
	require.NoError(t, err)
	require.True(t, infos[1].Complete)
	require.Equal(t, "/ckpt/step-00000002/manifest.json: its SHA-256 is not the one in COMMIT", infos[1].Problem)
	_, skipped, err := d.LoadLatest(t.Context(), "gpt tiny", blank(state(1)))
	require.ErrorIs(t, err, ErrNone)
	require.Len(t, skipped, 1)
}

// What an operator can mend is not damage: a directory that may not be read must not make training start from an older state.
func TestUnreadableIsNotCorrupt(t *testing.T) {
	for injected, corrupt := range map[error]bool{fs.ErrPermission: false, syscall.EMFILE: false, syscall.EIO: true} {
		files := newCrashFS()
		d := inMemory(files)
		require.NoError(t, saveInTurn(d, meta(1, 1), state(1), 1))
		require.NoError(t, saveInTurn(d, meta(2, 1), state(1), 1))
		d.files = failingReads{files, "step-00000002/part-0-of-1.safetensors", injected}
		m, skipped, err := d.LoadLatest(t.Context(), "gpt tiny", blank(state(1)))
		if corrupt {
			require.NoError(t, err)
			require.Equal(t, elastic.Step(1), m.Step)
			require.Len(t, skipped, 1)
			require.ErrorIs(t, skipped[0], injected)
			continue
		}
		require.ErrorIs(t, err, injected)
		require.Empty(t, skipped)
		require.ErrorContains(t, err, "part-0-of-1")

		// Nor is it deleted.
		d.files = files
		require.NoError(t, saveInTurn(d, meta(3, 1), state(1), 1))
		d.files = failingReads{files, "step-00000002/part-0-of-1.safetensors", injected}
		deleted, err := d.Prune(2)
		require.ErrorContains(t, err, "leaves step 2 alone")
		require.Empty(t, deleted)
		require.Equal(t, []elastic.Step{1, 2, 3}, steps(t, d))
	}
}

type failingReads struct {
	filesystem
	name string
	err  error
}

func (f failingReads) open(name string) (readFile, error) {
	if name == f.name {
		return nil, f.err
	}
	return f.filesystem.open(name)
}

// Several worlds try the same step at once, as when the membership changes during a save; one commits.
func TestConcurrentSavesOfSeveralWorlds(t *testing.T) {
	path := t.TempDir()
	tensors := state(1)
	g, ctx := errgroup.WithContext(t.Context())
	for _, parts := range []int{1, 2, 3, 5} {
		for p := range parts {
			g.Go(func() error {
				d, err := Open(path, true) // as another process would
				if err != nil {
					return err
				}
				defer d.Close()
				return d.SavePart(ctx, meta(1, 1), tensors, p, parts)
			})
		}
	}
	d, err := Open(path, true)
	require.NoError(t, err)
	defer d.Close()
	g.Go(func() error { return d.Commit(ctx, meta(1, 1), tensors, 3) })
	require.NoError(t, g.Wait())
	requireOneOf(t, d, map[elastic.Step][]Tensor{1: tensors})
	info, err := d.Latest()
	require.NoError(t, err)
	require.Equal(t, 3, info.Parts)
	_, err = d.Prune(1)
	require.NoError(t, err)
	left, err := os.ReadDir(info.Path)
	require.NoError(t, err)
	require.Len(t, left, 5, "3 parts, manifest and COMMIT")
}

func TestCancelledContexts(t *testing.T) {
	d, tensors := inMemory(newCrashFS()), state(1)
	cause := errors.New("evicted")
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	require.ErrorIs(t, d.SavePart(gone, meta(1, 1), tensors, 0, 1), cause)
	require.NoError(t, saveInTurn(d, meta(1, 1), tensors, 1))
	require.ErrorIs(t, d.Verify(gone, 1), cause)
	_, err := d.Load(gone, 1, "gpt tiny", blank(tensors))
	require.ErrorIs(t, err, cause)
	_, skipped, err := d.LoadLatest(gone, "gpt tiny", blank(tensors))
	require.ErrorIs(t, err, cause)
	require.Empty(t, skipped)
	path := filepath.Join(t.TempDir(), "model.safetensors")
	require.ErrorIs(t, d.Export(gone, 1, path), cause)
	require.NoFileExists(t, path)
}

func TestExportOfDamageLeavesTheOldFile(t *testing.T) {
	files := newCrashFS()
	d := inMemory(files)
	require.NoError(t, saveInTurn(d, meta(1, 1), state(1), 2))
	part := files.files()["step-00000001/part-1-of-2.safetensors"]
	part.live[len(part.live)-1] ^= 1
	path := filepath.Join(t.TempDir(), "model.safetensors")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	var corrupt *CorruptError
	require.ErrorAs(t, d.Export(t.Context(), 1, path), &corrupt)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(b))
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.ErrorContains(t, d.Export(t.Context(), 1, filepath.Join(path, "below a file")), "below a file")
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "none"), false)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Open("", true)
	require.ErrorContains(t, err, "no directory given")
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, create := range []bool{false, true} {
		_, err = Open(file, create)
		require.ErrorContains(t, err, file)
		_, err = Open(filepath.Join(file, "below"), create)
		require.ErrorContains(t, err, file)
	}
}

// Row 20 on a real full disk, where one can be mounted.
func TestRealFullDisk(t *testing.T) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root on Linux")
	}
	dir := t.TempDir()
	if err := mountTmpfs(dir, "size=256k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	defer func() { require.NoError(t, unmount(dir)) }()
	d, err := Open(dir, true)
	require.NoError(t, err)
	defer d.Close()
	small := []Tensor{{Name: "w", Shape: []int{10000}, Data: make([]float32, 10000)}}
	large := []Tensor{{Name: "w", Shape: []int{200000}, Data: make([]float32, 200000)}}
	save(t, d, meta(1, 1), small, 2)
	err = saveInTurn(d, meta(2, 1), large, 2)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, filepath.Join(dir, "step-00000002", "part-0-of-2.safetensors"))
	info, err := d.Latest()
	require.NoError(t, err)
	require.Equal(t, elastic.Step(1), info.Step)
	left, err := os.ReadDir(filepath.Join(dir, "step-00000002"))
	require.NoError(t, err)
	require.Empty(t, left, "the unfinished file does not keep the disk full")
	require.NoError(t, saveInTurn(d, meta(3, 1), small, 2))
}
