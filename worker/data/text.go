package data

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
)

// Tokenizers that OpenText knows.
const (
	Bytes = "bytes" // every byte is a token; vocabulary 256
	GPT2  = "gpt2"  // GPT-2's byte-pair encoding; vocabulary 50257
)

// TextConfig says what to read.
type TextConfig struct {
	// Path is a file, a folder, or a folder with a pattern of file names ("src/*.go") that applies to the tree
	// below it. Empty is DefaultText.
	Path string
	// Tokenizer is Bytes or GPT2. Empty is Bytes.
	Tokenizer string
	// CacheDir keeps encoded texts. Empty is a folder of the user's cache; where that is unknown
	// nothing is kept.
	CacheDir string
	// Log hears of a cache that cannot be used. Nil is silent.
	Log *slog.Logger
}

// Text is an encoded text: a long row of tokens, cut into samples of a sequence and the token after it.
// It does not change and may be used by several goroutines.
type Text struct {
	name  string // of the tokenizer
	vocab int
	width int    // bytes a token: 1 or 2, little-endian
	raw   []byte // the tokens
	hash  string // of the text and the tokenizer
}

// OpenText reads and encodes a text. What the user can mend is an *InputError.
func OpenText(ctx context.Context, c TextConfig) (*Text, error) {
	if c.Tokenizer == "" {
		c.Tokenizer = Bytes
	}
	if c.Tokenizer != Bytes && c.Tokenizer != GPT2 {
		return nil, mend(nil, "no tokenizer is called %q: choose %s or %s", c.Tokenizer, Bytes, GPT2)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Path == "" {
		var err error
		if c.Path, err = DefaultText(ctx); err != nil {
			return nil, err
		}
	}
	text, err := readText(c.Path)
	if err != nil {
		return nil, err
	}
	key := sha256.New()
	fmt.Fprintf(key, "farandole text 1 %s\n", c.Tokenizer)
	key.Write(text)
	t := &Text{name: c.Tokenizer, vocab: 256, width: 1, raw: text, hash: hex.EncodeToString(key.Sum(nil))}
	if c.Tokenizer == GPT2 {
		t.vocab, t.width = gpt2Vocab, 2
		if t.raw, err = encodeCached(ctx, c, text, t.hash); err != nil {
			return nil, errText(c.Path, err)
		}
	}
	return t, nil
}

// Vocab is the number of different tokens.
func (t *Text) Vocab() int { return t.vocab }

// Tokens is the length of the text.
func (t *Text) Tokens() int64 { return int64(len(t.raw) / t.width) }

// Name tells texts and tokenizers apart, for a plan's Program: "bytes 0f3a…".
func (t *Text) Name() string { return t.name + " " + t.hash[:12] }

// Samples is how many samples of seq tokens there are; they do not overlap.
func (t *Text) Samples(seq int) int64 { return max(0, (t.Tokens()-1)/int64(seq)) }

// Fill reads one sample: len(tokens) tokens, and as targets the token after each. Both have the same length.
func (t *Text) Fill(tokens, targets []int32, sample int64) {
	seq := int64(len(tokens))
	if len(targets) != len(tokens) || sample < 0 || sample >= t.Samples(int(seq)) {
		panic(fmt.Sprintf("data: sample %d of %d, %d tokens, %d targets", sample, t.Samples(int(seq)), len(tokens), len(targets)))
	}
	for i := range tokens {
		tokens[i] = t.at(sample*seq + int64(i))
		targets[i] = t.at(sample*seq + int64(i) + 1)
	}
}

func (t *Text) at(i int64) int32 {
	if t.width == 1 {
		return int32(t.raw[i])
	}
	return int32(binary.LittleEndian.Uint16(t.raw[2*i:]))
}

// Encode gives the tokens of a prompt.
func (t *Text) Encode(ctx context.Context, s string) ([]int32, error) {
	raw := []byte(s)
	if t.width == 2 {
		var err error
		if raw, err = encodeGPT2(ctx, raw); err != nil {
			return nil, fmt.Errorf("data: prompt: %w", err)
		}
	}
	prompt := Text{width: t.width, raw: raw}
	out := make([]int32, prompt.Tokens())
	for i := range out {
		out[i] = prompt.at(int64(i))
	}
	return out, nil
}

// Decode gives the text of tokens. The border between two files becomes an empty line.
func (t *Text) Decode(tokens []int32) (string, error) {
	if t.width == 2 {
		return decodeGPT2(tokens)
	}
	out := make([]byte, 0, len(tokens))
	for _, tok := range tokens {
		switch {
		case tok < 0 || tok > 255:
			return "", fmt.Errorf("data: %d is no byte", tok)
		case tok == separator:
			out = append(out, "\n\n"...)
		default:
			out = append(out, byte(tok))
		}
	}
	return string(out), nil
}
