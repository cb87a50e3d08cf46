package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/farandole-ml/farandole/worker/agent"
)

// coordinatorConfig is what the daemon's flags say.
type coordinatorConfig struct {
	Listen, StateDir, HTTP string
	Insecure               bool
	Ready                  func(addr string)
	Logger                 *slog.Logger
}

type agentConfig = agent.Config

// runCoordinator and runAgent are the services; tests put simulated ones here.
var (
	runCoordinator = func(context.Context, coordinatorConfig) error { return errors.New("no coordinator in this build") }
	runAgent       = agent.Run
)
