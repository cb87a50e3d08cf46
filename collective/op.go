package collective

import (
	"fmt"
)

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
	OpReduceScatter
	OpReduce
	OpAllToAll
	opKinds
)

var opNames = [opKinds]string{
	"send/recv", "all-reduce", "tree reduce", "broadcast", "barrier", "all-gather", "reduce-scatter", "reduce", "all-to-all",
}

func (k OpKind) String() string {
	if k < opKinds {
		return opNames[k]
	}
	return fmt.Sprintf("operation kind %d", uint8(k))
}

// reduces says whether k combines values, so that its type and reduction matter.
func (k OpKind) reduces() bool {
	return k == OpAllReduce || k == OpReduceScatter || k == OpReduce || k == OpReduceTree
}

// rooted says whether one rank has another part in k than the rest.
func (k OpKind) rooted() bool { return k == OpBroadcast || k == OpReduce }

// Op identifies one operation of a group: equal on all ranks, if they are in step.
type Op struct {
	Kind  OpKind
	Seq   uint32 // counts the group's collective operations, from 1; zero for OpSendRecv
	Bytes uint64 // the caller's buffer, or one rank's part of it; zero for OpSendRecv and barriers
	Shape uint32 // type, reduction, algorithm, and root or ranges: see shape
}

// A Shape has, from the lowest bit:
//
//	3 bits  type
//	3 bits  reduction
//	4 bits  algorithm
//	22 bits the root, or a digest of the shard ranges and the wire; in a sub-group the highest bit is set, and the
//	        other 21 digest the sub-group's ranks too
const (
	shapeOpShift   = 3
	shapeAlgShift  = 6
	shapeRestShift = 10
	shapeSub       = 1 << 31
	shapeRestMask  = 1<<21 - 1
)

func shape(t DType, op RedOp, a Algorithm, rest uint32) uint32 {
	return uint32(t)&7 | uint32(op)&7<<shapeOpShift | uint32(a)&15<<shapeAlgShift | rest<<shapeRestShift
}

func (o Op) String() string {
	if o.Kind == OpSendRecv {
		return o.Kind.String()
	}
	s := fmt.Sprintf("operation %d, %v", o.Seq, o.Kind)
	if o.Kind != OpBarrier {
		s += fmt.Sprintf(" of %d bytes of %v", o.Bytes, DType(o.Shape&7))
	}
	if o.Kind.reduces() {
		s += fmt.Sprintf(", %v", RedOp(o.Shape>>shapeOpShift&7))
	}
	if a := Algorithm(o.Shape >> shapeAlgShift & 15); a != Auto {
		s += fmt.Sprintf(", %v", a)
	}
	rest := o.Shape >> shapeRestShift
	switch {
	case o.Shape&shapeSub != 0:
		s += fmt.Sprintf(", in sub-group %06x", rest&shapeRestMask)
	case o.Kind.rooted():
		s += fmt.Sprintf(", root %d", rest)
	case rest != 0:
		s += fmt.Sprintf(", ranges %06x", rest)
	}
	return s
}

// OutOfStepError is the error of ranks that called different operations, or the same with different lengths, types,
// reductions or roots. The PeerError around it names the rank that is at Got.
type OutOfStepError struct {
	Got, Want           Op
	GotBytes, WantBytes uint64 // the message's length

	// Witness is the rank that is at Want, plus one, when another rank than this one found out; else zero.
	Witness int
}

func (e *OutOfStepError) Error() string {
	other := "this rank"
	if e.Witness > 0 {
		other = fmt.Sprintf("rank %d", e.Witness-1)
	}
	if e.Got != e.Want {
		return fmt.Sprintf("out of step: it is at %v, %s at %v", e.Got, other, e.Want)
	}
	return fmt.Sprintf("out of step: it sent a message of %d bytes, %s expects %d", e.GotBytes, other, e.WantBytes)
}
