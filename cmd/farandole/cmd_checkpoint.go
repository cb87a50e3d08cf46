package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/elastic"
)

func newCheckpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "checkpoint",
		Aliases: []string{"ckpt"},
		Short:   "List, check, export and delete checkpoints",
		Args:    unknownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCheckpointLs(), newCheckpointInspect(), newCheckpointVerify(), newCheckpointExport(), newCheckpointPrune())
	return cmd
}

// withCheckpoints opens the directory at path for f; Ctrl-C ends f.
func withCheckpoints(cmd *cobra.Command, path string, f func(ctx context.Context, d *checkpoint.Dir) error) error {
	if st, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return usagef("there is no directory %s", path)
	} else if err == nil && !st.IsDir() {
		return usagef("%s is no directory: name the directory that has the step-… directories in it", path)
	}
	d, err := checkpoint.Open(path, false)
	if err != nil {
		return usagef("%w", err)
	}
	defer d.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err = f(ctx, d)
	if ctx.Err() != nil {
		return &exitError{exitInterrupted, errors.New("interrupted")}
	}
	var x *exitError
	if err != nil && !errors.As(err, &x) {
		return &exitError{exitFailed, err}
	}
	return err
}

// checkpointView is a checkpoint in `-o json`.
type checkpointView struct {
	checkpoint.Meta
	Path     string `json:"path"`
	Complete bool   `json:"complete"`
	Bytes    int64  `json:"bytes"`
	Tensors  int    `json:"tensors"`
	Parts    int    `json:"parts"`
	Problem  string `json:"problem,omitempty"`
}

func viewOf(i checkpoint.Info) checkpointView {
	return checkpointView{i.Meta, i.Path, i.Complete, i.Bytes, i.Tensors, i.Parts, i.Problem}
}

func newCheckpointLs() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ls DIR",
		Short: "List the checkpoints in a directory, oldest first",
		Args:  exactArgs("a DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("-o", output, "text", "json"); err != nil {
				return err
			}
			return withCheckpoints(cmd, args[0], func(_ context.Context, d *checkpoint.Dir) error {
				infos, err := d.List()
				if err != nil {
					return err
				}
				if output == "json" {
					views := []checkpointView{}
					for _, i := range infos {
						views = append(views, viewOf(i))
					}
					return writeJSON(cmd.OutOrStdout(), views)
				}
				printCheckpoints(cmd.OutOrStdout(), d, infos)
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printCheckpoints(w io.Writer, d *checkpoint.Dir, infos []checkpoint.Info) {
	if len(infos) == 0 {
		fmt.Fprintf(w, "no checkpoints in %s\n", d.Path())
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STEP\tSTATE\tSIZE\tTENSORS\tPARTS\tJOB")
	for _, i := range infos {
		switch {
		case !i.Complete:
			fmt.Fprintf(t, "%d\ttorn\t-\t-\t-\t-\n", i.Step)
		case i.Problem != "":
			fmt.Fprintf(t, "%d\tcorrupt\t%s\t%d\t%d\t%s\n", i.Step, bytesText(i.Bytes), i.Tensors, i.Parts, i.Job)
		default:
			fmt.Fprintf(t, "%d\tcomplete\t%s\t%d\t%d\t%s\n", i.Step, bytesText(i.Bytes), i.Tensors, i.Parts, i.Job)
		}
	}
	_ = t.Flush()
	for _, i := range infos {
		if i.Complete && i.Problem != "" {
			fmt.Fprintf(w, "step %d: %s\n", i.Step, i.Problem)
		}
	}
}

// stepFlag adds --step, for which -1 stands for the newest.
func stepFlag(cmd *cobra.Command, step *int64, what string) {
	cmd.Flags().Int64Var(step, "step", -1, "`step` of the checkpoint (default: "+what+")")
	cmd.Flags().Lookup("step").DefValue = "0" // which help leaves out
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *step < 0 && cmd.Flags().Changed("step") {
			return usagef("--step wants 0 or more, not %d", *step)
		}
		return nil
	}
}

// pick is the checkpoint of step, or the newest usable one.
func pick(d *checkpoint.Dir, step int64) (checkpoint.Info, error) {
	if step < 0 {
		i, err := d.Latest()
		if errors.Is(err, checkpoint.ErrNone) {
			return i, failf("there is no complete checkpoint in %s", d.Path())
		}
		return i, err
	}
	infos, err := d.List()
	if err != nil {
		return checkpoint.Info{}, err
	}
	for _, i := range infos {
		if i.Step == elastic.Step(step) {
			return i, nil
		}
	}
	return checkpoint.Info{}, failf("there is no checkpoint of step %d in %s: see `farandole checkpoint ls %s`", step, d.Path(), d.Path())
}

func newCheckpointInspect() *cobra.Command {
	var step int64
	var output string
	cmd := &cobra.Command{
		Use:   "inspect DIR",
		Short: "Say where a checkpoint comes from and what is in it",
		Args:  exactArgs("a DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("-o", output, "text", "json"); err != nil {
				return err
			}
			return withCheckpoints(cmd, args[0], func(_ context.Context, d *checkpoint.Dir) error {
				i, err := pick(d, step)
				if err != nil {
					return err
				}
				if output == "json" {
					return writeJSON(cmd.OutOrStdout(), viewOf(i))
				}
				state := "complete"
				if i.Problem != "" {
					state = i.Problem
				}
				t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintf(t, "path\t%s\nstate\t%s\nstep\t%d\n", i.Path, state, i.Step)
				if i.Complete {
					fmt.Fprintf(t, "job\t%s\nprogram\t%s\ngeneration\t%d\nseed\t%d\nlogical shards\t%d\nwire\t%s\nnumerics class\t%s\n",
						i.Job, i.Program, i.Generation, i.Seed, i.Shards, i.Wire, i.Class)
					fmt.Fprintf(t, "contents\t%s in %s, %s\n", count(int64(i.Tensors), "tensor"), count(int64(i.Parts), "part"), bytesText(i.Bytes))
				}
				return t.Flush()
			})
		},
	}
	stepFlag(cmd, &step, "the newest complete one")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func newCheckpointVerify() *cobra.Command {
	var step int64
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Read checkpoints whole and check every hash; exit code 1 when one is corrupt",
		Args:  exactArgs("a DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withCheckpoints(cmd, args[0], func(ctx context.Context, d *checkpoint.Dir) error {
				return verifyCheckpoints(ctx, cmd.OutOrStdout(), d, step)
			})
		},
	}
	stepFlag(cmd, &step, "all complete ones")
	return cmd
}

