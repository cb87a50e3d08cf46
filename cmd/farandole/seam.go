package main

import (
	"context"
	"errors"
	"log/slog"
)

// coordinatorConfig and agentConfig are what the daemons' flags say.
type coordinatorConfig struct {
	Listen, StateDir, HTTP string
	Gossip, GossipKeyFile  string
	Insecure               bool
	Ready                  func(addr string)
	Logger                 *slog.Logger
}

type agentConfig struct {
	Coordinator   string
	Join          string
	GossipKeyFile string
	ID, Host      string
	Slots         int
	Listen        string
	LogDir        string
	Logger        *slog.Logger
}

// runCoordinator and runAgent are the services; tests put simulated ones here.
var (
	runCoordinator = func(context.Context, coordinatorConfig) error { return errors.New("no coordinator in this build") }
	runAgent       = func(context.Context, agentConfig) error { return errors.New("no agent in this build") }
)
