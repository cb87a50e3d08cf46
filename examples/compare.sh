#!/usr/bin/env bash
# Measures all-reduce (float32 sum, in place) by farandole and by the MPI that is installed, in turn, on this machine:
#   examples/compare.sh [RANKS] [ROUNDS]
# prints the median of the rounds, in µs, and how many times as fast as MPI we are. FLAGS are farandole's, MPIRUN and MPICC name another MPI:
#   FLAGS="--transport tcp" MPIRUN="mpirun --mca btl tcp,self" examples/compare.sh 2
set -euo pipefail
cd "$(dirname "$0")/.."

ranks=${1:-2} rounds=${2:-3}
SIZES=${SIZES:-"1024 65536 1048576 16777216 67108864"}
BIN=${BIN:-bin}
FLAGS=${FLAGS:---transport shm}
MPICC=${MPICC:-mpicc}
MPIRUN=${MPIRUN:-mpirun}

out=$(mktemp -d "${TMPDIR:-/tmp}/farandole-compare.XXXXXX")
trap 'rm -rf "$out"' EXIT
command -v "${MPIRUN%% *}" "$MPICC" >/dev/null || { echo "compare: no MPI here: install openmpi-bin and libopenmpi-dev, or mpich and libmpich-dev" >&2; exit 1; }

# The same way of timing as farandole bench: a barrier, a batch of 20 up to 64 KB, the slowest rank, the median.
cat >"$out/mpi.c" <<'C'
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int cmp(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }
int main(int argc, char **argv) {
  int rank;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (int k = 1; k < argc; k++) {
    size_t bytes = atol(argv[k]);
    int batch = bytes <= 65536 ? 20 : 1, samples = bytes <= 1048576 ? 500 : 20;
    float *x = malloc(bytes);
    double *t = malloc(samples * sizeof *t), *slowest = malloc(samples * sizeof *t);
    memset(x, 0, bytes);
    for (int s = -5; s < samples; s++) {
      MPI_Barrier(MPI_COMM_WORLD);
      double began = MPI_Wtime();
      for (int i = 0; i < batch; i++) MPI_Allreduce(MPI_IN_PLACE, x, bytes / 4, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      if (s >= 0) t[s] = (MPI_Wtime() - began) / batch;
    }
    MPI_Reduce(t, slowest, samples, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    qsort(slowest, samples, sizeof *slowest, cmp);
    if (rank == 0) printf("mpi %zu %.3f\n", bytes, slowest[samples / 2] * 1e6);
    free(x); free(t); free(slowest);
  }
  return MPI_Finalize();
}
C
"$MPICC" -O2 "$out/mpi.c" -o "$out/mpi"
root=()
if [ "$(id -u)" = 0 ] && "${MPIRUN%% *}" --version 2>&1 | grep -q 'Open MPI'; then root=(--allow-run-as-root); fi
if "${MPIRUN%% *}" --version 2>&1 | grep -q 'Open MPI'; then root+=(--oversubscribe); fi

for ((round = 1; round <= rounds; round++)); do
  for size in $SIZES; do
    # Word splitting is meant: FLAGS and MPIRUN are several words.
    "$BIN/farandole" bench all_reduce -n "$ranks" -b "$size" -e "$size" --place in -o csv $FLAGS | awk -F, 'NR == 2 { print "ours", $1, $8 }'
    $MPIRUN "${root[@]}" -n "$ranks" "$out/mpi" "$size"
  done
done >"$out/times"

printf '%12s %12s %12s %10s\n' bytes ours mpi mpi/ours
for size in $SIZES; do
  middle() { awk -v who="$1" -v size="$size" '$1 == who && $2 == size { print $3 }' "$out/times" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
  ours=$(middle ours) mpi=$(middle mpi)
  awk -v s="$size" -v a="$ours" -v b="$mpi" 'BEGIN { printf "%12d %12.2f %12.2f %10.2f\n", s, a, b, b / a }'
done
