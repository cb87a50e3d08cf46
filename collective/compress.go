package collective

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/farandole-ml/farandole/kernels"
)

// Compression is the form in which a Compressor's values travel.
type Compression uint8

// The compressions.
const (
	CompressBF16 Compression = iota // two bytes a value
	CompressInt8                    // blocks of 256 values: a byte a value and a float32 scale, see kernels.EncodeInt8

	compressions
)

var compressionNames = [compressions]string{"bf16", "int8"}

// String is the name that ParseCompression reads.
func (c Compression) String() string {
	if c >= compressions {
		return fmt.Sprintf("Compression(%d)", uint8(c))
	}
	return compressionNames[c]
}

// ParseCompression reads "bf16" or "int8".
func ParseCompression(s string) (Compression, error) {
	if i := slices.Index(compressionNames[:], s); i >= 0 {
		return Compression(i), nil
	}
	return 0, fmt.Errorf("collective: no compression %q: choose bf16 or int8", s)
}

// bytes is the length of n values.
func (c Compression) bytes(n int) int {
	if c == CompressInt8 {
		return kernels.Int8Bytes(n)
	}
	return 2 * n
}

func (c Compression) encode(dst []byte, src []float32) {
	if c == CompressInt8 {
		kernels.EncodeInt8(dst, src)
		return
	}
	kernels.EncodeBF16(dst, src)
}

func (c Compression) decode(dst []float32, src []byte) {
	if c == CompressInt8 {
		kernels.DecodeInt8(dst, src)
		return
	}
	kernels.DecodeBF16(dst, src)
}

// CompressorConfig says how a Compressor works. It must be equal on all ranks.
type CompressorConfig struct {
	Compression Compression

	// Elements is the length of the vectors.
	Elements int

	// Forget drops what a compression loses. Otherwise it is added to the next vector, so that over many
	// operations nothing but the last loss is missing, at the price of two more float32 for each element.
	Forget bool
}

// Compressor all-reduces float32 vectors in fewer bytes than they have, for slow links, with losses. Use one for each vector that is
// reduced again and again, such as a gradient.
//
// The vector has a segment for each rank. A rank compresses its vector and sends every segment to the segment's owner; the owner
// decodes them, adds them in the order of the ranks in float32, compresses the sum and sends it to all, and every rank decodes the same
// bytes. So the bits are equal on all ranks, and depend on the vectors, the residuals and the number of ranks alone. A value passes two
// lossy compressions; a rank's own segment and a group of one only the second. A NaN or an infinity in any vector becomes one in the sum.
//
// With error feedback (unless Forget is set) a rank keeps its residual: what of its vectors, and of the sums it owned, was not sent. It is
// added before the next compression. Not finite values leave no residual.
//
// A Compressor belongs to one rank and is used by one goroutine at a time. It outlives groups.
type Compressor struct {
	cfg      CompressorConfig
	residual []float32
	next     []float32 // the vector with the residual; then the residual after this operation, or before the last one
	undo     bool      // next is the residual before the last operation

	parts   layout
	send    []byte
	recv    []byte
	sum     []float32 // of the own segment
	decoded []float32
	call    Call
	average kernels.Reduction
	arrays  [1][]byte
}

// layout cuts a vector into one segment for each rank, at whole blocks, and says where their encodings are: one part of equal length
// for each rank, a header and the values.
type layout struct {
	elements, world int
	length          int // of a segment; the last ones may be shorter or empty
	part            int // bytes
}

// headerBytes is what a part begins with: what its sender does, and the vector's length.
const headerBytes = 8

func newLayout(c Compression, elements, world int) layout {
	blocks := (elements + kernels.QuantBlock - 1) / kernels.QuantBlock
	length := (blocks + world - 1) / world * kernels.QuantBlock
	return layout{elements, world, length, headerBytes + c.bytes(length)}
}

func (l layout) segment(x []float32, rank int) []float32 {
	return x[min(rank*l.length, l.elements):min((rank+1)*l.length, l.elements)]
}

// NewCompressor makes a Compressor without residual.
func NewCompressor(cfg CompressorConfig) (*Compressor, error) {
	if cfg.Compression >= compressions || cfg.Elements < 0 {
		return nil, fmt.Errorf("%w: compressor of %d elements, %v", ErrMisuse, cfg.Elements, cfg.Compression)
	}
	c := &Compressor{cfg: cfg, next: make([]float32, cfg.Elements)}
	if !cfg.Forget {
		c.residual = make([]float32, cfg.Elements)
	}
	return c, nil
}

// Residual is what this rank has still to send, for a checkpoint; nil with Forget. It is the Compressor's own memory: read it between
// operations. Where ranks leave, add their residuals to those of others, in any way, and nothing is lost.
func (c *Compressor) Residual() []float32 { return c.residual }

// SetResidual makes a copy of x the residual.
func (c *Compressor) SetResidual(x []float32) error {
	if len(x) != len(c.residual) {
		return fmt.Errorf("%w: a residual of %d elements for a compressor that keeps %d", ErrMisuse, len(x), len(c.residual))
	}
	copy(c.residual, x)
	c.undo = false
	return nil
}

// Undo makes the residual what it was before the last AllReduce, to be called once when that is done again: where it returned on this rank but
// failed on another. An AllReduce that fails undoes itself.
func (c *Compressor) Undo() {
	if c.undo {
		c.residual, c.next = c.next, c.residual
		c.undo = false
	}
}

