// Package elastic is the pure protocol of Farandole: the vocabulary that every other package speaks, the
// reduction tree, shard assignment, and the state machine that decides views.
//
// Nothing here does I/O, reads a clock or starts a goroutine. Time is an argument, randomness is a seed, and
// the same inputs give the same outputs on every machine. That is what lets the simulator in elastictest run
// thousands of jobs a second on the very code that the coordinator runs.
package elastic

import (
	"fmt"
	"time"
)

// MemberID names one worker process for its whole life; a restarted process is another member.
type MemberID string

// Generation numbers a membership. Only the coordinator raises it, and it persists it before announcing it.
// Zero is "no membership yet".
type Generation uint64

// Step numbers committed optimizer updates: a worker at step n has applied n updates. Zero is the initial state.
type Step int64

// Shard is one logical shard of one step's global batch. Its content depends on nothing but these three
// numbers and the job's seed; the world size never changes what a shard is.
type Shard struct {
	Step  Step // the update that the shard contributes to: 1 for the first
	Index int  // 0 ≤ Index < Count
	Count int  // S, fixed for the job's life
}

func (s Shard) String() string { return fmt.Sprintf("step %d shard %d/%d", s.Step, s.Index, s.Count) }

// Range is the half-open interval [First, End) of shard indices. A node of the reduction tree is a Range too.
type Range struct{ First, End int }

// Len is the number of shards in r.
func (r Range) Len() int { return r.End - r.First }

func (r Range) String() string { return fmt.Sprintf("[%d,%d)", r.First, r.End) }

// Member is what the others need to know of a worker.
type Member struct {
	ID    MemberID
	Addr  string // data-plane address, host:port
	Host  string // workers with equal Host share memory
	Class string // numerics class: members of one view have equal classes
	Rank  int    // local rank on its host; used to keep neighbours together
}

// Fence is a worker's position, as it reports it when it attaches and when it answers a Prepare.
type Fence struct {
	Generation   Generation // highest generation that it was ever fenced or formed at
	Applied      Step       // last applied step
	HoldsReduced bool       // still holds the reduced gradient of Applied
	HoldsState   bool       // its parameters and optimizer state are those of Applied (true at step 0 after Setup)
	Checkpoint   Step       // newest complete checkpoint that it can read; 0 for none

	// View is the generation of the last view that it received. A member that attaches again with less than the current
	// view's generation is told that view again; zero is safe. A worker ignores a view that it has already.
	View Generation

	// Term is the generation that committed Applied: its view's, once it applied a step in it, else that
	// view's ResumeTerm. Zero means unknown: its state is taken as valid, as it is when reduction is exact.
	Term Generation
}

// SyncKind says how a member of a view reaches the view's resume step.
type SyncKind int

// The kinds of SyncPlan, cheapest first.
const (
	SyncNone       SyncKind = iota // it is there already
	SyncReduced                    // it is one step behind: it gets that step's reduced gradient and applies it
	SyncState                      // it gets parameters and optimizer state
	SyncCheckpoint                 // it loads the checkpoint of the resume step
)

func (k SyncKind) String() string {
	switch k {
	case SyncNone:
		return "none"
	case SyncReduced:
		return "reduced"
	case SyncState:
		return "state"
	case SyncCheckpoint:
		return "checkpoint"
	}
	return fmt.Sprintf("SyncKind(%d)", int(k))
}

// SyncPlan is one member's way to the resume step.
// From lists the ranks that send: one for SyncReduced; for SyncState up to MaxSources ranks that hold the state (or will,
// after their SyncCheckpoint), each sending an equal stripe in that order; none otherwise.
// A member in From keeps what it is to send until it sent it: it may compute the next gradient, but elsewhere.
type SyncPlan struct {
	Kind SyncKind
	From []int
}

// MaxSources is how many members send the state to one that needs it: enough to fill its link, few enough to leave the
// others alone.
const MaxSources = 4

// View is one generation's membership, as the coordinator announces it. Slices are indexed by rank and have
// equal lengths.
type View struct {
	Job        string
	Generation Generation
	Roster     []Member
	Ranges     []Range // shards of each rank: contiguous, in rank order, covering [0, Shards)
	Shards     int
	Resume     Step       // the step every member is at once the sync plan is done; training goes on at Resume+1
	ResumeTerm Generation // the generation that committed Resume; see Fence.Term
	Sync       []SyncPlan
}

// World is the view's world size.
func (v *View) World() int { return len(v.Roster) }

// RankOf is id's rank, or -1.
func (v *View) RankOf(id MemberID) int {
	for r := range v.Roster {
		if v.Roster[r].ID == id {
			return r
		}
	}
	return -1
}

// Term is one line of the ledger: the generation that committed steps First..Last (none when Last < First).
type Term struct {
	Generation  Generation
	First, Last Step
	World       int
}

// Limits derives every protocol timeout from the one knob, Liveness.
type Limits struct {
	Heartbeat time.Duration // between a worker's heartbeats: Liveness/10
	Lease     time.Duration // silence after which a member is lost: Liveness
	Answer    time.Duration // a member's time to answer Prepare: Liveness
	Stall     time.Duration // without any progress of a live group for this long a new view is tried: 30×Liveness
	Regroup   time.Duration // after a coordinator restart, how long known members may take to attach again: 3×Liveness
	Starve    time.Duration // without Min members for this long the job ends: 30×Liveness
}

// DefaultLiveness is the failure-detection knob's default.
const DefaultLiveness = time.Second

// LimitsOf gives the timeouts of a liveness; zero means the default of 1 s.
func LimitsOf(liveness time.Duration) Limits {
	if liveness <= 0 {
		liveness = DefaultLiveness
	}
	return Limits{
		Heartbeat: liveness / 10,
		Lease:     liveness,
		Answer:    liveness,
		Stall:     30 * liveness,
		Regroup:   3 * liveness,
		Starve:    30 * liveness,
	}
}
