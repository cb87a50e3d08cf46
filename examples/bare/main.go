// Command bare trains a logistic regression with its own loop and []float32 gradients: the same bits on any number of workers.
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"

	"github.com/farandole-ml/farandole/worker"
)

const features, perShard, rate = 64, 32, 0.5

func main() {
	steps := flag.Int64("steps", 50, "optimizer updates to do")
	shards := flag.Int("shards", 8, "logical shards of a step; the largest world size")
	seed := flag.Uint64("seed", 1, "of the samples")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bare does not know what to do with %q: see bare --help\n", flag.Arg(0))
		os.Exit(2)
	}
	err := train(context.Background(), *steps, *shards, *seed)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(worker.ExitCode(err))
}

func train(ctx context.Context, steps int64, shards int, seed uint64) error {
	cfg, err := worker.ConfigFromEnv()
	if err != nil {
		return err
	}
	s, err := worker.Join(ctx, cfg)
	if err != nil {
		return err
	}
	w, grad := make([]float32, features), make([]float32, features)
	s.Plan(worker.Plan{Steps: steps, Shards: shards, Seed: seed, SamplesPerStep: int64(shards * perShard),
		Program: "bare", Class: "go " + runtime.GOARCH}) // math.Exp differs between architectures
	s.Param("w", []int{features}, w, grad)
	for s.Next(ctx) {
		for _, shard := range s.Shards() {
			loss := 0.0
			for i := range perShard {
				sample := (uint64(shard.Step)*uint64(shards)+uint64(shard.Index))*perShard + uint64(i)
				loss += addGradient(grad, w, rand.New(rand.NewPCG(seed, sample)))
			}
			s.Add(shard, loss/perShard) // closes the shard: grad is zero again
		}
		if s.AllReduce(ctx) != nil {
			continue // the membership changed: Next begins the step again
		}
		for i, g := range grad {
			w[i] -= rate * g / float32(shards*perShard)
		}
		s.Commit(ctx)
	}
	return s.Err()
}

// addGradient adds the gradient of the sample that r draws and gives its loss.
func addGradient(grad, w []float32, r *rand.Rand) float64 {
	x, z, truth, label := [features]float32{}, float32(0), float32(0), 0.0
	for i := range x {
		x[i] = r.Float32()*2 - 1
		z += w[i] * x[i]
		truth += x[i] * float32(i%7-3)
	}
	if truth > 0 {
		label = 1
	}
	p := 1 / (1 + math.Exp(-float64(z)))
	for i, v := range x {
		grad[i] += float32(p-label) * v
	}
	return -math.Log(max(1-math.Abs(label-p), 1e-12))
}
