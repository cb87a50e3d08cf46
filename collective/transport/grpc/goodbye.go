package grpc

import (
	"io"

	"github.com/farandole-ml/farandole/collective"
)

// A goodbye is the last frame of a rank that gives the group up, so that its peers can tell the one that failed from
// those that left because of it. Its message is a collective.Farewell.

func goodbye(cause error) []byte {
	message := collective.Farewell(cause)
	b := make([]byte, headerBytes, headerBytes+len(message))
	header{op: collective.Op{Kind: kindGoodbye}, bytes: uint64(len(message))}.encode(b)
	return append(b, message...)
}

// readGoodbye takes f over and gives its message.
func readGoodbye(f frame) []byte {
	message := make([]byte, min(f.data.Remaining(), collective.MaxFarewell))
	_, _ = io.ReadFull(f.data, message)
	_ = f.data.Close()
	return message
}
