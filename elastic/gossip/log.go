package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
)

// debugLogger carries memberlist's lines to l at debug level, whatever memberlist thinks of their importance: anybody can
// make it write warnings by sending garbage.
func debugLogger(l *slog.Logger) *log.Logger { return log.New(debugWriter{l}, "", 0) }

type debugWriter struct{ log *slog.Logger }

func (w debugWriter) Write(line []byte) (int, error) {
	if w.log.Enabled(context.Background(), slog.LevelDebug) {
		w.log.Debug("memberlist", "line", string(bytes.TrimSpace(line)))
	}
	return len(line), nil
}
