package elastictest

import "time"

// happening is something that is going to happen.
type happening struct {
	at  time.Duration
	seq uint64 // ties happen in the order of planning
	do  func()
}

// queue is a binary heap of happenings, the next first.
type queue struct {
	h   []happening
	seq uint64
}

func (q *queue) less(i, j int) bool {
	a, b := &q.h[i], &q.h[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (q *queue) push(at time.Duration, do func()) {
	q.seq++
	q.h = append(q.h, happening{at, q.seq, do})
	for i := len(q.h) - 1; i > 0; {
		parent := (i - 1) / 2
		if !q.less(i, parent) {
			break
		}
		q.h[i], q.h[parent] = q.h[parent], q.h[i]
		i = parent
	}
}

func (q *queue) pop() happening {
	top, last := q.h[0], len(q.h)-1
	q.h[0] = q.h[last]
	q.h[last] = happening{}
	q.h = q.h[:last]
	for i := 0; ; {
		small := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < last && q.less(c, small) {
				small = c
			}
		}
		if small == i {
			return top
		}
		q.h[i], q.h[small] = q.h[small], q.h[i]
		i = small
	}
}

// next lets the next thing happen; it is false when there is none.
func (s *sim) next() bool {
	if len(s.queue.h) == 0 {
		return false
	}
	e := s.queue.pop()
	s.now = e.at
	e.do()
	return true
}

// after plans do for d from now.
func (s *sim) after(d time.Duration, do func()) { s.queue.push(s.now+max(d, 0), do) }

// upTo draws a duration below d.
func (s *sim) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(s.rng.Int64N(int64(d)))
}

// between draws a duration from [a, b).
func (s *sim) between(a, b time.Duration) time.Duration { return a + s.upTo(b-a) }

func (s *sim) chance(p float64) bool { return s.rng.Float64() < p }
