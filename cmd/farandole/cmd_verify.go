package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/coordinator"
	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// verifyOptions are the flags of `verify`.
type verifyOptions struct {
	coordinator string
	job         string
}

func newVerifyCommand() *cobra.Command {
	o := &verifyOptions{}
	cmd := &cobra.Command{
		Use:   "verify [STATE_DIR]",
		Short: "Prove that every step was committed once and every sample used once",
		Long: `Verify reads a coordinator's ledger, from its state directory or from a coordinator that runs, and proves for
each job: that every step was committed exactly once, and that the steps of every full epoch used each sample of
the data set exactly once. The second is computed from the plan (seed, data set length, samples per step) with the
function that the workers use. Exit code 1 when a proof fails.`,
		Example: `  farandole run --workers 4 --state-dir state --chaos "kill rank=1 step=20" -- ./bin/mnist --steps 200
  farandole verify state`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usagef("verify takes one STATE_DIR, not %d", len(args))
			case len(args) == 1 && o.coordinator != "":
				return usagef("verify reads a STATE_DIR or a --coordinator: give one of them")
			case len(args) == 0 && o.coordinator == "":
				return usagef("verify needs a STATE_DIR, or --coordinator host:port")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runVerify(cmd, o, args) },
	}
	cmd.Flags().StringVar(&o.coordinator, "coordinator", "", "`host:port` of a coordinator that runs")
	cmd.Flags().StringVar(&o.job, "job", "", "verify this job alone (default: all)")
	return cmd
}

func runVerify(cmd *cobra.Command, o *verifyOptions, args []string) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var jobs []*pb.JobStatus
	var err error
	where := o.coordinator
	if where != "" {
		jobs, err = jobsOf(ctx, where, "")
	} else {
		where = args[0]
		jobs, err = jobsInState(where)
	}
	if err != nil {
		return err
	}
	seen, bad := 0, 0
	for _, j := range jobs {
		if o.job != "" && j.Job != o.job {
			continue
		}
		if seen++; seen > 1 {
			fmt.Fprintln(cmd.OutOrStdout())
		}
		ok, err := printProof(ctx, cmd.OutOrStdout(), j)
		if err != nil {
			return err
		}
		if !ok {
			bad++
		}
	}
	switch {
	case seen == 0 && o.job != "":
		return usagef("there is no job %q in %s", o.job, where)
	case seen == 0:
		return usagef("there are no jobs in %s", where)
	case bad > 0:
		return failf("%s not verified", count(int64(bad), "job"))
	}
	return nil
}

// jobsInState reads a state directory that no coordinator uses now.
func jobsInState(dir string) ([]*pb.JobStatus, error) {
	jobs, err := coordinator.ReadJobs(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, usagef("%s is no state directory: it has no %s", dir, coordinator.StateFile)
	case errors.Is(err, coordinator.ErrInUse):
		return nil, usagef("a coordinator is using %s: ask it with --coordinator host:port", dir)
	case err != nil:
		return nil, failf("%s cannot be read: %v", dir, err)
	}
	return jobs, nil
}

// printProof prints a job's proof in three lines: steps, samples, result.
func printProof(ctx context.Context, w io.Writer, j *pb.JobStatus) (ok bool, err error) {
	steps, serr := proveSteps(j)
	mark := func(err error) string {
		if err != nil {
			return "FAIL"
		}
		return "ok"
	}
	if serr != nil {
		steps = serr.Error()
	}
	fmt.Fprintf(w, "%-4s steps:   %s\n", mark(serr), steps)
	samples, perr := proveSamples(ctx, j)
	if ctx.Err() != nil {
		return false, &exitError{exitInterrupted, errors.New("interrupted")}
	}
	if perr != nil {
		samples = perr.Error()
	}
	fmt.Fprintf(w, "%-4s samples: %s\n", mark(perr), samples)
	rerr := error(nil)
	if j.Status == "done" && j.Plan.GetSteps() > 0 && j.Step != j.Plan.Steps {
		rerr = errors.New("steps are missing")
	}
	fmt.Fprintf(w, "%-4s result:  job %s %s at step %s%s\n", mark(rerr), j.Job, statusNow(j.Status), stepsText(j), ledgerWorlds(j))
	return serr == nil && perr == nil && rerr == nil, nil
}

func statusNow(status string) string {
	if endedStatus(status) {
		return pastTense(status)
	}
	return "is " + status
}

func ledgerWorlds(j *pb.JobStatus) string {
	var sizes []string
	for _, t := range j.Ledger {
		if t.Generation > 0 && t.Last >= t.First {
			sizes = append(sizes, fmt.Sprint(t.World))
		}
	}
	if len(sizes) == 0 {
		return ""
	}
	const most = 12
	if n := len(sizes); n > most {
		sizes = append(sizes[:most], fmt.Sprintf("… %d more", n-most))
	}
	return fmt.Sprintf("; workers by generation: %s", strings.Join(sizes, ", "))
}
