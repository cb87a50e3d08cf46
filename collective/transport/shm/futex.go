//go:build linux

package shm

import (
	"math"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's numbers for waiting on a word that processes share.
const (
	futexWait = 0
	futexWake = 1
)

// sleepWord waits until another process wakes those who wait for w, for limit at most. It returns at once when *w is
// not old any more. It may return early.
func sleepWord(w *uint32, old uint32, limit time.Duration) {
	ts := unix.NsecToTimespec(int64(limit))
	_, _, _ = syscall.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), futexWait, uintptr(old), uintptr(unsafe.Pointer(&ts)), 0, 0)
}

// wakeWord wakes all who wait for w.
func wakeWord(w *uint32) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), futexWake, math.MaxInt32, 0, 0, 0)
}

// yieldThread lets another process run on this core.
func yieldThread() { _, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
