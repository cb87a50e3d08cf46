package main

import (
	"os"
	"os/signal"
	"syscall"
)

// maxQueuedSignals is more than a person sends before the first is looked at.
const maxQueuedSignals = 8

// signals receives Ctrl-C and SIGTERM.
type signals struct{ c chan os.Signal }

func newSignals() *signals {
	s := &signals{make(chan os.Signal, maxQueuedSignals)}
	signal.Notify(s.c, os.Interrupt, syscall.SIGTERM)
	return s
}

func (s *signals) stop() { signal.Stop(s.c) }
