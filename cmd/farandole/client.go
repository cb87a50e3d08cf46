package main

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// Limits of a client's calls.
const (
	callLimit      = 10 * time.Second // one call
	defaultAddr    = "127.0.0.1:7600"
	maxReplyBytes  = 64 << 20
	redialBase     = 20 * time.Millisecond // after a coordinator's crash every millisecond of a demonstration shows
	redialMax      = 500 * time.Millisecond
	connectTimeout = 2 * time.Second
)

// client talks to one coordinator.
type client struct {
	pb.CoordinatorClient
	addr string
	conn *grpc.ClientConn
}

// dial makes a client of the coordinator at addr; it connects at the first call.
func dial(addr string) (*client, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(pb.WindowBytes), grpc.WithInitialConnWindowSize(pb.WindowBytes),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReplyBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: redialBase, Multiplier: 1.6, Jitter: 0.2, MaxDelay: redialMax},
			MinConnectTimeout: connectTimeout,
		}))
	if err != nil {
		return nil, usagef("--coordinator %q is no address: want host:port", addr)
	}
	return &client{CoordinatorClient: pb.NewCoordinatorClient(conn), addr: addr, conn: conn}, nil
}

func (c *client) Close() error { return c.conn.Close() }

// call runs f within callLimit and turns its error into a sentence.
func (c *client) call(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return rpcError(c.addr, f(ctx))
}

// waitReady returns once the coordinator answers, or with ctx.
func (c *client) waitReady(ctx context.Context) error {
	_, err := c.Jobs(ctx, &pb.JobsRequest{}, grpc.WaitForReady(true))
	return err
}
