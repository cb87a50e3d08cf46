package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"
)

// A node's metadata: version, start time in ns (8 bytes, big-endian), then name, role, addr and host, each after one byte of
// length. It must fit memberlist's limit; a version that is not known is ignored, so a later one may add what it likes.
const metaVersion = 1

func (p Peer) validate() error {
	fields := []struct{ what, value string }{{"name", p.Name}, {"role", p.Role}, {"address", p.Addr}, {"host", p.Host}}
	for _, f := range fields {
		if len(f.value) > 255 {
			return fmt.Errorf("the node's %s has %d bytes, and the limit is 255", f.what, len(f.value))
		}
		if !utf8.ValidString(f.value) || strings.ContainsFunc(f.value, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Errorf("the node's %s %q has unprintable characters", f.what, f.value)
		}
	}
	if p.Name == "" {
		return errors.New("the node has no name")
	}
	if p.Role != Coordinator && p.Role != Agent {
		return fmt.Errorf("the role of node %q is %q, neither %q nor %q", p.Name, p.Role, Coordinator, Agent)
	}
	if _, _, err := net.SplitHostPort(p.Addr); err != nil {
		return fmt.Errorf("the gRPC address of node %q: %w", p.Name, err)
	}
	if n := len(encodeMeta(p, 0)); n > memberlist.MetaMaxSize {
		return fmt.Errorf("name, role, address and host of node %q take %d bytes, and the limit is %d", p.Name, n, memberlist.MetaMaxSize)
	}
	return nil
}

func encodeMeta(p Peer, start uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{metaVersion}, start)
	for _, s := range []string{p.Name, p.Role, p.Addr, p.Host} {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	return b
}

var errMeta = errors.New("not a node of ours")

func decodeMeta(b []byte) (p Peer, start uint64, err error) {
	if len(b) < 9 || len(b) > memberlist.MetaMaxSize || b[0] != metaVersion {
		return Peer{}, 0, errMeta
	}
	start = binary.BigEndian.Uint64(b[1:])
	b = b[9:]
	for _, to := range []*string{&p.Name, &p.Role, &p.Addr, &p.Host} {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return Peer{}, 0, errMeta
		}
		*to, b = string(b[1:1+int(b[0])]), b[1+int(b[0]):]
	}
	if len(b) != 0 {
		return Peer{}, 0, errMeta
	}
	if err := p.validate(); err != nil {
		return Peer{}, 0, err
	}
	return p, start, nil
}

// selfMeta is memberlist's Delegate: it gives out this node's metadata and takes no other message.
type selfMeta struct {
	start uint64
	mu    sync.Mutex
	peer  Peer // guarded by mu
}

// instance names this start of the node for memberlist.
func (s *selfMeta) instance() string {
	return fmt.Sprintf("%s@%x", s.get().Name, s.start)
}

func (s *selfMeta) get() Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peer
}

func (s *selfMeta) set(p Peer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Name != s.peer.Name {
		return fmt.Errorf("the name of node %q cannot become %q", s.peer.Name, p.Name)
	}
	s.peer = p
	return nil
}

func (s *selfMeta) NodeMeta(int) []byte             { return encodeMeta(s.get(), s.start) }
func (s *selfMeta) NotifyMsg([]byte)                {}
func (s *selfMeta) GetBroadcasts(int, int) [][]byte { return nil }
func (s *selfMeta) LocalState(bool) []byte          { return nil }
func (s *selfMeta) MergeRemoteState([]byte, bool)   {}
