package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// coordinatorFlag adds --coordinator to a command that talks to one.
func coordinatorFlag(cmd *cobra.Command, addr *string) {
	cmd.Flags().StringVar(addr, "coordinator", defaultAddr, "`host:port` of the coordinator")
}

// withClient runs f with a client of addr.
func withClient(addr string, f func(c *client) error) error {
	c, err := dial(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func newSubmitCommand() *cobra.Command {
	o := &jobOptions{}
	cmd := &cobra.Command{
		Use:   "submit [flags] -- PROGRAM ARGS…",
		Short: "Hand a job to a coordinator, print its id and return",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, _, err := o.spec(cmd.Flags(), args)
			if err != nil {
				return err
			}
			return withClient(o.coordinator, func(c *client) error {
				job, err := submitJob(cmd.Context(), c, spec)
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), job)
				}
				return err
			})
		},
	}
	o.addFlags(cmd.Flags())
	coordinatorFlag(cmd, &o.coordinator)
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func newJobsCommand() *cobra.Command {
	var addr, output string
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "List a coordinator's jobs",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listJobs(cmd, addr, output, "")
		},
	}
	coordinatorFlag(cmd, &addr)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func newStatusCommand() *cobra.Command {
	var addr, output string
	cmd := &cobra.Command{
		Use:   "status [JOB]",
		Short: "Show one job, or all that have not ended",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return listJobs(cmd, addr, output, args[0])
			}
			return listJobs(cmd, addr, output, "*")
		},
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("%s takes one job, not %d", cmd.Name(), len(args))
		}
		return nil
	}
	coordinatorFlag(cmd, &addr)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// listJobs prints all jobs, those that have not ended ("*"), or one in detail.
func listJobs(cmd *cobra.Command, addr, output, which string) error {
	if err := oneOf("-o", output, "text", "json"); err != nil {
		return err
	}
	jobs, err := jobsOf(cmd.Context(), addr, which)
	if err != nil {
		return err
	}
	var picked []*pb.JobStatus
	for _, j := range jobs {
		if which == "" || j.Job == which || which == "*" && !endedStatus(j.Status) {
			picked = append(picked, j)
		}
	}
	w := cmd.OutOrStdout()
	switch {
	case which != "" && which != "*" && len(picked) == 0:
		return noJob(addr, which)
	case output == "json":
		return writeJSON(w, jobViews(picked))
	case which != "" && which != "*":
		printJob(w, picked[0])
	case len(picked) == 0 && which == "*":
		fmt.Fprintf(w, "no job is running at %s (%s in all)\n", addr, count(int64(len(jobs)), "job"))
	case len(picked) == 0:
		fmt.Fprintf(w, "no jobs at %s yet\n", addr)
	default:
		printJobs(w, picked)
	}
	return nil
}

func noJob(addr, job string) error {
	return usagef("the coordinator at %s has no job %q: see `farandole jobs --coordinator %s`", addr, job, addr)
}

// jobsOf asks the coordinator at addr for all its jobs, with the workers of one if that is named.
func jobsOf(ctx context.Context, addr, workersOf string) (jobs []*pb.JobStatus, err error) {
	err = withClient(addr, func(c *client) error {
		return c.call(ctx, func(ctx context.Context) error {
			rep, err := c.Jobs(ctx, &pb.JobsRequest{WorkersOf: workersOf})
			jobs = rep.GetJobs()
			return err
		})
	})
	return jobs, err
}

func findJob(ctx context.Context, addr, job string) (*pb.JobStatus, error) {
	jobs, err := jobsOf(ctx, addr, "")
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if j.Job == job {
			return j, nil
		}
	}
	return nil, noJob(addr, job)
}

// endedStatus says whether a status is a job's last.
func endedStatus(s string) bool {
	switch s {
	case "done", "failed", "starved", "cancelled", "preempted":
		return true
	}
	return false
}

