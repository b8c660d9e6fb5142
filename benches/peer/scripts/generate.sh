#!/usr/bin/env bash
# generate.sh [DIR]: writes src/ffi/{ggml,llama}.rs from the headers of the llama.cpp release that scripts/get-ggml.sh
# fetches the libraries of. DIR keeps what is downloaded (36 MB). Needs npm, git, bindgen (cargo install bindgen-cli)
# and libclang.
set -euo pipefail
here=$(realpath "$(dirname "$0")/..")
# shellcheck source=../../../scripts/ggml-version.sh
. "$here/../../scripts/ggml-version.sh"
dir=$(realpath -m "${1:-$here/../../target/ggml-headers}")
mkdir -p "$dir"
cd "$dir"
if [ ! -d llama.cpp ]; then
  # The package carries the sources that its libraries were made of as one git bundle.
  npm pack --silent "$GGML_SOURCE" >/dev/null
  tar -xzf node-llama-cpp-*.tgz package/llama/gitRelease.bundle
  git -c advice.detachedHead=false clone -q package/llama/gitRelease.bundle llama.cpp
  rm -rf package node-llama-cpp-*.tgz
fi

bind() { # NAME HEADER FUNCTIONS OUT TYPES: a struct NAME with these functions, loaded at run time
  bindgen "$2" --dynamic-loading "$1" --dynamic-link-require-all --allowlist-function "$3" --no-doc-comments \
    --no-recursive-allowlist --allowlist-type "$5" --allowlist-var '^$' --opaque-type '(ggml_tensor|llama_sampler)' --default-enum-style consts \
    --no-prepend-enum-name --rust-edition 2024 --rust-target 1.88 --wrap-unsafe-ops --merge-extern-blocks \
    --raw-line "// Made by scripts/generate.sh from the headers of $GGML_SOURCE; not to be edited." \
    --output "$here/src/ffi/$4" -- -I llama.cpp/include -I llama.cpp/ggml/include
}
bind Ggml llama.cpp/ggml/include/ggml.h \
  'ggml_(version|commit|type_name|row_size|get_type_traits|quantize_chunk|quantize_free)' ggml.rs \
  'ggml_(type|type_traits|to_float_t|from_float_t)'
bind Llama llama.cpp/include/llama.h \
  'llama_(backend_init|backend_free|log_set|model_default_params|context_default_params|model_load_from_file|model_free|init_from_model|free|get_memory|memory_clear|memory_seq_rm|batch_get_one|decode|get_logits_ith|synchronize|model_get_vocab|vocab_n_tokens|model_desc|model_size|print_system_info|version)|ggml_backend_(load|load_all_from_path|reg_by_name|reg_get_proc_address)|ggml_threadpool_params_default|llama_attach_threadpool|ggml_(version|commit)' llama.rs \
  'llama_(model|context|vocab|model_params|context_params|batch|memory_t|memory_i|token|pos|seq_id|split_mode|load_mode|lazy_mode|context_type|rope_scaling_type|pooling_type|attention_type|flash_attn_type|progress_callback|model_kv_override|model_kv_override_type|model_tensor_buft_override|sampler_seq_config|sampler)|ggml_(type|log_level|log_callback|abort_callback|backend_sched_eval_callback|backend_dev_t|backend_device|backend_buffer_type_t|backend_buffer_type|backend_reg_t|backend_reg|tensor|threadpool|threadpool_t|threadpool_params|sched_priority)'
rustfmt --edition 2024 "$here"/src/ffi/{ggml,llama}.rs
