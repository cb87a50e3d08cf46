#!/usr/bin/env bash
# Trains a GPT of 6 layers, 384 wide, on the source of Go's standard library: two workers, one of them killed in the middle.
# Writes the log, the summary, the loss as CSV and a sample into OUT. The defaults are made for an hour or more on two cores.
#   STEPS=20 MODEL=tiny examples/gosource.sh      # a look at it
set -euo pipefail
cd "$(dirname "$0")/.."

STEPS=${STEPS:-6000}
MODEL=${MODEL:-gpt2-6x384}
BATCH=${BATCH:-16} # sequences of a global batch
SEQ=${SEQ:-64}
LR=${LR:-1e-3}
EVERY=${EVERY:-500} # steps between checkpoints
KILL=${KILL:-$((STEPS / 2))}
BIN=${BIN:-bin}
OUT=${OUT:-$(mktemp -d "${TMPDIR:-/tmp}/farandole-gosource.XXXXXX")}

mkdir -p "$OUT"
"$BIN/farandole" run --workers 2 --checkpoint-dir "$OUT/checkpoints" --checkpoint-every "$EVERY" --summary "$OUT/summary.json" \
	--chaos "kill rank=1 step=$KILL; join step=$((KILL + 1))" -- \
	"$BIN/gpt" --model "$MODEL" --data "$(go env GOROOT)/src/*.go" --steps "$STEPS" --batch "$BATCH" --seq "$SEQ" --lr "$LR" --warmup 200 \
	--sample --prompt "func " 2>&1 | tee "$OUT/log"

{
	echo step,loss
	sed -n 's/.*step \([0-9]*\)\/[0-9]*.* loss \([0-9.]*\).*/\1,\2/p' "$OUT/log"
} >"$OUT/loss.csv"
echo "log, summary, loss.csv and checkpoints are in $OUT"
