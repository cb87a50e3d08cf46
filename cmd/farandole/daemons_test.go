package main

import (
	"bytes"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// daemons is a coordinator and agents as processes of their own. They end with the test.
type daemons struct {
	e      *e2e
	addr   string // gRPC
	gossip string
	key    string // gossip key file
}

func newDaemons(e *e2e) *daemons {
	e.Helper()
	d := &daemons{e: e, addr: freeAddr(e), gossip: freeAddr(e)}
	state := e.TempDir()
	d.key = filepath.Join(state, "gossip.key")
	d.start("coordinator", "--listen", d.addr, "--gossip", d.gossip, "--state-dir", state, "--gossip-key-file", d.key)
	require.Eventually(e, func() bool {
		c, err := net.Dial("tcp", d.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, e2eLimit, 10*time.Millisecond, "the coordinator serves")
	return d
}

func (d *daemons) agent(host string, slots int) *exec.Cmd {
	d.e.Helper()
	return d.start("agent", "--join", d.gossip, "--gossip-key-file", d.key, "--host", host, "--slots", strconv.Itoa(slots))
}

func (d *daemons) start(args ...string) *exec.Cmd {
	d.e.Helper()
	cmd := exec.Command(filepath.Join(d.e.dir, "farandole"), args...)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(d.e, cmd.Start())
	d.e.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if d.e.Failed() {
			d.e.Logf("%v said:\n%s", args, out)
		}
	})
	return cmd
}

func freeAddr(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// lineWaiter keeps what is written to it and lets a test wait for a text.
type lineWaiter struct {
	mu   sync.Mutex
	text strings.Builder
	to   io.Writer
	more chan struct{}
}

func newLineWaiter(to io.Writer) *lineWaiter {
	return &lineWaiter{to: to, more: make(chan struct{}, 1)}
}

func (l *lineWaiter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.to.Write(p)
}

// waitFor returns once text was written after what the last call found.
func (l *lineWaiter) waitFor(t testing.TB, text string) {
	t.Helper()
	limit := time.After(e2eLimit)
	for {
		l.mu.Lock()
		_, after, found := strings.Cut(l.text.String(), text)
		if found {
			l.text.Reset()
			l.text.WriteString(after)
		}
		all := l.text.String()
		l.mu.Unlock()
		if found {
			return
		}
		select {
		case <-l.more:
		case <-limit:
			require.FailNow(t, "never said", "%q in\n%s", text, all)
		}
	}
}
