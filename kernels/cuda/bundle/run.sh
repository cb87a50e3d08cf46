#!/usr/bin/env bash
# Runs on a machine with a GPU what this folder has, and writes one report: run.sh [-limit 9m] [-tiny] [OUT]
# OUT (default: gpu-report) then has report.md, report.json and logs/.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=$(mktemp -d)
for f in "$here"/programs/*.gz; do
  name=$(basename "$f" .gz)
  gzip -dc "$f" >"$programs/$name"
  chmod +x "$programs/$name"
done
# It removes the programs when it ends.
exec "$programs/report" -bundle "$here" -programs "$programs" "$@"
