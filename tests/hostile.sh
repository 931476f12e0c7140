#!/usr/bin/env bash
# Mixed hostile load: connections that are opened and closed, silent, reset, half a head, byte by byte, urgent bytes,
# pipelines that are read and that are not, bodies that trickle, garbage; against a server in one process and one through a
# door, beside ordinary clients.
#
#   tests/hostile.sh             an hour
#   tests/hostile.sh 120         so many seconds
#   tests/hostile.sh 120 42      with a seed, which is printed
#
# Prints memory and descriptors before and after, and what the ordinary clients noticed. Exits with status 1 if memory is
# not at its starting value again (to one part in a hundred), was ever above the bound that was printed at the start, a
# descriptor is left, an ordinary request was not answered with 200, or the drain was not clean. Needs nothing but cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
exec cargo run --quiet --package transom-tests --bin hostile -- "$@"
