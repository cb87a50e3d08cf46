package fit

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/farandole-ml/farandole/kernels"
)

// Options are the flags that such programs share. All but device and threads decide the weights.
type Options struct {
	Steps   int64   // optimizer updates
	Shards  int     // logical shards of a global batch
	Batch   int64   // samples of a global batch
	Warmup  int64   // steps
	Seed    uint64  // of the weights, the order of samples, and whatever else is drawn
	LR      float64 // the peak
	Threads int     // 0: what the job says
	Pin     bool    // threads are bound to processors; the job may ask for it too

	Size      string // the model's name
	Data      string // a path; empty: the program's own
	Device    string // auto, cpu, cuda; empty: what the job says
	Precision string // f32 or bf16: the numerics class
	Products  string // one of kernels.AllProducts; empty means the first
	Load      string // checkpoint directory to begin with
}

// Flags gives a set with the options' flags, whose defaults are the options' present values. models are the names for
// --model, samples and data say what --batch counts and --data takes. The program adds its own flags before Parse.
func (p *Program) Flags(name string, models []string, samples, data string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(new(strings.Builder)) // a mistake is one sentence, not the list of flags
	f.Int64Var(&p.Steps, "steps", p.Steps, "optimizer updates")
	f.IntVar(&p.Shards, "shards", p.Shards, "logical shards of a global batch, the largest world size")
	f.Int64Var(&p.Batch, "batch", p.Batch, samples+" of a global batch, split over the shards")
	f.StringVar(&p.Size, "model", p.Size, "size: "+strings.Join(models, ", "))
	f.StringVar(&p.Data, "data", p.Data, data)
	f.Uint64Var(&p.Seed, "seed", p.Seed, "of the weights, the order of samples and all else that is drawn")
	f.Float64Var(&p.LR, "lr", p.LR, "learning rate after the warm-up; it falls along a cosine")
	f.Int64Var(&p.Warmup, "warmup", p.Warmup, "steps of linear warm-up, at most half of all")
	f.StringVar(&p.Device, "device", p.Device, "auto, cpu or cuda; default: what the job says")
	f.StringVar(&p.Precision, "precision", kernels.ClassF32, "f32, or bf16 for products of bfloat16: other bits, and faster where the processor has them")
	f.StringVar(&p.Products, "products", kernels.ProductsOwn, "what multiplies with --precision bf16, each with other bits: own, amx on a CPU as Intel's matrix unit does, or cublaslt on a GPU, NVIDIA's library, which is looked for as the linker does")
	f.IntVar(&p.Threads, "threads", p.Threads, "threads to compute with; default: what the job says")
	f.BoolVar(&p.Pin, "pin", p.Pin, "bind each thread to a processor; default: what the job says")
	f.StringVar(&p.Load, "load", p.Load, "begin with the newest checkpoint in this directory instead of the seed's weights")
	return f
}

// Parse reads args into f's variables, then has check, which may be nil, look at the program's own. --help prints the
// flags and exits the process. A mistake is kept for Open.
func (p *Program) Parse(f *flag.FlagSet, args []string, check func() error) {
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(os.Stdout)
		f.Usage()
		os.Exit(0)
	case err != nil:
		p.mistake = fmt.Errorf("%w: see %s --help", err, f.Name())
		return
	case f.NArg() > 0:
		p.mistake = fmt.Errorf("%q is no flag: see %s --help", f.Arg(0), f.Name())
		return
	}
	if p.mistake = p.check(); p.mistake == nil && check != nil {
		p.mistake = check()
	}
}

func (o *Options) check() error {
	switch {
	case o.Steps < 0 || o.Warmup < 0 || o.Threads < 0:
		return errors.New("--steps, --warmup and --threads cannot be negative")
	case !(o.LR > 0) || math.IsInf(o.LR, 1):
		return fmt.Errorf("--lr %v: the learning rate must be positive and finite", o.LR)
	case o.Products != "" && !slices.Contains(kernels.AllProducts(), o.Products):
		return fmt.Errorf("--products %q is not known: use one of %s", o.Products, strings.Join(kernels.AllProducts(), ", "))
	case o.Precision != kernels.ClassF32 && o.Precision != kernels.ClassBF16:
		return fmt.Errorf("--precision %q is not known: use %s or %s", o.Precision, kernels.ClassF32, kernels.ClassBF16)
	}
	return nil
}
