package elastic

import (
	"fmt"
	"math/bits"
)

// The reduction tree over S shards is fixed by S alone: its root is [0,S), and the children of [a,b) are [a,m)
// and [m,b) with m = (a+b)/2, down to single shards. The sum of a node is the sum of its left child plus the
// sum of its right child, whoever computes it.

// Children splits a node of the reduction tree. A single shard has none: ok is false.
func Children(node Range) (left, right Range, ok bool) {
	if node.Len() < 2 {
		return Range{}, Range{}, false
	}
	m := (node.First + node.End) / 2
	return Range{node.First, m}, Range{m, node.End}, true
}

// IsNode says whether r is a node of the reduction tree over shards.
func IsNode(r Range, shards int) bool {
	if r.First < 0 || r.End > shards || r.Len() < 1 {
		return false
	}
	n := Range{0, shards}
	for n != r {
		left, right, ok := Children(n)
		switch {
		case !ok:
			return false
		case r.End <= left.End:
			n = left
		case r.First >= right.First:
			n = right
		default:
			return false
		}
	}
	return true
}

// Partials gives the fewest nodes of the tree over shards that cover r exactly, from left to right: what a
// worker that owns r sends into a tree-ordered reduction. An empty r has none.
// It panics when r is not within [0, shards).
func Partials(r Range, shards int) []Range {
	if r.First < 0 || r.End > shards || r.First > r.End {
		panic(fmt.Sprintf("elastic: range %v is outside [0,%d)", r, shards))
	}
	return appendPartials(nil, Range{0, shards}, r)
}

func appendPartials(out []Range, node, r Range) []Range {
	if r.Len() == 0 || r.End <= node.First || node.End <= r.First {
		return out
	}
	if r.First <= node.First && node.End <= r.End {
		return append(out, node)
	}
	left, right, _ := Children(node)
	return appendPartials(appendPartials(out, left, r), right, r)
}

func countPartials(node, r Range) int {
	if r.End <= node.First || node.End <= r.First {
		return 0
	}
	if r.First <= node.First && node.End <= r.End {
		return 1
	}
	left, right, _ := Children(node)
	return countPartials(left, r) + countPartials(right, r)
}

// assignStates bounds the table of Assign. Up to about a thousand workers the search is exhaustive; beyond, it keeps
// to a band around the even spread, where it finds an assignment as good but no proof that it is.
const assignStates = 1 << 19

// Assign gives each of world workers a contiguous range of shards, in rank order. Sizes differ by at most one;
// among those assignments it is the one whose ranges have the fewest partials in total, and among equals the
// one with larger ranges first. Hence every range is one node when world divides shards by halves, and when
// world > shards/2 if the tree has enough pairs of shards (it does for every power of two).
// It panics unless 1 ≤ world ≤ shards.
func Assign(shards, world int) []Range {
	if world < 1 || world > shards {
		panic(fmt.Sprintf("elastic: %d shards cannot be assigned to %d workers", shards, world))
	}
	small, big := shards/world, shards%world // size of a small range; number of ranges with one more
	band := min(big, max(32, assignStates/world))
	// low(i) is the fewest large ranges that the band allows among the first i; the table has band+1 columns from there.
	low := func(i int) int { return max(0, min(i*big/world-band/2, big-band)) }
	const never = 1 << 30
	rest := make([]int, (world+1)*(band+1)) // fewest partials of ranks i… when k of the ranks before are large
	at := func(i, k int) *int {
		if c := k - low(i); c >= 0 && c <= band {
			return &rest[i*(band+1)+c]
		}
		return nil
	}
	for i := range rest {
		rest[i] = never
	}
	*at(world, big) = 0
	root := Range{0, shards}
	cost := func(i, k, size int) int {
		if size > small {
			if k >= big {
				return never
			}
			k++
		}
		next := at(i+1, k)
		if next == nil || *next >= never {
			return never
		}
		end := (i+1)*small + k
		return *next + countPartials(root, Range{end - size, end})
	}
	for i := world - 1; i >= 0; i-- {
		for k := low(i); k <= min(low(i)+band, i); k++ {
			*at(i, k) = min(cost(i, k, small+1), cost(i, k, small))
		}
	}
	out := make([]Range, world)
	first, k := 0, 0
	for i := range out {
		size := small
		if cost(i, k, small+1) <= cost(i, k, small) && k < big {
			size++
			k++
		}
		out[i] = Range{first, first + size}
		first += size
	}
	return out
}

// MergeStep is one shard's place in a worker's accumulation. The worker accumulates the shard's gradient into
// buffer Slot, which starts at zero, and then does the additions of Merges in order.
type MergeStep struct {
	Leaf   int
	Slot   int
	Merges []Merge
}

// Merge says: buffer Into becomes buffer Into plus buffer From, and then holds Node's sum; From is free.
type Merge struct {
	Into, From int
	Node       Range
}

// Merger plans how a worker merges its shards into partials while it accumulates them: shard after shard, each tree
// node as soon as its second child is complete, with a stack of buffers. After the last shard buffer i holds
// the i-th of Partials(r, shards).
//
// A step's merges are known before its gradient is: a worker may do them bucket by bucket while backward still runs.
// The buffers in use at once are at most one for a range of one shard, 1 + log2(size) for a range that is a node,
// and one for each partial more otherwise; Slots has the number.
type Merger struct {
	r      Range
	shards int
	next   int
	stack  []Range
}

// NewMerger plans for the worker that owns r. It panics when r is not within [0, shards).
func NewMerger(r Range, shards int) *Merger {
	if r.First < 0 || r.End > shards || r.First > r.End {
		panic(fmt.Sprintf("elastic: range %v is outside [0,%d)", r, shards))
	}
	return &Merger{r: r, shards: shards, next: r.First, stack: make([]Range, 0, 2*bits.Len(uint(shards)))}
}

// Next gives the next shard's step; ok is false after the last shard.
func (m *Merger) Next() (s MergeStep, ok bool) {
	if m.next >= m.r.End {
		return MergeStep{}, false
	}
	s = MergeStep{Leaf: m.next, Slot: len(m.stack)}
	m.stack = append(m.stack, Range{m.next, m.next + 1})
	m.next++
	for len(m.stack) >= 2 {
		top := len(m.stack) - 1
		a, b := m.stack[top-1], m.stack[top]
		node := Range{a.First, b.End}
		if left, _, _ := Children(node); left != a || !IsNode(node, m.shards) {
			break
		}
		m.stack = m.stack[:top]
		m.stack[top-1] = node
		s.Merges = append(s.Merges, Merge{Into: top - 1, From: top, Node: node})
	}
	return s, true
}

// Slots is how many buffers the plan of r uses at once.
func Slots(r Range, shards int) int {
	n := 0
	m := NewMerger(r, shards)
	for s, ok := m.Next(); ok; s, ok = m.Next() {
		n = max(n, s.Slot+1)
	}
	return n
}
