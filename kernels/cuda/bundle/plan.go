package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

var errTime = errors.New("the time for the whole run has ended")

// Names of files in the bundle.
const (
	hashesFile  = "hashes.json"   // TestHashes: what the CPU computes
	weightsFile = "weights.json"  // the SHA-256 of what the CPU trains, by arguments
	testsFile   = "gpu-tests.txt" // test program and test, a line each
	textFile    = "text.txt"
	torchScript = "pytorch_step.py"
	ptxFolder   = "ptx"
)

// plan is all parts, the most worth knowing first.
func plan(o options) []part {
	s := sizesOf(o)
	parts := []part{
		{name: "machine", limit: 20 * time.Second, do: machine},
		{name: "open", limit: 90 * time.Second, do: open},
		{name: "hashes", gpu: true, limit: 90 * time.Second, least: 5 * time.Second, do: hashes},
		{name: "training", gpu: true, limit: 100 * time.Second, least: 10 * time.Second, do: training},
		{name: "training-bf16", gpu: true, limit: 60 * time.Second, least: 10 * time.Second, do: trainingBF16},
		{name: "suite", gpu: true, limit: 120 * time.Second, least: 10 * time.Second, do: suite},
		{name: "memory", gpu: true, limit: 60 * time.Second, least: 5 * time.Second, do: benchmarks("f32", "^(BenchmarkCopy|BenchmarkMemory)$")},
		{name: "step-f32-b4", gpu: true, limit: 40 * time.Second, least: 10 * time.Second, do: steps("f32", s.small)},
		{name: "step-bf16-b32", gpu: true, limit: 60 * time.Second, least: 10 * time.Second, do: steps("bf16", s.large)},
		{name: "step-bf16-b32-no-graphs", gpu: true, limit: 40 * time.Second, least: 10 * time.Second, do: steps("bf16", s.large, noGraphs)},
		{name: "step-bf16-b32-no-wgmma", gpu: true, limit: 40 * time.Second, least: 10 * time.Second, do: withoutWGMMA(steps("bf16", s.large, noWGMMA))},
		{name: "step-bf16-b32-cublaslt", gpu: true, limit: 40 * time.Second, least: 10 * time.Second, do: withCuBLASLt(steps("bf16", s.large))},
		{name: "pytorch-compile", gpu: true, limit: 120 * time.Second, least: 40 * time.Second, do: torch("bf16", true, s.large)},
		{name: "products-f32", gpu: true, limit: 60 * time.Second, least: 5 * time.Second, do: benchmarks("f32", "^BenchmarkProduct$")},
		{name: "products-bf16", gpu: true, limit: 60 * time.Second, least: 5 * time.Second, do: benchmarks("bf16", "^BenchmarkProduct$")},
		{name: "products-bf16-no-wgmma", gpu: true, limit: 60 * time.Second, least: 5 * time.Second, do: withoutWGMMA(benchmarks("bf16", "^BenchmarkProduct$", noWGMMA))},
		{name: "products-bf16-cublaslt", gpu: true, limit: 60 * time.Second, least: 5 * time.Second, do: withCuBLASLt(benchmarks("bf16", "^BenchmarkProduct$"))},
		{name: "attention-f32", gpu: true, limit: 40 * time.Second, least: 5 * time.Second, do: benchmarks("f32", "^BenchmarkAttention$")},
		{name: "attention-bf16", gpu: true, limit: 40 * time.Second, least: 5 * time.Second, do: benchmarks("bf16", "^BenchmarkAttention$")},
		{name: "step-f32-b32", gpu: true, limit: 60 * time.Second, least: 20 * time.Second, do: steps("f32", s.large)},
		{name: "pytorch-eager", gpu: true, limit: 60 * time.Second, least: 20 * time.Second, do: torch("bf16", false, s.large)},
		{name: "launch-and-transfer", gpu: true, limit: 30 * time.Second, least: 5 * time.Second, do: benchmarks("f32", "^(BenchmarkLaunch|BenchmarkTransfer)$")},
		{name: "pytorch-eager-f32", gpu: true, limit: 60 * time.Second, least: 20 * time.Second, do: torch("f32", false, s.small)},
		{name: "products-by-program", gpu: true, limit: 40 * time.Second, least: 10 * time.Second, do: programProducts},
		{name: "doctor", limit: 20 * time.Second, least: 2 * time.Second, do: doctor},
		{name: "ptxas", limit: 60 * time.Second, least: 5 * time.Second, do: ptxas},
	}
	return parts
}

// sizes are what -tiny changes.
type sizes struct {
	model        string
	small, large batch
	iterations   int
	training     []string // gpt's arguments
	chaos        string
}

type batch struct{ rows, seq int }

