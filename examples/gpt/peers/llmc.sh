#!/usr/bin/env bash
# Measures training steps of GPT-2 124M in float32 by farandole and by llm.c on this machine's processors, in turn:
#   examples/gpt/peers/llmc.sh LLM.C [SEQ] [ROUNDS]
# where LLM.C is a clone of https://github.com/karpathy/llm.c. Needs gcc with OpenMP and python3. Prints one line of JSON for each. Weights and
# tokens are random: nothing is downloaded, and nothing is written into the clone.
set -euo pipefail
[[ $# -ge 1 && -f $1/train_gpt2.c ]] || { echo "usage: llmc.sh LLM.C [SEQ] [ROUNDS], where LLM.C is a clone of https://github.com/karpathy/llm.c" >&2; exit 2; }
clone=$(cd "$1" && pwd)
cd "$(dirname "$0")/../../.."

seq=${2:-64} rounds=${3:-2}
BIN=${BIN:-bin}
THREADS=${THREADS:-2}
STEPS=${STEPS:-3}
[[ $seq =~ ^[0-9]+$ && $seq -ge 1 && $seq -le 1024 ]] || { echo "llmc: SEQ is $seq: give 1 to 1024 tokens" >&2; exit 2; }

work=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill $pid 2>/dev/null; rm -rf "$work"' EXIT
mkdir -p "$work/dev/data/tinyshakespeare"
# The sequence's length is a constant of llm.c's program.
sed "s/int T = 64;/int T = $seq;/" "$clone/train_gpt2.c" >"$work/train.c"
grep -q "int T = $seq;" "$work/train.c" || { echo "llmc: this train_gpt2.c sets its sequence length otherwise: use a version that has 'int T = 64;'" >&2; exit 1; }
gcc -Ofast -march=native -fopenmp -Wno-unused-result -I"$clone" -o "$work/train" "$work/train.c" -lm
python3 - "$work" "$seq" <<'END'
# The files that train_gpt2.c reads: 256 integers of header, then weights of 124M parameters, or tokens of 16 bits.
import array, random, struct, sys
work, seq = sys.argv[1], int(sys.argv[2])
layers, heads, width, context, vocab, padded = 12, 12, 768, 1024, 50257, 50304
r = random.Random(1)
noise = array.array("f", (r.gauss(0, 0.02) for _ in range(1 << 16)))
def write(f, n, values):
    whole, rest = divmod(n, len(values))
    for _ in range(whole):
        values.tofile(f)
    values[:rest].tofile(f)
with open(f"{work}/gpt2_124M.bin", "wb") as f:
    f.write(struct.pack("<256i", 20240326, 3, context, vocab, layers, heads, width, padded, *[0] * 248))
    ones, zeros = array.array("f", [1]) * 65536, array.array("f", [0]) * 65536
    write(f, padded * width, noise)
    write(f, context * width, noise)
    for n, values in (width, ones), (width, zeros), (3 * width * width, noise), (3 * width, zeros), (width * width, noise), (width, zeros), \
            (width, ones), (width, zeros), (4 * width * width, noise), (4 * width, zeros), (4 * width * width, noise), (width, zeros):
        for _ in range(layers):
            write(f, n, values)
    write(f, width, ones)
    write(f, width, zeros)
for name in "train", "val":
    tokens = array.array("H", (r.randrange(vocab) for _ in range(4 * seq * 64 + 1)))
    with open(f"{work}/dev/data/tinyshakespeare/tiny_shakespeare_{name}.bin", "wb") as f:
        f.write(struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253))
        tokens.tofile(f)
END

for _ in $(seq "$rounds"); do
  "$BIN/farandole" bench step --model gpt2-124m --batch 4 --seq "$seq" --threads "$THREADS" --iters "$STEPS" --warmup 1 -o json | tr -d '\n '
  echo
  # It trains 40 steps; the first ones are enough, without the very first.
  (cd "$work" && OMP_NUM_THREADS=$THREADS exec stdbuf -oL ./train) >"$work/out" 2>&1 &
  pid=$!
  while kill -0 $pid 2>/dev/null && [[ $(grep -c '^step' "$work/out") -le $STEPS ]]; do sleep 0.2; done
  kill $pid 2>/dev/null || true
  wait $pid 2>/dev/null || true
  pid=
  [[ $(grep -c '^step' "$work/out") -gt $STEPS ]] || { cat "$work/out" >&2; echo "llmc: llm.c ended before step $STEPS" >&2; exit 1; }
  python3 - "$work/out" "$STEPS" "$seq" "$THREADS" <<'END'
import json, re, statistics, sys
out, steps, seq, threads = sys.argv[1], *map(int, sys.argv[2:])
ms = [float(x) for x in re.findall(r"^step \d+: .*took ([0-9.]+) ms", open(out).read(), re.M)][1:steps + 1]
step = statistics.median(ms)
print(json.dumps({"peer": "llm.c", "precision": "f32", "batch": 4, "seq": seq, "threads": threads, "step_ms": round(step, 1), "tokens_per_second": round(4 * seq / step * 1e3, 1)}))
END
done
