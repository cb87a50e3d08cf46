package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"unsafe"

	"github.com/zeebo/xxh3"

	"github.com/farandole-ml/farandole/collective"
)

// agreement is what all ranks must have in common before a generation's first step. Its wire form is agreementLen
// bytes, little-endian.
type agreement struct {
	Resume  int64
	Plan    uint64 // hash of plan, tensors and policy
	State   uint64 // hash of the state; 0 when it was not computed
	Stopped uint32 // 1: this rank stopped after Resume
	Unsaved uint32 // 1: a checkpoint of Resume is due and not complete; rank 0's word counts
	Device  uint32 // 1: this rank would reduce on its device
}

const agreementLen = 36

// agree compares all ranks' agreements, and settles where gradients are reduced. A difference is fatal and names both ranks.
func (s *Session) agree(g *generation) error {
	own := agreement{Resume: int64(s.pos.at().Applied), Plan: s.planHash()}
	if s.stop > 0 && int64(s.stop) == own.Resume {
		own.Stopped = 1
	}
	if s.saver != nil && s.due(g.view.Resume) && !s.saver.complete(g.view.Resume) {
		own.Unsaved = 1
	}
	if s.res != nil {
		own.Device = 1
	}
	all := []agreement{own}
	if g.group != nil {
		if hashWorthwhile(g) {
			if err := s.mirror.pull(); err != nil {
				return err
			}
			h, err := s.stateHash(g.ctx)
			if err != nil {
				return err
			}
			own.State = h
		}
		var mine bytes.Buffer
		_ = binary.Write(&mine, binary.LittleEndian, own)
		out := make([]byte, agreementLen*g.world())
		if err := g.group.AllGather(g.ctx, collective.Of(out), collective.Of(mine.Bytes())); err != nil {
			return err
		}
		all = make([]agreement, g.world())
		_ = binary.Read(bytes.NewReader(out), binary.LittleEndian, all)
	}
	for r, a := range all {
		if err := s.differ(r, all[0], a); err != nil {
			return &fatalError{err}
		}
		if a.Stopped == 1 {
			s.stop = g.view.Resume
		}
	}
	s.unsaved = all[0].Unsaved == 1
	return s.settle(g, !slices.ContainsFunc(all, func(a agreement) bool { return a.Device == 0 }))
}

// differ says how rank's agreement differs from rank 0's.
func (s *Session) differ(rank int, zero, a agreement) error {
	switch {
	case a.Plan != zero.Plan:
		return fmt.Errorf("ranks 0 and %d run different jobs: steps, shards, seed, program, registered tensors or policy differ; start all workers from the same program with the same flags", rank)
	case a.Resume != zero.Resume:
		return fmt.Errorf("ranks 0 and %d are at different steps after their sync, %d and %d: a defect of farandole, nothing was trained on it", rank, zero.Resume, a.Resume)
	case a.State != zero.State:
		return fmt.Errorf("ranks 0 and %d have different parameters or state at step %d: Setup must depend on the seed alone, and Apply on the reduced gradient alone", rank, a.Resume)
	}
	return nil
}

// hashWorthwhile says whether a view's start compares the states themselves: at the job's start and whenever state moved.
func hashWorthwhile(g *generation) bool {
	if g.number() == 1 {
		return true
	}
	for _, p := range g.view.Sync {
		if p.Kind != 0 {
			return true
		}
	}
	return false
}

func (s *Session) planHash() uint64 {
	h := xxh3.New()
	_, _ = fmt.Fprintf(h, "%+v\n%s %s %s %d\n", s.plan, s.cfg.Reduce, s.cfg.Wire, s.cfg.NaN, s.bucketLen())
	for _, t := range s.tensors {
		_, _ = fmt.Fprintf(h, "%q %v\n", t.Name, t.Shape)
	}
	_, _ = fmt.Fprintf(h, "%d parameters\n", len(s.params))
	return h.Sum64()
}

// hashChunk is how much is hashed between two looks at the context.
const hashChunk = 16 << 20

func (s *Session) stateHash(ctx context.Context) (uint64, error) {
	h := xxh3.New()
	for _, t := range s.tensors {
		for b := asBytes(t.Data); len(b) > 0; {
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			n := min(len(b), hashChunk)
			_, _ = h.Write(b[:n])
			b = b[n:]
		}
	}
	return h.Sum64(), nil
}

// asBytes is the memory of v. All supported machines are little-endian.
func asBytes(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}
