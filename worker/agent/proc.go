package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// proc is one worker process.
type proc struct {
	job, member string
	slot        int
	pid         int
	released    bool
	announced   chan struct{} // closed once the coordinator is told of the start, or of its failure
	done        chan struct{} // closed when it was waited for
	tail        tail
}

// Limits of what is kept of a worker's output.
const (
	tailLines  = 20
	maxLine    = 8 << 10 // longer lines are cut
	drainLimit = 500 * time.Millisecond
)

func (a *Agent) spawn(s *pb.Spawn) {
	p := &proc{job: s.Job, member: s.Member, slot: int(s.LocalRank), announced: make(chan struct{}), done: make(chan struct{})}
	a.mu.Lock()
	if _, twice := a.procs[s.Member]; twice {
		a.mu.Unlock()
		return
	}
	a.procs[s.Member] = p
	a.mu.Unlock()
	started := make(chan error, 1)
	var cmd *exec.Cmd
	var out sync.WaitGroup
	a.fork <- func() {
		var err error
		cmd, err = a.start(s, p, &out)
		started <- err
	}
	defer close(p.announced)
	if err := <-started; err != nil {
		a.forget(p)
		a.say(&pb.AgentMessage{Of: &pb.AgentMessage_Exited{Exited: &pb.Exited{
			Job: s.Job, Member: s.Member, Error: err.Error(), UnixNanos: time.Now().UnixNano()}}})
		return
	}
	a.say(&pb.AgentMessage{Of: &pb.AgentMessage_Started{Started: &pb.Started{Job: s.Job, Member: s.Member, Pid: int32(p.pid)}}})
	go a.wait(cmd, p, &out)
}

// start runs on the forking thread.
func (a *Agent) start(s *pb.Spawn, p *proc, out *sync.WaitGroup) (*exec.Cmd, error) {
	sp := s.Spec
	if len(sp.GetCommand()) == 0 {
		return nil, errors.New("no program given")
	}
	cmd := exec.Command(sp.Command[0], sp.Command[1:]...)
	cmd.Dir = sp.Dir
	cmd.Env = append(os.Environ(), sp.Env...)
	cmd.Env = append(cmd.Env, a.environment(s)...)
	cmd.SysProcAttr = workerAttr()
	file, err := a.logFile(sp, p)
	if err != nil {
		return nil, err
	}
	var ends []*os.File // the child's, to be closed here
	for i, dst := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*dst = w
		ends = append(ends, w)
		out.Add(1)
		go func() {
			defer out.Done()
			defer r.Close()
			a.copyLines(p, r, i == 1, file)
		}()
	}
	err = cmd.Start()
	for _, w := range ends {
		w.Close()
	}
	if file != nil {
		go func() { out.Wait(); file.Close() }()
	}
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	p.pid = cmd.Process.Pid
	a.mu.Unlock()
	return cmd, nil
}

// environment is what a worker learns; see DESIGN §11 for the names that torchrun's programs know.
func (a *Agent) environment(s *pb.Spawn) []string {
	sp := s.Spec
	a.mu.Lock()
	addr := a.addr
	a.mu.Unlock()
	host, port, _ := net.SplitHostPort(addr)
	threads := int(sp.Threads)
	if threads == 0 {
		threads = max(1, runtime.NumCPU()/max(1, a.cfg.Slots))
	}
	kv := map[string]string{
		"FARANDOLE_COORDINATOR": addr, "FARANDOLE_JOB": s.Job, "FARANDOLE_MEMBER": s.Member,
		"FARANDOLE_HOST": a.cfg.Host, "FARANDOLE_LOCAL_RANK": strconv.Itoa(int(s.LocalRank)),
		"FARANDOLE_LISTEN":  net.JoinHostPort(a.cfg.Listen, "0"),
		"FARANDOLE_THREADS": strconv.Itoa(threads), "FARANDOLE_PIN": strconv.FormatBool(sp.Pin), "FARANDOLE_REDUCE": sp.Reduce, "FARANDOLE_WIRE": sp.Wire,
		"FARANDOLE_TRANSPORT": sp.Transport, "FARANDOLE_GPU_REDUCE": sp.GpuReduce,
		"FARANDOLE_DEVICE": sp.Device, "FARANDOLE_NAN": sp.NanPolicy, "FARANDOLE_CHECKPOINT_DIR": sp.CheckpointDir,
		"FARANDOLE_CHECKPOINT_EVERY": strconv.FormatInt(sp.CheckpointEvery, 10),
		"RANK":                       strconv.Itoa(int(s.LocalRank)), "LOCAL_RANK": strconv.Itoa(int(s.LocalRank)),
		"WORLD_SIZE": strconv.Itoa(int(max(sp.Start, 1))), "LOCAL_WORLD_SIZE": strconv.Itoa(a.cfg.Slots),
		"MASTER_ADDR": host, "MASTER_PORT": port,
	}
	if sp.LivenessNanos > 0 {
		kv["FARANDOLE_LIVENESS"] = time.Duration(sp.LivenessNanos).String()
	}
	var env []string
	for k, v := range kv {
		env = append(env, k+"="+v)
	}
	return env
}

