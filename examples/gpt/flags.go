package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
)

// options are the flags. All but device, precision and threads decide the weights.
type options struct {
	steps, sequences, warmup int64
	shards, seq, threads     int
	seed                     uint64
	lr                       float64
	size, path, tokenizer    string
	device, precision        string
	sample                   bool
	prompt, load             string

	config  nn.GPTConfig // of size
	mistake error        // in the flags; Setup reports it, so that a job ends with it
}

// parse reads the flags.
func parse(args []string) *trainer {
	t := &trainer{}
	f := flag.NewFlagSet("gpt", flag.ContinueOnError)
	f.SetOutput(new(strings.Builder)) // a mistake is one sentence, not the list of flags
	f.Int64Var(&t.steps, "steps", 600, "optimizer updates")
	f.IntVar(&t.shards, "shards", 8, "logical shards of a global batch, the largest world size")
	f.Int64Var(&t.sequences, "batch", 8, "sequences of a global batch, split over the shards")
	f.IntVar(&t.seq, "seq", 64, "tokens of a sequence")
	f.StringVar(&t.size, "model", "small", "size: "+strings.Join(nn.GPTNames(), ", "))
	f.StringVar(&t.path, "data", "", "text file, folder, or folder with a pattern (src/*.go); default: Opticks, from the Go installation")
	f.StringVar(&t.tokenizer, "tokenizer", "", "bytes or gpt2; default: gpt2 for the published sizes of GPT-2, else bytes")
	f.Uint64Var(&t.seed, "seed", 1, "of the weights, the order of samples and the printed text")
	f.Float64Var(&t.lr, "lr", 3e-3, "learning rate after the warm-up; it falls to a tenth along a cosine")
	f.Int64Var(&t.warmup, "warmup", 150, "steps of linear warm-up, at most half of all")
	f.StringVar(&t.device, "device", "", "auto, cpu or cuda; default: what the job says")
	f.StringVar(&t.precision, "precision", "f32", "f32 or bf16")
	f.IntVar(&t.threads, "threads", 0, "threads to compute with; default: what the job says")
	f.BoolVar(&t.sample, "sample", false, "print generated text at the end")
	f.StringVar(&t.prompt, "prompt", "The ", "beginning of the generated text")
	f.StringVar(&t.load, "load", "", "begin with the newest checkpoint in this directory instead of the seed's weights; with --steps 0 --sample only prints")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(os.Stdout)
		f.Usage()
		os.Exit(0)
	case err != nil:
		t.mistake = err
	case f.NArg() > 0:
		t.mistake = fmt.Errorf("%q is no flag: see gpt --help", f.Arg(0))
	default:
		t.mistake = t.check()
	}
	return t
}

// check finds impossible flags, and settles defaults that depend on others.
func (o *options) check() (err error) {
	if o.config, err = nn.ConfigByName(o.size); err != nil {
		return err
	}
	if o.tokenizer == "" {
		o.tokenizer = "bytes"
		if o.config.Vocab > 256 {
			o.tokenizer = "gpt2"
		}
	}
	switch {
	case o.steps < 0 || o.warmup < 0 || o.threads < 0:
		return errors.New("--steps, --warmup and --threads cannot be negative")
	case o.seq < 1 || o.seq > o.config.Context:
		return fmt.Errorf("--seq %d: model %s takes 1 to %d tokens", o.seq, o.size, o.config.Context)
	case !(o.lr > 0):
		return fmt.Errorf("--lr %v: the learning rate must be positive", o.lr)
	case o.sample && o.prompt == "":
		return errors.New("--prompt is empty: --sample needs a beginning")
	case o.precision != "f32" && o.precision != "bf16":
		return fmt.Errorf("--precision %q is not known: use f32 or bf16", o.precision)
	case o.precision == "bf16":
		return errors.New("--precision bf16 is not in this build: use f32")
	}
	return nil
}

// open is the device that the flag asks for, else the one that the job asks for.
func (o *options) open(s *worker.Session) (kernels.Device, error) {
	if o.device == "" {
		o.device = s.Device()
	}
	if o.threads == 0 {
		o.threads = s.Threads()
	}
	dev, err := kernels.Open(o.device, kernels.Config{Threads: o.threads})
	if err != nil {
		return nil, &worker.UsageError{Reason: "--" + err.Error()}
	}
	return dev, nil
}
