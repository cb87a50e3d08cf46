package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// A doctor's verdicts.
const (
	verdictOK   = "ok"
	verdictWarn = "warn" // works, but slower, or not for everything
	verdictFail = "fail" // jobs will not run
)

// finding is one check's line: what was found and, unless it is fine, what to do.
type finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Found   string `json:"found"`
	Todo    string `json:"todo,omitempty"`
}

func ok(check, format string, args ...any) finding {
	return finding{Check: check, Verdict: verdictOK, Found: fmt.Sprintf(format, args...)}
}

func warn(check, todo, format string, args ...any) finding {
	return finding{check, verdictWarn, fmt.Sprintf(format, args...), todo}
}

func fail(check, todo, format string, args ...any) finding {
	return finding{check, verdictFail, fmt.Sprintf(format, args...), todo}
}

func newDoctorCommand() *cobra.Command {
	var output, listen string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine and its setup",
		Long: `Doctor checks what training on this machine needs. Each line is ok, warn (works, but slower, or not for everything)
or fail (jobs will not run), with what to do. Exit code 1 when something fails.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("-o", output, "text", "json"); err != nil {
				return err
			}
			if err := checkListen("--listen", listen, true); err != nil {
				return err
			}
			return runDoctor(cmd.Context(), cmd.OutOrStdout(), output, listen)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().StringVar(&listen, "listen", defaultAddr, "`host:port` that a coordinator here would use")
	return cmd
}

func runDoctor(ctx context.Context, w io.Writer, output, listen string) error {
	checks := []func(context.Context) finding{
		checkCores, checkISA, checkMemory, checkSharedMemory, checkTempDir, checkFiles, checkProcesses,
		checkLoopback, func(context.Context) finding { return checkPort(listen) }, checkCompiler,
	}
	var findings []finding
	failed := 0
	report := func(f finding) {
		findings = append(findings, f)
		if f.Verdict == verdictFail {
			failed++
		}
		if output == "text" {
			fmt.Fprintf(w, "%-4s  %-14s %s\n", f.Verdict, f.Check, f.Found)
			if f.Todo != "" {
				fmt.Fprintf(w, "      %-14s → %s\n", "", f.Todo)
			}
		}
	}
	for _, check := range checks {
		report(check(ctx))
	}
	for _, f := range checkGPUs(ctx) {
		report(f)
	}
	if output == "json" {
		if err := writeJSON(w, findings); err != nil {
			return err
		}
	}
	if failed > 0 {
		return failf("%s: jobs will not run here before that is mended", count(int64(failed), "failed check"))
	}
	return nil
}
