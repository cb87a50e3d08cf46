package main

import (
	"github.com/farandole-ml/farandole/coordinator"
	"github.com/farandole-ml/farandole/worker/agent"
)

type (
	coordinatorConfig = coordinator.Config
	agentConfig       = agent.Config
)

// runCoordinator and runAgent are the services; tests put simulated ones here.
var (
	runCoordinator = coordinator.Run
	runAgent       = agent.Run
)
