#!/usr/bin/env bash
# Runs other servers and ours beside each other, each pinned to one CPU, wrk on another, and says what they cost and how they
# compare: benches/peers/run.sh --help has the flags, --list the workloads and servers, docs/benchmarks.md the results.
#
# This script installs what is missing (wrk and nginx, as root on Debian), builds everything, and hands over to the program
# `peers`, which measures. Go, Node, php-fpm and Varnish are measured if they are installed, and otherwise reported as skipped.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

give_up() {
    echo "run.sh: $*" >&2
    exit 2
}

install_tools() {
    PATH=$PATH:/usr/sbin
    local missing=()
    command -v wrk >/dev/null || missing+=(wrk)
    command -v nginx >/dev/null || missing+=(nginx-light)
    command -v taskset >/dev/null || missing+=(util-linux)
    if ((${#missing[@]} == 0)); then return; fi
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        give_up "missing: ${missing[*]} (as root on Debian, this script installs them)"
    fi
    echo "installing ${missing[*]}" >&2
    # Without the policy file, Debian would start nginx as a service on port 80.
    local policy=/usr/sbin/policy-rc.d policy_is_ours=
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        policy_is_ours=1
    fi
    local installed=1
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2 || installed=0
    if [[ -n $policy_is_ours ]]; then rm -f "$policy"; fi
    if ((!installed)); then give_up "apt-get could not install ${missing[*]} (apt-get update?)"; fi
}

build() {
    echo 'building Transom and the harness' >&2
    cargo build --release --quiet --manifest-path "$root/Cargo.toml" --target-dir "$target" \
        -p transom-benches -p transom-cli -p send-static-file -p varying-allocations -p csv-svg-path ||
        give_up 'cargo could not build Transom'
    echo 'building the other servers' >&2
    cargo build --release --quiet --locked --manifest-path "$root/benches/peers/servers/Cargo.toml" --target-dir "$target/peers" ||
        give_up 'cargo could not build the other servers'
    if command -v go >/dev/null; then
        go build -o "$target/peers/release/peer-go" "$root/benches/peers/servers/answers.go" ||
            give_up 'go could not build its server'
    fi
}

# These flags only print, and need no servers.
for argument; do
    case $argument in
        -h | --help | --list)
            exec cargo run --release --quiet --manifest-path "$root/Cargo.toml" --target-dir "$target" \
                -p transom-benches --bin peers -- "$argument"
            ;;
    esac
done

install_tools
build
exec "$target/release/peers" "$@"
