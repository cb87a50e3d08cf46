package main

import (
	"context"
	"errors"
	"fmt"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/worker/data"
)

// proveSteps says how the ledger accounts for every committed step exactly once, or what is wrong with it.
func proveSteps(j *pb.JobStatus) (string, error) {
	terms := make([]elastic.Term, len(j.Ledger))
	last := elastic.Step(0)
	used, earlier := 0, elastic.Step(0)
	for i, t := range j.Ledger {
		terms[i] = elastic.Term{Generation: elastic.Generation(t.Generation), First: elastic.Step(t.First), Last: elastic.Step(t.Last), World: int(t.World)}
		last = max(last, terms[i].Last)
		switch {
		case t.Generation == 0:
			earlier = terms[i].Last
		case t.Last >= t.First:
			used++
		}
	}
	upTo := last
	if endedStatus(j.Status) {
		upTo = elastic.Step(j.Step) // what the job says it did must be what the ledger has
	}
	if err := elastic.VerifyLedger(terms, upTo); err != nil {
		return "", err
	}
	if upTo == 0 {
		return "none was committed", nil
	}
	if earlier > 0 {
		return fmt.Sprintf("%d to %d were committed exactly once, by %s; those up to %d come from a checkpoint of an earlier run",
			earlier+1, upTo, count(int64(used), "generation"), earlier), nil
	}
	return fmt.Sprintf("1 to %d were committed exactly once, by %s", upTo, count(int64(used), "generation")), nil
}

// maxProofSamples bounds the samples that proveSamples enumerates. Of a longer job it takes the first and the last
// full epochs; the epochs between them have the same construction.
const maxProofSamples = 200_000_000

// maxProofLen bounds the data set whose samples are ticked off, a bit each.
const maxProofLen = 1 << 33

// proveSamples enumerates the samples of every step that the ledger has, as the workers do, and ticks them off.
func proveSamples(ctx context.Context, j *pb.JobStatus) (string, error) {
	p := j.Plan
	last := int64(0)
	for _, t := range j.Ledger {
		last = max(last, t.Last)
	}
	switch {
	case p == nil || last == 0:
		return "none was used", nil
	case p.DatasetLen == 0:
		return fmt.Sprintf("the program has no data set; %s a step", count(p.SamplesPerStep, "sample")), nil
	case p.DatasetLen > maxProofLen:
		return "", fmt.Errorf("a data set of %d samples is more than can be ticked off here", p.DatasetLen)
	}
	order := data.Order{Seed: p.Seed, Len: p.DatasetLen, PerStep: p.SamplesPerStep}
	if p.Shards < 1 || p.SamplesPerStep < 1 {
		return "", fmt.Errorf("the plan is unusable: %d shards, %d samples a step", p.Shards, p.SamplesPerStep)
	}
	total := last * p.SamplesPerStep
	full, rest := total/p.DatasetLen, total%p.DatasetLen
	epochs, some := epochsToProve(full, p.DatasetLen)
	walk := &sampleWalk{order: order, shards: int(p.Shards)}
	for _, e := range epochs {
		if err := walk.epoch(ctx, e, p.DatasetLen); err != nil {
			return "", err
		}
	}
	if rest > 0 && rest <= maxProofSamples {
		if err := walk.epoch(ctx, full, rest); err != nil {
			return "", err
		}
	}
	text := ""
	if full > 0 {
		text = fmt.Sprintf("each of the %d samples was used exactly once in each of %s%s", p.DatasetLen, count(full, "full epoch"), some)
	}
	switch {
	case full > 0 && rest > 0:
		text += fmt.Sprintf("; %d of epoch %d, none twice", rest, full+1)
	case rest > 0:
		text = fmt.Sprintf("%d of the %d samples were used, none twice: the first epoch is not over", rest, p.DatasetLen)
	}
	return text, nil
}

// epochsToProve lists all full epochs, or the first and last ones of a job that is too long for all.
func epochsToProve(full, length int64) (epochs []int64, some string) {
	most := max(2, maxProofSamples/length)
	if full <= most {
		for e := range full {
			epochs = append(epochs, e)
		}
		return epochs, ""
	}
	for i := range most / 2 {
		epochs = append(epochs, i, full-1-i)
	}
	return epochs, fmt.Sprintf(" (enumerated: the first %d and the last %d)", most/2, most/2)
}

// sampleWalk ticks samples off.
type sampleWalk struct {
	order  data.Order
	shards int
	seen   []uint64
	ids    []int64
}

// epoch checks that the first n positions of epoch e are n different samples within the data set.
func (w *sampleWalk) epoch(ctx context.Context, e, n int64) error {
	length, per := w.order.Len, w.order.PerStep
	if w.seen == nil {
		w.seen = make([]uint64, (length+63)/64)
	}
	clear(w.seen)
	first, end := e*length, e*length+n
	ticked := int64(0)
	for step := first/per + 1; (step-1)*per < end; step++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		at := (step - 1) * per
		for i := range w.shards {
			w.ids = w.order.AppendSamples(w.ids[:0], elastic.Shard{Step: elastic.Step(step), Index: i, Count: w.shards})
			for _, id := range w.ids {
				if at >= first && at < end {
					if id < 0 || id >= length {
						return fmt.Errorf("step %d shard %d uses sample %d of %d", step, i, id, length)
					}
					bit := uint64(1) << (id % 64)
					if w.seen[id/64]&bit != 0 {
						return fmt.Errorf("sample %d comes twice in epoch %d: again at step %d, shard %d", id, e+1, step, i)
					}
					w.seen[id/64] |= bit
					ticked++
				}
				at++
			}
		}
	}
	if ticked != n {
		return errors.New("the shards of a step do not make up its samples")
	}
	return nil
}