func verifyCheckpoints(ctx context.Context, w io.Writer, d *checkpoint.Dir, step int64) error {
	infos, err := d.List()
	if step >= 0 {
		var i checkpoint.Info
		i, err = pick(d, step)
		infos = []checkpoint.Info{i}
	}
	if err != nil {
		return err
	}
	good, bad := 0, 0
	for _, i := range infos {
		if !i.Complete {
			if step >= 0 {
				return failf("the checkpoint of step %d is torn: it has no COMMIT, so it was never complete", step)
			}
			fmt.Fprintf(w, "step %d: torn, never complete; a job skips it\n", i.Step)
			continue
		}
		if err := d.Verify(ctx, i.Step); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			bad++
			fmt.Fprintf(w, "step %d: CORRUPT: %v\n", i.Step, err)
			continue
		}
		good++
		fmt.Fprintf(w, "step %d: good, %s in %s\n", i.Step, bytesText(i.Bytes), count(int64(i.Tensors), "tensor"))
	}
	switch {
	case bad > 0:
		return failf("%s in %s: a job would skip it and load the one before", count(int64(bad), "corrupt checkpoint"), d.Path())
	case good == 0:
		return failf("there is no complete checkpoint in %s", d.Path())
	}
	return nil
}

func newCheckpointPrune() *cobra.Command {
	var keep int
	cmd := &cobra.Command{
		Use:   "prune DIR",
		Short: "Delete all but the newest complete checkpoints, and torn ones that are older",
		Args:  exactArgs("a DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep < 1 {
				return usagef("--keep wants 1 or more, not %d: the newest complete checkpoint is never deleted", keep)
			}
			return withCheckpoints(cmd, args[0], func(_ context.Context, d *checkpoint.Dir) error {
				deleted, err := d.Prune(keep)
				for _, s := range deleted {
					fmt.Fprintf(cmd.OutOrStdout(), "deleted step %d\n", s)
				}
				if err == nil && len(deleted) == 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "nothing to delete")
				}
				return err
			})
		},
	}
	cmd.Flags().IntVar(&keep, "keep", 3, "complete checkpoints to keep")
	return cmd
}
