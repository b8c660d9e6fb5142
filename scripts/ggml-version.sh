# The release of ggml and llama.cpp that chaski is compared with: npm packages with its libraries and with its sources,
# and what its libraries say that they are. Read by get-ggml.sh and benches/peer/scripts/generate.sh.
# shellcheck shell=bash disable=SC2034
GGML_LIBRARIES=@node-llama-cpp/linux-x64@3.22.1
GGML_SOURCE=node-llama-cpp@3.22.1
