#!/usr/bin/env bash
# The live page of the admin address in a headless Chromium: against a server under load, and against a stand-in that shows
# rare states (16,384 buckets, a process without a front end, a server that goes away and comes back).
#
#   tests/page.sh
#
# It is the test `page` of the workspace, which `cargo test` skips where there is no Chromium. Exits with cargo's status.
# Needs cargo and chromium, which it installs with apt-get if it is run by root.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${TRANSOM_TEST_CHROMIUM:-}" ] && ! command -v chromium chromium-browser google-chrome >/dev/null; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "page.sh: chromium is not installed: install it (Debian has it), or run this as root" >&2
        exit 2
    fi
    apt-get update --quiet >&2
    apt-get install --yes --quiet --no-install-recommends chromium fonts-dejavu-core >&2
fi
exec cargo test --package transom-tests --test page -- --nocapture
