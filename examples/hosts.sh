#!/usr/bin/env bash
# Measures all-reduce (float32 sum, in place) over two hosts of two ranks each, by every algorithm named, as root:
#   examples/hosts.sh [RATE] [ALGORITHM…]
# The hosts are network namespaces with a link between them; RATE is its speed in tc's notation, such as 1gbit, or "unlimited". Prints µs.
# FLAGS are farandole's. Everything that the script makes ends with it.
set -euo pipefail
cd "$(dirname "$0")/.."

rate=${1:-1gbit}
shift || true
[ $# -gt 0 ] || set -- hierarchical ring halving-doubling
FIRST=${FIRST:-64K} LAST=${LAST:-64M}
BIN=$(realpath "${BIN:-bin}")
FLAGS=${FLAGS:-}

for tool in ip tc nsenter unshare; do
  command -v "$tool" >/dev/null || { echo "hosts: $tool is not installed" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "hosts: network namespaces need root" >&2; exit 1; }

out=$(mktemp -d "${TMPDIR:-/tmp}/farandole-hosts.XXXXXX")
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$out"' EXIT

space() { # a namespace that lives as long as a process in it
  unshare -n sleep infinity &
  pids+=($!)
  until [ "$(readlink "/proc/$!/ns/net" 2>/dev/null)" != "$(readlink /proc/self/ns/net)" ] && [ -e "/proc/$!/ns/net" ]; do sleep 0.01; done
}
on() { local pid=$1; shift; nsenter -t "$pid" -n -- "$@"; }
start() { # in the background, with its output in a file; its own process, so that a signal meets it and no shell
  local pid=$1 log=$2
  shift 2
  nsenter -t "$pid" -n -- "$@" >"$out/$log" 2>&1 &
  pids+=($!)
}

space; one=${pids[0]}
space; two=${pids[1]}
on "$one" ip link add eth0 type veth peer name eth0 netns "$two"
for i in 1 2; do
  host=$one; [ $i = 1 ] || host=$two
  on "$host" ip link set lo up
  on "$host" ip addr add "10.213.9.$i/24" dev eth0
  on "$host" ip link set eth0 up
  [ "$rate" = unlimited ] || on "$host" tc qdisc add dev eth0 root tbf rate "$rate" burst 256kb latency 50ms
done

coordinator=10.213.9.1:7600
start "$one" coordinator.log "$BIN/farandole" coordinator --listen $coordinator --insecure --state-dir "$out"
for i in 1 2; do
  host=$one; [ $i = 1 ] || host=$two
  start "$host" "agent$i.log" "$BIN/farandole" agent --coordinator $coordinator --host "host$i" --listen "10.213.9.$i" --insecure --slots 2
done
sleep 1

for algorithm in "$@"; do
  # Word splitting is meant: FLAGS is several words.
  on "$one" "$BIN/farandole" bench all_reduce -n 4 --coordinator $coordinator -b "$FIRST" -e "$LAST" -f 4 --place in --algorithm "$algorithm" -o csv $FLAGS |
    awk -F, -v rate="$rate" 'NR > 1 && NF > 5 { printf "%-10s %-18s %10d bytes %12.1f us  %s wrong\n", rate, $6, $1, $8, $NF }'
done
