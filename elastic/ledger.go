package elastic

import (
	"fmt"
	"slices"
)

// VerifyLedger proves that terms account for every step from 1 to upTo exactly once, in rising generations.
// Terms without steps are allowed. Generation 0 stands for steps from before the ledger: a checkpoint of an
// earlier run.
func VerifyLedger(terms []Term, upTo Step) error {
	next := Step(1)
	for i, t := range terms {
		switch {
		case t.First != next:
			return fmt.Errorf("elastic: ledger: generation %d starts at step %d, not at %d", t.Generation, t.First, next)
		case t.Last < t.First-1:
			return fmt.Errorf("elastic: ledger: generation %d ends at step %d, before it starts at %d", t.Generation, t.Last, t.First)
		case i > 0 && t.Generation <= terms[i-1].Generation:
			return fmt.Errorf("elastic: ledger: generation %d comes after generation %d", t.Generation, terms[i-1].Generation)
		}
		next = t.Last + 1
	}
	if next-1 != upTo {
		return fmt.Errorf("elastic: ledger: it ends at step %d, not at %d", next-1, upTo)
	}
	return nil
}

// Ledger lists the generations that committed steps, in order, with the open one's steps as far as heartbeats told.
// Steps that were lost with all their holders are not in it: it is always the lineage of the current state.
func (s *State) Ledger() []Term {
	out := slices.Clone(s.ledger)
	if n := len(out); n > 0 && s.ended == nil {
		out[n-1].Last = max(out[n-1].Last, s.group.best)
	}
	return out
}

// closeTerm ends the open term at the last step that is known of it.
func (s *State) closeTerm() {
	if n := len(s.ledger); n > 0 {
		s.ledger[n-1].Last = max(s.ledger[n-1].Last, s.group.best)
	}
}

// resumeLedger cuts or extends the lineage to end at r, and opens generation g's term behind it.
func (s *State) resumeLedger(r Step, g Generation, world int) {
	kept := make([]Term, 0, len(s.ledger)+1)
	for i, t := range s.ledger {
		t.Last = min(t.Last, r)
		if i == len(s.ledger)-1 {
			t.Last = r
		}
		if t.Last >= t.First {
			kept = append(kept, t)
		}
	}
	if len(kept) == 0 && r > 0 {
		kept = append(kept, Term{First: 1, Last: r})
	}
	s.ledger = append(kept, Term{Generation: g, First: r + 1, Last: r, World: world})
}

// adopt makes a state that generation g committed as step r the end of the lineage. What came before it is told as
// far as it is known.
func (s *State) adopt(g Generation, r Step) {
	kept := slices.DeleteFunc(slices.Clone(s.ledger), func(t Term) bool { return t.Generation >= g || t.First > r })
	first := Step(1)
	if n := len(kept); n > 0 {
		kept[n-1].Last = min(kept[n-1].Last, r-1)
		first = kept[n-1].Last + 1
	}
	s.ledger = append(kept, Term{Generation: g, First: first, Last: r})
}

// committedBy is the generation that committed step, 0 when it is not in the ledger.
func committedBy(ledger []Term, step Step) Generation {
	for _, t := range ledger {
		if t.First <= step && step <= t.Last {
			return t.Generation
		}
	}
	return 0
}

// onLineage says whether the state that f describes is one that the current lineage went through. It matters
// where a step redone by another generation has other bits (reduction around the ring); with the exact
// reduction every state of a step is the same.
func (s *State) onLineage(f Fence) bool {
	n := len(s.ledger)
	if f.Term == 0 || f.Applied == 0 || n == 0 {
		return true
	}
	switch open := s.ledger[n-1]; {
	case f.Term > open.Generation:
		return true // our store was set back: the members know better
	case f.Term == open.Generation:
		return f.Applied >= open.First
	}
	return committedBy(s.ledger[:n-1], f.Applied) == f.Term
}
