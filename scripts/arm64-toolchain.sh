#!/usr/bin/env bash
# Prepares what scripts/arm64-test.sh needs to build and run tests for 64-bit Arm on an x86-64 Debian
# or Ubuntu: a linker, an emulator, and a rustc with the standard library of
# aarch64-unknown-linux-gnu, and its clippy (DIR/bin/cargo-clippy).
#
# usage: scripts/arm64-toolchain.sh [DIR]     (default: target/arm64-toolchain)
#
# Where the installed rustc already has that target (rustup target add aarch64-unknown-linux-gnu),
# DIR/bin/rustc just calls it. Elsewhere Debian's own rustc with both standard libraries is unpacked
# below DIR; nothing of it is installed. Linker and emulator are ordinary packages, installed by apt.
set -euo pipefail
dir=$(realpath -m "${1:-$(dirname "$0")/../target/arm64-toolchain}")
target=aarch64-unknown-linux-gnu

works() {
  "$dir/bin/rustc" --print target-libdir --target "$target" 2>/dev/null | xargs -r ls >/dev/null 2>&1 \
    && "$dir/bin/cargo-clippy" --version >/dev/null 2>&1 \
    && command -v aarch64-linux-gnu-gcc qemu-aarch64 >/dev/null
}
if works; then
  echo "$dir: $("$dir/bin/rustc" --version)"
  exit 0
fi

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
missing=()
command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
mkdir -p "$dir/bin"

libdir=$(rustc --print target-libdir --target "$target")
if compgen -G "$libdir/libstd-*" >/dev/null; then
  [ ${#missing[@]} = 0 ] || {
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
  }
  for tool in rustc cargo-clippy; do
    printf '#!/bin/sh\nexec %s "$@"\n' "$(rustc --print sysroot)/bin/$tool" >"$dir/bin/$tool"
    chmod +x "$dir/bin/$tool"
  done
  "$dir/bin/rustc" --version
  exit 0
fi

# Package lists of both architectures, kept apart from the system's own.
state=$dir/apt
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$dir/packages"
apt_options=(
  -q -o APT::Architectures=amd64,arm64 -o "Dir::State::Lists=$state/lists"
  -o "Dir::Cache=$state/cache" -o APT::Sandbox::User=root
)
apt-get "${apt_options[@]}" update >/dev/null

# rustc-web is the newest rustc of a Debian release; its libraries must be of the very same version.
field() { # PACKAGE FIELD: the field of the newest version
  apt-cache "${apt_options[@]}" show --no-all-versions "$1" | sed -n "s/^$2: //p" | head -n 1
}
version=$(field rustc-web:amd64 Version)
[ "$version" ] || { echo "apt has no package rustc-web" >&2; exit 1; }
depends() { # PACKAGE PATTERN: the first dependency whose name matches
  field "$1" Depends | tr ',|' '\n\n' | awk '{print $1}' | grep -E -m 1 "^$2"
}
std=$(depends "libstd-rust-web-dev:amd64=$version" 'libstd-rust-web-[0-9.]+$')
llvm=$(depends "$std:amd64=$version" 'libllvm[0-9.]+$')

# What the unpacked rustc links to, beside its own libraries.
for library in libz3-4:libz3.so libedit2:libedit.so libxml2:libxml2.so; do
  ldconfig -p | grep -q "${library#*:}" || missing+=("${library%%:*}")
done
[ ${#missing[@]} = 0 ] || {
  as_root apt-get update -q >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
    "${missing[@]}" >/dev/null
}

(
  cd "$dir/packages"
  apt-get "${apt_options[@]}" download "rustc-web:amd64=$version" "$std:amd64=$version" \
    "libstd-rust-web-dev:amd64=$version" "libstd-rust-web-dev:arm64=$version" \
    "rust-web-clippy:amd64=$version" "$llvm:amd64" >/dev/null
)
for package in "$dir"/packages/*.deb; do
  dpkg -x "$package" "$dir/root"
done
rm -rf "$dir/packages" "$state"
for tool in rustc cargo-clippy; do
  cat >"$dir/bin/$tool" <<EOF
#!/bin/sh
LD_LIBRARY_PATH=$dir/root/usr/lib/x86_64-linux-gnu exec $dir/root/usr/bin/$tool "\$@"
EOF
  chmod +x "$dir/bin/$tool"
done
works || { echo "$dir: rustc or clippy does not work" >&2; exit 1; }
echo "$dir: $("$dir/bin/rustc" --version)"
