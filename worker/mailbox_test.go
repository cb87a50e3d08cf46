package worker

import (
	"testing"

	"github.com/stretchr/testify/require"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// TestSavedIsToldBeforeFinished: the last Finished ends the job, and what comes after it is heard by nobody.
func TestSavedIsToldBeforeFinished(t *testing.T) {
	m := newMailbox()
	m.finished(&pb.Finished{Step: 10})
	m.saved(&pb.Saved{Step: 10})
	out := m.collect()
	require.Len(t, out, 2)
	require.NotNil(t, out[0].GetSaved())
	require.NotNil(t, out[1].GetFinished())
	require.Empty(t, m.collect())
}
