#!/usr/bin/env bash
# Slow heads, slow bodies and slow readers: the three modes of slowhttptest with 1,000 connections each, against 64 buckets
# and 4,096 connections, in one process and through a door, while ordinary clients ask for something small all the time.
#
#   tests/slow.sh          80 seconds each, about eleven minutes in all
#   tests/slow.sh 25       another time
#
# Prints a table: in how many seconds slowhttptest's own probe was answered, and what the ordinary clients noticed. Exits
# with status 1 if one of these was not answered with 200, or their p99 was 50 ms or more.
# Needs cargo and slowhttptest, which it installs with apt-get if it is run by root.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v slowhttptest >/dev/null; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "slow.sh: slowhttptest is not installed: install it (Debian has it), or run this as root" >&2
        exit 2
    fi
    apt-get install --yes --quiet slowhttptest >&2
fi
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
exec cargo run --quiet --package transom-tests --bin slow -- "${1:-80}"
