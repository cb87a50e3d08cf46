package data

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"github.com/tiktoken-go/tokenizer/codec"
	"golang.org/x/sync/errgroup"
)

const (
	gpt2Vocab = 50257
	endOfText = 50256 // stands between two files
	// pieceBytes is about how much text one call of the encoder gets: enough to keep the cores busy, little enough
	// to notice a cancelled context.
	pieceBytes = 64 << 10
)

// gpt2 is the encoder, made at first use: its table has 50,000 entries. It may be used by several goroutines.
var gpt2 = sync.OnceValue(codec.NewR50kBase)

// encodeGPT2 gives the tokens of text, two little-endian bytes each. Bytes that are not UTF-8 become U+FFFD.
func encodeGPT2(ctx context.Context, text []byte) ([]byte, error) {
	pieces := splitText(text, pieceBytes)
	encoded := make([][]byte, len(pieces))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, piece := range pieces {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if len(piece) == 1 && piece[0] == separator {
				encoded[i] = binary.LittleEndian.AppendUint16(nil, endOfText)
				return nil
			}
			ids, _, err := gpt2().Encode(strings.ToValidUTF8(string(piece), "\uFFFD"))
			if err != nil {
				return fmt.Errorf("encode: %w", err)
			}
			out := make([]byte, 0, 2*len(ids))
			for _, id := range ids {
				out = binary.LittleEndian.AppendUint16(out, uint16(id))
			}
			encoded[i] = out
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return bytes.Join(encoded, nil), nil
}

// splitText cuts text into pieces of about size bytes whose encodings, one after the other, are the encoding of the whole. A separator is
// a piece of its own. Elsewhere a cut is made only after a newline with visible ASCII on both sides: no token of
// GPT-2 joins a newline to what is not white space, and a single newline is a token whatever follows it.
func splitText(text []byte, size int) [][]byte {
	visible := func(b byte) bool { return b > ' ' && b < 0x7f }
	var pieces [][]byte
	start := 0
	cut := func(end int) {
		if end > start {
			pieces = append(pieces, text[start:end])
			start = end
		}
	}
	for i, b := range text {
		switch {
		case b == separator:
			cut(i)
			cut(i + 1)
		case b == '\n' && i-start >= size && i+1 < len(text) && visible(text[i-1]) && visible(text[i+1]):
			cut(i + 1)
		}
	}
	cut(len(text))
	return pieces
}

// decodeGPT2 gives the text of tokens.
func decodeGPT2(tokens []int32) (string, error) {
	var out strings.Builder
	var run []uint
	flush := func() error {
		s, err := gpt2().Decode(run)
		out.WriteString(s)
		run = run[:0]
		return err
	}
	for _, tok := range tokens {
		if tok < 0 || tok >= gpt2Vocab {
			return "", fmt.Errorf("data: %d is no token of GPT-2", tok)
		}
		if tok != endOfText {
			run = append(run, uint(tok))
			continue
		}
		if err := flush(); err != nil {
			return "", fmt.Errorf("data: decode: %w", err)
		}
		out.WriteString("\n\n")
	}
	if err := flush(); err != nil {
		return "", fmt.Errorf("data: decode: %w", err)
	}
	return out.String(), nil
}
