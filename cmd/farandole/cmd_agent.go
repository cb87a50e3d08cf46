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
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// agentOptions are the flags of `agent`.
type agentOptions struct {
	coordinator  string
	join         []string
	gossipKey    string
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
		Example: `  farandole agent --coordinator 127.0.0.1:7600 --slots 4
  farandole agent --join 127.0.0.1:7946 --gossip-key-file gossip.key`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAgentCommand(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.coordinator, "coordinator", defaultAddr, "`host:port` of the coordinator")
	f.StringSliceVar(&o.join, "join", nil, "gossip `host:port` of a coordinator or of another agent, instead of --coordinator; may be repeated")
	f.StringVar(&o.gossipKey, "gossip-key-file", "", "`file` with the secret of the coordinator's --gossip")
	f.IntVar(&o.slots, "slots", 0, "workers that may run here at once (0: one per core)")
	f.StringVar(&o.host, "host", "", "`name` of this host (default: its hostname); workers of one host share memory")
	f.StringVar(&o.listen, "listen", "127.0.0.1", "`IP` address where this host's workers reach each other and other hosts")
	f.StringVar(&o.logDir, "log-dir", "", "`directory` for the output of workers whose job names none")
	f.BoolVar(&o.insecure, "insecure", false, "allow an address that other machines can reach, although there is no TLS yet")
	f.StringVar(&o.logLevel, "log-level", "warn", "least level that is logged on standard error: debug, info, warn or error")
	return cmd
}

func runAgentCommand(cmd *cobra.Command, o *agentOptions) error {
	if err := o.check(cmd.Flags().Changed("coordinator")); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	adoptOrphans()
	defer sweepOrphans()
	cfg := agentConfig{
		Coordinator: o.coordinator, Host: o.host, Slots: o.slots, Listen: o.listen, LogDir: o.logDir,
		Logger: newLogger(cmd.ErrOrStderr(), o.logLevel),
	}
	where, run := "the coordinator at "+o.coordinator, "farandole run --coordinator "+o.coordinator+" -- PROGRAM"
	if len(o.join) > 0 {
		key, err := gossipKey(o.gossipKey, false)
		if err != nil {
			return err
		}
		f, err := startFinder(ctx, o, key, cfg.Logger)
		if err != nil {
			return err
		}
		defer f.close()
		cfg.Coordinator, cfg.Find = "", f.find
		where, run = "the coordinator that "+strings.Join(o.join, ", ")+" knows", "farandole run --coordinator HOST:PORT -- PROGRAM"
	}
	fmt.Fprintf(cmd.OutOrStdout(), "farandole: agent offers %s of host %s to %s; start a job with `%s`\n", count(int64(o.slots), "slot"), o.host, where, run)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { warnUnanswered(ctx, cmd, cfg) })
	return daemonError(runAgent(ctx, cfg))
}

func (o *agentOptions) check(named bool) error {
	switch {
	case named && len(o.join) > 0:
		return usagef("--coordinator names the coordinator, --join finds it by gossip: give one of them")
	case (len(o.join) > 0) != (o.gossipKey != ""):
		return usagef("--join and --gossip-key-file belong together: copy the coordinator's key file to this host")
	}
	for _, addr := range append([]string{o.coordinator}, o.join...) {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return usagef("%q is no address: --coordinator and --join want host:port", addr)
		}
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

// warnUnanswered says once that no coordinator answers, and once when one does after all.
func warnUnanswered(ctx context.Context, cmd *cobra.Command, cfg agentConfig) {
	ready := func(ctx context.Context) (addr string, err error) {
		addr = cfg.Coordinator
		if cfg.Find != nil {
			if addr, err = cfg.Find(ctx); err != nil {
				return "", err
			}
		}
		return addr, withClient(addr, func(c *client) error { return c.waitReady(ctx) })
	}
	first, cancel := context.WithTimeout(ctx, agentFirstAnswer)
	_, err := ready(first)
	cancel()
	if err == nil || ctx.Err() != nil {
		return
	}
	why := ""
	if cfg.Find != nil {
		why = ": " + err.Error()
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "farandole: warning: no coordinator answers yet; this agent keeps trying%s\n", why)
	for ctx.Err() == nil {
		if addr, err := ready(ctx); err == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "farandole: the coordinator at %s answers now\n", addr)
			return
		}
		select {
		case <-time.After(agentFirstAnswer):
		case <-ctx.Done():
		}
	}
}
