package gossip

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"
	"github.com/stretchr/testify/require"
)

func FuzzMeta(f *testing.F) {
	f.Add(encodeMeta(Peer{Name: "a", Role: Agent, Addr: "host:1", Host: "h"}, 1))
	f.Add(encodeMeta(Peer{Name: "ü", Role: Coordinator, Addr: "[::1]:1"}, 1<<63))
	f.Add([]byte{metaVersion})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, start, err := decodeMeta(b)
		if err != nil {
			require.Zero(t, p)
			return
		}
		require.NoError(t, p.validate())
		require.Equal(t, b, encodeMeta(p, start))
		require.LessOrEqual(t, len(b), memberlist.MetaMaxSize)
	})
}

func TestForeignMetadataIsNoPeer(t *testing.T) {
	good := encodeMeta(Peer{Name: "a", Role: Agent, Addr: "host:1", Host: "h"}, 1)
	bad := map[string][]byte{
		"none":            nil,
		"another version": append([]byte{2}, good[1:]...),
		"short":           good[:len(good)-1],
		"long":            append([]byte(strings.Clone(string(good))), 0),
		"another role":    encodeMeta(Peer{Name: "a", Role: "boss", Addr: "host:1"}, 1),
		"no address":      encodeMeta(Peer{Name: "a", Role: Agent}, 1),
		"escape":          encodeMeta(Peer{Name: "\x1b[31m", Role: Agent, Addr: "host:1"}, 1),
	}
	for name, b := range bad {
		table := newPeerTable("me@0", quiet())
		table.NotifyJoin(&memberlist.Node{Name: "a@1", Meta: b})
		require.Empty(t, table.list(), name)
		table.NotifyJoin(&memberlist.Node{Name: "a@1", Meta: good})
		require.Len(t, table.list(), 1)
		table.NotifyUpdate(&memberlist.Node{Name: "a@1", Meta: b})
		require.Empty(t, table.list(), name)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gossip.key")
	made, err := NewKey(path)
	require.NoError(t, err)
	require.Len(t, made, KeySize)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	loaded, err := LoadKey(path)
	require.NoError(t, err)
	require.Equal(t, made, loaded)

	_, err = NewKey(path)
	require.ErrorIs(t, err, os.ErrExist)

	for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
		require.NoError(t, os.Chmod(path, mode))
		_, err = LoadKey(path)
		require.ErrorContains(t, err, "chmod 600 "+path)
	}
	require.NoError(t, os.Chmod(path, 0o400))
	_, err = LoadKey(path)
	require.NoError(t, err)

	for _, content := range []string{"", "c2hvcnQ=", "not base64 at all", strings.Repeat("A", 5000)} {
		other := filepath.Join(t.TempDir(), "k")
		require.NoError(t, os.WriteFile(other, []byte(content), 0o600))
		_, err = LoadKey(other)
		require.ErrorContains(t, err, "does not hold 32 bytes")
	}
	_, err = LoadKey(t.TempDir())
	require.Error(t, err)
	_, err = LoadKey(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
