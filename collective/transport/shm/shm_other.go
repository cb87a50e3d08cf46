//go:build !linux

// Package shm connects the ranks of one generation that share a host through memory that all of them have mapped. It
// needs Linux; elsewhere Listen says so.
package shm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/collective/transport/mesh"
	"github.com/farandole-ml/farandole/elastic"
)

// Config has a Listener's settings, which mean nothing here.
type Config struct {
	Job string
	mesh.Admission
	StageBytes int
	Logger     *slog.Logger
}

// Listener cannot be had.
type Listener struct{}

var errSystem = fmt.Errorf("shm: needs Linux: %w", errors.ErrUnsupported)

// Listen fails with errors.ErrUnsupported.
func Listen(string, Config) (*Listener, error) { return nil, errSystem }

// Addr is empty.
func (l *Listener) Addr() string { return "" }

// Connect fails.
func (l *Listener) Connect(context.Context, transport.ID, []string) (collective.Transport, error) {
	return nil, errSystem
}

// ConnectPart fails.
func (l *Listener) ConnectPart(context.Context, transport.ID, []string, []int, int) (collective.Transport, error) {
	return nil, errSystem
}

// Fence does nothing.
func (l *Listener) Fence(elastic.Generation) {}

// Close does nothing.
func (l *Listener) Close() error { return nil }
