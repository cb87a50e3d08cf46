package mesh

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
)

// The handshake: the dialer sends a hello, the acceptor a reply, the dialer a confirmation. Integers are
// little-endian.
const (
	version     = 2
	helloMagic  = "FARANDAT"
	replyMagic  = "FARANREP"
	confirm     = "FARANCON"
	helloBytes  = 48
	replyBytes  = 24
	maxJobBytes = 256
	maxText     = 512
	maxWorld    = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errGarbage = errors.New("not a farandole data connection")
	errAgain   = errors.New("peer asks to try again")
	errRefused = errors.New("refused")
)

// hello is what a dialer says of itself and of whom it wants.
type hello struct {
	version    uint16
	job        string
	generation elastic.Generation
	from, to   int
	world      int
	flags      uint32
	stream     int // which of the pair's connections this is, from 0
	streams    int // how many it shall have
}

func (h hello) append(b []byte) []byte {
	start := len(b)
	b = append(b, helloMagic...)
	b = binary.LittleEndian.AppendUint16(b, h.version)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(h.job)))
	b = binary.NativeEndian.AppendUint32(b, 0x01020304) // the payload is in the hosts' byte order
	b = binary.LittleEndian.AppendUint64(b, uint64(h.generation))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.from))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.to))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.world))
	b = binary.LittleEndian.AppendUint32(b, h.flags)
	b = append(b, 0, 0, 0, 0, byte(h.stream), byte(h.streams), 0, 0)
	b = append(b, h.job...)
	sum := crc32.Checksum(b[start:], castagnoli)
	binary.LittleEndian.PutUint32(b[start+40:], sum)
	return b
}

// readHello reads a dialer's hello. It reads no more than a hello has, whatever is claimed.
func readHello(r io.Reader) (hello, error) {
	b := make([]byte, helloBytes, helloBytes+maxJobBytes)
	if _, err := io.ReadFull(r, b); err != nil {
		return hello{}, fmt.Errorf("%w: %w", errGarbage, err)
	}
	if string(b[:8]) != helloMagic {
		return hello{}, errGarbage
	}
	h := hello{
		version:    binary.LittleEndian.Uint16(b[8:]),
		generation: elastic.Generation(binary.LittleEndian.Uint64(b[16:])),
		from:       int(binary.LittleEndian.Uint32(b[24:])),
		to:         int(binary.LittleEndian.Uint32(b[28:])),
		world:      int(binary.LittleEndian.Uint32(b[32:])),
		flags:      binary.LittleEndian.Uint32(b[36:]),
		stream:     int(b[44]),
		streams:    int(b[45]),
	}
	n := int(binary.LittleEndian.Uint16(b[10:]))
	if n > maxJobBytes {
		return hello{}, fmt.Errorf("%w: job name of %d bytes", errGarbage, n)
	}
	b = b[:helloBytes+n]
	if _, err := io.ReadFull(r, b[helloBytes:]); err != nil {
		return hello{}, fmt.Errorf("%w: %w", errGarbage, err)
	}
	h.job = string(b[helloBytes:])
	sum := binary.LittleEndian.Uint32(b[40:])
	clear(b[40:44])
	if sum != crc32.Checksum(b, castagnoli) {
		return hello{}, fmt.Errorf("%w: wrong checksum", errGarbage)
	}
	if binary.NativeEndian.Uint32(b[12:]) != 0x01020304 {
		return hello{}, fmt.Errorf("%w: it has another byte order", errRefused)
	}
	if h.world > maxWorld || h.from >= h.world || h.to >= h.world {
		return hello{}, fmt.Errorf("%w: rank %d to %d in a world of %d", errGarbage, h.from, h.to, h.world)
	}
	if h.version == version && (h.streams < 1 || h.streams > MaxStreams || h.stream >= h.streams) {
		return hello{}, fmt.Errorf("%w: connection %d of %d", errGarbage, h.stream, h.streams)
	}
	return h, nil
}

// verdict is an acceptor's answer. The numbers are part of the protocol.
type verdict uint8

const (
	welcome verdict = iota
	again           // not now: dial again
	stale           // the generation is fenced
	refused         // for good; the text says why
)

type reply struct {
	verdict    verdict
	streams    int                // of a welcome: how many connections the pair has
	generation elastic.Generation // the acceptor's fence
	text       string
}

func (r reply) append(b []byte) []byte {
	start := len(b)
	text := r.text[:min(len(r.text), maxText)]
	b = append(b, replyMagic...)
	b = append(b, byte(r.verdict), byte(r.streams))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(text)))
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.generation))
	b = append(b, text...)
	sum := crc32.Checksum(b[start:], castagnoli)
	binary.LittleEndian.PutUint32(b[start+12:], sum)
	return b
}

func readReply(from io.Reader) (reply, error) {
	b := make([]byte, replyBytes, replyBytes+maxText)
	if _, err := io.ReadFull(from, b); err != nil {
		return reply{}, err
	}
	n := int(binary.LittleEndian.Uint16(b[10:]))
	if !bytes.Equal(b[:8], []byte(replyMagic)) || n > maxText {
		return reply{}, errGarbage
	}
	b = b[:replyBytes+n]
	if _, err := io.ReadFull(from, b[replyBytes:]); err != nil {
		return reply{}, err
	}
	sum := binary.LittleEndian.Uint32(b[12:])
	clear(b[12:16])
	if sum != crc32.Checksum(b, castagnoli) {
		return reply{}, fmt.Errorf("%w: wrong checksum", errGarbage)
	}
	r := reply{
		verdict:    verdict(b[8]),
		streams:    int(b[9]),
		generation: elastic.Generation(binary.LittleEndian.Uint64(b[16:])),
		text:       string(b[replyBytes:]),
	}
	if r.verdict == welcome && (r.streams < 1 || r.streams > MaxStreams) {
		return reply{}, fmt.Errorf("%w: %d connections", errGarbage, r.streams)
	}
	return r, nil
}

// err is the reply as the dialer's error.
func (r reply) err(asked elastic.Generation) error {
	switch r.verdict {
	case welcome:
		return nil
	case again:
		return fmt.Errorf("%w: %q", errAgain, r.text)
	case stale:
		return staleError(asked, r.generation)
	}
	return fmt.Errorf("%w: %q", errRefused, r.text)
}

// staleError says that generation asked is over.
func staleError(asked, fence elastic.Generation) error {
	return fmt.Errorf("generation %d is fenced, generation %d is due: %w", asked, fence, collective.ErrGenerationChanged)
}