func sizesOf(o options) sizes {
	if o.tiny {
		return sizes{"tiny", batch{1, 8}, batch{2, 8}, 1, strings.Fields("--model tiny --steps 10 --shards 4 --batch 4 --seq 8"), "kill rank=1 step=3; join step=6"}
	}
	return sizes{"gpt2-124m", batch{4, 1024}, batch{32, 1024}, 10, strings.Fields("--model small --steps 40 --shards 8 --batch 32 --seq 128"), "kill rank=1 step=12; join step=25"}
}

// open finds out whether there is a GPU that a program opens: the driver compiles the kernels here.
func open(ctx context.Context, b *bench, r *report) result {
	e := b.run(ctx, timeLeft(ctx), b.program("farandole"), "bench", "gemm", "--device", "cuda", "-m", "128", "-n", "128", "-k", "64", "--iters", "1", "-o", "json")
	var rep struct {
		Device string `json:"device"`
		Wrong  int    `json:"wrong"`
	}
	switch {
	case strings.Contains(e.output, "no GPU for CUDA"):
		r.NoGPU = strings.Join(last(e.output), " ")
		return result{Verdict: noGPU, Note: r.NoGPU}
	case e.err != nil:
		return fail(e, "no GPU opens: %v", e.err)
	}
	if err := readJSON(e.output, &rep); err != nil {
		return fail(e, "%v", err)
	}
	r.Device, r.Emulated = rep.Device, strings.Contains(rep.Device, "Emulated")
	return pass("%s", rep.Device)
}

// readJSON reads the JSON object or array in a program's output.
func readJSON(output string, v any) error {
	from := strings.IndexAny(output, "{[")
	to := strings.LastIndexAny(output, "}]")
	if from < 0 || to < from {
		return errors.New("the output has no JSON")
	}
	return json.Unmarshal([]byte(output[from:to+1]), v)
}

// hashes compares what the GPU computes with the file of what the CPU computed.
func hashes(ctx context.Context, b *bench, r *report) result {
	argv := []string{b.program("cuda.test"), "-gpu.hashes", filepath.Join(b.bundle, hashesFile), "-test.timeout", limitText(ctx)}
	if b.tiny {
		argv = append(argv, "-gpu.tiny")
	}
	all, failures := b.tests(ctx, []string{"TestHashes"}, argv...)
	return testResult(all, failures)
}

func testResult(all verdicts, failures []failure) result {
	note := fmt.Sprintf("%d passed, %d failed, %d skipped", all.count(testPassed), all.count(testFailed)+all.count(testBegun), all.count(testSkipped))
	switch {
	case len(failures) > 0:
		res := failing(failures...)
		res.Note = note + ": " + res.Note
		return res
	case all.count(testPassed) == 0:
		return failing(failure{What: "no test ran"})
	}
	return pass("%s", note)
}

// limitText is the limit of a test program that would otherwise hang: it then says where, a little before it is ended.
func limitText(ctx context.Context) string {
	return max(time.Second, timeLeft(ctx)-endGrace).Round(time.Second).String()
}

// suite is the tests of the list that the build made.
func suite(ctx context.Context, b *bench, r *report) result {
	lists, err := readTests(filepath.Join(b.bundle, testsFile))
	if err != nil {
		return failing(failure{What: err.Error()})
	}
	all, failures := verdicts{}, []failure(nil)
	for _, program := range slices.Sorted(maps.Keys(lists)) {
		argv := []string{b.program(program), "-test.timeout", limitText(ctx)}
		if b.tiny {
			argv = append(argv, "-test.short")
		}
		got, bad := b.tests(ctx, lists[program], argv...)
		for name, verdict := range got {
			all[program+" "+name] = verdict
		}
		failures = append(failures, bad...)
	}
	return testResult(all, failures)
}

// readTests reads lines of a program and one of its tests.
func readTests(path string) (map[string][]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lists := map[string][]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		program, name, ok := strings.Cut(s.Text(), " ")
		if !ok {
			return nil, fmt.Errorf("%s: %q is no program and test", path, s.Text())
		}
		lists[program] = append(lists[program], name)
	}
	return lists, nil
}

// train runs a job of gpt and gives the SHA-256 of its weights.
func (b *bench) train(ctx context.Context, device string, args []string, flags ...string) (sha string, generations int, e ended, err error) {
	file := b.log.Name() + ".json"
	defer func() { _ = os.Remove(file) }()
	argv := append([]string{b.program("farandole"), "run", "--device", device, "--summary", file}, flags...)
	argv = append(argv, "--", b.program("gpt"), "--data", filepath.Join(b.bundle, textFile))
	env := b.env
	b.env = append(slices.Clip(env), "FARANDOLE_LOG=info") // workers say where they reduce
	e = b.run(ctx, timeLeft(ctx), append(argv, args...)...)
	b.env = env
	var s struct {
		Weights     string `json:"weights_sha256"`
		Generations int    `json:"generations"`
	}
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	switch {
	case e.err != nil:
		err = fmt.Errorf("the job on device %s: %w", device, e.err)
	case err == nil && s.Weights == "":
		err = fmt.Errorf("the job on device %s has no weights", device)
	}
	return s.Weights, s.Generations, e, err
}

