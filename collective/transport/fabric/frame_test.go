//go:build fabric && cgo && linux

package fabric

import (
	"math"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTagsDifferAndLeaveTheHighestBitsAlone(t *testing.T) {
	seen := map[uint64]bool{}
	for _, from := range []int{0, 1, maxSources - 1} {
		for _, number := range []uint32{0, 1, math.MaxUint32} {
			tags := []uint64{headerTag(from, number)}
			for _, piece := range []int{0, 1, maxPieces - 1} {
				tags = append(tags, pieceTag(from, number, piece))
			}
			for _, tag := range tags {
				require.False(t, seen[tag], "%x", tag)
				require.LessOrEqual(t, bits.Len64(tag), tagBits)
				seen[tag] = true
			}
		}
	}
}
