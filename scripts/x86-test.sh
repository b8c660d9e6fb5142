#!/usr/bin/env bash
# Runs the kernels' tests on x86-64 CPUs that this machine is not: without AVX-512, without AVX2,
# without AVX. Skipped, with a line, where qemu-x86_64 is not installed or this is no x86-64.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(uname -m)" != x86_64 ] || ! command -v qemu-x86_64 >/dev/null; then
  echo "skipped: tests on emulated x86-64 CPUs need an x86-64 machine with qemu-x86_64"
  exit 0
fi
export PROPTEST_CASES=${PROPTEST_CASES:-24}
unset CHASKI_SIMD

run() { # CPU EXPECTED-LEVELS [TEST-FILTER]
  echo "== $1, expecting $2"
  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="qemu-x86_64 -cpu $1" CHASKI_EXPECT_SIMD=$2 \
    timeout --foreground 1200 cargo test -p chaski-kernels-simd --lib -- "${@:3}"
}
# What the emulator cannot do and the kernels do not use is taken away, else it warns at every start.
quiet=-pcid,-x2apic,-tsc-deadline,-invpcid
run "Haswell-noTSX,$quiet" scalar,scalar-fma,avx2
run "Haswell-noTSX,$quiet,-avx2" scalar,scalar-fma levels elementwise
run Nehalem scalar levels
