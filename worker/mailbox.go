package worker

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// maxSaved is how many reports of checkpoints wait for the coordinator; the oldest is dropped.
const maxSaved = 16

// mailbox is what the coordinator shall know: of each kind the latest, so its size is bounded and nobody waits to
// put something in. After a reconnect all that still holds is said again; the generation in each message makes that harmless.
type mailbox struct {
	mu      sync.Mutex
	letters [letterKinds]letter // guarded by mu, as all that follows
	reports []*pb.Saved
	beat    pb.Heartbeat
	device  *pb.DeviceReading // the newest; not changed once it is here
	readAt  time.Time
	kick    chan struct{} // a letter waits
	step    chan struct{} // the beat has news
	moved   atomic.Int64  // bytes of the sync plan
}

type letter struct {
	msg  *pb.WorkerMessage
	sent bool
}

// Letters are sent in this order.
const (
	letterFenced = iota
	letterFormed
	letterSuspect
	letterFinished
	letterFailed
	letterKinds
)

func newMailbox() *mailbox {
	return &mailbox{kick: make(chan struct{}, 1), step: make(chan struct{}, 1)}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put makes msg the latest of its kind and drops the kinds that it makes void.
func (m *mailbox) put(kind int, msg *pb.WorkerMessage, void ...int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.place(kind, msg, void...)
}

// place is put. mu is held.
func (m *mailbox) place(kind int, msg *pb.WorkerMessage, void ...int) {
	for _, k := range void {
		m.letters[k] = letter{}
	}
	m.letters[kind] = letter{msg: msg}
	poke(m.kick)
}

func (m *mailbox) fenced(g elastic.Generation, f elastic.Fence) {
	m.put(letterFenced, &pb.WorkerMessage{Of: &pb.WorkerMessage_Fenced{Fenced: &pb.Fenced{
		Generation: uint64(g), Fence: fenceToPB(f),
	}}}, letterFormed, letterSuspect, letterFinished)
}

// formed says nothing where a Prepare was answered that came after g: the group is over, and the coordinator waits for that answer.
func (m *mailbox) formed(g elastic.Generation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.letters[letterFenced].msg.GetFenced().GetGeneration() > uint64(g) {
		return
	}
	m.place(letterFormed, &pb.WorkerMessage{Of: &pb.WorkerMessage_Formed{Formed: &pb.Formed{Generation: uint64(g)}}},
		letterFenced, letterSuspect, letterFinished)
}

func (m *mailbox) suspect(g elastic.Generation, peer elastic.MemberID, reason string) {
	m.put(letterSuspect, &pb.WorkerMessage{Of: &pb.WorkerMessage_Suspect{Suspect: &pb.Suspect{
		Generation: uint64(g), Peer: string(peer), Reason: reason,
	}}})
}

func (m *mailbox) finished(f *pb.Finished) {
	m.put(letterFinished, &pb.WorkerMessage{Of: &pb.WorkerMessage_Finished{Finished: f}})
}

func (m *mailbox) failed(err error) {
	var usage *UsageError
	f := &pb.Failed{Reason: err.Error(), Usage: errors.As(err, &usage)}
	m.put(letterFailed, &pb.WorkerMessage{Of: &pb.WorkerMessage_Failed{Failed: f}})
}

func (m *mailbox) saved(r *pb.Saved) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reports) == maxSaved {
		m.reports = m.reports[1:]
	}
	m.reports = append(m.reports, r)
	poke(m.kick)
}

// committed is progress: the next heartbeat tells it.
func (m *mailbox) committed(g elastic.Generation, step elastic.Step, loss float64, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &m.beat
	if b.Generation != uint64(g) || b.FirstUnixNanos == 0 {
		b.Generation, b.FirstUnixNanos = uint64(g), now.UnixNano()
	}
	b.Applied, b.Loss, b.AppliedUnixNanos = int64(step), loss, now.UnixNano()
	poke(m.step)
}

// position tells heartbeats of a generation in which nothing is committed yet.
func (m *mailbox) position(g elastic.Generation, applied elastic.Step) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.beat.Generation, m.beat.Applied, m.beat.FirstUnixNanos = uint64(g), int64(applied), 0
}

// reading is the device's newest state, or nil when there is none.
func (m *mailbox) reading(r *pb.DeviceReading, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.device, m.readAt = r, at
}

// heartbeat is the latest progress, and how the device is.
func (m *mailbox) heartbeat() *pb.WorkerMessage {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, device := &m.beat, m.device
	if time.Since(m.readAt) >= readingLife {
		device = nil
	}
	return &pb.WorkerMessage{Of: &pb.WorkerMessage_Heartbeat{Heartbeat: &pb.Heartbeat{
		Generation: b.Generation, Applied: b.Applied, Loss: b.Loss,
		AppliedUnixNanos: b.AppliedUnixNanos, FirstUnixNanos: b.FirstUnixNanos, Moved: m.moved.Load(), Device: device,
	}}}
}

// collect takes what is to be sent. A stream that breaks before it was sent is followed by reopen.
func (m *mailbox) collect() []*pb.WorkerMessage {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*pb.WorkerMessage
	// The last Finished ends the job: what was saved before it is told before it, or nobody would hear it.
	for _, r := range m.reports {
		out = append(out, &pb.WorkerMessage{Of: &pb.WorkerMessage_Saved{Saved: r}})
	}
	m.reports = nil
	for k := range m.letters {
		if l := &m.letters[k]; l.msg != nil && !l.sent {
			l.sent = true
			out = append(out, l.msg)
		}
	}
	return out
}

// reopen is a new stream's begin: letters that still hold are to be sent again.
func (m *mailbox) reopen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.letters {
		m.letters[k].sent = false
	}
	poke(m.kick)
}

// forget drops all that was about a group.
func (m *mailbox) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range []int{letterFenced, letterFormed, letterSuspect, letterFinished} {
		m.letters[k] = letter{}
	}
}

func fenceToPB(f elastic.Fence) *pb.Fence {
	return &pb.Fence{
		Generation: uint64(f.Generation), Applied: int64(f.Applied), HoldsReduced: f.HoldsReduced,
		HoldsState: f.HoldsState, Checkpoint: int64(f.Checkpoint), View: uint64(f.View), Term: uint64(f.Term),
	}
}
