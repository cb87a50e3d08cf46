package uds

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
)

func TestNames(t *testing.T) {
	dir := t.TempDir()
	busy := filepath.Join(dir, "busy")
	require.NoError(t, os.WriteFile(busy, nil, 0o600))
	cases := map[string]struct{ addr, text string }{
		"picked":    {"", ""},
		"abstract":  {"@farandole-test-" + filepath.Base(dir) + filepath.Base(filepath.Dir(dir)), ""},
		"path":      {filepath.Join(dir, "socket"), ""},
		"too long":  {"@" + strings.Repeat("x", maxAddr), "at most 107 bytes"},
		"busy":      {busy, "remove the file"},
		"no folder": {filepath.Join(dir, "none", "socket"), "no such file"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l, err := Listen(c.addr, Config{})
			if c.text != "" {
				require.ErrorContains(t, err, c.text)
				return
			}
			require.NoError(t, err)
			if name == "path" {
				info, err := os.Stat(c.addr)
				require.NoError(t, err)
				require.EqualValues(t, 0o600, info.Mode().Perm())
			}
			first, err := l.Connect(t.Context(), collectivetest.ID(1, 0), []string{l.Addr()})
			require.NoError(t, err)
			require.NoError(t, first.Close())
			conn, err := net.Dial("unix", l.Addr())
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: somebody\r\n\r\nand much more than a hello has"))
			require.NoError(t, err)
			_, err = io.ReadAll(conn)
			require.Condition(t, func() bool { return err == nil || strings.Contains(err.Error(), "reset") }, "%v", err)
			require.NoError(t, l.Close())
			_, err = os.Stat(c.addr)
			require.ErrorIs(t, err, os.ErrNotExist, "Close leaves the socket behind")
		})
	}
}

// TestASlowReaderGetsEverything sends far more than the kernel holds.
func TestASlowReaderGetsEverything(t *testing.T) {
	const much = 16 << 20
	transports := form(t, 2, Config{BufferBytes: 1})
	for _, tr := range transports {
		defer tr.Close()
	}
	message := make([]byte, much)
	for i := range message {
		message[i] = byte(i * 7 / 5)
	}
	ok, err := transports[0].(collective.Eager).TrySend(1, message)
	require.NoError(t, err)
	require.False(t, ok, "the kernel took all of it")
	sent := make(chan error, 1)
	go func() { sent <- transports[0].Send(1, message) }()
	got := make([]byte, much)
	require.NoError(t, transports[1].Recv(0, got))
	require.NoError(t, <-sent)
	require.Equal(t, message, got)
}
