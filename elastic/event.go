package elastic

import "time"

// Event is something that happened to a job. The coordinator feeds events to State.Step one at a time.
type Event interface{ event() }

// Joined says that a worker attached: a new one, one that was evicted and came back, or, after a coordinator
// restart, a survivor.
//
// What was sent over a broken stream may be lost, so a worker that attaches again repeats, after its Hello, what still
// holds in its current generation: that its group is broken, that it formed, that it finished.
type Joined struct {
	Member Member
	Fence  Fence
	Shards int // S as the program says; all members must agree
}

// Detached says that a member's control stream broke: the one that it last attached with. It may attach again until its
// lease ends.
type Detached struct{ ID MemberID }

// Lost says that a member is certainly gone: its process ended, or an operator removed it.
type Lost struct {
	ID     MemberID
	Reason string
}

// Heard is a heartbeat; it carries progress. The time of Step's call renews the lease.
type Heard struct {
	ID         MemberID
	Generation Generation
	Applied    Step
	Moved      int64 // bytes of its sync plan that have moved so far; keeps the progress watchdog quiet; zero when unknown
}

// Suspected is a member's report that its group is broken. It names the peer that it blames.
type Suspected struct {
	By         MemberID
	Peer       MemberID // empty when unknown
	Generation Generation
	Reason     string
}

// Fenced is the answer to Prepare.
type Fenced struct {
	ID         MemberID
	Generation Generation // of the Prepare that it answers
	Fence      Fence
}

// Formed says that a member's group of that generation stands and its sync plan is done.
type Formed struct {
	ID         MemberID
	Generation Generation
}

// Finished says that a member reached the program's last step.
type Finished struct {
	ID         MemberID
	Generation Generation
	Step       Step
}

// Departed says that a member wants to leave in good order (a host that drains). It goes on as before until it is evicted, which
// waits until somebody else holds the newest state.
type Departed struct {
	ID     MemberID
	Reason string
}

// Tick lets time pass: feed one at least every Limits.Heartbeat. Leases, answers and settling are judged here; a tick that
// comes late widens every running limit by its lateness: a process whose own timer slept accuses nobody.
type Tick struct{}

// Stop ends the job from outside.
type Stop struct{ Reason string }

func (Joined) event()    {}
func (Detached) event()  {}
func (Lost) event()      {}
func (Heard) event()     {}
func (Suspected) event() {}
func (Fenced) event()    {}
func (Formed) event()    {}
func (Finished) event()  {}
func (Departed) event()  {}
func (Tick) event()      {}
func (Stop) event()      {}

// Action is what the driver must do, in the order given.
type Action interface{ action() }

// Persist asks for Record to be durable before any later action of the same slice is carried out.
type Persist struct{ Record Record }

// Prepare asks a member to cancel the operations in flight, fence every lower generation, and answer Fenced.
type Prepare struct {
	To         MemberID
	Generation Generation
	Reason     string
}

// Announce sends a member the new view.
type Announce struct {
	To   MemberID
	View *View
}

// Evict cuts a member off: its stream is closed; it may attach again as a joiner.
// Final means that it must not come back (another numerics class, another shard count).
type Evict struct {
	ID     MemberID
	Reason string
	Final  bool
}

// Note is a change of state worth a line to a person: kinds are "join", "loss", "view", "wait", "resume",
// "suspect", "done".
type Note struct {
	Kind       string
	ID         MemberID
	Rank       int // in the view that it left or entered; -1 when none
	Generation Generation
	Step       Step
	World      int
	Reason     string
}

// Ended says that the job is over. Code is the process exit code of DESIGN: 0 done, 1 failed, 2 usage,
// 3 fewer than Min workers.
type Ended struct {
	Code   int
	Reason string
}

func (Persist) action()  {}
func (Prepare) action()  {}
func (Announce) action() {}
func (Evict) action()    {}
func (Note) action()     {}
func (Ended) action()    {}

// Record is the durable part of a State: what a restarted coordinator needs to go on.
type Record struct {
	Job        string
	Generation Generation // highest ever announced, in a Prepare or a View; never goes back
	View       *View      // the last committed view; nil before the first
	Ledger     []Term
	Shards     int
	Ended      *Ended
}

// Policy is what the user asked of the job's membership.
type Policy struct {
	Job string

	// Min is the smallest world size that trains. Below it the job waits, holding its state, then ends with
	// code 3. Zero means 1.
	Min int

	// Max is the largest world size; more joiners stay outside as spares. Zero means the shard count.
	Max int

	// Start is how many members the first view waits for (until Settle has passed with at least Min present
	// and nobody new). Zero means Min.
	Start int

	// Settle is how long joins are gathered before a new generation starts.
	// Longer means fewer pauses; shorter means faster growth. Zero means 1 s.
	Settle time.Duration

	// Liveness is the one failure-detection knob; see Limits. Zero means 1 s.
	Liveness time.Duration
}
