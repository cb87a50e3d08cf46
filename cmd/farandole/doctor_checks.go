package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/unix"

	"github.com/farandole-ml/farandole/kernels"
)

// What the checks find too little.
const (
	fewCores      = 2
	fewFiles      = 1024    // a worker of a group of n holds about n connections
	littleMemory  = 1 << 30 // available, bytes
	littleShm     = 64 << 20
	littleTemp    = 256 << 20
	slowLoopback  = 200 * time.Microsecond
	loopbackTrips = 500
	doctorTimeout = 5 * time.Second
)

func checkCores(context.Context) finding {
	n, all := runtime.GOMAXPROCS(0), runtime.NumCPU()
	text := count(int64(n), "core")
	if n != all {
		text += fmt.Sprintf(" of %d may be used", all)
	}
	if n < fewCores {
		return warn("cores", "workers on this host take turns; that is fine to try things out", "%s", text)
	}
	return ok("cores", "%s", text)
}

// checkISA says which kernels this build runs here. All give the same bits.
func checkISA(context.Context) finding {
	isas := kernels.ISAs()
	switch isas[0] {
	case "go":
		return warn("instructions", "training is slow: build with a C compiler (CGO_ENABLED=1)", "plain Go kernels only (%s)", cpuid.CPU.BrandName)
	case "portable":
		return warn("instructions", "training is slow: use a processor with AVX2", "portable C kernels only (%s)", cpuid.CPU.BrandName)
	}
	if kernels.HasAMX() {
		return ok("instructions", "%s kernels, and AMX for --precision bf16 --products amx (%s)", isas[0], cpuid.CPU.BrandName)
	}
	return ok("instructions", "%s kernels (%s)", isas[0], cpuid.CPU.BrandName)
}

// meminfo is a field of /proc/meminfo in bytes.
func meminfo(field string) (int64, bool) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, found := strings.CutPrefix(line, field+":"); found {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}

// cgroupLimit is the memory that this process's control group may use; false when there is no limit.
func cgroupLimit() (int64, bool) {
	for _, p := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(p); err == nil {
			n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			return n, err == nil && n < 1<<60
		}
	}
	return 0, false
}

func checkMemory(context.Context) finding {
	free, found := meminfo("MemAvailable")
	if !found {
		return warn("memory", "look with `free -h` yourself", "cannot be told here")
	}
	text := bytesText(free) + " available"
	if limit, limited := cgroupLimit(); limited {
		text += fmt.Sprintf(", limited to %s for this container", bytesText(limit))
		free = min(free, limit)
	}
	if free < littleMemory {
		return warn("memory", "a GPT-2 of 124M parameters needs about 2 GiB a worker: use a smaller model or fewer workers", "%s", text)
	}
	return ok("memory", "%s", text)
}

// freeIn is the space that is left in the file system of path.
func freeIn(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func checkSharedMemory(context.Context) finding {
	fd, err := unix.MemfdCreate("farandole-doctor", unix.MFD_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	free, serr := freeIn("/dev/shm")
	switch {
	case err != nil:
		return warn("shared memory", "workers of one host fall back to TCP", "memfd_create: %v", err)
	case serr != nil:
		return ok("shared memory", "anonymous (memfd); no /dev/shm, which is not needed")
	case free < littleShm:
		return ok("shared memory", "anonymous (memfd); /dev/shm has only %s, which is not needed", bytesText(free))
	}
	return ok("shared memory", "anonymous (memfd); /dev/shm has %s", bytesText(free))
}

func checkTempDir(context.Context) finding {
	dir := os.TempDir()
	f, err := os.CreateTemp(dir, "farandole-doctor-*")
	if err != nil {
		return fail("temp directory", "set TMPDIR to a directory that can be written to", "%s: %v", dir, causeOf(err))
	}
	f.Close()
	os.Remove(f.Name())
	free, err := freeIn(dir)
	if err != nil {
		return ok("temp directory", "%s can be written to", dir)
	}
	if free < littleTemp {
		return warn("temp directory", "free some space there, or set TMPDIR", "%s has only %s", dir, bytesText(free))
	}
	return ok("temp directory", "%s has %s", dir, bytesText(free))
}

func checkFiles(context.Context) finding {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return warn("open files", "look with `ulimit -n` yourself", "the limit cannot be told: %v", err)
	}
	if r.Cur < fewFiles {
		return warn("open files", fmt.Sprintf("raise it with `ulimit -n %d`: each worker holds a connection to every other", 4*fewFiles), "at most %d", r.Cur)
	}
	return ok("open files", "up to %d", r.Cur)
}

func checkProcesses(context.Context) finding {
	exe := selfPath()
	out, err := exec.Command(exe, "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "farandole ") {
		return fail("processes", "allow this program to be executed again from where it lies (noexec mounts forbid that)", "%s cannot start itself: %v", exe, err)
	}
	return ok("processes", "the coordinator can be started as a child")
}

// checkLoopback measures a message there and back over TCP, the median of many.
func checkLoopback(ctx context.Context) finding {
	rtt, err := loopbackRTT(ctx)
	if err != nil {
		return fail("loopback", "bring the interface up: `ip link set lo up`", "127.0.0.1 does not work: %v", err)
	}
	text := fmt.Sprintf("%.0f µs there and back over TCP", float64(rtt.Nanoseconds())/1e3)
	if rtt > slowLoopback {
		return warn("loopback", "the machine is busy or throttled: timings will be poor", "%s", text)
	}
	return ok("loopback", "%s", text)
}

func loopbackRTT(ctx context.Context) (time.Duration, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	echoed := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(doctorTimeout))
			_, err = io.Copy(c, c)
		}
		echoed <- err
	}()
	d := net.Dialer{Timeout: doctorTimeout}
	c, err := d.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		l.Close()
		<-echoed
		return 0, err
	}
	_ = c.SetDeadline(time.Now().Add(doctorTimeout))
	trips := make([]time.Duration, 0, loopbackTrips)
	b := make([]byte, 8)
	for range loopbackTrips {
		began := time.Now()
		if _, err = c.Write(b); err == nil {
			_, err = io.ReadFull(c, b)
		}
		if err != nil {
			break
		}
		trips = append(trips, time.Since(began))
	}
	c.Close()
	<-echoed
	if err != nil {
		return 0, err
	}
	slices.Sort(trips)
	return trips[len(trips)/2], nil
}

func checkPort(addr string) finding {
	l, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		l.Close()
		return ok("port", "%s is free for a coordinator", addr)
	case errors.Is(err, syscall.EADDRINUSE):
		return warn("port", "if that is your coordinator, all is well; else give another port with --listen", "%s is in use", addr)
	}
	return warn("port", "choose another address with --listen", "%s: %v", addr, err)
}

func checkCompiler(context.Context) finding {
	for _, name := range []string{os.Getenv("CC"), "cc", "gcc", "clang"} {
		if name == "" {
			continue
		}
		if path, err := exec.LookPath(strings.Fields(name)[0]); err == nil {
			return ok("C compiler", "%s", path)
		}
	}
	return warn("C compiler", "only building from source needs one, for the fast kernels: `apt install gcc`", "none in PATH")
}
