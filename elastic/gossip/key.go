package gossip

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// KeySize is the length of a cluster's key: AES-256.
const KeySize = 32

// NewKey makes a random key and writes it to a new file at path, base64 on one line, readable by its owner alone.
// It does not replace a file.
func NewKey(path string) ([]byte, error) {
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("gossip: write key: %w; remove the file to make another key", err)
	}
	if err != nil {
		return nil, fmt.Errorf("gossip: write key: %w", err)
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("gossip: write key: %w", err)
	}
	return key, nil
}

// LoadKey reads a key that NewKey wrote. A file that others than its owner can read is refused.
func LoadKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("gossip: read key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("gossip: read key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("gossip: key file %s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("gossip: key file %s has mode %04o, so others can read it; run chmod 600 %s, and make a new key if they may have", path, perm, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, fmt.Errorf("gossip: read key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != KeySize {
		return nil, fmt.Errorf("gossip: key file %s does not hold %d bytes in base64", path, KeySize)
	}
	return key, nil
}

// A key is changed without a pause in three rounds over all nodes: AddKey everywhere, UseKey everywhere, RemoveKey of the old
// one everywhere.

// AddKey makes the node understand another key as well.
func (n *Node) AddKey(key []byte) error {
	if len(key) != KeySize {
		return fmt.Errorf("gossip: the key has %d bytes, not %d", len(key), KeySize)
	}
	if err := n.ring.AddKey(key); err != nil {
		return fmt.Errorf("gossip: add key: %w", err)
	}
	return nil
}

// UseKey makes the node speak with a key that was added.
func (n *Node) UseKey(key []byte) error {
	if err := n.ring.UseKey(key); err != nil {
		return fmt.Errorf("gossip: use key: %w", err)
	}
	return nil
}

// RemoveKey makes the node forget a key that it does not use.
func (n *Node) RemoveKey(key []byte) error {
	if err := n.ring.RemoveKey(key); err != nil {
		return fmt.Errorf("gossip: remove key: %w", err)
	}
	return nil
}