func (a *Agent) logFile(sp *pb.JobSpec, p *proc) (*os.File, error) {
	dir := sp.LogDir
	if dir == "" {
		dir = a.cfg.LogDir
	}
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Create(filepath.Join(dir, fmt.Sprintf("%s-%02d-%s.log", p.job, p.slot, p.member)))
}

// wait sees the exit, tells it at once, and forgets the process.
func (a *Agent) wait(cmd *exec.Cmd, p *proc, out *sync.WaitGroup) {
	err := cmd.Wait()
	at := time.Now()
	killGroup(p.pid) // what the worker itself left behind; it has the pipe, too
	drained := make(chan struct{})
	go func() { out.Wait(); close(drained) }()
	select { // a grandchild that left the group may keep the pipe open; its output is not waited for
	case <-drained:
	case <-time.After(drainLimit):
	}
	ev := &pb.Exited{Job: p.job, Member: p.member, Pid: int32(p.pid), UnixNanos: at.UnixNano(), Tail: p.tail.lines()}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		ev.Code = int32(ee.ExitCode())
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			ev.Signal = ws.Signal().String()
		}
	} else if err != nil {
		ev.Error = err.Error()
	}
	a.forget(p)
	a.say(&pb.AgentMessage{Of: &pb.AgentMessage_Exited{Exited: ev}})
}

func (a *Agent) forget(p *proc) {
	a.mu.Lock()
	delete(a.procs, p.member)
	a.mu.Unlock()
	close(p.done)
}

// signal sends a signal and tells when, by this host's clock.
func (a *Agent) signal(s *pb.Signal) {
	sig, ok := signals[s.Signal]
	a.mu.Lock()
	p := a.procs[s.Member]
	pid := 0
	if p != nil {
		pid = p.pid
	}
	a.mu.Unlock()
	if !ok || pid == 0 {
		a.cfg.Logger.Warn("signal not sent: no such process or signal", "member", s.Member, "signal", s.Signal)
		return
	}
	a.say(&pb.AgentMessage{Of: &pb.AgentMessage_Injected{Injected: &pb.Injected{
		Job: s.Job, Member: s.Member, Signal: s.Signal, UnixNanos: time.Now().UnixNano()}}})
	if err := syscall.Kill(pid, sig); err != nil {
		a.cfg.Logger.Warn("signal not sent", "pid", pid, "signal", s.Signal, "err", err)
		return
	}
	if s.Signal == "STOP" && s.ContAfterNanos > 0 {
		time.AfterFunc(time.Duration(s.ContAfterNanos), func() {
			select {
			case <-p.done: // its pid may belong to another by now
			default:
				_ = syscall.Kill(pid, syscall.SIGCONT)
			}
		})
	}
}

var signals = map[string]syscall.Signal{
	"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT,
}

// release ends what is left of a job; its workers were told to end by themselves and get a moment for it.
func (a *Agent) release(job string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.procs {
		if p.job != job || p.released {
			continue
		}
		p.released = true
		t := time.AfterFunc(endGrace, func() { a.kill(p) })
		go func() {
			<-p.done
			t.Stop()
		}()
	}
}

func (a *Agent) killAll() {
	a.mu.Lock()
	var all []*proc
	for _, p := range a.procs {
		all = append(all, p)
	}
	a.mu.Unlock()
	for _, p := range all {
		a.kill(p)
	}
	for _, p := range all {
		<-p.done
	}
}

func (a *Agent) kill(p *proc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	killGroup(p.pid)
}

func killGroup(pid int) {
	if pid > 0 {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}

// copyLines sends a stream's lines to the coordinator, in batches, and to the log file.
func (a *Agent) copyLines(p *proc, r io.Reader, stderr bool, file *os.File) {
	br := bufio.NewReaderSize(r, maxLine)
	var batch []string
	flush := func() {
		if len(batch) > 0 {
			<-p.announced // a quick program's first lines come after the news that it started
			a.say(&pb.AgentMessage{Of: &pb.AgentMessage_Logs{Logs: &pb.LogLines{
				Job: p.job, Member: p.member, Slot: int32(p.slot), Stderr: stderr, Lines: batch}}})
			batch = nil
		}
	}
	defer flush()
	for {
		b, err := br.ReadSlice('\n')
		if len(b) > 0 {
			if file != nil {
				_, _ = file.Write(b)
			}
			line := strings.TrimRight(strings.ToValidUTF8(string(b), "?"), "\r\n")
			p.tail.add(line)
			batch = append(batch, line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
		if br.Buffered() == 0 || len(batch) >= 64 {
			flush()
		}
	}
}

// tail keeps a worker's last lines.
type tail struct {
	mu  sync.Mutex
	buf []string
}

func (t *tail) add(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf) == tailLines {
		t.buf = append(t.buf[:0], t.buf[1:]...)
	}
	t.buf = append(t.buf, s)
}

func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.buf...)
}
