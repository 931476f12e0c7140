#!/usr/bin/env bash
# The promise at full length: runs every test of done_when.rs with a million requests each, in release, and prints each
# test's effect on the process's memory. Half of the requests fail on purpose; in one test a thousand of them lose their
# bucket, and four instances replace each other.
#
#   tests/million.sh            a million requests each
#   tests/million.sh 100000     another number
#
# Needs nothing but cargo; strace, if it is installed, checks the system calls too. Takes about five minutes on two cores.
# Exits with the status of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
export TRANSOM_TEST_REQUESTS="${1:-1000000}"

echo "| every second request | RUST_BACKTRACE | requests | a second | RSS at ready -> at the end | mappings |"
echo "|---|---|---|---|---|---|"
# One after the other: together they would share the cores, and the rates would say nothing.
cargo test --quiet --release --package transom-tests --test done_when -- --test-threads=1 --nocapture |
    grep -v '^$'
