package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/farandole-ml/farandole/elastic/gossip"
)

// Limits of finding one another.
const (
	gossipJoin  = 10 * time.Second // for the seeds to answer
	gossipFind  = 15 * time.Second // for a coordinator to be known after that
	gossipLeave = 2 * time.Second  // to say goodbye
)

// gossipKey reads the key file; a coordinator makes one that is missing.
func gossipKey(path string, create bool) ([]byte, error) {
	key, err := gossip.LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return nil, usagef("%w", err)
		}
		return key, nil
	}
	if !create {
		return nil, usagef("--gossip-key-file %s does not exist: copy the coordinator's file to this host", path)
	}
	if key, err = gossip.NewKey(path); err != nil {
		return nil, usagef("%w", err)
	}
	return key, nil
}

// announceCoordinator makes the coordinator at addr known by gossip on bind, until ctx ends or leave is called.
// It gives the address that agents join.
func announceCoordinator(ctx context.Context, bind, addr string, key []byte, insecure bool, log *slog.Logger) (at string, leave func(), err error) {
	host, err := os.Hostname()
	if err != nil {
		host = "coordinator"
	}
	self := gossip.Peer{Name: "coordinator@" + host, Role: gossip.Coordinator, Addr: addr, Host: host}
	n, err := gossip.Start(ctx, gossip.Config{Self: self, Bind: bind, Key: key, Insecure: insecure, Logger: log})
	if err != nil {
		return "", nil, err
	}
	// Nobody can dial "all interfaces": say the address that gossip found for this host.
	if h, port, err := net.SplitHostPort(addr); err == nil {
		if ip := net.ParseIP(h); ip != nil && ip.IsUnspecified() {
			if own, _, err := net.SplitHostPort(n.Addr()); err == nil {
				self.Addr = net.JoinHostPort(own, port)
				if err := n.Update(self, gossipLeave); err != nil {
					n.Close()
					return "", nil, err
				}
			}
		}
	}
	return n.Addr(), func() { _ = n.Leave(gossipLeave); n.Close() }, nil
}

// finder finds the coordinator by gossip, for an agent.
type finder struct {
	node  *gossip.Node
	seeds []string
}

func startFinder(ctx context.Context, o *agentOptions, key []byte, log *slog.Logger) (*finder, error) {
	at := net.JoinHostPort(o.listen, "0") // an agent serves no gRPC: the address only says where its workers are
	self := gossip.Peer{Name: fmt.Sprintf("agent@%s-%d", o.host, os.Getpid()), Role: gossip.Agent, Addr: at, Host: o.host}
	n, err := gossip.Start(ctx, gossip.Config{Self: self, Bind: at, Key: key, Insecure: o.insecure, Logger: log})
	if err != nil {
		return nil, &exitError{exitFailed, err}
	}
	return &finder{n, o.join}, nil
}

// find joins through the seeds and gives the coordinator's address. It joins each time: a coordinator that was started
// again knows nobody, and would not be heard of otherwise.
func (f *finder) find(ctx context.Context) (string, error) {
	jctx, cancel := context.WithTimeout(ctx, gossipJoin)
	jerr := f.node.Join(jctx, f.seeds)
	cancel()
	fctx, cancel := context.WithTimeout(ctx, gossipFind)
	defer cancel()
	if jerr != nil && len(f.node.Peers()) == 0 {
		return "", jerr
	}
	p, err := f.node.Coordinator(fctx)
	return p.Addr, err
}

func (f *finder) close() {
	_ = f.node.Leave(gossipLeave)
	f.node.Close()
}
