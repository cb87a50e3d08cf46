// Command farandole runs elastic, fault-tolerant training jobs.
//
//	farandole run --workers 4 -- ./gpt --steps 200
//
// starts a job on this machine; see `farandole help` for the rest. Each command lives in its own file, cmd_NAME.go:
// its options, its flags, and a run function that returns an error. What is printed, and where, is written
// down in tui.go; exit codes in exit.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() { os.Exit(realMain(os.Args[1:], os.Stdout, os.Stderr)) }

// realMain runs one command line and gives the process's exit code.
func realMain(args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	return exitCode(root.ExecuteContext(context.Background()), stderr)
}

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "farandole",
		Short: "Elastic, fault-tolerant distributed training",
		Long: `Farandole trains on a ring of workers that anyone may join or leave: kill a worker, freeze one, add ten,
and the weights come out the same bits as in an undisturbed run on one worker.`,
		Example: `  farandole run --workers 4 -- ./bin/mnist --steps 200
  farandole run --workers 4 --chaos "kill rank=1 step=20; join step=30" -- ./bin/mnist --steps 200
  farandole doctor`,
		SuggestionsMinimumDistance: 2,
		SilenceErrors:              true,
		SilenceUsage:               true,
		Args:                       unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%s: see `%s --help`", err, cmd.CommandPath())
	})
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	root.AddCommand(
		newRunCommand(), newCoordinatorCommand(), newAgentCommand(),
		newSubmitCommand(), newJobsCommand(), newStatusCommand(), newLogsCommand(), newScaleCommand(), newCancelCommand(),
		newBenchCommand(), newCheckpointCommand(), newVerifyCommand(), newDoctorCommand(), newVersionCommand(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// unknownCommand refuses a word that is no command and names the ones that it may have meant.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := fmt.Sprintf("see `%s --help`", cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef("%q is no command of %s: %s", args[0], cmd.CommandPath(), hint)
}

// exactArgs wants one argument for each of names.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s needs %s: see `%s --help`", cmd.Name(), strings.Join(names[len(args):], " and "), cmd.CommandPath())
		case len(args) > len(names):
			return usagef("%s does not know what to do with %q: see `%s --help`", cmd.Name(), args[len(names)], cmd.CommandPath())
		}
		return nil
	}
}

// exitCode reports err, if it has something to say, and turns it into the process's exit code.
func exitCode(err error, stderr io.Writer) int {
	if err == nil {
		return exitDone
	}
	var x *exitError
	if !errors.As(err, &x) {
		fmt.Fprintf(stderr, "farandole: %v\n", err)
		return exitFailed
	}
	if x.err != nil {
		fmt.Fprintf(stderr, "farandole: %v\n", x.err)
	}
	return x.code
}