// jobView is a job in `-o json`.
type jobView struct {
	Job        string        `json:"job"`
	Name       string        `json:"name"`
	Status     string        `json:"status"`
	Step       int64         `json:"step"`
	Steps      int64         `json:"steps"`
	Generation uint64        `json:"generation"`
	WorldSize  int           `json:"world_size"`
	Loss       *float64      `json:"loss"`
	Program    string        `json:"program"`
	Ledger     []summaryTerm `json:"ledger"`
	GPUs       *gpusView     `json:"gpus"`              // of the workers in the view; null when nothing is known of any
	Workers    []workerView  `json:"workers,omitempty"` // of the one job that was asked for
}

func jobViews(jobs []*pb.JobStatus) []jobView {
	out := []jobView{}
	for _, j := range jobs {
		v := jobView{Job: j.Job, Name: j.Name, Status: j.Status, Step: j.Step, Steps: j.Plan.GetSteps(), Generation: j.Generation,
			WorldSize: int(j.World), Program: j.Plan.GetProgram(), Ledger: []summaryTerm{}, Workers: workerViews(j.Workers)}
		if j.Step > 0 {
			v.Loss = number(j.Loss)
		}
		for _, t := range j.Ledger {
			v.Ledger = append(v.Ledger, summaryTerm{t.Generation, t.First, t.Last, int(t.World)})
		}
		if d := j.Devices; d != nil {
			v.GPUs = &gpusView{d.Workers, d.LowestUtilization, d.HottestCelsius}
		}
		out = append(out, v)
	}
	return out
}

func printJobs(w io.Writer, jobs []*pb.JobStatus) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	gpus := slices.ContainsFunc(jobs, func(j *pb.JobStatus) bool { return gpusText(j.Devices) != "" })
	row := func(columns ...string) {
		if !gpus {
			columns = columns[:len(columns)-1]
		}
		fmt.Fprintln(t, strings.Join(columns, "\t"))
	}
	row("JOB", "STATUS", "STEP", "LOSS", "WORKERS", "GENERATION", "GPUS")
	for _, j := range jobs {
		row(j.Job, j.Status, stepsText(j), jobLoss(j), fmt.Sprint(j.World), fmt.Sprint(j.Generation), cmp.Or(gpusText(j.Devices), "-"))
	}
	_ = t.Flush()
}

func stepsText(j *pb.JobStatus) string {
	if n := j.Plan.GetSteps(); n > 0 {
		return fmt.Sprintf("%d/%d", j.Step, n)
	}
	return fmt.Sprint(j.Step)
}

func jobLoss(j *pb.JobStatus) string {
	if j.Step == 0 || math.IsNaN(j.Loss) && j.Step == 0 {
		return "-"
	}
	return lossText(j.Loss)
}

func printJob(w io.Writer, j *pb.JobStatus) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "job\t%s\nstatus\t%s\nstep\t%s\nloss\t%s\nworkers\t%d\ngeneration\t%d\n", j.Job, j.Status, stepsText(j), jobLoss(j), j.World, j.Generation)
	if p := j.Plan; p != nil {
		fmt.Fprintf(t, "program\t%s\nlogical shards\t%d\nsamples per step\t%d\nseed\t%d\n", p.Program, p.Shards, p.SamplesPerStep, p.Seed)
	}
	for _, l := range j.Ledger {
		if l.Last >= l.First {
			fmt.Fprintf(t, "generation %d\tsteps %d to %d with %s\n", l.Generation, l.First, l.Last, count(int64(l.World), "worker"))
		}
	}
	for rank, w := range j.Workers {
		if w.Device != nil {
			fmt.Fprintf(t, "rank %d\ton %s, %s\n", rank, w.Host, gpuText(readingOf(w.Device)))
		}
	}
	_ = t.Flush()
}

func newLogsCommand() *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:   "logs JOB",
		Short: "Follow what a job's workers print, until the job ends or Ctrl-C",
		Long: `Logs prints what a job's workers write from now on, until the job ends or Ctrl-C. A coordinator keeps no
output; what was written before is in the files of --log-dir on the workers' hosts.`,
		Args: exactArgs("a JOB"),
		RunE: func(cmd *cobra.Command, args []string) error { return followLogs(cmd, addr, args[0]) },
	}
	coordinatorFlag(cmd, &addr)
	return cmd
}

