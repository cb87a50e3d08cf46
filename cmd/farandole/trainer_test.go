package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/worker"
)

// trainer is a training program for the process tests: a linear model whose steps take as long as they are told to.
type trainer struct {
	steps          int64
	pause          time.Duration
	dieAt, failAt  int64
	w, grad        []float32
	announced      bool
	seed           uint64
	perShard, size int
}

func trainerMain() {
	t := &trainer{seed: 5, perShard: 4, size: 32}
	flag.CommandLine = flag.NewFlagSet("trainer", flag.ExitOnError)
	flag.Int64Var(&t.steps, "steps", 50, "")
	flag.DurationVar(&t.pause, "pause", 0, "for each shard")
	flag.Int64Var(&t.dieAt, "die-at", -1, "step at which every worker exits with code 7")
	flag.Int64Var(&t.failAt, "fail-at", -1, "step at which Gradients gives an error")
	flag.CommandLine.Parse(os.Args[1:])
	worker.Main(t)
}

func (t *trainer) Setup(_ context.Context, s *worker.Session) error {
	s.Plan(worker.Plan{Steps: t.steps, Shards: 8, Seed: t.seed, SamplesPerStep: int64(8 * t.perShard), DatasetLen: 500, Program: "test trainer"})
	t.w, t.grad = make([]float32, t.size), make([]float32, t.size)
	s.Param("w", []int{t.size}, t.w, t.grad)
	return nil
}

func (t *trainer) Gradients(_ context.Context, shard elastic.Shard) (float64, error) {
	if !t.announced {
		t.announced = true
		fmt.Println("computes its first gradient")
		fmt.Fprintln(os.Stderr, "and says so on standard error")
	}
	switch int64(shard.Step) {
	case t.dieAt:
		fmt.Fprintln(os.Stderr, "the disk is on fire")
		os.Exit(7)
	case t.failAt:
		return 0, fmt.Errorf("no sample for %v", shard)
	}
	time.Sleep(t.pause)
	loss := 0.0
	r := rand.New(rand.NewPCG(t.seed, uint64(shard.Step)<<8|uint64(shard.Index)))
	for range t.perShard {
		var z, truth float32
		x := make([]float32, t.size)
		for i := range x {
			x[i] = r.Float32() - 0.5
			z += x[i] * t.w[i]
			truth += x[i] * float32(i%5-2)
		}
		d := z - truth
		loss += float64(d * d)
		for i := range x {
			t.grad[i] += d * x[i]
		}
	}
	return loss, nil
}

func (t *trainer) Apply(_ context.Context, _ elastic.Step) error {
	for i, g := range t.grad {
		t.w[i] -= 0.01 * g
	}
	return nil
}
