package kernels

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
)

// manyValues is from how many on it is asked whether there is room: asking takes some ten microseconds.
const manyValues = 64 << 20 / 4

// CheckRoom is an error when this machine has not got the memory for n more values of float32. Go gives memory that nobody has touched
// yet without asking, and ends the process, or the system ends another one, when there is none. What it does not see are limits of a
// container, and what other processes are about to take.
func CheckRoom(n int) error {
	if n < manyValues {
		return nil
	}
	left, known := roomLeft()
	if known && 4*int64(n) > left {
		debug.FreeOSMemory() // what was dropped counts until it is given back
		left, known = roomLeft()
	}
	if known && 4*int64(n) > left {
		return fmt.Errorf("kernels: %.1f GiB of memory are wanted, and this machine has %.1f GiB left: make the model, the batch or the shape smaller",
			gibibytes(4*int64(n)), gibibytes(max(0, left)))
	}
	return nil
}

func gibibytes(n int64) float64 { return float64(n) / (1 << 30) }

// roomLeft is what the system could give, less what this process was given and has not touched yet.
func roomLeft() (bytes int64, known bool) {
	available, ok := fieldOf("/proc/meminfo", "MemAvailable:")
	if !ok {
		return 0, false
	}
	resident, ok := fieldOf("/proc/self/status", "RssAnon:")
	if !ok {
		return 0, false
	}
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0, false
	}
	return available - max(0, int64(sample[0].Value.Uint64())-resident), true
}

// fieldOf reads a line such as "MemAvailable:   123 kB", in bytes.
func fieldOf(path, name string) (n int64, ok bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	_, rest, ok := bytes.Cut(text, []byte(name))
	if !ok {
		return 0, false
	}
	fields := bytes.Fields(rest)
	if len(fields) < 2 || string(fields[1]) != "kB" {
		return 0, false
	}
	n, err = strconv.ParseInt(string(fields[0]), 10, 64)
	return n << 10, err == nil
}
