package checkpoint

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

// requireCorrupt checks that Verify and Load find damage, that the error names the file, and that the one before is used.
func requireCorrupt(t *testing.T, d *Dir, file string, older []Tensor) {
	var corrupt *CorruptError
	require.ErrorAs(t, d.Verify(t.Context(), 2), &corrupt, file)
	require.Equal(t, d.full(file), corrupt.Path)
	_, err := d.Load(t.Context(), 2, "gpt tiny", blank(older))
	require.ErrorAs(t, err, &corrupt, file)
	require.Equal(t, d.full(file), corrupt.Path)

	got := blank(older)
	m, skipped, err := d.LoadLatest(t.Context(), "gpt tiny", got)
	require.NoError(t, err)
	require.Equal(t, elastic.Step(1), m.Step)
	require.Len(t, skipped, 1)
	require.Equal(t, d.full(file), skipped[0].Path)
	requireSame(t, older, got)
}

// Row 22: any flipped bit, anywhere, is found; so is a file that was cut, that grew, or that is gone.
func TestAnyDamageIsFound(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	older, newer := state(1), state(2)
	for _, parts := range []int{1, 3} {
		files := newCrashFS()
		d := inMemory(files)
		require.NoError(t, saveInTurn(d, meta(1, 1), older, 2))
		require.NoError(t, saveInTurn(d, meta(2, 1), newer, parts))
		for name, f := range files.files() {
			if !strings.HasPrefix(name, "step-00000002/") {
				continue
			}
			whole := bytes.Clone(f.live)
			blamed := name
			if strings.HasSuffix(name, commitName) {
				blamed = strings.Replace(name, commitName, manifestName, 1) // which of the two is wrong nobody can tell
			}
			for i := range whole {
				if len(whole) > 200 && r.IntN(8) != 0 {
					continue
				}
				f.live = bytes.Clone(whole)
				f.live[i] ^= 1 << r.IntN(8)
				requireCorrupt(t, d, blamed, older)
			}
			for range 20 {
				f.live = bytes.Clone(whole[:r.IntN(len(whole))])
				requireCorrupt(t, d, blamed, older)
			}
			f.live = append(bytes.Clone(whole), 0)
			if strings.HasSuffix(name, commitName) {
				blamed = name
			}
			requireCorrupt(t, d, blamed, older)
			f.live = whole
		}
		requireOneOf(t, d, map[elastic.Step][]Tensor{2: newer})
	}
}

// On a real disk.
func TestMissingAndForeignFilesAreDamage(t *testing.T) {
	part := "step-00000002/part-1-of-2.safetensors"
	change := map[string]func(t *testing.T, path string){
		"gone": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"directory": func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Mkdir(path, 0o700))
		},
		"pipe": func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, syscall.Mkfifo(path, 0o600))
		},
		"link to the same bytes outside": func(t *testing.T, path string) {
			outside := filepath.Join(t.TempDir(), "outside")
			require.NoError(t, os.Rename(path, outside))
			require.NoError(t, os.Symlink(outside, path))
		},
		"link to the same bytes inside": func(t *testing.T, path string) {
			require.NoError(t, os.Rename(path, path+".moved"))
			require.NoError(t, os.Symlink(filepath.Base(path)+".moved", path))
		},
	}
	for name, f := range change {
		for _, file := range []string{part, "step-00000002/manifest.json"} {
			t.Run(name+" "+filepath.Base(file), func(t *testing.T) {
				d, older := open(t), state(1)
				save(t, d, meta(1, 1), older, 1)
				save(t, d, meta(2, 1), state(2), 2)
				f(t, d.full(file))
				requireCorrupt(t, d, file, older)
				info, err := d.Latest()
				require.NoError(t, err)
				require.Equal(t, elastic.Step(1), info.Step, "known without reading data")
			})
		}
	}
}

