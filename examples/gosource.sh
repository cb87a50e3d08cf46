#!/usr/bin/env bash
# Trains a GPT of 6 layers, 384 wide, on the source of Go's standard library: two workers, one of them killed in the middle.
# Writes the log with a sample, the summary, and the loss as a picture and as CSV into OUT.
#   STEPS=20 MODEL=tiny SEQ=64 examples/gosource.sh      # a look at it
set -euo pipefail
cd "$(dirname "$0")/.."

STEPS=${STEPS:-3600}
MODEL=${MODEL:-gpt2-6x384}
PRECISION=${PRECISION:-bf16}
BATCH=${BATCH:-8} # sequences of a global batch
SEQ=${SEQ:-256}
LR=${LR:-1e-3}
EVERY=${EVERY:-500} # steps between checkpoints
KILL=${KILL:-$((STEPS / 2))}
BIN=${BIN:-bin}
OUT=${OUT:-$(mktemp -d "${TMPDIR:-/tmp}/farandole-gosource.XXXXXX")}

mkdir -p "$OUT"
"$BIN/farandole" run --workers 2 --checkpoint-dir "$OUT/checkpoints" --checkpoint-every "$EVERY" --summary "$OUT/summary.json" \
	--curve "$OUT/loss.png" --curve "$OUT/loss.csv" --chaos "kill rank=1 step=$KILL; join step=$((KILL + 10))" -- \
	"$BIN/gpt" --model "$MODEL" --precision "$PRECISION" --data "$(go env GOROOT)/src/*.go" --steps "$STEPS" --batch "$BATCH" --seq "$SEQ" \
	--lr "$LR" --warmup 200 --sample --prompt "func " 2>&1 | tee "$OUT/log"
echo "log, summary.json, loss.png, loss.csv and checkpoints are in $OUT"
