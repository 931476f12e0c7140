#!/usr/bin/env bash
# Whether the C library's allocator is replaced in programs as they are built for production: builds `hello` with thin and
# with fat LTO, and looks for each name of the family among the symbols that the program offers to its libraries.
#
#   tests/symbols.sh            thin, then fat
#   tests/symbols.sh thin       one of them
#
# Needs nm (binutils, which comes with the linker) and cargo. Exits with 1 at the first name that is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

# The functions that glibc lets programs replace ("Replacing malloc" in its manual), and `abort`.
names=(malloc calloc realloc free posix_memalign aligned_alloc memalign valloc pvalloc reallocarray malloc_usable_size abort)

if (($# == 0)); then set -- thin fat; fi
for lto; do
    target=target/lto-$lto
    cargo build --quiet --release --package hello --config "profile.release.lto=\"$lto\"" --target-dir "$target"
    symbols=$(nm --dynamic --defined-only "$target/release/hello")
    for name in "${names[@]}"; do
        if ! grep -qE " [TW] $name\$" <<<"$symbols"; then
            echo "hello with lto=$lto does not define $name: C libraries would use glibc's own" >&2
            exit 1
        fi
    done
    echo "hello with lto=$lto defines all ${#names[@]} names"
done
