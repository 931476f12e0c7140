#!/usr/bin/env bash
# Type-checks transom-doors-illumos (doors/illumos) for x86_64-unknown-illumos. Nothing is linked and nothing is run: that
# needs illumos.
#
# rustup has no toolchain that runs here and carries illumos' standard library with it, so the library is built from its
# source (-Zbuild-std), which must be of the compiler's own version. Debian's rustc-web, rust-web-src and
# libstd-rust-web-dev (bookworm-security) are. As root they are installed if they are missing.
#
# exit 0: it type-checks, or "skipped: ..." says why that could not be tried. exit 1: it does not type-check.
set -uo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-illumos
packages=(rustc-web rust-web-src libstd-rust-web-dev)
rustc=/usr/bin/rustc

skip() {
    printf 'skipped: %s\n' "$*"
    exit 0
}

installed() {
    dpkg-query -W -f '${Status}\n' "${packages[@]}" 2>/dev/null | grep -c '^install ok installed$'
}

command -v cargo >/dev/null || skip 'there is no cargo'
command -v dpkg-query >/dev/null || skip "this is not Debian: the check uses its packages ${packages[*]}"

if [ "$(installed)" -ne ${#packages[@]} ]; then
    [ "$(id -u)" -eq 0 ] || skip "the packages ${packages[*]} are missing, and only root can install them"
    printf 'installing %s\n' "${packages[*]}"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}" >"$log" 2>&1; then
        tail -n 3 "$log"
        skip "apt-get cannot install ${packages[*]} (apt-get update first?)"
    fi
fi

library=$("$rustc" --print sysroot)/lib/rustlib/src/rust/library
[ -f "$library/std/Cargo.toml" ] || skip "there is no source of the standard library in $library"
"$rustc" --print target-list | grep -qx "$target" || skip "$rustc does not know $target"

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
has=$("$rustc" --version | cut -d ' ' -f 2)
if [ "$(printf '%s\n' "$wanted" "$has" | sort -V | head -n 1)" != "$wanted" ]; then
    skip "$rustc is $has, and this workspace needs $wanted"
fi

# A target folder of its own: the standard library is built too. RUSTC_BOOTSTRAP lets a stable compiler do so.
export RUSTC_BOOTSTRAP=1 RUSTC=$rustc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/illumos
unset RUSTFLAGS
build=(cargo check --manifest-path doors/illumos/Cargo.toml --target "$target" -Zbuild-std=std,panic_abort)

# libc first: if that fails, it is not our code that is wrong (no network for the sources' own dependencies, say).
if ! "${build[@]}" -p libc; then
    skip "the standard library cannot be checked for $target here (see above)"
fi
if ! "${build[@]}" -p transom-doors-illumos; then
    printf 'transom-doors-illumos does not type-check for %s\n' "$target"
    exit 1
fi
printf 'transom-doors-illumos type-checks for %s (%s); it was neither linked nor run\n' "$target" "$("$rustc" --version)"
