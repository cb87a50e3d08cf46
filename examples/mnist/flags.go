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

// options are the flags. All but device and threads decide the weights.
type options struct {
	steps, images, warmup int64
	shards, threads       int
	seed                  uint64
	lr                    float64
	size, path            string
	device, precision     string

	config  nn.MLPConfig // of size
	mistake error        // in the flags; Setup reports it, so that a job ends with it
}

// parse reads the flags.
func parse(args []string) *trainer {
	t := &trainer{}
	f := flag.NewFlagSet("mnist", flag.ContinueOnError)
	f.SetOutput(new(strings.Builder)) // a mistake is one sentence, not the list of flags
	f.Int64Var(&t.steps, "steps", 1000, "optimizer updates")
	f.IntVar(&t.shards, "shards", 8, "logical shards of a global batch, the largest world size")
	f.Int64Var(&t.images, "batch", 128, "images of a global batch, split over the shards")
	f.StringVar(&t.size, "model", "mlp", "size: "+strings.Join(nn.MLPNames(), ", "))
	f.StringVar(&t.path, "data", "", "folder with MNIST's four .gz files; default: the module that has them, found by the go command")
	f.Uint64Var(&t.seed, "seed", 1, "of the weights and the order of images")
	f.Float64Var(&t.lr, "lr", 2e-3, "learning rate after the warm-up; it falls to a hundredth along a cosine")
	f.Int64Var(&t.warmup, "warmup", 50, "steps of linear warm-up, at most half of all")
	f.StringVar(&t.device, "device", "", "auto, cpu or cuda; default: what the job says")
	f.StringVar(&t.precision, "precision", "f32", "f32 or bf16")
	f.IntVar(&t.threads, "threads", 0, "threads to compute with; default: what the job says")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(os.Stdout)
		f.Usage()
		os.Exit(0)
	case err != nil:
		t.mistake = err
	case f.NArg() > 0:
		t.mistake = fmt.Errorf("%q is no flag: see mnist --help", f.Arg(0))
	default:
		t.mistake = t.check()
	}
	return t
}

// check finds impossible flags.
func (o *options) check() (err error) {
	if o.config, err = nn.MLPByName(o.size); err != nil {
		return err
	}
	switch {
	case o.steps < 0 || o.warmup < 0 || o.threads < 0:
		return errors.New("--steps, --warmup and --threads cannot be negative")
	case !(o.lr > 0):
		return fmt.Errorf("--lr %v: the learning rate must be positive", o.lr)
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
