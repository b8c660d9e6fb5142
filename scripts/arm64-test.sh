#!/usr/bin/env bash
# Runs tests built for 64-bit Arm under an emulator: the kernels on every CPU model, which must have
# the SIMD levels named here; the formats and the oracle (quant) on one; whole models against the
# oracle (the root's tests of equality, in brief) on the one that has all levels.
#
#   cortex-a72   Raspberry Pi 4: plain NEON; the model that runs quant too
#   cortex-a76   Raspberry Pi 5: dot products
#   max          all that the emulator has: int8 matrix products, SVE, ...; whole models
#
# usage: scripts/arm64-test.sh [CPU...]
# CHASKI_ARM64_TOOLCHAIN: what scripts/arm64-toolchain.sh made (default: target/arm64-toolchain,
# made where it is missing). CHASKI_ARM64_LIMIT: seconds for one test program (default 1200).
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=$(realpath -m "${CHASKI_ARM64_TOOLCHAIN:-target/arm64-toolchain}")
limit=${CHASKI_ARM64_LIMIT:-1200}
cpus=("$@")
[ $# -gt 0 ] || cpus=(cortex-a72 cortex-a76 max)

scripts/arm64-toolchain.sh "$toolchain"
target=aarch64-unknown-linux-gnu
export RUSTC=$toolchain/bin/rustc
export CARGO_TARGET_DIR=$PWD/target/arm64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
# Tests with a number of random cases that they take from the environment do fewer.
export PROPTEST_CASES=${PROPTEST_CASES:-24}
unset RUSTFLAGS CHASKI_SIMD CHASKI_EXPECT_SIMD

echo "== clippy"
"$toolchain/bin/cargo-clippy" clippy --target $target -p chaski-kernels-simd --lib --tests -- -D warnings

# Test programs, built once for all CPU models: `build CARGO-ARGUMENT...` prints a line for each,
# package, its folder, the program. Documentation tests are not among them: those run on the host
# only. Dependencies, which the tests use for seconds only, are compiled in a hurry.
build() {
  cargo test --config 'profile.dev.package."*".opt-level=1' --no-run --target $target \
    --message-format json "$@" | python3 -c '
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["profile"]["test"]:
        manifest = message["manifest_path"]
        name = next(l.split("\"")[1] for l in open(manifest) if l.startswith("name = "))
        print(name, os.path.dirname(manifest), message["executable"])
'
}
# run CPU LEVELS PROGRAMS [TEST-FILTER]
run() {
  local package folder program
  while read -r package folder program; do
    echo "Running $package: $(basename "$program") on $1"
    (cd "$folder" && CHASKI_EXPECT_SIMD=$2 timeout --foreground "$limit" \
      qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu "$1" "$program" "${@:4}") </dev/null
  done <<<"$3"
}

kernels=$(build -p chaski-kernels-simd --lib)
for cpu in "${cpus[@]}"; do
  case $cpu in
    cortex-a72) levels=scalar,neon ;;
    cortex-a76) levels=scalar,neon,dotprod ;;
    max) levels=scalar,neon,dotprod,i8mm ;;
    *) levels= ;;
  esac
  echo "== $cpu${levels:+, expecting $levels}"
  run "$cpu" "$levels" "$kernels"
  case $cpu in
    cortex-a72)
      programs=$(build -p chaski-quant --lib --tests)
      run "$cpu" "$levels" "$programs"
      ;;
    max)
      programs=$(build -p chaski --test it)
      CHASKI_TEST_BRIEF=1 run "$cpu" "$levels" "$programs" equality::
      ;;
  esac
done
