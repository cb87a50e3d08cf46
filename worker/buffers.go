package worker

import (
	"unsafe"

	"github.com/farandole-ml/farandole/collective"
)

// buffers gives the memory that is reduced, in pieces of one length, and takes it back to give it again. In a group whose ranks
// share memory it is the group's: what such a rank's peers can read where it is need not be copied for them.
type buffers struct {
	group  *collective.Group // of the current generation; nil alone
	free   [][]float32
	shared map[*float32]sharing // those in use too
	full   bool                 // there was no more shared memory
}

// sharing is whose memory a buffer is. The memory outlives the group: it is shared in the process's later ones too.
type sharing struct {
	group *collective.Group
	mem   []byte
}

// shareLen is the elements from which on memory is shared: smaller vectors go through the group's own memory fast enough.
const shareLen = 16 << 10

// take gives n elements of anything. Memory that is not shared goes as soon as there is some to share in its place.
func (m *buffers) take(n int) []float32 {
	var b []float32
	if last := len(m.free) - 1; last >= 0 {
		b, m.free = m.free[last], m.free[:last]
	}
	if b == nil || m.shared[unsafe.SliceData(b)].group == nil {
		if better := m.share(n); better != nil {
			return better
		}
	}
	if b == nil {
		b = make([]float32, n)
	}
	return b
}

func (m *buffers) give(b []float32) {
	if b != nil {
		m.free = append(m.free, b)
	}
}

// share gives n elements of the group's memory, or nil where it has none.
func (m *buffers) share(n int) []float32 {
	if m.group == nil || m.full || n < shareLen || !m.group.Registers() {
		return nil
	}
	mem, err := m.group.Alloc(4 * n)
	if err != nil {
		return nil // the group has ended, which its next operation says
	}
	if m.full = !m.group.Registers(); m.full {
		return nil
	}
	b := unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(mem))), n)
	if m.shared == nil {
		m.shared = make(map[*float32]sharing)
	}
	m.shared[unsafe.SliceData(b)] = sharing{m.group, mem}
	return b
}

// release gives shared memory back to the system. Nothing may use any buffer afterwards.
func (m *buffers) release() {
	for _, s := range m.shared {
		_ = s.group.Free(s.mem) // it was there to the end: nothing depends on its going
	}
	*m = buffers{}
}
