package grpc

import (
	"io"

	"github.com/farandole-ml/farandole/collective"
)

// readGoodbye takes f over and gives its message.
func readGoodbye(f frame) []byte {
	message := make([]byte, min(f.data.Remaining(), collective.MaxFarewell))
	_, _ = io.ReadFull(f.data, message)
	_ = f.data.Close()
	return message
}