func TestStepThatIsALinkIsNoCheckpoint(t *testing.T) {
	outside, d := open(t), open(t)
	save(t, outside, meta(7, 1), state(1), 1)
	require.NoError(t, os.Symlink(outside.full("step-00000007"), d.full("step-00000007")))
	infos, err := d.List()
	require.NoError(t, err)
	require.Empty(t, infos)
	_, err = d.Load(t.Context(), 7, "gpt tiny", blank(state(1)))
	require.ErrorContains(t, err, "escapes")
	require.Error(t, d.SavePart(t.Context(), meta(7, 1), state(1), 0, 1))
	_, err = d.Prune(1)
	require.NoError(t, err)
	require.NoError(t, outside.Verify(t.Context(), 7))
}

// Row 29: a manifest that somebody wrote with other intentions, with a COMMIT that fits.
func TestHostileManifestIsRefused(t *testing.T) {
	cases := map[string]struct {
		change func(m *manifest)
		say    string
	}{
		"path upwards":       {func(m *manifest) { m.Parts[0].File = "../../etc/passwd" }, `"../../etc/passwd"`},
		"absolute path":      {func(m *manifest) { m.Tensors[0].Pieces[0].File = "/etc/passwd" }, `"/etc/passwd"`},
		"another step":       {func(m *manifest) { m.Tensors[0].Pieces[0].File = "../step-00000001/part-0-of-2.safetensors" }, "belongs"},
		"negative offset":    {func(m *manifest) { m.Tensors[0].Pieces[0].Offset = -1 }, "belongs"},
		"huge offset":        {func(m *manifest) { m.Tensors[0].Pieces[0].Offset = 1 << 62 }, "belongs"},
		"negative length":    {func(m *manifest) { m.Tensors[0].Pieces[0].Length = -4 }, "belongs"},
		"overlap":            {func(m *manifest) { m.Tensors[1].Pieces[0].Offset -= 4 }, "belongs"},
		"piece missing":      {func(m *manifest) { m.Tensors[0].Pieces = m.Tensors[0].Pieces[:1] }, "piece 1 is missing"},
		"all pieces missing": {func(m *manifest) { m.Tensors[1].Pieces = nil }, "piece 0 is missing"},
		"piece too many": {func(m *manifest) {
			m.Tensors[1].Pieces = append(m.Tensors[1].Pieces, m.Tensors[1].Pieces[0])
		}, "has 2 pieces, not 1"},
		"pieces swapped": {func(m *manifest) {
			p := m.Tensors[0].Pieces
			p[0], p[1] = p[1], p[0]
		}, "belongs"},
		"name twice":          {func(m *manifest) { m.Tensors[1].Name = m.Tensors[0].Name }, "two tensors are named"},
		"no name":             {func(m *manifest) { m.Tensors[1].Name = "" }, "has no name"},
		"control characters":  {func(m *manifest) { m.Tensors[1].Name = "a\x1b[2J" }, "unprintable"},
		"name of a slice":     {func(m *manifest) { m.Tensors[1].Name = "x[0:1]" }, "like the name of a slice"},
		"reserved name":       {func(m *manifest) { m.Tensors[1].Name = metadataKey }, "reserved"},
		"negative dimension":  {func(m *manifest) { m.Tensors[0].Shape = []int64{-17, -5} }, "negative dimension"},
		"overflowing shape":   {func(m *manifest) { m.Tensors[0].Shape = []int64{1 << 40, 1 << 40} }, "too large"},
		"huge shape":          {func(m *manifest) { m.Tensors[0].Shape = []int64{1 << 59} }, "belongs"},
		"another dtype":       {func(m *manifest) { m.Tensors[0].DType = "F64" }, "not F32"},
		"many dimensions":     {func(m *manifest) { m.Tensors[0].Shape = make([]int64, 65) }, "dimensions"},
		"no parts":            {func(m *manifest) { m.Parts = nil }, "0 parts"},
		"more parts":          {func(m *manifest) { m.Parts = append(m.Parts, m.Parts[0]) }, "part"},
		"huge header":         {func(m *manifest) { m.Parts[0].HeaderBytes = 1 << 40 }, "header of"},
		"negative header":     {func(m *manifest) { m.Parts[0].HeaderBytes = -8 }, "header of"},
		"size":                {func(m *manifest) { m.Parts[0].Bytes++ }, "its pieces and header"},
		"no hash":             {func(m *manifest) { m.Tensors[0].Pieces[0].Hash = "" }, "belongs"},
		"hash in capitals":    {func(m *manifest) { m.Parts[0].HeaderHash = strings.ToUpper(m.Parts[0].HeaderHash) + "A" }, "hash"},
		"another step number": {func(m *manifest) { m.Meta.Step = 1 }, "lies in the directory of step 2"},
		"a later version":     {func(m *manifest) { m.Version = 2 }, "version 2"},
		"another format":      {func(m *manifest) { m.Format = "zip" }, `"zip"`},
		"another algorithm":   {func(m *manifest) { m.Hash = "crc32" }, "crc32"},
		"totals":              {func(m *manifest) { m.Bytes++ }, "totals"},
		"count":               {func(m *manifest) { m.Count++ }, "totals"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			files := newCrashFS()
			d := inMemory(files)
			require.NoError(t, saveInTurn(d, meta(1, 1), state(1), 2))
			require.NoError(t, saveInTurn(d, meta(2, 1), state(2), 2))
			m := files.files()["step-00000002/"+manifestName]
			mf, _, err := decodeManifest(m.live, 2)
			require.NoError(t, err)
			tc.change(mf)
			m.live, err = json.Marshal(mf)
			require.NoError(t, err)
			files.files()["step-00000002/"+commitName].live = commitLine(m.live)
			requireCorrupt(t, d, "step-00000002/"+manifestName, state(1))
			require.ErrorContains(t, d.Verify(t.Context(), 2), tc.say)
		})
	}
}

