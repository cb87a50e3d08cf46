package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A cache file is this line, the key (SHA-256 of tokenizer and text), the SHA-256 of the tokens, and the tokens.
const (
	cacheMagic  = "farandole tokens 1\n"
	cacheHeader = len(cacheMagic) + 2*sha256.Size
)

// encodeCached is encodeGPT2 by way of the cache. A cache that cannot be read or written costs time, nothing else.
func encodeCached(ctx context.Context, c TextConfig, text []byte, hash string) ([]byte, error) {
	dir := c.CacheDir
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			c.Log.Debug("no cache for encoded texts", "err", err)
			return encodeGPT2(ctx, text)
		}
		dir = filepath.Join(user, "farandole")
	}
	key, err := hex.DecodeString(hash)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "tokens-"+hash[:24]+".bin")
	tokens, err := loadTokens(path, key)
	if err == nil {
		return tokens, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		c.Log.Warn("encoded text in the cache is not usable; encoding again", "path", path, "err", err)
	}
	if tokens, err = encodeGPT2(ctx, text); err != nil {
		return nil, err
	}
	if err := storeTokens(path, key, tokens); err != nil {
		c.Log.Warn("encoded text could not be cached", "path", path, "err", err)
	}
	return tokens, nil
}

// loadTokens reads a cache file and checks everything in it.
func loadTokens(path string, key []byte) ([]byte, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(file) < cacheHeader || string(file[:len(cacheMagic)]) != cacheMagic {
		return nil, errors.New("not a file of tokens")
	}
	header, tokens := file[len(cacheMagic):cacheHeader], file[cacheHeader:]
	if !bytes.Equal(header[:sha256.Size], key) {
		return nil, errors.New("tokens of another text")
	}
	if sum := sha256.Sum256(tokens); !bytes.Equal(header[sha256.Size:], sum[:]) || len(tokens)%2 != 0 {
		return nil, errors.New("the tokens do not have their hash")
	}
	for i := 0; i < len(tokens); i += 2 {
		if tok := binary.LittleEndian.Uint16(tokens[i:]); tok >= gpt2Vocab {
			return nil, fmt.Errorf("%d is no token", tok)
		}
	}
	return tokens, nil
}

// storeTokens writes a cache file so that a reader sees all of it or none, also after a power cut.
func storeTokens(path string, key, tokens []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tokens-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	sum := sha256.Sum256(tokens)
	for _, b := range [][]byte{[]byte(cacheMagic), key, sum[:], tokens} {
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
