#!/usr/bin/env bash
# Runs tests built for 64-bit Arm under an emulator: all of them on one CPU model, those of the
# numbers (quant, kernels-simd) on the others.
#
#   cortex-a72   Raspberry Pi 4: plain NEON; the model that runs all tests
#   cortex-a76   Raspberry Pi 5: dot products
#   max          all that the emulator has: int8 matrix products, SVE, ...
#
# usage: scripts/arm64-test.sh [CPU...]
# CHASKI_ARM64_TOOLCHAIN: what scripts/arm64-toolchain.sh made (default: target/arm64-toolchain,
# made where it is missing). CHASKI_ARM64_LIMIT: seconds for one CPU model's tests (default 1200).
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=$(realpath -m "${CHASKI_ARM64_TOOLCHAIN:-target/arm64-toolchain}")
limit=${CHASKI_ARM64_LIMIT:-1200}
cpus=("$@")
[ $# -gt 0 ] || cpus=(cortex-a72 cortex-a76 max)

numbers=(-p chaski-quant -p chaski-kernels-simd)
all=("${numbers[@]}" -p chaski-models)

scripts/arm64-toolchain.sh "$toolchain"
export RUSTC=$toolchain/bin/rustc
export CARGO_TARGET_DIR=$PWD/target/arm64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
# Tests with a number of random cases that they take from the environment do fewer.
export PROPTEST_CASES=${PROPTEST_CASES:-24}
unset RUSTFLAGS CHASKI_SIMD CHASKI_EXPECT_SIMD

for cpu in "${cpus[@]}"; do
  packages=("${numbers[@]}")
  [ "$cpu" != cortex-a72 ] || packages=("${all[@]}")
  echo "== $cpu: ${packages[*]}"
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu $cpu"
  # --lib --bins --tests: documentation tests are not run for other targets than the host.
  cargo test -q --no-run --target aarch64-unknown-linux-gnu "${packages[@]}" --lib --bins --tests
  timeout --foreground "$limit" \
    cargo test --target aarch64-unknown-linux-gnu "${packages[@]}" --lib --bins --tests
done
