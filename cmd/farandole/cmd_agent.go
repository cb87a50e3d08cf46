package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// agentOptions are the flags of `agent`.
type agentOptions struct {
	coordinator  string
	slots        int
	host, listen string
	logDir       string
	insecure     bool
	logLevel     string
}

// agentFirstAnswer is how long an agent waits before it says that no coordinator answers; it goes on trying.
const agentFirstAnswer = 5 * time.Second

func newAgentCommand() *cobra.Command {
	o := &agentOptions{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Offer this host's slots to a coordinator",
		Long: `Agent starts, watches and signals the workers on this host, until SIGTERM or Ctrl-C; then it ends them. It
survives restarts of the coordinator.`,
		Example: `  farandole agent --coordinator 127.0.0.1:7600 --slots 4`,
		Args:    exactArgs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runAgentCommand(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.coordinator, "coordinator", defaultAddr, "`host:port` of the coordinator")
	f.IntVar(&o.slots, "slots", 0, "workers that may run here at once (0: one per core)")
	f.StringVar(&o.host, "host", "", "`name` of this host (default: its hostname); workers of one host share memory")
	f.StringVar(&o.listen, "listen", "127.0.0.1", "`IP` address where this host's workers reach each other and other hosts")
	f.StringVar(&o.logDir, "log-dir", "", "`directory` for the output of workers whose job names none")
	f.BoolVar(&o.insecure, "insecure", false, "allow an address that other machines can reach, although there is no TLS yet")
	f.StringVar(&o.logLevel, "log-level", "warn", "least level that is logged on standard error: debug, info, warn or error")
	return cmd
}

func runAgentCommand(cmd *cobra.Command, o *agentOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	adoptOrphans()
	defer sweepOrphans()
	fmt.Fprintf(cmd.OutOrStdout(), "farandole: agent offers %s of host %s to the coordinator at %s; start a job with `farandole run --coordinator %s -- PROGRAM`\n",
		count(int64(o.slots), "slot"), o.host, o.coordinator, o.coordinator)
	go warnUnanswered(ctx, cmd, o.coordinator)
	return daemonError(runAgent(ctx, agentConfig{
		Coordinator: o.coordinator, Host: o.host, Slots: o.slots, Listen: o.listen, LogDir: o.logDir,
		Logger: newLogger(cmd.ErrOrStderr(), o.logLevel),
	}))
}

func (o *agentOptions) check() error {
	if _, _, err := net.SplitHostPort(o.coordinator); err != nil {
		return usagef("--coordinator wants host:port, not %q", o.coordinator)
	}
	if o.slots < 0 || o.slots > maxWorkersFlag {
		return usagef("--slots wants a number from 1 to %d, or 0 for one per core, not %d", maxWorkersFlag, o.slots)
	}
	if o.slots == 0 {
		o.slots = runtime.GOMAXPROCS(0)
	}
	if net.ParseIP(o.listen) == nil {
		return usagef("--listen wants an IP address of this host without a port, not %q", o.listen)
	}
	if err := checkListen("--listen", net.JoinHostPort(o.listen, "0"), o.insecure); err != nil {
		return err
	}
	if err := oneOf("--log-level", o.logLevel, logLevels...); err != nil {
		return err
	}
	if o.host == "" {
		var err error
		if o.host, err = os.Hostname(); err != nil {
			return usagef("this host has no name: give one with --host")
		}
	}
	if strings.ContainsAny(o.host, " \t\n") {
		return usagef("--host %q must have no spaces", o.host)
	}
	if o.logDir != "" {
		abs, err := filepath.Abs(o.logDir)
		if err != nil {
			return usagef("--log-dir %s: %v", o.logDir, err)
		}
		o.logDir = abs
		return writableDir("--log-dir", abs)
	}
	return nil
}

// warnUnanswered says once that the coordinator does not answer, and once when it does after all.
func warnUnanswered(ctx context.Context, cmd *cobra.Command, addr string) {
	c, err := dial(addr)
	if err != nil {
		return
	}
	defer c.Close()
	first, cancel := context.WithTimeout(ctx, agentFirstAnswer)
	err = c.waitReady(first)
	cancel()
	if err == nil || ctx.Err() != nil {
		return
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "farandole: warning: no coordinator answers at %s yet; this agent keeps trying\n", addr)
	if c.waitReady(ctx) == nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "farandole: the coordinator at %s answers now\n", addr)
	}
}
