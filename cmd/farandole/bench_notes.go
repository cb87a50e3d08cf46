package main

import (
	"log/slog"
	"strings"
	"sync"
)

// benchNotes keeps what the packages under measurement warn of, such as shared memory that was not to be had: it
// explains a timing, and the person who reads that must see it.
type benchNotes struct {
	mu   sync.Mutex
	text strings.Builder
}

// maxNoteBytes bounds what is kept between two cells.
const maxNoteBytes = 2 << 10

func (n *benchNotes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.text.Len() < maxNoteBytes {
		n.text.Write(b)
	}
	return len(b), nil
}

// logger writes the warnings without the time.
func (n *benchNotes) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(n, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}}))
}

// take gives what was written since the last call, a line each.
func (n *benchNotes) take() (lines []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	text := strings.TrimSpace(n.text.String())
	n.text.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