// AllReduce makes out the sum or average (op is Sum or Avg) of all ranks' in, as a collective of g: every rank calls it, with Compressors of
// the same configuration. out may be in. In steady state it allocates nothing.
func (c *Compressor) AllReduce(ctx context.Context, g *Group, out, in []float32, op RedOp) error {
	if len(out) != c.cfg.Elements || len(in) != c.cfg.Elements || op != Sum && op != Avg {
		return g.state.fail(fmt.Errorf("%w: compressed %v of %d elements into %d with a compressor of %d: it does sum and avg", ErrMisuse, op, len(in), len(out), c.cfg.Elements))
	}
	c.prepare(g.World())
	c.undo = false
	copy(c.next, in)
	if !c.cfg.Forget {
		kernels.AddF32(c.next, c.next, c.residual)
	}
	c.contribute(g.Rank(), op)
	c.call = Call{Kind: OpAllToAll, Out: Of(c.recv), In: Of(c.send)}
	if err := g.Do(ctx, &c.call); err != nil {
		return err
	}
	if err := c.check(g); err != nil {
		return err
	}
	own := c.reduce(g.Rank())
	c.call = Call{Kind: OpAllGather, Out: Of(c.send), In: Of(own)}
	if err := g.Do(ctx, &c.call); err != nil {
		return err
	}
	c.finish(out, op)
	return nil
}

// prepare gets the buffers for a group of world ranks.
func (c *Compressor) prepare(world int) {
	if c.parts.world == world {
		return
	}
	c.parts = newLayout(c.cfg.Compression, c.cfg.Elements, world)
	c.send, c.recv = make([]byte, world*c.parts.part), make([]byte, world*c.parts.part)
	c.sum, c.decoded = make([]float32, c.parts.length), make([]float32, c.parts.length)
}

// part is the values of part r of b, n of them.
func (c *Compressor) part(b []byte, r, n int) []byte {
	return b[r*c.parts.part+headerBytes:][:c.cfg.Compression.bytes(n)]
}

// header identifies the operation.
func (c *Compressor) header(op RedOp) uint32 { return uint32(c.cfg.Compression) | uint32(op)<<8 }

// contribute encodes the vector in next for the owners of its segments and leaves what is lost.
func (c *Compressor) contribute(rank int, op RedOp) {
	for r := range c.parts.world {
		at := c.send[r*c.parts.part:]
		binary.LittleEndian.PutUint32(at, c.header(op))
		binary.LittleEndian.PutUint32(at[4:], uint32(c.parts.elements))
		if r == rank {
			continue
		}
		segment := c.parts.segment(c.next, r)
		c.lose(c.part(c.send, r, len(segment)), segment)
	}
}

// lose encodes x into b and leaves in x what is lost.
func (c *Compressor) lose(b []byte, x []float32) {
	c.cfg.Compression.encode(b, x)
	if !c.cfg.Forget {
		decoded := c.decoded[:len(x)]
		c.cfg.Compression.decode(decoded, b)
		kernels.Residual(x, decoded)
	}
}

// check says whether all ranks do the same.
func (c *Compressor) check(g *Group) error {
	for r := range c.parts.world {
		theirs, ours := c.recv[r*c.parts.part:][:headerBytes], c.send[r*c.parts.part:][:headerBytes]
		if r != g.Rank() && string(theirs) != string(ours) {
			return g.state.fail(&PeerError{Rank: r, Op: "compressed all-reduce", Err: fmt.Errorf("%w: it does %s, this rank %s", ErrMisuse, headerText(theirs), headerText(ours))})
		}
	}
	return nil
}

func headerText(b []byte) string {
	what := binary.LittleEndian.Uint32(b)
	return fmt.Sprintf("%v in %v of %d elements", RedOp(what>>8), Compression(what), binary.LittleEndian.Uint32(b[4:]))
}

// reduce adds the own segment over all ranks in their order, encodes the sum and gives its part.
func (c *Compressor) reduce(rank int) []byte {
	own := c.parts.segment(c.next, rank)
	sum := c.sum[:len(own)]
	for r := range c.parts.world {
		x := own
		if r != rank {
			x = c.decoded[:len(own)]
			c.cfg.Compression.decode(x, c.part(c.recv, r, len(own)))
		}
		if r == 0 {
			copy(sum, x)
		} else {
			kernels.AddF32(sum, sum, x)
		}
	}
	c.lose(c.part(c.send, rank, len(own)), sum)
	copy(own, sum)
	return c.send[rank*c.parts.part:][:c.parts.part]
}

// finish decodes the sums and keeps what was lost.
func (c *Compressor) finish(out []float32, op RedOp) {
	for r := range c.parts.world {
		segment := c.parts.segment(out, r)
		c.cfg.Compression.decode(segment, c.part(c.send, r, len(segment)))
	}
	if op == Avg {
		c.average = kernels.Reduction{Divisor: c.parts.world}
		c.arrays[0] = Of(out).Data
		c.average.Run(c.arrays[:], c.arrays[:])
		c.arrays[0] = nil
	}
	if !c.cfg.Forget {
		c.residual, c.next = c.next, c.residual
		c.undo = true
	}
}
