#!/usr/bin/env bash
# Runs tests built for 64-bit Arm under an emulator: the kernels on every CPU model, the
# formats and the oracle (quant) on one.
#
#   cortex-a72   Raspberry Pi 4: plain NEON; the model that runs quant too
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

numbers='chaski-kernels-simd'
all="$numbers chaski-quant"

scripts/arm64-toolchain.sh "$toolchain"
export RUSTC=$toolchain/bin/rustc
export CARGO_TARGET_DIR=$PWD/target/arm64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
# Tests with a number of random cases that they take from the environment do fewer.
export PROPTEST_CASES=${PROPTEST_CASES:-24}
unset RUSTFLAGS CHASKI_SIMD CHASKI_EXPECT_SIMD

# Built once for all models. Each line: package, its folder, a test program. Documentation tests are
# not among them: those run on the host only.
# shellcheck disable=SC2046,SC2086  # lists of words
tests=$(cargo test --no-run --target aarch64-unknown-linux-gnu --message-format json \
  $(printf -- '-p %s ' $all) --lib --bins --tests | python3 -c '
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["profile"]["test"]:
        manifest = message["manifest_path"]
        name = next(l.split("\"")[1] for l in open(manifest) if l.startswith("name = "))
        print(name, os.path.dirname(manifest), message["executable"])
')

for cpu in "${cpus[@]}"; do
  packages=$numbers
  [ "$cpu" != cortex-a72 ] || packages=$all
  echo "== $cpu: $packages"
  end=$((SECONDS + limit))
  while read -r package folder program; do
    case " $packages " in *" $package "*) ;; *) continue ;; esac
    echo "Running $package: $(basename "$program")"
    (cd "$folder" && timeout --foreground $((end > SECONDS ? end - SECONDS : 1)) \
      qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu "$cpu" "$program") </dev/null
  done <<<"$tests"
done
