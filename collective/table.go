package collective

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Table is a selection of algorithms: the first Rule that fits an operation decides. All ranks must use equal tables; where a
// difference makes them choose differently, they get an OutOfStepError.
// In JSON: {"rules":[{"op":"all-reduce","max_world":4,"max_bytes":65536,"algorithm":"direct"}, …]}.
type Table struct {
	Rules []Rule `json:"rules"`
}

// Rule says which algorithm operations of one kind use. A zero limit is none.
type Rule struct {
	Op       OpKind    `json:"op"`
	MinWorld int       `json:"min_world,omitempty"`
	MaxWorld int       `json:"max_world,omitempty"`
	Hosts    Hosts     `json:"hosts,omitempty"`
	MaxBytes int       `json:"max_bytes,omitempty"` // of the longer of the caller's buffers
	Choice   Algorithm `json:"algorithm"`           // by messages; Auto is none
}

// Hosts says which groups a Rule is for.
type Hosts uint8

// The kinds of groups. A group is on several hosts when its Transport is a Topology that says so and one host at least
// has two ranks or more: then inside and across differ.
const (
	AnyHosts Hosts = iota
	OneHost
	SeveralHosts
)

var hostsNames = [...]string{"any", "one", "several"}

// MarshalText implements encoding.TextMarshaler.
func (h Hosts) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

func (h Hosts) String() string {
	if int(h) < len(hostsNames) {
		return hostsNames[h]
	}
	return fmt.Sprintf("hosts %d", uint8(h))
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hosts) UnmarshalText(b []byte) error {
	i := slices.Index(hostsNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("collective: no hosts %q: choose one of %s", b, strings.Join(hostsNames[:], ", "))
	}
	*h = Hosts(i)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (k OpKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. An operation's name may be written with - or _.
func (k *OpKind) UnmarshalText(b []byte) error {
	plain := strings.NewReplacer("_", "", "-", "", " ", "")
	for i, name := range opNames {
		if plain.Replace(name) == plain.Replace(string(b)) {
			*k = OpKind(i)
			return nil
		}
	}
	return fmt.Errorf("collective: no operation %q: choose one of %s", b, strings.Join(opNames[1:], ", "))
}

// MarshalText implements encoding.TextMarshaler.
func (a Algorithm) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Algorithm) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAlgorithm(string(b))
	return err
}

// ParseTable reads a table's JSON and checks it.
func ParseTable(b []byte) (*Table, error) {
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	t := &Table{}
	if err := d.Decode(t); err != nil {
		return nil, fmt.Errorf("collective: selection table: %w", err)
	}
	if d.More() {
		return nil, fmt.Errorf("collective: selection table: something follows the table")
	}
	if err := t.Check(); err != nil {
		return nil, err
	}
	return t, nil
}

// Check says whether the rules can be followed.
func (t *Table) Check() error {
	for i, r := range t.Rules {
		switch {
		case r.Op == OpSendRecv || r.Op >= opKinds:
			return fmt.Errorf("collective: selection table: rule %d is for %v, which has no choice", i, r.Op)
		case !r.Op.has(r.Choice):
			return fmt.Errorf("collective: selection table: rule %d: %v cannot be done by %v; choose one of %s", i, r.Op, r.Choice, joinAlgorithms(messageAlgorithms[r.Op]))
		case r.MinWorld < 0 || r.MaxWorld < 0 || r.MaxBytes < 0 || r.MaxWorld > 0 && r.MaxWorld < r.MinWorld:
			return fmt.Errorf("collective: selection table: rule %d: its limits fit nothing", i)
		case int(r.Hosts) >= len(hostsNames):
			return fmt.Errorf("collective: selection table: rule %d: %v", i, r.Hosts)
		}
	}
	return nil
}

// Choose is the table's algorithm for an operation on bytes in a group of world ranks; Auto when no rule fits.
func (t *Table) Choose(k OpKind, bytes, world int, hosts Hosts) Algorithm {
	for _, r := range t.Rules {
		if r.Op == k && r.fits(world, hosts) && (r.MaxBytes == 0 || bytes <= r.MaxBytes) {
			return r.Choice
		}
	}
	return Auto
}

func (r *Rule) fits(world int, hosts Hosts) bool {
	return world >= r.MinWorld && (r.MaxWorld == 0 || world <= r.MaxWorld) && (r.Hosts == AnyHosts || r.Hosts == hosts)
}

// The built-in selection, measured over loopback TCP (docs/algorithms.md): one round while a message costs more than its
// bytes do; then the fewest rounds; then the ring, or what is like it.
const (
	defaultOneRound = 16 << 10
	defaultHalving  = 2 << 20
)

// DefaultTable is the built-in selection. The table is the caller's.
func DefaultTable() *Table {
	return &Table{Rules: []Rule{
		{Op: OpAllReduce, Hosts: SeveralHosts, Choice: Hierarchical},
		{Op: OpAllReduce, MaxBytes: defaultOneRound, Choice: Direct},
		{Op: OpAllReduce, MaxBytes: defaultHalving, Choice: HalvingDoubling},
		{Op: OpAllReduce, Choice: Ring},
		{Op: OpReduceScatter, Choice: Direct},
		{Op: OpAllGather, MaxBytes: 4 * defaultOneRound, Choice: Direct},
		{Op: OpAllGather, Choice: Ring},
		{Op: OpBroadcast, MaxBytes: defaultHalving, Choice: BinaryTree},
		{Op: OpBroadcast, Choice: Ring},
		{Op: OpReduce, MaxBytes: defaultHalving, Choice: BinaryTree},
		{Op: OpReduce, Choice: Ring},
		{Op: OpReduceTree, Hosts: SeveralHosts, Choice: Hierarchical},
		{Op: OpReduceTree, MaxBytes: defaultOneRound, Choice: Direct},
		{Op: OpReduceTree, Choice: HalvingDoubling}, // Direct where ranges are not equal nodes
	}}
}
