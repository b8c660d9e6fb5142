#!/usr/bin/env bash
# get-ggml.sh DIR: puts prebuilt libraries of ggml and llama.cpp (11 MB, x86-64 Linux) into DIR, under the names that
# benches/peer looks for. Then: export CHASKI_GGML_DIR=DIR. Needs npm.
set -euo pipefail
dir=$(realpath -m "${1:?usage: get-ggml.sh DIR}")
# shellcheck source=ggml-version.sh
. "$(dirname "$0")/ggml-version.sh"
[ "$(uname -sm)" = "Linux x86_64" ] || {
  echo "get-ggml.sh: the package is for x86-64 Linux; build llama.cpp with -DBUILD_SHARED_LIBS=ON instead" >&2
  exit 1
}
mkdir -p "$dir"
cd "$dir"
npm pack --silent "$GGML_LIBRARIES" >/dev/null
tar -xzf node-llama-cpp-linux-x64-*.tgz --strip-components=3 --wildcards 'package/bins/linux-x64/lib*.so'
tar -xzf node-llama-cpp-linux-x64-*.tgz --strip-components=1 package/LICENSE
rm node-llama-cpp-linux-x64-*.tgz
# The libraries ask for each other by the names with a version.
for name in libggml libllama; do
  ln -sf "$(basename "$(echo "$name".v*.so)")" "$name.so"
done
ls "$dir"
