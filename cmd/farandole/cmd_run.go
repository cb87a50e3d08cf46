package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// runOptions are the flags of `run`.
type runOptions struct {
	jobOptions
	standalone bool
	tee        string
	summary    string
	curves     []string
	output     string
	chaos      string
	timeLimit  time.Duration
	grace      time.Duration
	stateDir   string
	http       string
	quiet      bool
	verbose    bool
}

func newRunCommand() *cobra.Command {
	o := &runOptions{}
	cmd := &cobra.Command{
		Use:   "run [flags] -- PROGRAM ARGS…",
		Short: "Start a job and watch it to its end",
		Long: `Run starts PROGRAM as the workers of one job and watches it to its end.

Without --coordinator everything is on this machine and ends with this command: a coordinator, an agent and the
workers. With --coordinator the job is submitted there and only watched from here: its workers run wherever agents
offer slots.

Ctrl-C cancels the job (exit code 130), a second one ends everything at once. SIGTERM asks for a checkpoint first
(exit code 143). Exit codes: 0 done, 1 the job failed, 2 usage, 3 fewer than --min workers, 124 time limit.

A chaos script injects faults, each once its step is committed:
  kill rank=1 step=20; join step=30 count=2; stop rank=0 step=40 for=3s; kill coordinator step=50`,
		Example: `  farandole run --workers 4 -- ./bin/mnist --steps 200
  farandole run --workers 4 --checkpoint-dir ckpt --checkpoint-every 100 --summary out.json -- ./bin/gpt --steps 1000
  farandole run --coordinator 127.0.0.1:7600 --workers 8 --min 4 -- /opt/train --steps 1000`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRun(cmd, o, args)
		},
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.StringVar(&o.coordinator, "coordinator", "", "`host:port` of a coordinator to submit the job to (default: start one here)")
	f.BoolVar(&o.standalone, "standalone", false, "run everything on this machine: the default without --coordinator")
	f.StringVar(&o.tee, "tee", "3", "which of a worker's streams are shown: 0 none, 1 standard output, 2 standard error, 3 both; or per worker, 0:3,1:2")
	f.StringVar(&o.summary, "summary", "", "`file` to write the result to, as JSON")
	f.StringArrayVar(&o.curves, "curve", nil, "`file` to write the loss by step to: .png for a picture, .csv for figures; may be repeated")
	f.StringVarP(&o.output, "output", "o", "text", "what standard output carries: text, or json for the summary alone")
	f.StringVar(&o.chaos, "chaos", "", "`script` of faults to inject")
	f.DurationVar(&o.timeLimit, "time-limit", 0, "cancel the job after this long, with exit code 124 (0: never)")
	f.DurationVar(&o.grace, "grace", 30*time.Second, "how long a cancelled job may take to end, checkpoint included, before it is ended")
	f.StringVar(&o.stateDir, "state-dir", "", "`directory` that keeps the coordinator's state, for `farandole verify` (default: dropped at the end)")
	f.StringVar(&o.http, "http", "", "`host:port` where the coordinator serves metrics")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print the workers' lines, warnings and errors only")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "print the coordinator's and the agent's logs on standard error")
	f.SetInterspersed(false)
	return cmd
}

// runPlan is a checked command line.
type runPlan struct {
	spec    *pb.JobSpec
	workers int
	chaos   []chaosAction
	tee     teeRule
}

// check validates everything that can be wrong before anything starts.
func (o *runOptions) check(cmd *cobra.Command, args []string) (*runPlan, error) {
	f := cmd.Flags()
	remote := o.coordinator != ""
	switch {
	case o.standalone && remote:
		return nil, usagef("--standalone runs everything here, --coordinator %s somewhere else: give one of them", o.coordinator)
	case remote && o.stateDir != "":
		return nil, usagef("--state-dir is for a coordinator that run starts; the one at %s has its own", o.coordinator)
	case remote && o.http != "":
		return nil, usagef("--http is for a coordinator that run starts; the one at %s has its own", o.coordinator)
	case o.timeLimit < 0 || f.Changed("time-limit") && o.timeLimit == 0:
		return nil, usagef("--time-limit wants a time above zero, such as 10m, not %s", o.timeLimit)
	case o.grace <= 0:
		return nil, usagef("--grace wants a time above zero, such as 30s, not %s", o.grace)
	}
	if err := oneOf("-o", o.output, "text", "json"); err != nil {
		return nil, err
	}
	p := &runPlan{}
	var err error
	if p.chaos, err = parseChaos(o.chaos); err != nil {
		return nil, usagef("%w", err)
	}
	for _, a := range p.chaos {
		if a.Kind == chaosKillCoordinator && remote {
			return nil, usagef("--chaos %q works on a coordinator that run starts, not on the one at %s", a, o.coordinator)
		}
	}
	if p.tee, err = parseTee(o.tee); err != nil {
		return nil, err
	}
	if o.http != "" {
		if err := checkListen("--http", o.http, false); err != nil {
			return nil, err
		}
	}
	if o.summary != "" {
		if err := writableFile("--summary", o.summary); err != nil {
			return nil, err
		}
	}
	if err := checkCurves(o.curves); err != nil {
		return nil, err
	}
	if p.spec, p.workers, err = o.spec(f, args); err != nil {
		return nil, err
	}
	if len(p.chaos) > 0 {
		p.spec.ReportNanos = int64(chaosReport)
	}
	if o.stateDir != "" {
		if err := writableDir("--state-dir", o.stateDir); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// writableFile proves that a file can be written at path, without touching what is there.
func writableFile(flag, path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return usagef("%s %s is a directory: name a file", flag, path)
	}
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); err != nil {
		return usagef("%s %s: the directory %s does not exist", flag, path, dir)
	}
	f, err := os.CreateTemp(dir, ".farandole-*")
	if err != nil {
		return usagef("%s %s: cannot write there: %v", flag, path, causeOf(err))
	}
	f.Close()
	return os.Remove(f.Name())
}

