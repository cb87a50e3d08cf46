// Package coordinator is the service that decides views: it keeps every job's elastic.State, its durable record,
// and the streams to workers and agents. It is never on the path of a healthy step: a group whose ring works
// trains on while the coordinator is down.
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// Config says where a coordinator listens and where it keeps its state. StateDir is required.
type Config struct {
	// Listen is the gRPC address, host:port. Zero means 127.0.0.1:7600; port 0 picks a free one.
	Listen string

	// StateDir holds the durable records (farandole.db) of all jobs. One coordinator at a time owns it.
	StateDir string

	// HTTP is the address of /metrics and /healthz; empty means none.
	HTTP string

	// Insecure allows an address that is not loopback although there is no TLS yet.
	Insecure bool

	// Liveness is used for agents; each job brings its own for its workers. Zero means 1 s.
	Liveness time.Duration

	// Ready, if set, is called once with the gRPC address when the service accepts calls.
	Ready func(addr string)

	// Logger gets changes of state; nil means slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:7600"
	}
	if c.Liveness <= 0 {
		c.Liveness = elastic.LimitsOf(0).Lease
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	if c.StateDir == "" {
		return errors.New("coordinator: no state directory given")
	}
	for _, addr := range []string{c.Listen, c.HTTP} {
		if addr == "" {
			continue
		}
		if err := CheckLoopback(addr, c.Insecure); err != nil {
			return err
		}
	}
	return nil
}

// CheckLoopback refuses an address that others could reach, unless insecure allows it: without TLS anybody who
// reaches the port could run programs here.
func CheckLoopback(addr string, insecure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address %q: want host:port", addr)
	}
	if insecure || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("address %s is not loopback and there is no TLS yet: use 127.0.0.1, or pass --insecure on a network where you trust everybody", addr)
}

// stopGrace is how long open streams may take to end when the coordinator stops.
const stopGrace = 500 * time.Millisecond

// Run serves until ctx ends. Everything that it started has ended when it returns.
func Run(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("coordinator: state directory: %w", err)
	}
	st, err := openStore(filepath.Join(cfg.StateDir, StateFile))
	if err != nil {
		return err
	}
	defer func() { _ = st.close() }()
	lis, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("coordinator: cannot listen on %s: %w", cfg.Listen, err)
	}
	defer lis.Close()

	g, ctx := errgroup.WithContext(ctx)
	srv := newServer(ctx, g, cfg, st)
	if err := srv.restore(); err != nil {
		return err
	}
	gs := grpc.NewServer(grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(coordinatorpb.WindowBytes), grpc.InitialConnWindowSize(coordinatorpb.WindowBytes))
	coordinatorpb.RegisterCoordinatorServer(gs, srv)
	g.Go(func() error { return gs.Serve(lis) })
	g.Go(func() error {
		<-ctx.Done()
		stopped := time.AfterFunc(stopGrace, gs.Stop)
		defer stopped.Stop()
		gs.GracefulStop()
		return nil
	})
	if cfg.HTTP != "" {
		if err := serveHTTP(ctx, g, cfg.HTTP, srv.metrics.registry); err != nil {
			gs.Stop()
			return err
		}
	}
	cfg.Logger.Info("coordinator serves", "addr", lis.Addr().String(), "state", cfg.StateDir)
	if cfg.Ready != nil {
		cfg.Ready(lis.Addr().String())
	}
	err = g.Wait()
	if errors.Is(err, context.Canceled) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// maxStreams bounds one client connection's streams.
const maxStreams = 1 << 16

func serveHTTP(ctx context.Context, g *errgroup.Group, addr string, reg *prometheus.Registry) error {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("coordinator: cannot listen on %s: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	hs := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	g.Go(func() error {
		if err := hs.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return hs.Close()
	})
	return nil
}
