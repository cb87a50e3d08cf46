//go:build linux

package shm

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
)

// checkAvailable says whether the system can give n bytes. To find out by touching them could make the kernel end this process,
// or another one.
func checkAvailable(n int) error {
	for _, room := range []int64{hostRoom(), controlGroupRoom()} {
		if int64(n) > room {
			return fmt.Errorf("%w: %d bytes are wanted, %d are available", errNoMemory, n, room)
		}
	}
	return nil
}

// hostRoom is what the host has available, as far as that is known.
func hostRoom() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return math.MaxInt64
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("MemAvailable:")); ok {
			if kilobytes, ok := number(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB"))); ok {
				return kilobytes << 10
			}
		}
	}
	return math.MaxInt64
}

// controlGroupRoom is what a container's limit leaves, as far as that is known: in a container its own control group is at
// the root of the tree that it sees.
func controlGroupRoom() int64 {
	limit, ok := numberIn("/sys/fs/cgroup/memory.max")
	if !ok {
		return math.MaxInt64
	}
	used, ok := numberIn("/sys/fs/cgroup/memory.current")
	if !ok {
		return math.MaxInt64
	}
	return limit - used
}

func numberIn(path string) (int64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	return number(b)
}

func number(b []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	return n, err == nil
}
