//go:build linux

package shm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farandole-ml/farandole/collective"
)

// Ranks tell one another by notes over their socket what memory they have and that they leave. A note may pass a
// descriptor. Integers are in the host's byte order: both sides are on one host.
const (
	noteMagic = 0x4d485346
	noteBytes = 32
	maxText   = collective.MaxFarewell

	// noteLimit is how long a note may wait for room in the socket. A peer reads its notes whatever else it does, so
	// only a frozen one lets the room run out.
	noteLimit = time.Second
)

type noteKind uint32

// The kinds of notes. Only the fields named are set.
const (
	noteSegment noteKind = iota + 1 // passes the sender's segment of size bytes
	noteReady                       // the sender has mapped all segments
	noteBuffer                      // passes registered memory: buffer, size
	noteMapped                      // the sender has mapped the receiver's buffer, if flagDone
	noteFreed                       // buffer is no more
	noteGoodbye                     // why the sender leaves: text is a collective.Farewell. The last note.
)

// flags of a note.
const (
	flagDone      = 1 << iota
	flagClosed    // the sender was done: nothing is wrong
	flagExhausted // the sender has not enough shared memory
)

// note is one message.
type note struct {
	kind   noteKind
	flags  uint32
	buffer uint32
	size   uint64
	text   string

	file *os.File // a passed descriptor; the receiver owns it
}

var errNote = errors.New("not what a rank sends")

func (n *note) encode() []byte {
	o := binary.NativeEndian
	b := make([]byte, noteBytes, noteBytes+maxText)
	o.PutUint32(b[0:], noteMagic)
	o.PutUint32(b[4:], uint32(n.kind))
	o.PutUint32(b[8:], n.flags)
	o.PutUint32(b[12:], n.buffer)
	o.PutUint64(b[16:], n.size)
	text := n.text[:min(len(n.text), maxText)]
	o.PutUint32(b[24:], uint32(len(text)))
	return append(b, text...)
}

// decodeNote gives the note in b and the length of the text that follows it.
func decodeNote(b *[noteBytes]byte) (note, int, error) {
	o := binary.NativeEndian
	n := note{
		kind:   noteKind(o.Uint32(b[4:])),
		flags:  o.Uint32(b[8:]),
		buffer: o.Uint32(b[12:]),
		size:   o.Uint64(b[16:]),
	}
	text := o.Uint32(b[24:])
	if o.Uint32(b[0:]) != noteMagic || n.kind < noteSegment || n.kind > noteGoodbye || text > maxText || n.size > maxBufferBytes {
		return note{}, 0, errNote
	}
	return n, int(text), nil
}

// link is the socket to a peer.
type link struct {
	conn  *net.UnixConn
	ended atomic.Bool // no note but the goodbye is sent from now on

	sending sync.Mutex
	cut     bool // a note was sent in part: none can follow. Guarded by sending.
}

// process is the number of the peer's process.
func (l *link) process() (int, error) {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil || err != nil {
		return 0, errors.Join(cerr, err)
	}
	return int(cred.Pid), nil
}

// send writes n, and passes file when it is not nil.
func (l *link) send(n note, file *os.File) error {
	var rights []byte
	if file != nil {
		rights = syscall.UnixRights(int(file.Fd()))
	}
	b := n.encode()
	l.sending.Lock()
	defer l.sending.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(noteLimit)); err != nil {
		return err
	}
	if l.ended.Load() { // if not, then end moves the deadline after this
		return net.ErrClosed
	}
	written, _, err := l.conn.WriteMsgUnix(b, rights, nil)
	if err == nil && written < len(b) {
		var more int
		more, err = l.conn.Write(b[written:])
		written += more
	}
	l.cut = written > 0 && written < len(b)
	return err
}

// receive reads the next note. The caller owns its file. It reads no more than a note has, whatever is claimed.
func (l *link) receive() (note, error) {
	var b [noteBytes]byte
	var file *os.File
	drop := func(err error) (note, error) {
		if file != nil {
			file.Close()
		}
		return note{}, err
	}
	rights := make([]byte, syscall.CmsgSpace(4)) // room for one descriptor: the kernel closes more
	for got := 0; got < len(b); {
		n, control, _, _, err := l.conn.ReadMsgUnix(b[got:], rights)
		if f := passed(rights[:control]); f != nil {
			if file != nil {
				f.Close()
			} else {
				file = f
			}
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return drop(err)
		}
		got += n
	}
	n, length, err := decodeNote(&b)
	if err != nil {
		return drop(err)
	}
	if length > 0 {
		text := make([]byte, length)
		if _, err := io.ReadFull(l.conn, text); err != nil {
			return drop(fmt.Errorf("note cut short: %w", err))
		}
		n.text = string(text)
	}
	n.file = file
	return n, nil
}

// passed is the descriptor in a control message, nil for none.
func passed(control []byte) *os.File {
	if len(control) == 0 {
		return nil
	}
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	var file *os.File
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if file != nil {
				_ = syscall.Close(fd)
				continue
			}
			file = os.NewFile(uintptr(fd), "shared memory of a peer")
		}
	}
	return file
}

// end sends bye if there is room for it at once, and closes the socket. A note that is being sent comes first; one that waits for
// room is given up. No clock has a say in whether bye is sent: on a busy machine a deadline passes before the write is tried. The
// absence of a goodbye means nothing.
func (l *link) end(bye note) {
	l.ended.Store(true)
	_ = l.conn.SetWriteDeadline(time.Unix(0, 0)) // ends the wait of a send that has seen no end
	l.sending.Lock()
	if !l.cut {
		if raw, err := l.conn.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_, _ = unix.SendmsgN(int(fd), bye.encode(), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			})
		}
	}
	l.sending.Unlock()
	l.conn.Close()
}
