package data

import (
	"fmt"
	"math/bits"

	"github.com/farandole-ml/farandole/elastic"
)

// Order says which samples each shard of each step has.
//
// Positions count samples over the job's life: step s has the positions [(s-1)·PerStep, s·PerStep), and shard i of S
// the i-th of S contiguous parts of them, as equal as they can be. Position p is the sample perm(p mod Len) of epoch
// p / Len, where perm is a permutation keyed by the seed and the epoch. So every sample is read exactly once an epoch, and a
// global batch may reach over the end of one.
type Order struct {
	Seed    uint64
	Len     int64 // samples of the data set
	PerStep int64 // samples of a global batch
}

// Check finds an order that cannot train a job with so many shards, as an *InputError.
func (o Order) Check(shards int) error {
	switch {
	case shards < 1:
		return mend(nil, "%d shards: a global batch has at least one", shards)
	case o.PerStep < int64(shards):
		return mend(nil, "a global batch of %d samples cannot be split into %d shards: raise the batch or lower the shards", o.PerStep, shards)
	case o.Len < o.PerStep:
		return mend(ErrTooSmall, "the data has %d samples, fewer than one global batch of %d: give more data, or lower the batch or the sequence length", max(o.Len, 0), o.PerStep)
	}
	return nil
}

// SamplesOf gives the shard's samples in order.
func (o Order) SamplesOf(s elastic.Shard) []int64 { return o.AppendSamples(nil, s) }

// AppendSamples is SamplesOf into memory of the caller's.
func (o Order) AppendSamples(dst []int64, s elastic.Shard) []int64 {
	if o.Len < 1 || s.Step < 1 || s.Index < 0 || s.Index >= s.Count {
		panic(fmt.Sprintf("data: no samples for %v of %+v", s, o))
	}
	first := (int64(s.Step)-1)*o.PerStep + part(o.PerStep, s.Index, s.Count)
	end := (int64(s.Step)-1)*o.PerStep + part(o.PerStep, s.Index+1, s.Count)
	epoch := int64(-1)
	var perm permutation
	for p := first; p < end; p++ {
		if e := p / o.Len; e != epoch {
			epoch = e
			perm = newPermutation(uint64(o.Len), mix(o.Seed+golden)+uint64(e)*golden)
		}
		dst = append(dst, int64(perm.at(uint64(p%o.Len))))
	}
	return dst
}

// part is where the i-th of count near-equal parts of n begins: the first n mod count parts are one longer.
func part(n int64, i, count int) int64 {
	size, extra := n/int64(count), n%int64(count)
	return int64(i)*size + min(int64(i), extra)
}

// rounds of the Feistel network. Four make a pseudo-random permutation of a large domain (Luby and Rackoff 1988);
// twice as many mix small ones well, and cost nothing beside reading a sample.
const rounds = 8

// permutation is a keyed bijection of [0, n) that needs no table: a balanced Feistel network over the smallest
// 2^(2·half) ≥ n. A value outside [0, n) is put through again until it is inside (cycle walking, Black and Rogaway 2002):
// following a bijection's cycle keeps it a bijection, and less than four rounds of it are needed on average because
// the domain is less than four times n.
type permutation struct {
	n    uint64
	half uint // bits of each of the two halves
	keys [rounds]uint64
}

// newPermutation is the permutation of [0, n) for a key; n is in [1, 2⁶²].
func newPermutation(n, key uint64) permutation {
	p := permutation{n: n, half: uint(max(bits.Len64(n-1)+1, 2)) / 2}
	for i := range p.keys {
		p.keys[i] = mix(mix(key) + uint64(i+1)*golden)
	}
	return p
}

// at is where i goes.
func (p *permutation) at(i uint64) uint64 {
	mask := uint64(1)<<p.half - 1
	for {
		left, right := i>>p.half, i&mask
		for _, k := range p.keys {
			left, right = right, left^(mix(right^k)&mask)
		}
		if i = left<<p.half | right; i < p.n {
			return i
		}
	}
}
