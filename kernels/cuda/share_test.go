//go:build cuda

package cuda

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
)

// exporterOf names the test whose other process this one is: it exports, and does what it reads.
const exporterOf = "FARANDOLE_TEST_EXPORTER"

// exporter is another process with a GPU.
type exporter struct {
	t      *testing.T
	cmd    *exec.Cmd
	ask    *bufio.Writer
	answer *bufio.Scanner
}

// newExporter starts a process on the GPU of a local rank.
func newExporter(t *testing.T, rank int) *exporter {
	return newOther(t, "TestExporter", exporterOf, rank)
}

// newOther starts a process that runs one test, which finds its rank in a variable of the environment.
func newOther(t *testing.T, test, variable string, rank int) *exporter {
	t.Helper()
	e := &exporter{t: t, cmd: exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.count=1", "-test.timeout=3m")}
	e.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, rank))
	e.cmd.Stderr = os.Stderr
	in, err := e.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := e.cmd.StdoutPipe()
	require.NoError(t, err)
	e.ask, e.answer = bufio.NewWriter(in), bufio.NewScanner(out)
	require.NoError(t, e.cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = e.cmd.Process.Kill()
		_ = e.cmd.Wait()
	})
	return e
}

// do has the exporter do something, and gives its answer.
func (e *exporter) do(what string) string {
	e.t.Helper()
	_, err := e.ask.WriteString(what + "\n")
	require.NoError(e.t, err)
	require.NoError(e.t, e.ask.Flush())
	require.True(e.t, e.answer.Scan(), "the exporter ended: %v", e.answer.Err())
	return e.answer.Text()
}

func (e *exporter) handle(what string) []byte {
	e.t.Helper()
	h, err := hex.DecodeString(e.do(what))
	require.NoError(e.t, err)
	require.NotEmpty(e.t, h)
	return h
}

func (e *exporter) kill() {
	require.NoError(e.t, e.cmd.Process.Kill())
	_ = e.cmd.Wait()
}

// TestExporter is the other process: no test by itself.
func TestExporter(t *testing.T) {
	var rank int
	if _, err := fmt.Sscan(os.Getenv(exporterOf), &rank); err != nil {
		t.Skip("the other process of these tests")
	}
	d := deviceOf(t, rank)
	b := uploaded(t, d, counted(shareTestLen)...)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		part := b
		switch lines.Text() {
		case "part":
			part = b.Slice(1000, 17)
		case "double":
			d.Scale(b, 2)
		}
		require.NoError(t, d.Sync())
		h, err := d.Export(part)
		require.NoError(t, err)
		fmt.Println(hex.EncodeToString(h))
	}
}

const shareTestLen = 5000

func deviceOf(t testing.TB, rank int) *device {
	t.Helper()
	return opened(t, kernels.Config{LocalRank: rank, Logger: slog.New(slog.DiscardHandler)})
}

func downloaded(t testing.TB, d *device, b kernels.Buffer) []float32 {
	t.Helper()
	x := make([]float32, b.Len())
	require.NoError(t, d.Download(x, b))
	return x
}

func free(t testing.TB, d *device) (bytes int64) {
	t.Helper()
	require.NoError(t, d.do(func() (err error) { bytes, _, err = cu.MemInfo(); return err }))
	return bytes
}

// TestSharedMemory adds another process's values to this one's, on one GPU.
func TestSharedMemory(t *testing.T) { sharedMemory(t, newDevice(t), newExporter(t, 0)) }

func TestSharedMemoryOfAnotherGPU(t *testing.T) {
	if !emulated(t, "GPUS=2") {
		return
	}
	sharedMemory(t, newDevice(t), newExporter(t, 1))
}

func sharedMemory(t *testing.T, d *device, e *exporter) {
	own, want := uploaded(t, d, counted(shareTestLen)...), counted(shareTestLen)
	before := free(t, d)
	for range 3 {
		whole, err := d.Import(e.handle("whole"))
		require.NoError(t, err)
		part, err := d.Import(e.handle("part"))
		require.NoError(t, err)
		require.Equal(t, want, downloaded(t, d, whole))
		require.Equal(t, want[1000:1017], downloaded(t, d, part))

		e.do("double")
		d.Add(own, own, whole)
		require.NoError(t, d.Release(whole))
		for i := range want {
			want[i] *= 2
		}
		require.Equal(t, want[1000:1017], downloaded(t, d, part), "the allocation is open as long as an import of it is")
		require.NoError(t, d.Release(part))
	}
	require.Equal(t, before, free(t, d))
	for i, x := range downloaded(t, d, own) {
		require.Equal(t, float32(i)*(1+2+4+8), x)
	}
	b, err := d.Import(e.handle("whole"))
	require.NoError(t, err)
	part := b.Slice(1, 2)
	require.NoError(t, d.Release(b))
	require.Panics(t, func() { d.Add(own.Slice(0, 2), own.Slice(0, 2), part) }, "a released buffer is no memory")
	require.Panics(t, func() { _ = d.Release(b) })
}

// TestImportIsRefused: nothing of it makes the device useless.
func TestImportIsRefused(t *testing.T) {
	if !emulated(t, "GPUS=2", "ALONE=1") {
		return
	}
	d, other, dead := newDevice(t), newExporter(t, 1), newExporter(t, 0)
	own, err := d.Export(uploaded(t, d, 1, 2, 3))
	require.NoError(t, err)
	gone := dead.handle("whole")
	dead.kill()
	elsewhere := other.handle("whole")
	elsewhere[3]++ // another UUID
	for says, h := range map[string][]byte{
		"invalid device context":           own,
		"no access to the memory of GPU 1": other.handle("whole"),
		"another host's":                   elsewhere,
		"mapping of buffer object failed":  gone,
		"no handle":                        own[:20],
	} {
		_, err := d.Import(h)
		require.ErrorContains(t, err, says)
	}
	require.Equal(t, []float32{4}, downloaded(t, d, uploaded(t, d, 4)))
}

// TestKilledExporter: what is imported stays readable, and is let go.
func TestKilledExporter(t *testing.T) {
	if !emulated(t) {
		return
	}
	d, e := newDevice(t), newExporter(t, 0)
	b, err := d.Import(e.handle("whole"))
	require.NoError(t, err)
	e.kill()
	require.Equal(t, counted(shareTestLen), downloaded(t, d, b))
	require.NoError(t, d.Release(b))
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	require.False(t, strings.Contains(string(maps), "emulated GPU (deleted)"), "nothing of the other's is left")
}

// TestImportAndClose: a device that is closed has let go what it imported, and Release afterwards does nothing.
func TestImportAndClose(t *testing.T) {
	e := newExporter(t, 0)
	d, err := kernels.Open("cuda", kernels.Config{})
	require.NoError(t, err)
	b, err := d.(*device).Import(e.handle("whole"))
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoError(t, d.(*device).Release(b))
}
