package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// coordinatorOptions are the flags of `coordinator`.
type coordinatorOptions struct {
	listen, stateDir, http string
	gossip, gossipKey      string
	insecure               bool
	logLevel               string
}

func newCoordinatorCommand() *cobra.Command {
	o := &coordinatorOptions{}
	cmd := &cobra.Command{
		Use:   "coordinator",
		Short: "Serve jobs: decide who trains with whom",
		Long: `Coordinator serves jobs until SIGTERM or Ctrl-C. Its state is durable: after a crash, start it with the same
--state-dir and --listen, and the jobs, which trained on meanwhile, report to it again.`,
		Example: `  farandole coordinator --state-dir /var/lib/farandole
  farandole agent --slots 4
  farandole run --coordinator 127.0.0.1:7600 --workers 4 -- /opt/train`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runCoordinatorCommand(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", defaultAddr, "`host:port` for workers, agents and clients")
	f.StringVar(&o.stateDir, "state-dir", "", "`directory` of the durable state (required)")
	f.StringVar(&o.http, "http", "", "`host:port` of /metrics and /healthz")
	f.StringVar(&o.gossip, "gossip", "", "`host:port`, such as 127.0.0.1:7946, where agents find this coordinator with --join")
	f.StringVar(&o.gossipKey, "gossip-key-file", "", "`file` with the secret of --gossip; made when missing, to be copied to the agents' hosts")
	f.BoolVar(&o.insecure, "insecure", false, "allow addresses that other machines can reach, although there is no TLS yet")
	f.StringVar(&o.logLevel, "log-level", "warn", "least level that is logged on standard error: debug, info, warn or error")
	return cmd
}

func runCoordinatorCommand(cmd *cobra.Command, o *coordinatorOptions) error {
	key, err := o.check()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dir, err := filepath.Abs(o.stateDir)
	if err != nil {
		dir = o.stateDir
	}
	log := newLogger(cmd.ErrOrStderr(), o.logLevel)
	leave := func() {}
	err = runCoordinator(ctx, coordinatorConfig{
		Listen: o.listen, StateDir: dir, HTTP: o.http, Insecure: o.insecure, Logger: log,
		Ready: func(addr string) {
			join := "farandole agent --coordinator " + joinable(addr)
			if o.gossip != "" {
				at, l, err := announceCoordinator(ctx, o.gossip, addr, key, o.insecure, log)
				if err != nil {
					cancel(err)
					return
				}
				leave = l
				join = fmt.Sprintf("farandole agent --join %s --gossip-key-file %s", at, o.gossipKey)
			}
			metrics := ""
			if o.http != "" {
				metrics = ", metrics at http://" + o.http + "/metrics"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "farandole: coordinator serves %s, state in %s%s; hosts join with `%s`\n", addr, dir, metrics, join)
		},
	})
	leave()
	if cause := context.Cause(ctx); err == nil && cause != nil {
		err = cause // gossip could not start; a signal is context.Canceled
	}
	return daemonError(err)
}

// check refuses what cannot work or would be dangerous, and gives the gossip key, if any.
func (o *coordinatorOptions) check() (key []byte, err error) {
	if o.stateDir == "" {
		return nil, usagef("coordinator needs --state-dir DIR, where its state survives a crash")
	}
	if err := oneOf("--log-level", o.logLevel, logLevels...); err != nil {
		return nil, err
	}
	if (o.gossip == "") != (o.gossipKey == "") {
		return nil, usagef("--gossip and --gossip-key-file belong together: gossip without a key would let anybody in")
	}
	for _, a := range []struct{ flag, addr string }{{"--listen", o.listen}, {"--http", o.http}, {"--gossip", o.gossip}} {
		if a.addr == "" {
			continue
		}
		if err := checkListen(a.flag, a.addr, o.insecure); err != nil {
			return nil, err
		}
	}
	if err := writableDir("--state-dir", o.stateDir); err != nil {
		return nil, err
	}
	if o.gossipKey != "" {
		return gossipKey(o.gossipKey, true)
	}
	return nil, nil
}

// joinable is addr as others would dial it.
func joinable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return "THIS-HOST:" + port
	}
	return addr
}

// daemonError is the end of a service as a sentence. A signal is no error.
func daemonError(err error) error {
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, syscall.EADDRINUSE):
		return failf("%w; another program has that port: stop it, or choose another port", err)
	case errors.Is(err, syscall.EACCES):
		return failf("%w; ports below 1024 need root: choose a higher one", err)
	}
	return &exitError{exitFailed, err}
}
