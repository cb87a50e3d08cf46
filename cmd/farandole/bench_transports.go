package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/collective/transport/auto"
	"github.com/farandole-ml/farandole/collective/transport/fabric"
	"github.com/farandole-ml/farandole/collective/transport/grpc"
	"github.com/farandole-ml/farandole/collective/transport/shm"
	"github.com/farandole-ml/farandole/collective/transport/tcp"
	"github.com/farandole-ml/farandole/collective/transport/uds"
)

// benchTransport is a way for ranks to reach one another.
type benchTransport struct {
	name      string
	registers bool // it gives memory that it reduces in place
	checksums bool
	here      bool         // all ranks are goroutines of one process
	oneHost   bool         // it reaches ranks on the same host alone
	ready     func() error // why this build or machine does not have it
	listen    func(at benchSocket) (benchListener, error)
}

// benchSocket is where a rank listens.
type benchSocket struct {
	ip       string
	checksum bool
	provider string // of libfabric
	log      *slog.Logger
}

// benchListener is what all transports' listeners have.
type benchListener interface {
	Addr() string
	Connect(ctx context.Context, id transport.ID, addrs []string) (collective.Transport, error)
	Close() error
}

// benchTransports are those of this build.
var benchTransports = []benchTransport{
	{name: "auto", registers: true, checksums: true, listen: func(at benchSocket) (benchListener, error) {
		return auto.Listen(at.ip+":0", auto.Config{Liveness: benchIdle, Checksum: at.checksum, Logger: at.log})
	}},
	{name: "inproc", here: true},
	{name: "shm", registers: true, oneHost: true, listen: func(at benchSocket) (benchListener, error) {
		return shm.Listen("", shm.Config{Logger: at.log})
	}},
	{name: "uds", checksums: true, oneHost: true, listen: func(at benchSocket) (benchListener, error) {
		return uds.Listen("", uds.Config{Checksum: at.checksum, Logger: at.log})
	}},
	{name: "tcp", checksums: true, listen: func(at benchSocket) (benchListener, error) {
		return tcp.Listen(at.ip+":0", tcp.Config{Liveness: benchIdle, Checksum: at.checksum, Logger: at.log})
	}},
	{name: "grpc", checksums: true, listen: func(at benchSocket) (benchListener, error) {
		return grpc.Listen(at.ip+":0", grpc.Config{Liveness: benchIdle, Checksum: at.checksum, Logger: at.log})
	}},
	{name: "fabric", checksums: true, ready: fabricReady, listen: func(at benchSocket) (benchListener, error) {
		return fabric.Listen(at.ip+":0", fabric.Config{Liveness: benchIdle, Provider: at.provider, Checksum: at.checksum, Logger: at.log})
	}},
}

// fabricReady asks whether libfabric was built in.
func fabricReady() error {
	l, err := fabric.Listen("127.0.0.1:0", fabric.Config{Logger: discardLog()})
	if err != nil {
		return err
	}
	return l.Close()
}

func benchTransportByName(name string) (benchTransport, error) {
	for _, t := range benchTransports {
		if t.name == name {
			return t, nil
		}
	}
	return benchTransport{}, fmt.Errorf("wants %s, not %q", orList(benchTransportNames()), name)
}

func benchTransportNames() (names []string) {
	for _, t := range benchTransports {
		names = append(names, t.name)
	}
	return names
}

// orList is "a, b or c".
func orList(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// dtypeNames are the element types.
func dtypeNames() (names []string) {
	for _, t := range []collective.DType{collective.Float32, collective.Float64, collective.BFloat16, collective.Float16,
		collective.Int32, collective.Int64, collective.Uint8} {
		names = append(names, t.String())
	}
	return names
}
