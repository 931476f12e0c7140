#!/usr/bin/env bash
# Plays schedules of the front end's simulator (server/front/src/simulator): splits, partial writes, resets, slow clients,
# drains, deaths of doors, and a clock of its own. Each follows from one number, its seed.
#
#   tests/simulate.sh            an hour
#   tests/simulate.sh 60         so many seconds
#   tests/simulate.sh 60 1000    from this seed on; without it from another seed each time
#   TRANSOM_SEED=1234 tests/simulate.sh    this one alone, with its trace
#
# Says how many it played. The first schedule that goes wrong ends it, with its seed, its trace and status 101. Needs
# nothing but cargo. If there are several processors, it plays on half of them.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-3600}
first=${2:-$(($(date +%s) << 20))}
case $seconds$first in
*[!0-9]*)
    echo "simulate.sh: seconds and the first seed are numbers, not \"$seconds\" and \"$first\"" >&2
    exit 2
    ;;
esac
play() {
    cargo test --quiet --package transom-front --lib simulated_schedules -- --nocapture
}
if [ -n "${TRANSOM_SEED:-}" ]; then
    play
    exit
fi
export TRANSOM_SECONDS=$seconds

cargo test --quiet --package transom-front --lib --no-run
players=$((($(nproc) + 1) / 2))
running=()
for ((n = 0; n < players; n++)); do
    # Far enough apart that they do not meet.
    TRANSOM_FIRST_SEED=$((first + n * (1 << 40))) play &
    running+=($!)
done
status=0
for pid in "${running[@]}"; do
    wait "$pid" || status=$?
done
exit "$status"
