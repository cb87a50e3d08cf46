package collective

import (
	"fmt"
	"slices"
	"strings"
)

// Algorithm is a way to carry an operation out. docs/algorithms.md has steps and bytes of each.
type Algorithm uint8

// The algorithms. The numbers are part of the wire protocol.
const (
	// Auto is the choice of Tuning.Table, or of shared memory where the transport has it.
	Auto Algorithm = iota
	// Ring passes segments to the right neighbour: least bytes on every link. Broadcast and Reduce use a chain.
	Ring
	// HalvingDoubling exchanges halves, quarters, … with partners 1, 2, 4, … ranks away: least bytes in about 2·log2(world) rounds.
	HalvingDoubling
	// BinaryTree goes up a tree of ranks and down again, chunk by chunk.
	BinaryTree
	// Direct sends everything straight to who needs it: in one round when the buffers are small, else in two,
	// to the owner of each segment and back.
	Direct
	// Hierarchical reduces inside every host first, then across hosts, then hands the result out inside every host.
	Hierarchical
	// Shared is the transport's own way in memory that all ranks can touch.
	Shared
	algorithms
)

var algorithmNames = [algorithms]string{"auto", "ring", "halving-doubling", "binary-tree", "direct", "hierarchical", "shared"}

func (a Algorithm) String() string {
	if a < algorithms {
		return algorithmNames[a]
	}
	return fmt.Sprintf("algorithm %d", uint8(a))
}

// ParseAlgorithm is the inverse of String.
func ParseAlgorithm(s string) (Algorithm, error) {
	if i := slices.Index(algorithmNames[:], s); i >= 0 {
		return Algorithm(i), nil
	}
	return 0, fmt.Errorf("collective: no algorithm %q: choose one of %s", s, strings.Join(algorithmNames[:], ", "))
}

// messageAlgorithms are those of each operation over messages, the most general one first.
var messageAlgorithms = [opKinds][]Algorithm{
	OpAllReduce:     {Ring, Direct, HalvingDoubling, BinaryTree, Hierarchical},
	OpReduceScatter: {Direct, Ring},
	OpAllGather:     {Ring, Direct},
	OpBroadcast:     {BinaryTree, Ring, Direct},
	OpReduce:        {BinaryTree, Ring, Direct},
	OpAllToAll:      {Direct},
	OpBarrier:       {Direct},
	OpReduceTree:    {Direct, HalvingDoubling, Hierarchical},
}

// Algorithms are the ways in which operation k can be carried out over messages, and Shared, which needs a
// transport with shared memory. The slice is the caller's.
func (k OpKind) Algorithms() []Algorithm {
	if k >= opKinds || len(messageAlgorithms[k]) == 0 {
		return nil
	}
	return append(slices.Clone(messageAlgorithms[k]), Shared)
}

// has says whether operation k can be carried out by a over messages.
func (k OpKind) has(a Algorithm) bool { return slices.Contains(messageAlgorithms[k], a) }

func joinAlgorithms(list []Algorithm) string {
	names := make([]string, len(list))
	for i, a := range list {
		names[i] = a.String()
	}
	return strings.Join(names, ", ")
}