// A part whose header tells other programs something else than the manifest tells us.
func TestPartThatSaysSomethingElseIsRefused(t *testing.T) {
	files := newCrashFS()
	d := inMemory(files)
	require.NoError(t, saveInTurn(d, meta(1, 1), state(1), 2))
	require.NoError(t, saveInTurn(d, meta(2, 1), state(2), 2))
	name := "step-00000002/part-0-of-2.safetensors"
	part, m := files.files()[name], files.files()["step-00000002/"+manifestName]
	head := len(mustHeader(t, part.live).raw)
	part.live = bytes.Replace(part.live, []byte(`"wte.weight[0:59]"`), []byte(`"wte.weight[1:60]"`), 1)
	mf, _, err := decodeManifest(m.live, 2)
	require.NoError(t, err)
	mf.Parts[0].HeaderHash = hashBytes(part.live[:head])
	m.live, err = json.Marshal(mf)
	require.NoError(t, err)
	files.files()["step-00000002/"+commitName].live = commitLine(m.live)
	require.ErrorContains(t, d.Verify(t.Context(), 2), `it has "wte.weight[1:60]" where "wte.weight[0:59]" belongs`)
}

func mustHeader(t *testing.T, b []byte) *header {
	h, err := readHeader(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	return h
}

func FuzzManifest(f *testing.F) {
	files := newCrashFS()
	d := inMemory(files)
	for _, parts := range []int{1, 3} {
		step := elastic.Step(parts)
		if err := saveInTurn(d, meta(step, 1), state(1), parts); err != nil {
			f.Fatal(err)
		}
		f.Add(files.files()[stepDir(step)+"/"+manifestName].live)
	}
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		mf, specs, err := decodeManifest(b, 1)
		if err != nil {
			return
		}
		// What is accepted covers each tensor once, inside files of ours.
		var total int64
		for i, tensor := range mf.Tensors {
			var n int64
			for _, p := range tensor.Pieces {
				require.True(t, isPart(p.File))
				require.GreaterOrEqual(t, p.Offset, int64(8))
				n += p.Length
			}
			require.Equal(t, 4*specs[i].elements, n)
			total += n
		}
		require.Equal(t, mf.Bytes, total)
	})
}
