#!/usr/bin/env bash
# Fuzzes heads, chunked bodies, replies and configurations, each for so many seconds (60 if not said):
#
#     tests/fuzz.sh [SECONDS] [TARGET…]
#
# Starts from tests/fuzz/seeds. libFuzzer keeps useful inputs in tests/fuzz/corpus, and inputs that break an entry point in
# tests/fuzz/artifacts, with the command that repeats them. Needs a nightly toolchain and cargo-fuzz, and installs what is missing
# (cargo-fuzz into the target folder); where it cannot, it says so and ends with status 0, because nothing was found.
set -euo pipefail
cd "$(dirname "$0")/fuzz"

seconds=60
if [ $# -gt 0 ]; then
    seconds=$1
    shift
fi
case $seconds in
'' | *[!0-9]*)
    echo "fuzz.sh: SECONDS must be a number, not \"$seconds\"" >&2
    exit 2
    ;;
esac
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    targets=(head chunked reply configuration)
fi
for target in "${targets[@]}"; do
    if [ ! -f "targets/$target.rs" ]; then
        echo "fuzz.sh: there is no target \"$target\"; there are: head chunked reply configuration" >&2
        exit 2
    fi
done

skip() {
    printf 'fuzzing is skipped: %s\n' "$1"
    exit 0
}

target_dir=${CARGO_TARGET_DIR:-$(cd ../.. && pwd)/target}
PATH="$target_dir/tools/bin:$PATH"

if ! cargo +nightly --version >/dev/null 2>&1; then
    rustup toolchain install nightly --profile minimal || skip 'no nightly toolchain, and none can be installed'
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    CARGO_TARGET_DIR="$target_dir/tools-build" cargo install cargo-fuzz --locked --root "$target_dir/tools" ||
        skip 'no cargo-fuzz, and it cannot be installed'
fi

for target in "${targets[@]}"; do
    printf '\n=== %s, %s s\n' "$target" "$seconds"
    mkdir -p "corpus/$target"
    CARGO_TARGET_DIR="$target_dir/fuzz" cargo +nightly fuzz run --fuzz-dir . "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -max_len=8192 -timeout=10 -print_final_stats=1
done
printf '\nnothing was found in %s s each: %s\n' "$seconds" "${targets[*]}"
