package collective

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFarewell(t *testing.T) {
	reason := errors.New("a reason")
	peer := func(rank int, err error) error {
		return fmt.Errorf("wrapped: %w", &PeerError{Rank: rank, Op: "barrier", Err: err})
	}
	cases := map[string]struct {
		cause error
		rank  int // whom to blame, seen from rank 1, told by rank 2
		want  error
		text  string
	}{
		"nobody's fault":      {reason, 2, ErrPeerLeft, "a reason"},
		"moved":               {fmt.Errorf("x: %w", ErrGenerationChanged), 2, ErrPeerMoved, "generation"},
		"a third one":         {peer(3, reason), 3, ErrPeerLost, "reported by rank 2"},
		"this one":            {peer(1, reason), 2, ErrPeerLost, "gave this rank up"},
		"itself":              {peer(2, reason), 2, ErrPeerLeft, "a reason"},
		"nobody known":        {peer(9, reason), 2, ErrPeerLost, "a reason"},
		"a negative rank":     {peer(-1, reason), 2, ErrPeerLeft, "a reason"},
		"no cause":            {nil, 2, ErrPeerLeft, ""},
		"a long text":         {errors.New(strings.Repeat("x", 9999)), 2, ErrPeerLeft, "xxx"},
		"out of step, absurd": {peer(9, &OutOfStepError{}), 2, ErrPeerLeft, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := Farewell(c.cause)
			require.LessOrEqual(t, len(b), MaxFarewell)
			pe := ReadFarewell(b, 2, 1, 4, OpBarrier)
			require.Equal(t, c.rank, pe.Rank)
			require.ErrorIs(t, pe, c.want)
			require.ErrorContains(t, pe, c.text)
			require.Equal(t, "barrier", pe.Op)
		})
	}
}

// TestFarewellNamesBothSides lets rank 2 find rank 3 out of step, and the news travel by one rank to the next.
func TestFarewellNamesBothSides(t *testing.T) {
	at3 := Op{OpBroadcast, 7, 1 << 40, math.MaxUint32}
	at2 := Op{OpAllReduce, 8, 12, 5}
	found := &PeerError{Rank: 3, Err: &OutOfStepError{Got: at3, Want: at2, GotBytes: 1, WantBytes: 2}}
	step := func(pe *PeerError) *OutOfStepError {
		var e *OutOfStepError
		require.ErrorAs(t, pe, &e)
		return e
	}
	first := Farewell(found)

	blamed := ReadFarewell(first, 2, 3, 4, OpBroadcast)
	require.Equal(t, 2, blamed.Rank)
	require.Equal(t, &OutOfStepError{Got: at2, Want: at3, GotBytes: 2, WantBytes: 1}, step(blamed))

	third := ReadFarewell(first, 2, 1, 4, OpBarrier)
	require.Equal(t, 3, third.Rank)
	require.Equal(t, &OutOfStepError{Got: at3, Want: at2, GotBytes: 1, WantBytes: 2, Witness: 3}, step(third))
	require.Contains(t, third.Error(), "rank 3")
	require.Contains(t, third.Error(), "rank 2")

	fourth := ReadFarewell(Farewell(third), 1, 0, 4, OpBarrier)
	require.Equal(t, third, fourth)
	require.Equal(t, found.Err, ReadFarewell(Farewell(third), 1, 2, 4, OpBarrier).Err, "the witness itself")
	require.Equal(t, blamed, ReadFarewell(Farewell(third), 1, 3, 4, OpBroadcast))
	require.Equal(t, third, ReadFarewell(Farewell(blamed), 3, 1, 4, OpBarrier).swappedFor(t, third))
}

// swappedFor checks that e names the same two sides as want, the other way around, and gives want.
func (e *PeerError) swappedFor(t *testing.T, want *PeerError) *PeerError {
	var a, b *OutOfStepError
	require.ErrorAs(t, e, &a)
	require.ErrorAs(t, want, &b)
	require.Equal(t, a.Got, b.Want)
	require.Equal(t, a.Want, b.Got)
	require.Equal(t, e.Rank, b.Witness-1)
	require.Equal(t, want.Rank, a.Witness-1)
	return want
}

func FuzzReadFarewell(f *testing.F) {
	f.Add(Farewell(errors.New("x")), 1)
	f.Add(Farewell(&PeerError{Rank: 3, Err: &OutOfStepError{}}), 3)
	f.Fuzz(func(t *testing.T, b []byte, rank int) {
		const world, from = 5, 2
		rank = rank & 3
		if rank >= from {
			rank++
		}
		pe := ReadFarewell(b, from, rank, world, OpBarrier)
		require.NotEqual(t, rank, pe.Rank)
		require.GreaterOrEqual(t, pe.Rank, 0)
		require.Less(t, pe.Rank, world)
		require.NotEmpty(t, pe.Error())
	})
}
