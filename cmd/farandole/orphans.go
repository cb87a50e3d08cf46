package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sweepLimit bounds the search for leftover processes.
const sweepLimit = 2 * time.Second

// adoptOrphans makes this process the parent of every descendant whose own parent ends, so that sweepOrphans finds
// what a worker left behind.
func adoptOrphans() {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// sweepOrphans kills every child of this process and those that they leave, until there is none. It is called
// last: nobody waits for a child of this process any more. It gives how many there were.
func sweepOrphans() int {
	killed := map[int]bool{}
	for deadline := time.Now().Add(sweepLimit); time.Now().Before(deadline); {
		pids := childrenOf(os.Getpid())
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			killed[pid] = true
			_ = syscall.Kill(pid, syscall.SIGKILL)
			var ws syscall.WaitStatus
			_, _ = syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
		}
		time.Sleep(time.Millisecond)
	}
	return len(killed)
}

// childrenOf reads /proc for the processes whose parent is pid.
func childrenOf(pid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// pid (name) state ppid: the name may hold spaces and brackets, so read from the last one.
		s := string(b)
		f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
		if len(f) > 1 && f[1] == strconv.Itoa(pid) {
			out = append(out, child)
		}
	}
	return out
}
