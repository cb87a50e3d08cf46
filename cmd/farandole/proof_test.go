package main

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

func provable() *pb.JobStatus {
	return &pb.JobStatus{Job: "mnist-1", Status: "done", Step: 25,
		Plan:   &pb.Plan{Steps: 25, Shards: 8, Seed: 3, SamplesPerStep: 16, DatasetLen: 150},
		Ledger: []*pb.Term{{Generation: 1, First: 1, Last: 10, World: 4}, {Generation: 2, First: 11, Last: 10, World: 3}, {Generation: 4, First: 11, Last: 25, World: 5}}}
}

func TestProof(t *testing.T) {
	var b bytes.Buffer
	ok, err := printProof(context.Background(), &b, provable())
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, `ok   steps:   1 to 25 were committed exactly once, by 2 generations
ok   samples: each of the 150 samples was used exactly once in each of 2 full epochs; 100 of epoch 3, none twice
ok   result:  job mnist-1 was done at step 25/25; workers by generation: 4, 5
`, b.String())
}

func TestProofFails(t *testing.T) {
	for name, breakIt := range map[string]func(j *pb.JobStatus){
		"a step is missing":        func(j *pb.JobStatus) { j.Ledger[2].First = 12 },
		"a step comes twice":       func(j *pb.JobStatus) { j.Ledger[2].First = 10 },
		"the end is missing":       func(j *pb.JobStatus) { j.Ledger[2].Last = 24 },
		"generations go back":      func(j *pb.JobStatus) { j.Ledger[2].Generation = 1 },
		"done too early":           func(j *pb.JobStatus) { j.Plan.Steps = 30 },
		"the plan has no samples":  func(j *pb.JobStatus) { j.Plan.SamplesPerStep = 0 },
		"the data set is too long": func(j *pb.JobStatus) { j.Plan.DatasetLen = 1 << 60 },
	} {
		t.Run(name, func(t *testing.T) {
			j := provable()
			breakIt(j)
			var b bytes.Buffer
			ok, err := printProof(context.Background(), &b, j)
			require.NoError(t, err)
			require.False(t, ok, b.String())
			require.Contains(t, b.String(), "FAIL")
		})
	}
}

func TestProofOfARunFromACheckpoint(t *testing.T) {
	j := provable()
	j.Ledger[0].Generation = 0
	text, err := proveSteps(j)
	require.NoError(t, err)
	require.Equal(t, "11 to 25 were committed exactly once, by 1 generation; those up to 10 come from a checkpoint of an earlier run", text)
}

// A walk whose order repeats a sample must see it.
func TestSampleWalkSeesARepetition(t *testing.T) {
	j := provable()
	w := &sampleWalk{shards: 8}
	w.order.Seed, w.order.Len, w.order.PerStep = j.Plan.Seed, 150, 16
	require.NoError(t, w.epoch(context.Background(), 0, 150))
	require.ErrorContains(t, w.epoch(context.Background(), 0, 151), "comes twice")
}

func TestEpochsToProve(t *testing.T) {
	all, some := epochsToProve(3, 1000)
	require.Equal(t, []int64{0, 1, 2}, all)
	require.Empty(t, some)
	few, some := epochsToProve(1000, maxProofSamples/4)
	require.ElementsMatch(t, []int64{0, 1, 998, 999}, few)
	require.Contains(t, some, "the first 2 and the last 2")
}
