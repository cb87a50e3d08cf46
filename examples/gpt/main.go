// Command gpt trains a GPT-2 of any size on any text: alone, or elastically under farandole run, with the same bits.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
	"github.com/farandole-ml/farandole/worker/data"
	"github.com/farandole-ml/farandole/worker/fit"
)

// sampleTokens and sampleTemperature are of the text that --sample prints.
const sampleTokens, sampleTemperature = 400, 0.6

func main() { worker.Main(parse(os.Args[1:])) }

// trainer is a GPT and its text.
type trainer struct {
	fit.Program
	seq               int
	tokenizer, prompt string
	sample, recompute bool
	init              string // safetensors file with the first weights

	config nn.GPTConfig
	text   *data.Text
	model  *nn.GPT
	batch  nn.Batch // memory for the largest shard
}

func parse(args []string) *trainer {
	t := &trainer{}
	t.Options = fit.Options{Steps: 600, Shards: 8, Batch: 8, Size: "small", Seed: 1, LR: 3e-3, Warmup: 150}
	f := t.Flags("gpt", nn.GPTNames(), "sequences", "text file, folder, or folder with a pattern (src/*.go); default: Opticks, from the Go installation")
	f.IntVar(&t.seq, "seq", 64, "tokens of a sequence")
	f.StringVar(&t.tokenizer, "tokenizer", "", "bytes or gpt2; default: gpt2 for the published sizes of GPT-2, else bytes")
	f.BoolVar(&t.sample, "sample", false, "print generated text at the end; with --steps 0 --load only that")
	f.BoolVar(&t.recompute, "recompute", false, "compute activations twice instead of keeping them: less memory, the same bits, at most a third more arithmetic")
	f.StringVar(&t.prompt, "prompt", "The ", "beginning of the generated text")
	f.StringVar(&t.init, "init", "", "begin with the weights of a GPT-2 in this safetensors file, in Hugging Face's layout, instead of the seed's")
	t.Parse(f, args, t.check)
	return t
}

// check finds impossible flags, and settles defaults that depend on others.
func (t *trainer) check() (err error) {
	if t.config, err = nn.ConfigByName(t.Size); err != nil {
		return err
	}
	if t.tokenizer == "" {
		t.tokenizer = "bytes"
		if t.config.Vocab > 256 {
			t.tokenizer = "gpt2"
		}
	}
	if t.seq < 1 || t.seq > t.config.Context {
		return fmt.Errorf("--seq %d: model %s takes 1 to %d tokens", t.seq, t.Size, t.config.Context)
	}
	if t.init != "" && t.Load != "" {
		return errors.New("--init and --load both say what to begin with: choose one")
	}
	if t.sample && t.prompt == "" {
		return errors.New("--prompt is empty: --sample needs a beginning")
	}
	return nil
}

// Setup reads the text and makes the model of the seed.
func (t *trainer) Setup(ctx context.Context, s *worker.Session) (err error) {
	if err = t.Open(s); err != nil {
		return err
	}
	t.text, err = data.OpenText(ctx, data.TextConfig{Path: t.Data, Tokenizer: t.tokenizer, Log: slog.Default()})
	if err = t.Samples(func() int64 { return t.text.Samples(t.seq) }, err); err != nil {
		return err
	}
	t.config.Vocab, t.config.Context = t.text.Vocab(), t.seq
	weights, err := fit.OpenGPT2(t.init, &t.config)
	if err != nil {
		return err
	}
	defer weights.Close()
	if t.model, err = nn.NewGPT(t.Dev, t.config); err != nil {
		return err
	}
	t.model.Recompute(t.recompute)
	t.batch.Tokens = make([]int32, t.LargestShard()*t.seq)
	t.batch.Targets = make([]int32, t.LargestShard()*t.seq)
	if err := t.Attach(ctx, s, t.model, nn.Hyper{}, 0.1, t.text.Name(), int64(t.seq)); err != nil {
		return err
	}
	return weights.Load(ctx, t.Dev, t.model)
}

// Gradients adds the shard's part of the gradient of the global batch's mean loss.
func (t *trainer) Gradients(ctx context.Context, shard elastic.Shard) (float64, error) {
	ids := t.IDs(shard)
	b := nn.Batch{Rows: len(ids), Seq: t.seq, Tokens: t.batch.Tokens[:len(ids)*t.seq], Targets: t.batch.Targets[:len(ids)*t.seq]}
	for i, id := range ids {
		t.text.Fill(b.Tokens[i*t.seq:(i+1)*t.seq], b.Targets[i*t.seq:(i+1)*t.seq], id)
	}
	return t.Gradient(ctx, b, t.Batch*int64(t.seq), shard)
}

// Finish prints a sample of what the model learned.
func (t *trainer) Finish(ctx context.Context, _ *worker.Session) error {
	if !t.sample {
		return nil
	}
	prompt, err := t.text.Encode(ctx, t.prompt)
	if err != nil {
		return err
	}
	out, err := t.model.Generate(prompt, sampleTokens, nn.Sampling{Seed: t.Seed, Temperature: sampleTemperature})
	if err != nil {
		return err
	}
	s, err := t.text.Decode(out)
	if err == nil {
		_, err = fmt.Printf("%s%s\n", t.prompt, s)
	}
	return err
}
