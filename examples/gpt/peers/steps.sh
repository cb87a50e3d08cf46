#!/usr/bin/env bash
# Measures training steps of GPT-2 124M by farandole and by PyTorch on this machine's processors, in turn:
#   examples/gpt/peers/steps.sh [SEQ] [ROUNDS]
# prints one line of JSON for each. PYTHON names a Python with torch.
set -euo pipefail
cd "$(dirname "$0")/../../.."

seq=${1:-64} rounds=${2:-2}
PYTHON=${PYTHON:-python3}
BIN=${BIN:-bin}
THREADS=${THREADS:-2}
STEPS=${STEPS:-3}
"$PYTHON" -c 'import torch' 2>/dev/null || { echo "steps: $PYTHON has no torch: name another with PYTHON=" >&2; exit 1; }

for _ in $(seq "$rounds"); do
  "$BIN/farandole" bench step --model gpt2-124m --batch 4 --seq "$seq" --threads "$THREADS" --iters "$STEPS" --warmup 1 -o json | tr -d '\n '
  echo
  for precision in f32 bf16; do
    "$PYTHON" examples/gpt/peers/pytorch_step.py --batch 4 --seq "$seq" --threads "$THREADS" --steps "$STEPS" --precision "$precision"
  done
done
