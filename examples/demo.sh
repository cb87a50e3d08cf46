#!/usr/bin/env bash
# Trains one small GPT twice on this machine: once while workers are killed, frozen and added and the coordinator
# crashes, once undisturbed on a single worker. The weights must be the same bits: exit 0 when they are, 1 when not.
set -euo pipefail
cd "$(dirname "$0")/.."

# What is trained. Every variable may be set from outside: STEPS=200 examples/demo.sh
STEPS=${STEPS:-600}
SHARDS=${SHARDS:-8} # logical shards of a global batch: the largest world size
BATCH=${BATCH:-16}  # sequences of a global batch
SEQ=${SEQ:-64}
MODEL=${MODEL:-small}
SEED=${SEED:-1}

# What happens to it.
WORKERS=${WORKERS:-3}
MAX=${MAX:-8}
FREEZE=${FREEZE:-3s} # longer than twice the liveness of 1s, so that the frozen worker is evicted
CHAOS=${CHAOS:-"kill rank=1 step=$((STEPS / 6)); stop rank=0 step=$((STEPS / 3)) for=$FREEZE; join step=$((STEPS / 2)) count=2; kill coordinator step=$((STEPS * 2 / 3))"}

BIN=${BIN:-bin}
KEEP=${OUT:-} # what OUT names stays; else the summaries go when the weights are equal
OUT=${OUT:-$(mktemp -d "${TMPDIR:-/tmp}/farandole-demo.XXXXXX")}

program=("$BIN/gpt" --model "$MODEL" --steps "$STEPS" --shards "$SHARDS" --batch "$BATCH" --seq "$SEQ" --seed "$SEED" --sample)

# field FILE KEY prints a string or number of a summary.
field() {
	tr -d ' \t\n' <"$1" | sed -n "s/.*[{,]\"$2\":\"\{0,1\}\([^\",}]*\).*/\1/p"
}

# list FILE KEY prints an array of numbers of a summary.
list() {
	tr -d ' \t\n' <"$1" | sed -n "s/.*[{,]\"$2\":\[\([0-9,]*\)\].*/\1/p"
}

fail() {
	echo "demo: $*; summaries are in $OUT" >&2
	exit 1
}

mkdir -p "$OUT"
rm -f "$OUT/faults.json" "$OUT/alone.json" # never judge an older run
for binary in "$BIN/farandole" "$BIN/gpt"; do
	[[ -x $binary ]] || fail "$binary is missing: run make build"
done

echo "==> under faults, $WORKERS workers at first: $CHAOS"
"$BIN/farandole" run --workers "$WORKERS" --max "$MAX" --chaos "$CHAOS" --summary "$OUT/faults.json" -- "${program[@]}"

echo
echo "==> undisturbed, 1 worker"
"$BIN/farandole" run --workers 1 --summary "$OUT/alone.json" -- "${program[@]}"

echo
for run in faults alone; do
	file=$OUT/$run.json
	[[ -s $file ]] || fail "the run '$run' wrote no summary"
	sha=$(field "$file" weights_sha256)
	[[ $sha =~ ^[0-9a-f]{64}$ ]] || fail "weights_sha256 of $file is '$sha', not a SHA-256"
	printf -v "sha_$run" %s "$sha"
	printf '%-7s %s steps, world sizes %s, generations %s\n        %s\n' "$run" \
		"$(field "$file" steps)" "$(list "$file" world_sizes)" "$(field "$file" generations)" "$sha"
done

# Equal weights prove nothing if the faults did not take place.
grep -q '"injected": *true' "$OUT/faults.json" || fail "no fault was injected"
! grep -q '"injected": *false' "$OUT/faults.json" || fail "a fault was not injected: more STEPS may be needed"
[[ $(field "$OUT/faults.json" generations) != "$(field "$OUT/alone.json" generations)" ]] ||
	fail "both runs had the same number of generations: the faults did not take place"
[[ $(field "$OUT/faults.json" steps) == "$STEPS" && $(field "$OUT/alone.json" steps) == "$STEPS" ]] ||
	fail "a run did not commit $STEPS steps"

# Filled by printf -v above.
# shellcheck disable=SC2154
if [[ $sha_faults == "$sha_alone" ]]; then
	echo "EQUAL"
	[[ -n $KEEP ]] || rm -rf "$OUT"
else
	echo "DIFFERENT; summaries are in $OUT"
	exit 1
fi
