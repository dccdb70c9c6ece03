#!/bin/sh
# The CPU kernels on ARM, tested on a machine of another kind: cross-built, then run under QEMU with processors that
# have matrix instructions (bf16, i8mm), dot products alone, or neither. At the end they are compiled for other
# systems. Needs, on Debian or Ubuntu:
#
#   apt install gcc-aarch64-linux-gnu qemu-user-static
#   rustup target add aarch64-unknown-linux-gnu wasm32-unknown-unknown aarch64-apple-darwin
#
# Without rustup, any Rust that is new enough does (RUSTC, CARGO name another), with its standard library for ARM:
# `dpkg --add-architecture arm64 && apt update && apt install libstd-rust-dev:arm64 libstd-rust-dev-wasm32`.
# Builds are kept in target/aarch64 (CARGO_TARGET_DIR names another folder). Takes about twenty minutes on two cores.
set -eu
cd "$(dirname "$0")/.."

arm=aarch64-unknown-linux-gnu
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/aarch64}"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER:-aarch64-linux-gnu-gcc}"
export QEMU_LD_PREFIX="${QEMU_LD_PREFIX:-/usr/aarch64-linux-gnu}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
    echo "$0: $*" >&2
    exit 1
}

# Whether the compiler has a standard library for target $1.
has_target() {
    "${RUSTC:-rustc}" --print target-libdir --target "$1" | xargs -I{} find {} -name 'libcore-*' 2>/dev/null | grep -q .
}

for program in "$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER" qemu-aarch64-static; do
    command -v "$program" >/dev/null || fail "no \`$program\`; the head of this file names its package"
done
has_target "$arm" || fail "no standard library for $arm; the head of this file says where it comes from"

# All tests of the crate on QEMU's processor $1 with the instruction set $2. It is named, so the tests do not start
# themselves again with lesser ones: a program under QEMU cannot start others of its kind.
run() {
    echo "== processor $1, instruction set $2"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $1" LATENT_ISA="$2" \
        "${CARGO:-cargo}" test --release -p latent-kernels --target "$arm" --lib --tests -- --nocapture >"$log" 2>&1 ||
        { cat "$log"; fail "a test fails on processor $1 with instruction set $2"; }
    grep '^test result' "$log"
    grep -q "the instruction set in use is \`$2\`" "$log" || fail "processor $1 has no $2 under this QEMU"
}

run max neonbf16
run max neon
run neoverse-n1 neon
run cortex-a72 neon
run max portable

for target in wasm32-unknown-unknown aarch64-apple-darwin; do
    if has_target "$target"; then
        echo "== compiled for $target"
        "${CARGO:-cargo}" check --release -p latent-kernels --target "$target"
    else
        echo "== not compiled for $target: no standard library for it"
    fi
done
