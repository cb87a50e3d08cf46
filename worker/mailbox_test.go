package worker

import (
	"testing"

	"github.com/stretchr/testify/require"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
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

// TestALateFormedKeepsTheAnswerToAPrepare: a Prepare may come between the end of forming a group and the report of it. Without an answer
// the coordinator waits for a lease and goes on without this worker.
func TestALateFormedKeepsTheAnswerToAPrepare(t *testing.T) {
	m := newMailbox()
	m.fenced(2, elastic.Fence{Generation: 2})
	m.formed(1)
	out := m.collect()
	require.Len(t, out, 1)
	require.EqualValues(t, 2, out[0].GetFenced().GetGeneration())
	m.formed(2)
	out = m.collect()
	require.Len(t, out, 1)
	require.EqualValues(t, 2, out[0].GetFormed().GetGeneration())
	m.reopen()
	require.Len(t, m.collect(), 1, "a group that has formed voids its own Prepare's answer")
}
