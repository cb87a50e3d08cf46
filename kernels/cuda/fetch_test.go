//go:build cuda

package cuda

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// waited calls wait as the worker does: on another goroutine than the device's.
func waited(wait func() error) error {
	err := make(chan error)
	go func() { err <- wait() }()
	return <-err
}

func fetches(t *testing.T) {
	d := newDevice(t)
	const n, times = 1000, 5
	dst := d.AllocHost(n * times)
	b, other := uploaded(t, d, counted(n*times)...), uploaded(t, d, counted(n)...)
	want := make([]float32, n*times)
	for round := range 3 {
		d.Upload(b, counted(n*times))
		var waits []func() error
		for i := range times {
			d.Scale(b.Slice(i*n, n), float32(i+1))
			waits = append(waits, d.Fetch(dst[i*n:(i+1)*n], b.Slice(i*n, n)))
			d.Scale(other, -1) // meanwhile
		}
		for i := range want {
			want[i] = float32(i * (i/n + 1))
		}
		for i, wait := range waits {
			require.NoError(t, waited(wait))
			require.Equal(t, want[:(i+1)*n], dst[:(i+1)*n], "round %d, fetch %d", round, i)
		}
		require.Len(t, d.fetches, times, "they are used again")
		got := make([]float32, n*times)
		require.NoError(t, d.Download(got, b))
		require.Equal(t, make([]float32, n*times), got, "what was fetched is zero")
	}
	got := make([]float32, n)
	require.NoError(t, d.Download(got, other))
	require.Equal(t, float32(-1), got[1])

	d.Upload(other, counted(n))
	plain := make([]float32, n) // which is not registered
	require.NoError(t, waited(d.Fetch(plain, other)))
	require.Equal(t, counted(n), plain)
	require.NoError(t, d.Download(plain, other))
	require.Equal(t, make([]float32, n), plain)
}

func TestFetch(t *testing.T) { fetches(t) }

// TestLazyFetch: a stream does nothing before somebody waits for it or for what comes after it, so a copy that does not wait for what it
// copies brings what was there before.
func TestLazyFetch(t *testing.T) {
	if emulated(t, "LAZY=1") {
		fetches(t)
	}
}

// TestFetchKeepsMemory: memory that is dropped while it is fetched is not the next one's.
func TestFetchKeepsMemory(t *testing.T) {
	if !emulated(t, "LAZY=1") {
		return
	}
	d := newDevice(t)
	const n = 70001
	dst := d.AllocHost(n)
	b := uploaded(t, d, counted(n)...)
	at, wait := address(b), d.Fetch(dst, b) // the last uses of b
	collect := func() {
		runtime.GC()
		time.Sleep(5 * time.Millisecond) // what is found comes back on the runtime's goroutine
	}
	for range 10 {
		collect()
		other, err := d.Alloc(n)
		require.NoError(t, err)
		require.NotEqual(t, at, address(other))
		d.Upload(other, make([]float32, n))
		require.NoError(t, d.Sync())
	}
	require.NoError(t, waited(wait))
	require.Equal(t, counted(n), dst)
	var others []kernels.Buffer // kept, so that none of them is given again
	require.Eventually(t, func() bool {
		collect()
		other, err := d.Alloc(n)
		others = append(others, other)
		return err == nil && address(other) == at
	}, time.Minute, time.Millisecond, "it comes back after that")
	runtime.KeepAlive(others)
}

// TestFetchThatFails: the failure comes out of the wait and sticks to the device.
func TestFetchThatFails(t *testing.T) {
	if !emulated(t, "LAZY=1", "FAIL=0:1") {
		return
	}
	d := newDevice(t)
	b, dst := uploaded(t, d, 1, 2, 3), d.AllocHost(3)
	d.ReLU(b, b)
	var failed *kernels.DeviceError
	err := waited(d.Fetch(dst, b))
	require.ErrorAs(t, err, &failed)
	require.ErrorContains(t, err, "GPU 0: Fetch: unspecified launch failure (CUDA error 719), in this or an operation before")
	requireFailed(t, d, b, "unspecified launch failure")
	require.Equal(t, d.Sync(), waited(d.Fetch(dst, b)))
}
