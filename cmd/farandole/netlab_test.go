package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var netTests = flag.Bool("e2e.net", false, "run the tests that make network namespaces: they need root, ip, tc and nsenter")

// netLab is hosts as network namespaces, at the ports of a switch, which is one too. A namespace lives as long as a process that
// waits for the end of its input: so all are gone when the test is, however it ends.
//
// The switch has two halves with a trunk between them.
type netLab struct {
	e      *e2e
	wires  *netHost
	hosts  int
	prefix string // of the hosts' addresses
}

type netHost struct {
	lab  *netLab
	pid  int
	addr string
	port string // its port at the switch; its own end is eth0
}

// trunk's ends, on the first and the second half.
var trunk = [2]string{"trunk0", "trunk1"}

func newNetLab(t *testing.T) *netLab {
	if !*netTests {
		t.Skip("makes network namespaces: make e2e-net")
	}
	for _, tool := range []string{"ip", "tc", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	l := &netLab{e: newE2E(t), prefix: "10.213.7."}
	l.wires = l.space()
	for _, args := range []string{
		"link add half0 type bridge", "link add half1 type bridge", "link set half0 up", "link set half1 up",
		"link add trunk0 type veth peer name trunk1", "link set trunk0 master half0 up", "link set trunk1 master half1 up",
	} {
		if out, err := l.wires.try("ip", strings.Fields(args)...); err != nil {
			t.Skipf("this system lets nobody make network devices here: ip %s: %v: %s", args, err, out)
		}
	}
	return l
}

// space makes a namespace.
func (l *netLab) space() *netHost {
	hold := exec.Command("cat")
	hold.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	in, err := hold.StdinPipe()
	require.NoError(l.e, err)
	if err := hold.Start(); err != nil {
		l.e.Skipf("this system lets nobody make network namespaces here: %v", err)
	}
	l.e.Cleanup(func() {
		_ = in.Close()
		_ = hold.Wait()
	})
	return &netHost{lab: l, pid: hold.Process.Pid}
}

// host makes a host at the given half of the switch.
func (l *netLab) host(half int) *netHost {
	h := l.space()
	l.hosts++
	h.addr, h.port = l.prefix+strconv.Itoa(l.hosts), fmt.Sprintf("port%d", l.hosts)
	l.wires.do("ip", "link", "add", h.port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.pid))
	l.wires.do("ip", "link", "set", h.port, "master", fmt.Sprintf("half%d", half), "up")
	h.do("ip", "link", "set", "lo", "up")
	h.do("ip", "addr", "add", h.addr+"/24", "dev", "eth0")
	h.do("ip", "link", "set", "eth0", "up")
	return h
}

func (h *netHost) command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(h.pid), "-n", "--", name}, args...)...)
}

func (h *netHost) try(name string, args ...string) (string, error) {
	out, err := h.command(name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (h *netHost) do(name string, args ...string) string {
	h.lab.e.Helper()
	out, err := h.try(name, args...)
	require.NoError(h.lab.e, err, "%s %v: %s", name, args, out)
	return out
}

// shape makes what leaves by device dev queue as tc says; nothing means as ever.
func (h *netHost) shape(dev, queue string) {
	h.lab.e.Helper()
	_, _ = h.try("tc", "qdisc", "del", "dev", dev, "root")
	if queue != "" {
		h.do("tc", append([]string{"qdisc", "add", "dev", dev, "root"}, strings.Fields(queue)...)...)
	}
}

// drop is a queue that loses everything and says nothing.
const drop = "blackhole"

// deaf loses what comes to h, mute what leaves it; "" as the queue ends that.
func (h *netHost) deaf(queue string) { h.lab.wires.shape(h.port, queue) }
func (h *netHost) mute(queue string) { h.shape("eth0", queue) }

func (h *netHost) cut() { h.deaf(drop); h.mute(drop) }

func (h *netHost) heal() { h.deaf(""); h.mute("") }

// split cuts the two halves of the switch from one another.
func (l *netLab) split(queue string) {
	for _, dev := range trunk {
		l.wires.shape(dev, queue)
	}
}

// dropped is how many packets the queue of a device has lost.
func (h *netHost) dropped(dev string) int {
	var n int
	_, after, _ := strings.Cut(h.do("tc", "-s", "qdisc", "show", "dev", dev), "(dropped ")
	_, err := fmt.Sscanf(after, "%d", &n)
	require.NoError(h.lab.e, err)
	return n
}

// start runs farandole on h until the test ends.
func (h *netHost) start(out io.Writer, args ...string) *exec.Cmd {
	e := h.lab.e
	cmd := h.command(filepath.Join(e.dir, "farandole"), args...)
	log := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = log, log
	if out != nil {
		cmd.Stdout, cmd.Stderr = out, out
	}
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(e, cmd.Start())
	if out == nil {
		e.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			hung := time.AfterFunc(e2eLimit, func() { _ = cmd.Process.Kill() })
			_ = cmd.Wait()
			hung.Stop()
			if e.Failed() {
				e.Logf("%v said:\n%s", args, log)
			}
		})
	}
	return cmd
}

// netJob is a job on the agents of a lab.
type netJob struct {
	lab   *netLab
	head  *netHost // of the coordinator
	addr  string
	cmd   *exec.Cmd
	out   *bytes.Buffer
	lines *lineWaiter
	file  string
}

// coordinator starts one on a host of its own, on the first half.
func (l *netLab) coordinator() *netJob {
	j := &netJob{lab: l, head: l.host(0)}
	j.addr = j.head.addr + ":7600"
	j.head.start(nil, "coordinator", "--listen", j.addr, "--insecure", "--state-dir", l.e.TempDir())
	return j
}

// agent starts one on a new host.
func (j *netJob) agent(name string, half, slots int) *netHost {
	h := j.lab.host(half)
	j.agentAt(h, name, h.addr, slots)
	return h
}

// agentAt starts one on h, whose workers reach each other at addr.
func (j *netJob) agentAt(h *netHost, name, addr string, slots int) {
	h.start(nil, "agent", "--coordinator", j.addr, "--host", name, "--listen", addr, "--insecure", "--slots", strconv.Itoa(slots))
}

// run submits program.
func (j *netJob) run(flags []string, program ...string) {
	e := j.lab.e
	j.file = filepath.Join(e.TempDir(), "summary.json")
	args := append([]string{"run", "--coordinator", j.addr, "--summary", j.file, "--settle", "200ms"}, flags...)
	args = append(append(args, "--", filepath.Join(e.dir, program[0])), program[1:]...)
	j.out = new(bytes.Buffer)
	j.lines = newLineWaiter(j.out)
	j.cmd = j.head.start(j.lines, args...)
}

// wait gives the job's end.
func (j *netJob) wait() e2eResult { return j.lab.e.wait(j.cmd, j.out, j.file) }
