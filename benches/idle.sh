#!/usr/bin/env bash
# What an idle gateway costs: `serve` with a SQLite source it polls every 100 ms, CPU and memory over 30 s.
# Usage: benches/idle.sh [binary] [seconds]      (default: target/release/postern, 30)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

binary=${1:-${CARGO_TARGET_DIR:-target}/release/postern}
seconds=${2:-30}
[[ -x $binary ]] || {
  echo "benches/idle.sh: no $binary; build it with: cargo build --release" >&2
  exit 1
}

dir=$(mktemp -d)
pid=
finish() {
  if [[ -n $pid ]]; then kill "$pid" && wait "$pid" || true; fi
  rm -rf "$dir"
}
trap finish EXIT

# The demo makes a shop's database with some events, and the configuration. Its journal goes, and with it its webhook.
"$binary" demo --dir "$dir" --listen 127.0.0.1:0 --rate 100 >"$dir/demo.log" 2>&1 &
pid=$!
sleep 5
kill "$pid" && wait "$pid" || true
pid=
rm -f "$dir"/postern.db*

POSTERN_SERVER__LISTEN=127.0.0.1:0 "$binary" serve --config "$dir/postern.toml" >"$dir/serve.log" 2>&1 &
pid=$!
sleep 5 # It reads what is there, then it is idle.

ticks() { awk '{ print $14 + $15 }' "/proc/$pid/stat"; } # utime + stime; the name has no blanks
before=$(ticks) || {
  cat "$dir/serve.log" >&2
  exit 1
}
sleep "$seconds"
after=$(ticks)
awk -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" -v s="$seconds" \
  -v kib="$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")" 'BEGIN {
    cpu = 100 * ticks / hz / s; mb = kib * 1024 / 1e6
    printf "idle gateway, CPU %% of a core   %6.2f   target < 1%s\n", cpu, cpu < 1 ? "" : "    missed"
    printf "idle gateway, resident MB      %6.1f   target < 50%s\n", mb, mb < 50 ? "" : "   missed"
  }'
