#!/usr/bin/env bash
# Makes convert/tests/data/ggml_blocks.txt: blocks of GGUF's types decoded by ggml. Needs npm, or CHASKI_GGML_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${CHASKI_GGML_DIR:-}" ]; then
  export CHASKI_GGML_DIR=$PWD/target/ggml
  scripts/get-ggml.sh "$CHASKI_GGML_DIR" >/dev/null
fi
mkdir -p convert/tests/data
cargo run -q -p ggml-sys-bindgen -- golden >convert/tests/data/ggml_blocks.txt.new
mv convert/tests/data/ggml_blocks.txt{.new,}
