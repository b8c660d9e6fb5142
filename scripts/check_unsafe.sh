#!/usr/bin/env bash
# Lists the Rust files that allow unsafe code. Fails where one is not in the list below, or where the
# workspace no longer denies unsafe code to all others.
set -euo pipefail
cd "$(dirname "$0")/.."

allowed=(
  'quant/src/container/mapped.rs'           # the memory map
  'quant/src/quantize/multiversion.rs'      # calls of functions compiled for more instructions
  'kernels-simd/src/table.rs'               # calls of kernels that the CPU was found to have
  'kernels-simd/src/row_view.rs'            # rows of activations, checked once
  'kernels-simd/src/*/*/load.rs'            # vector loads and stores, an empty asm
  'kernels-simd/src/aarch64/*/ops.rs'       # instructions without a stable intrinsic
  'src/backend/cpu/shared/*.rs'             # buffers that the team shares, one writer each
  'src/backend/cuda/driver/*.rs'            # calls of the CUDA driver
  'src/bench/peak.rs'                       # loops of one instruction that the CPU was found to have
  'tests/it/cuda/emulated/library.rs'       # calls of the CUDA kernels over an emulation
  'tests/memory.rs'                         # an allocator that counts
  'quant/tests/alloc.rs'                    # an allocator that counts
  'convert/tests/gguf_alloc.rs'             # an allocator that counts
  'benches/peer/src/ffi/mod.rs'               # calls of a prebuilt ggml
  'src/os/*.rs'                             # calls that only one system has
)

grep -qE '^unsafe_code = "(deny|forbid)"' Cargo.toml || {
  echo "Cargo.toml: [workspace.lints.rust] must deny unsafe_code" >&2
  exit 1
}
status=0
for manifest in $(git ls-files --cached --others --exclude-standard '*Cargo.toml'); do
  case $manifest in fuzz/*) continue ;; esac
  grep -qE '^\[package\]' "$manifest" || continue
  grep -A1 -E '^\[lints\]' "$manifest" | grep -qE '^workspace = true' || {
    echo "$manifest: does not inherit the workspace's lints" >&2
    status=1
  }
done

while read -r file; do
  known=
  for pattern in "${allowed[@]}"; do
    # shellcheck disable=SC2254  # the pattern is meant to match
    case $file in $pattern) known=yes ;; esac
  done
  if [ "$known" ]; then
    echo "unsafe: $file"
  else
    echo "unsafe: $file: not in the list of scripts/check_unsafe.sh" >&2
    status=1
  fi
done < <(git ls-files --cached --others --exclude-standard '*.rs' | sort -u \
  | xargs -r grep -lE '(allow|expect|warn)\([^)]*unsafe_code' 2>/dev/null || true)
exit $status
