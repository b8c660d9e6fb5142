#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can tell, in one command:
#
#   results   whole models on the GPU against the CPU, bit for bit; the same under compute-sanitizer where that is installed
#   speed     models of the shape of Llama's 1B and 8B and Qwen's 7B with random weights, and those that are named: copying the
#             weights against the link, prefill in TOP/s, decode against what a kernel that only reads reaches and against the
#             memory's clock, at several depths, on the CPU, on the GPU and split between them
#
# usage: scripts/gpu-check.sh [MODEL...]
#
# Needs cargo, the driver and python3, nothing else; about 20 GB of disk and, on a fast card, 20 minutes. MODEL: as for `chaski
# bench`, such as a .chaski file. Results go to CHASKI_GPU_RESULTS (default: target/gpu-check): `card.json`, for each model and
# placement `*.bench.json` and `*.plan.json`, all of it set out in `report.md`. Variables that leave something out:
#
#   CHASKI_GPU_SHAPES="1b:q4 8b:q4"   shapes and types of random models (default: 1b:q4 1b:q8 8b:q4 8b:q6 qwen-7b:q4), or ""
#   CHASKI_GPU_TESTS=0                no tests, no compute-sanitizer
#   CHASKI_GPU_CPU=0                  nothing on the CPU beside it
set -euo pipefail
cd "$(dirname "$0")/.."
results=${CHASKI_GPU_RESULTS:-target/gpu-check}
shapes=${CHASKI_GPU_SHAPES-1b:q4 1b:q8 8b:q4 8b:q6 qwen-7b:q4}
mkdir -p "$results"
rm -f "$results"/*.bench.json "$results"/*.plan.json

echo "== card"
scripts/gpu_report.py peaks | tee "$results/card.json"
if command -v nvidia-smi > /dev/null; then
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,pcie.link.gen.max,pcie.link.width.max --format=csv |
    tee "$results/gpu.csv"
fi

if [ "${CHASKI_GPU_TESTS:-1}" != 0 ]; then
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
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$program" cuda::real cuda::emulated::{elementwise,matrix,attention} --test-threads 1
    done
  else
    echo "skipped: there is no compute-sanitizer"
  fi
fi

echo "== build"
cargo build --release -p chaski --bin chaski --example random_model
chaski=target/release/chaski

# Tests of a model, and what it takes: NAME MODEL LAYERS KV TESTS...
bench() {
  local name=$1-ngl-$3-kv-$4 model=$2 layers=$3 kv=$4
  shift 4
  "$chaski" plan "$model" -ngl "$layers" --kv "$kv" -c 4096 --json > "$results/$name.plan.json"
  "$chaski" bench "$model" -ngl "$layers" --kv "$kv" -o json "$@" > "$results/$name.bench.json"
}

# How long a first start takes, in which the driver compiles the kernels that the model needs, and the next ones: MODEL
compilation() {
  local TIMEFORMAT="%R s" start=("$chaski" bench "$1" -ngl all -p 16 -n 1 -r 1)
  echo "== a start without the driver's cache, and with it"
  time CUDA_CACHE_DISABLE=1 "${start[@]}" > /dev/null
  "${start[@]}" > /dev/null
  time "${start[@]}" > /dev/null
}

# All placements of a model: NAME MODEL
measure() {
  local name=$1 model=$2 half
  [ "${compiled:-}" ] || compilation "$model"
  compiled=1
  echo "== $name"
  bench "$name" "$model" all f16 -p 128,512,2048 -n 128 -d 0,4096,16384 -r 3
  bench "$name-ub-2048" "$model" all f16 -p 2048 -n 0 -d 0,16384 -r 3 --ubatch-size 2048
  bench "$name" "$model" all q8 -p 512 -n 128 -d 16384 -r 3
  [ "${CHASKI_GPU_CPU:-1}" != 0 ] || return 0
  half=$(($("$chaski" plan "$model" -ngl all --json | python3 -c '
import json, sys
print(json.load(sys.stdin)["gpu"]["layers"])') / 2))
  bench "$name" "$model" "$half" f16 -p 512 -n 32 -d 0 -r 2
  bench "$name" "$model" 0 f16 -p 512 -n 32 -d 0 -r 2
}

for shape in $shapes; do
  model=$results/random-${shape/:/-}.chaski
  target/release/examples/random_model "${shape%:*}" "${shape#*:}" "$model"
  measure "random-${shape/:/-}" "$model"
  rm "$model"
done
for model in "$@"; do
  measure "$(basename "$model")" "$model"
  # With -v: what is where, and how fast it was copied.
  "$chaski" run "$model" "Count to ten." -n 8 --temp 0 -ngl all -v
done

echo "== report"
scripts/gpu_report.py table "$results" | tee "$results/report.md"
