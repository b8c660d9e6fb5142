#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can tell: whole models on the GPU against the CPU, bit for bit; the same under
# compute-sanitizer where that is installed; and, with a model, its speed on the CPU, on the GPU and split between them.
#
# usage: scripts/gpu-check.sh [MODEL...]
#
# Needs cargo and the driver, nothing else. MODEL: as for `chaski bench`, such as a .chaski file. The results of bench go to
# CHASKI_GPU_RESULTS (default: target/gpu-check), one file each.
set -euo pipefail
cd "$(dirname "$0")/.."
results=${CHASKI_GPU_RESULTS:-target/gpu-check}
mkdir -p "$results"

echo "== GPU"
if command -v nvidia-smi > /dev/null; then
  nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv | tee "$results/gpu.csv"
fi

echo "== tests"
export CHASKI_EXPECT_GPU=1
cargo test -p chaski --test it -- cuda
cargo test -p chaski --lib -- cuda

if command -v compute-sanitizer > /dev/null; then
  echo "== compute-sanitizer"
  program=$(cargo test -p chaski --test it --no-run --message-format json 2> /dev/null | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message.get("target", {}).get("name") == "it":
        print(message["executable"])')
  for tool in memcheck racecheck initcheck synccheck; do
    echo "-- $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$program" cuda::real --test-threads 1
  done
else
  echo "skipped: there is no compute-sanitizer"
fi

[ $# -gt 0 ] || exit 0
echo "== bench"
cargo build --release
for model in "$@"; do
  name=$(basename "$model")
  # First with -v: how fast the weights are copied.
  target/release/chaski run "$model" "Count to ten." -n 8 --temp 0 -ngl all -v
  half=$(($(target/release/chaski plan "$model" -ngl all --json | python3 -c '
import json, sys
print(json.load(sys.stdin)["gpu"]["layers"])') / 2))
  for layers in 0 "$half" all; do
    target/release/chaski bench "$model" -p 512 -n 128 -d 0,4096 -ngl "$layers" -o json > "$results/$name-ngl-$layers.json"
    target/release/chaski bench "$model" -p 512 -n 128 -d 0,4096 -ngl "$layers" | tee "$results/$name-ngl-$layers.md"
  done
done
