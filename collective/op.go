package collective

import "fmt"

// OpKind names an operation.
type OpKind uint8

// The operations. The numbers are part of the wire protocol.
const (
	OpSendRecv OpKind = iota // point to point: not numbered, because only two ranks take part
	OpAllReduce
	OpReduceTree
	OpBroadcast
	OpBarrier
	OpAllGather
)

var opNames = [...]string{"send/recv", "all-reduce", "tree reduce", "broadcast", "barrier", "all-gather"}

func (k OpKind) String() string {
	if int(k) < len(opNames) {
		return opNames[k]
	}
	return fmt.Sprintf("operation kind %d", uint8(k))
}

// Op identifies one operation of a group: equal on all ranks, if they are in step.
type Op struct {
	Kind  OpKind
	Seq   uint32 // counts the group's collective operations, from 1; zero for OpSendRecv
	Bytes uint64 // length of the caller's buffer; zero for OpSendRecv
	Shape uint32 // the root, or a digest of the shard ranges
}

func (o Op) String() string {
	if o.Kind == OpSendRecv {
		return o.Kind.String()
	}
	s := fmt.Sprintf("operation %d, %s of %d bytes", o.Seq, o.Kind, o.Bytes)
	if o.Shape != 0 {
		s += fmt.Sprintf(" (shape %08x)", o.Shape)
	}
	return s
}

// Marker is implemented by a Transport whose messages carry the operation that they belong to, so that ranks that
// are out of step get an error that says so. Mark is called while no Send and no Recv is in flight.
type Marker interface {
	Mark(op Op)
}

// OutOfStepError is the error of a rank that got a message of another operation, or of another length, than it
// is waiting for: the ranks have not called the same operations with the same lengths.
type OutOfStepError struct {
	Got, Want           Op
	GotBytes, WantBytes uint64 // the message's length
}

func (e *OutOfStepError) Error() string {
	if e.Got != e.Want {
		return fmt.Sprintf("out of step: it is at %v, this rank at %v", e.Got, e.Want)
	}
	return fmt.Sprintf("out of step: it sent a message of %d bytes, this rank expects %d", e.GotBytes, e.WantBytes)
}
