package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// The layouts of an exported file.
const (
	layoutOwn  = "farandole"
	layoutGPT2 = "huggingface"
)

func newCheckpointExport() *cobra.Command {
	var step int64
	var layout, dtype string
	cmd := &cobra.Command{
		Use:   "export DIR FILE",
		Short: "Write a checkpoint as one safetensors file",
		Long: `Write a checkpoint as one safetensors file.

With --layout farandole the file has the whole training state, in the names and shapes of the checkpoint. With --layout
huggingface it has the weights of a GPT-2 as Hugging Face's transformers, and gpt --init, read them: the optimizer's state
stays behind, matrices are stored as [in, out], and the output head is the token embedding.`,
		Example: `  farandole checkpoint export ckpt model.safetensors
  farandole checkpoint export ckpt model.safetensors --layout huggingface --dtype bf16`,
		Args: exactArgs("a DIR", "a FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("--layout", layout, layoutOwn, layoutGPT2); err != nil {
				return err
			}
			if err := oneOf("--dtype", dtype, checkpoint.DTypes()...); err != nil {
				return err
			}
			if layout == layoutOwn && dtype != checkpoint.DTypes()[0] {
				return usagef("--dtype %s goes with --layout %s: the training state is f32", dtype, layoutGPT2)
			}
			if err := writableFile("FILE", args[1]); err != nil {
				return err
			}
			return withCheckpoints(cmd, args[0], func(ctx context.Context, d *checkpoint.Dir) error {
				i, err := pick(d, step)
				if err != nil {
					return err
				}
				tensors := i.Tensors
				if layout == layoutGPT2 {
					tensors, err = exportGPT2(ctx, d, i, args[1], dtype)
				} else {
					err = d.Export(ctx, i.Step, args[1])
				}
				if err != nil {
					return err
				}
				st, err := os.Stat(args[1])
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "wrote step %d to %s: %s, %s, every hash checked\n", i.Step, args[1],
					count(int64(tensors), "tensor"), bytesText(st.Size()))
				return nil
			})
		},
	}
	stepFlag(cmd, &step, "the newest complete one")
	cmd.Flags().StringVar(&layout, "layout", layoutOwn, "farandole or huggingface")
	cmd.Flags().StringVar(&dtype, "dtype", checkpoint.DTypes()[0], "f32, bf16 or f16, with --layout huggingface")
	return cmd
}

// exportGPT2 writes the weights of the GPT in a checkpoint, and gives their number.
func exportGPT2(ctx context.Context, d *checkpoint.Dir, i checkpoint.Info, path, dtype string) (int, error) {
	cfg, ok := nn.GPTOf(i.Program)
	if !ok {
		return 0, usagef("--layout %s is for a GPT-2, and this checkpoint is of %q", layoutGPT2, i.Program)
	}
	var weights []checkpoint.Weight
	for _, t := range cfg.Layout() {
		tensor := checkpoint.Tensor{Name: t.Name, Shape: t.Shape}
		weights = append(weights, checkpoint.Weight{Tensor: tensor, Transposed: t.Transposed})
	}
	return len(weights), d.ExportGPT2(ctx, i.Step, path, dtype, weights)
}