// training trains on the GPU by two processes of which one is killed, and compares the weights with the file's and with this machine's CPU's.
func training(ctx context.Context, b *bench, r *report) result {
	s := sizesOf(b.options)
	key := strings.Join(s.training, " ")
	expected := map[string]string{}
	data, err := os.ReadFile(filepath.Join(b.bundle, weightsFile))
	if err == nil {
		err = json.Unmarshal(data, &expected)
	}
	if err == nil && expected[key] == "" {
		err = fmt.Errorf("%s has no line for %s", weightsFile, key)
	}
	if err != nil {
		return failing(failure{What: err.Error()})
	}
	var failures []failure
	check := func(what, device string, flags ...string) (generations int, output string, ok bool) {
		sha, generations, e, err := b.train(ctx, device, s.training, flags...)
		switch {
		case err != nil:
			failures = append(failures, failure{what + ": " + err.Error(), last(e.output)})
		case sha != expected[key]:
			failures = append(failures, failure{what + ": weights " + sha + ", the build's CPU had " + expected[key], last(e.output)})
		default:
			return generations, e.output, true
		}
		return generations, e.output, false
	}
	generations, output, same := check("two workers on the GPU, one killed", "cuda", "--workers", "2", "--chaos", s.chaos)
	if same && generations < 2 {
		failures = append(failures, failure{What: "nobody was killed: the job had one generation"})
	}
	if !same { // which of the three makes the difference?
		check("two workers on the GPU, one killed, gradients by way of the host", "cuda", "--workers", "2", "--chaos", s.chaos, "--transport", "shm")
		check("one worker on the GPU, undisturbed", "cuda", "--workers", "1")
	}
	check("one worker on the CPU", "cpu", "--workers", "1")
	if len(failures) > 0 {
		return failing(failures...)
	}
	where := "by way of the host, at least at times: the log says why"
	if strings.Contains(output, "gradients are reduced in the memory of GPUs") && !strings.Contains(output, "by way of the host") {
		where = inGPUMemory
	}
	return pass("weights %.12s… as on the CPU, %d generations, gradients reduced %s", expected[key], generations, where)
}

// inGPUMemory is what training's note says of gradients that no generation brought to the host.
const inGPUMemory = "in the GPU's memory"

// trainingBF16 compares a job of two workers, of which one is killed, with one of a single worker on the same GPU: the CPU has other bits.
func trainingBF16(ctx context.Context, b *bench, r *report) result {
	s := sizesOf(b.options)
	args := append(slices.Clip(s.training), "--precision", "bf16")
	want, _, e, err := b.train(ctx, "cuda", args, "--workers", "1")
	if err != nil {
		return fail(e, "one worker: %v", err)
	}
	got, generations, e, err := b.train(ctx, "cuda", args, "--workers", "2", "--chaos", s.chaos)
	switch {
	case err != nil:
		return fail(e, "two workers, one killed: %v", err)
	case got != want:
		return fail(e, "two workers, one killed: weights %s, one worker had %s", got, want)
	case generations < 2:
		return fail(e, "nobody was killed: the job had one generation")
	}
	return pass("weights %.12s…, %d generations", got, generations)
}

// writeExpected trains on the CPU what training compares with.
func writeExpected(ctx context.Context, o options, w io.Writer) error {
	expected := map[string]string{}
	log, err := os.CreateTemp("", "farandole-expect-")
	if err != nil {
		return err
	}
	defer func() { _ = log.Close(); _ = os.Remove(log.Name()) }()
	for _, o.tiny = range []bool{false, true} {
		args := sizesOf(o).training
		sha, _, e, err := (&bench{options: o, log: log}).train(ctx, "cpu", args, "--workers", "1")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, strings.Join(last(e.output), "\n"))
		}
		expected[strings.Join(args, " ")] = sha
		fmt.Fprintln(w, strings.Join(args, " "), sha)
	}
	data, err := json.MarshalIndent(expected, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.expect, append(data, '\n'), 0o644)
}

// programProducts has `bench gemm` compare large products bit by bit with the CPU's, and times them.
func programProducts(ctx context.Context, b *bench, r *report) result {
	argv := []string{b.program("farandole"), "bench", "gemm", "--device", "cuda", "-o", "json", "--iters", "5", "--shapes", "gpt2"}
	if b.tiny {
		argv = append(argv[:len(argv)-4], "--iters", "1", "-m", "3", "-n", "5", "-k", "7")
	}
	e := b.run(ctx, timeLeft(ctx), argv...)
	if e.err != nil {
		return fail(e, "%v", e.err)
	}
	return pass("the bits of the last rows are the CPU's")
}

// doctor is what the program itself finds out about the machine.
func doctor(ctx context.Context, b *bench, r *report) result {
	e := b.run(ctx, timeLeft(ctx), b.program("farandole"), "doctor")
	if e.err != nil {
		return fail(e, "%v", e.err)
	}
	return pass("see the log")
}
