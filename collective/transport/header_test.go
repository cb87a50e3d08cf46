package transport

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

const magic = 0x54534554

// FuzzDecodeHeader: what is decoded is what was encoded, and nothing else is.
func FuzzDecodeHeader(f *testing.F) {
	h := Header{Op: collective.Op{Kind: collective.OpAllReduce, Seq: 1 << 31, Shape: 3, Bytes: 1 << 63}, Bytes: 1<<64 - 1, Number: 1<<32 - 1}
	var b [HeaderBytes]byte
	h.Encode(&b, magic)
	f.Add(b[:])
	h.Sum([]byte("carried"))
	h.Encode(&b, magic)
	f.Add(b[:])
	f.Add(Goodbye(errors.New("a cause"), magic)[:HeaderBytes])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != HeaderBytes {
			return
		}
		got, err := DecodeHeader((*[HeaderBytes]byte)(b), magic)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		require.True(t, Begins(b, magic))
		var again [HeaderBytes]byte
		got.Encode(&again, magic)
		twice, err := DecodeHeader(&again, magic)
		require.NoError(t, err)
		require.Equal(t, got, twice)
	})
}

func TestEveryFlippedBitOfAHeaderIsFound(t *testing.T) {
	h := Header{Op: collective.Op{Kind: collective.OpBroadcast, Seq: 7, Shape: 2, Bytes: 99}, Bytes: 12, Number: 5}
	h.Sum([]byte("what it carries"))
	var b [HeaderBytes]byte
	h.Encode(&b, magic)
	got, err := DecodeHeader(&b, magic)
	require.NoError(t, err)
	require.Equal(t, h, got)
	for bit := range 8 * HeaderBytes {
		b[bit/8] ^= 1 << (bit % 8)
		_, err := DecodeHeader(&b, magic)
		require.ErrorIs(t, err, ErrCorrupt, "bit %d", bit)
		b[bit/8] ^= 1 << (bit % 8)
	}
	_, err = DecodeHeader(&b, magic+1)
	require.ErrorIs(t, err, ErrCorrupt)
	require.False(t, Begins(b[:HeaderBytes-1], magic))
	require.False(t, Begins(b[:], magic+1))
}

func TestACheckWantsAChecksum(t *testing.T) {
	h := Header{Number: 3}
	require.ErrorIs(t, h.Check(nil), ErrCorrupt, "an empty message's checksum is zero, as that of a header without one")
	h.Sum(nil)
	require.NoError(t, h.Check(nil))
	h.Sum([]byte{1})
	require.NoError(t, h.Check([]byte{1}))
	require.ErrorContains(t, h.Check([]byte{2}), "checksum of message 3")
}

func TestAGroupEndsOnce(t *testing.T) {
	e := NewEnding()
	require.False(t, e.IsOver())
	require.NoError(t, e.Cause())
	first := errors.New("first")
	begun, done := make(chan struct{}), make(chan struct{})
	ended := 0
	go e.End(first, func() {
		<-e.Over()
		close(begun)
		<-done
		ended++
	})
	<-begun
	require.True(t, e.IsOver())
	second := make(chan struct{})
	go func() {
		e.End(errors.New("second"), func() { ended++ })
		close(second)
	}()
	select {
	case <-second:
		t.Error("the second End returned before the group had ended")
	default:
	}
	close(done)
	<-second
	require.Equal(t, 1, ended)
	require.Equal(t, first, e.Cause())
}
