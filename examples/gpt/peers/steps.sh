#!/usr/bin/env bash
# Measures training steps of GPT-2 124M by farandole and by PyTorch on this machine's processors, in turn:
#   examples/gpt/peers/steps.sh [SEQ] [ROUNDS]
# prints one line of JSON for each. PYTHON names a Python with torch, or several in turn: PYTHON="python3 venv/bin/python".
set -euo pipefail
cd "$(dirname "$0")/../../.."

seq=${1:-64} rounds=${2:-2}
PYTHON=${PYTHON:-python3}
BIN=${BIN:-bin}
THREADS=${THREADS:-2}
STEPS=${STEPS:-3}
PEERFLAGS=${PEERFLAGS:-} # for pytorch_step.py, such as --compile
read -ra pythons <<<"$PYTHON"
read -ra peerflags <<<"$PEERFLAGS"
for python in "${pythons[@]}"; do
  "$python" -c 'import torch' 2>/dev/null || { echo "steps: $python has no torch: name another with PYTHON=" >&2; exit 1; }
done

for _ in $(seq "$rounds"); do
  for precision in f32 bf16; do
    "$BIN/farandole" bench step --model gpt2-124m --batch 4 --seq "$seq" --threads "$THREADS" --precision "$precision" --iters "$STEPS" --warmup 1 -o json | tr -d '\n '
    echo
    for python in "${pythons[@]}"; do
      "$python" examples/gpt/peers/pytorch_step.py --batch 4 --seq "$seq" --threads "$THREADS" --steps "$STEPS" --precision "$precision" "${peerflags[@]}"
    done
  done
done