func runRun(cmd *cobra.Command, o *runOptions, args []string) error {
	p, err := o.check(cmd, args)
	if err != nil {
		return err
	}
	stdout, progress := cmd.OutOrStdout(), cmd.OutOrStdout()
	if o.output == "json" {
		progress = cmd.ErrOrStderr()
	}
	r := &jobRun{
		opts: o, plan: p, con: newConsole(progress, cmd.ErrOrStderr(), o.quiet), stdout: stdout,
		signals: newSignals(), restarts: make(chan coordinatorRestart, maxFastEnds),
	}
	defer r.signals.stop()
	if o.coordinator == "" {
		adoptOrphans()
		defer r.sweep()
	}
	return r.run(cmd.Context())
}

// start brings up the coordinator and agent here, or finds the one to talk to. stop undoes it.
func (r *jobRun) start(ctx context.Context) (addr string, stop func(), failed <-chan error, err error) {
	o := r.opts
	if o.coordinator != "" {
		return o.coordinator, func() {}, nil, nil
	}
	dir, cleanup, err := newStateDir(o.stateDir)
	if err != nil {
		return "", nil, nil, failf("cannot make a directory for the coordinator's state: %v", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	var verbose io.Writer
	logger := discardLog()
	if o.verbose {
		verbose = lockedWriter{r.con}
		logger = newLogger(verbose, "info")
	}
	r.cluster = &cluster{
		stateDir: dir, http: o.http, verbose: verbose, restarts: r.restarts,
		agent: agentConfig{Host: host, Slots: r.plan.workers, LogDir: r.plan.spec.LogDir, Logger: logger},
	}
	stopCluster, failed, err := startCluster(ctx, r.cluster)
	if err != nil {
		cleanup()
		return "", nil, nil, &exitError{exitFailed, err}
	}
	return r.cluster.addr, func() { stopCluster(); cleanup() }, failed, nil
}

// lockedWriter writes whole log lines above the progress line.
type lockedWriter struct{ con *console }

func (w lockedWriter) Write(b []byte) (int, error) {
	w.con.above(w.con.err, string(b))
	return len(b), nil
}

// submit hands the job in and gives its id.
func submitJob(ctx context.Context, c *client, spec *pb.JobSpec) (string, error) {
	var job string
	err := c.call(ctx, func(ctx context.Context) error {
		rep, err := c.Submit(ctx, &pb.SubmitRequest{Spec: spec})
		job = rep.GetJob()
		return err
	})
	return job, err
}

// checkListen refuses an address that is none, or that others can reach without insecure.
func checkListen(flag, addr string, insecure bool) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return usagef("%s wants host:port, such as %s, not %q", flag, defaultAddr, addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return usagef("%s %s: %q is no port", flag, addr, port)
	}
	ip := net.ParseIP(host)
	if insecure || host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return usagef("%s %s can be reached from other machines, and whoever reaches it can run programs here: use 127.0.0.1, or add --insecure on a network where you trust everybody", flag, addr)
}

var errNoEnd = errors.New("the job's end was not seen")

// runningText says what was started, for the first line.
func (r *jobRun) runningText(job, addr string) string {
	n := count(int64(max(r.plan.spec.Start, r.plan.spec.Min)), "worker")
	if r.opts.coordinator != "" {
		return fmt.Sprintf("job %s: submitted to %s, to start with %s", job, addr, n)
	}
	threads := count(int64(r.plan.spec.Threads), "thread")
	if r.plan.spec.Start > 1 {
		threads += " each"
	}
	text := fmt.Sprintf("job %s: %s on this machine, %s, coordinator at %s", job, n, threads, addr)
	if r.opts.http != "" {
		text += fmt.Sprintf(", metrics at http://%s/metrics", r.opts.http)
	}
	return text
}