// followLogs shows a job's lines; its membership changes come between them on standard error.
func followLogs(cmd *cobra.Command, addr, job string) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return withClient(addr, func(c *client) error {
		if _, err := findJob(ctx, addr, job); err != nil {
			return err
		}
		con := newConsole(cmd.OutOrStdout(), cmd.ErrOrStderr(), false)
		con.live = false
		r := newRenderer(con, time.Now)
		events, watched := make(chan *pb.JobEvent, eventQueue), make(chan error, 1)
		wctx, cancel := context.WithCancel(ctx)
		w := &watcher{client: c, job: job, logs: true, silence: watchSilence, giveUp: watchGiveUp}
		go func() { watched <- w.run(wctx, events); close(events) }()
		lines := 0
		for e := range events {
			switch {
			case e.GetView() != nil:
				r.view = e.GetView()
			case e.GetLogs() != nil:
				lines++
				r.event(e)
			case e.GetEnded() != nil:
				fmt.Fprintf(cmd.ErrOrStderr(), "farandole: job %s %s at step %d\n", job, pastTense(e.GetEnded().Status), e.GetEnded().Steps)
				if lines == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "farandole: it had ended before; its lines are in the files of --log-dir, if it had one")
				}
			}
		}
		cancel()
		err := <-watched
		if ctx.Err() != nil {
			return &exitError{exitInterrupted, nil}
		}
		return rpcOrSame(addr, err)
	})
}

func pastTense(status string) string {
	switch status {
	case "starved":
		return "ran out of workers"
	case "done", "failed", "cancelled", "preempted":
		return map[string]string{"done": "was done", "failed": "failed", "cancelled": "was cancelled", "preempted": "saved a checkpoint and stopped"}[status]
	}
	return "ended (" + status + ")"
}

func newScaleCommand() *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:     "scale JOB +N",
		Short:   "Offer a job N more workers",
		Example: "  farandole scale gpt-1f00aa +2",
		Args:    exactArgs("a JOB", "+N"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(strings.TrimPrefix(args[1], "+"))
			if err != nil || n < 1 || n > maxWorkersFlag {
				return usagef("scale wants +N, how many workers to add, from +1 to +%d, not %q; to remove workers, stop their agent", maxWorkersFlag, args[1])
			}
			if j, err := findJob(cmd.Context(), addr, args[0]); err != nil {
				return err
			} else if endedStatus(j.Status) {
				return failf("job %s had ended before: it %s at step %s", args[0], pastTense(j.Status), stepsText(j))
			}
			return withClient(addr, func(c *client) error {
				err := c.call(cmd.Context(), func(ctx context.Context) error {
					_, err := c.Scale(ctx, &pb.ScaleRequest{Job: args[0], Add: int32(n)})
					return err
				})
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "job %s is offered %s\n", args[0], count(int64(n), "more worker"))
				}
				return err
			})
		},
	}
	coordinatorFlag(cmd, &addr)
	return cmd
}

func newCancelCommand() *cobra.Command {
	var addr string
	var save bool
	cmd := &cobra.Command{
		Use:   "cancel JOB",
		Short: "End a job; with --save after a checkpoint",
		Args:  exactArgs("a JOB"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if j, err := findJob(cmd.Context(), addr, args[0]); err != nil {
				return err
			} else if endedStatus(j.Status) {
				fmt.Fprintf(cmd.OutOrStdout(), "job %s had ended before: it %s at step %s\n", args[0], pastTense(j.Status), stepsText(j))
				return nil
			}
			return withClient(addr, func(c *client) error {
				err := c.call(cmd.Context(), func(ctx context.Context) error {
					_, err := c.Cancel(ctx, &pb.CancelRequest{Job: args[0], Save: save})
					return err
				})
				if err == nil {
					how := "is being ended"
					if save {
						how = "ends after its next checkpoint"
					}
					fmt.Fprintf(cmd.OutOrStdout(), "job %s %s; `farandole status %s` shows when it is over\n", args[0], how, args[0])
				}
				return err
			})
		},
	}
	coordinatorFlag(cmd, &addr)
	cmd.Flags().BoolVar(&save, "save", false, "save a checkpoint at the end of a step first")
	return cmd
}
