#!/usr/bin/env bash
# Popular crates and common habits, each in a handler of its own, asked 10,000 times with 4 buckets: builds
# the server `crates` and the driver, starts Redis and PostgreSQL, prints a table, and exits with 1 if a row
# fails. The driver's main.rs says what must hold.
#
#   tests/crates/run.sh                     everything
#   tests/crates/run.sh --light             the crates that compile fast, 300 requests per route, and no other servers
#   tests/crates/run.sh --fat               built as for production, with fat LTO
#   tests/crates/run.sh -- --only /redis    arguments after -- go to the driver; `-- --help` lists its flags
#
# Redis and PostgreSQL are installed from Debian when they are missing and this is root. They serve on Unix
# sockets in a temporary folder, and are ended by their process ids. Rows whose server cannot be had are
# skipped, and say why.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target/crates}

profile=release
features=()
amount=()
light=
while (($#)); do
    case $1 in
        --light)
            light=1
            profile=light
            features=(--no-default-features --features sqlite)
            amount=(--requests 300)
            ;;
        --fat) profile=fat ;;
        --) shift; break ;;
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
        *) echo "run.sh: no such flag: $1 (--help)" >&2; exit 2 ;;
    esac
    shift
done

pids=()
folder=

# Ends the servers that were started, the last first.
clean_up() {
    local pid
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n $folder ]]; then rm -rf "$folder"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Installs a Debian package; its service is not started. Says why it cannot.
install() {
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "$1 is not installed"
        return 1
    fi
    local policy=/usr/sbin/policy-rc.d policy_is_ours= installed=
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        policy_is_ours=1
    fi
    export DEBIAN_FRONTEND=noninteractive
    echo "installing $1" >&2
    if apt-get install -y --no-install-recommends "$1" >&2 ||
        { apt-get update >&2 && apt-get install -y --no-install-recommends "$1" >&2; }; then
        installed=1
    fi
    if [[ -n $policy_is_ours ]]; then rm -f "$policy"; fi
    if [[ -z $installed ]]; then
        echo "apt-get could not install $1"
        return 1
    fi
}

# Waits up to 20 s for a command to succeed.
wait_for() {
    local deadline=$((SECONDS + 20))
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then return 1; fi
        sleep 0.1
    done
}

start_redis() {
    if ! command -v redis-server >/dev/null && ! REDIS_URL_MISSING=$(install redis-server); then
        export REDIS_URL_MISSING
        return
    fi
    local socket=$folder/redis.sock
    redis-server --port 0 --unixsocket "$socket" --save '' --appendonly no --dir "$folder" \
        --logfile "$folder/redis.log" --daemonize no &
    pids=($! "${pids[@]}")
    if wait_for redis-cli -s "$socket" ping; then
        export REDIS_URL=redis+unix://$socket
    else
        tail -n 5 "$folder/redis.log" >&2 || true
        export REDIS_URL_MISSING='redis-server does not answer'
    fi
}

# The newest of Debian's PostgreSQL programs: they are in no folder of PATH.
postgres_programs() {
    local folders=(/usr/lib/postgresql/*/bin)
    if [[ -x ${folders[-1]}/initdb ]]; then
        echo "${folders[-1]}"
    else
        dirname "$(command -v initdb)" 2>/dev/null
    fi
}

start_postgres() {
    local bin data=$folder/postgres as=()
    if ! bin=$(postgres_programs) && { ! POSTGRES_URL_MISSING=$(install postgresql) || ! bin=$(postgres_programs); }; then
        export POSTGRES_URL_MISSING=${POSTGRES_URL_MISSING:-initdb is not there}
        return
    fi
    mkdir "$data"
    if ((EUID == 0)); then # which it refuses to run as
        if ! id postgres >/dev/null 2>&1; then
            export POSTGRES_URL_MISSING='there is no user postgres, and it does not run as root'
            return
        fi
        chown postgres "$data"
        as=(setpriv --reuid postgres --regid postgres --clear-groups)
    fi
    if ! "${as[@]}" "$bin/initdb" --pgdata "$data/data" --username test --auth trust --no-sync >"$folder/initdb.log" 2>&1; then
        tail -n 5 "$folder/initdb.log" >&2
        export POSTGRES_URL_MISSING='initdb failed'
        return
    fi
    # setpriv becomes postgres: its process id is that of the server.
    (cd "$data" && exec "${as[@]}" "$bin/postgres" -D "$data/data" -c listen_addresses= -c unix_socket_directories="$data" \
        -c fsync=off -c log_min_messages=fatal) >"$folder/postgres.log" 2>&1 &
    pids=($! "${pids[@]}")
    if wait_for "$bin/pg_isready" --host "$data" --username test --dbname postgres; then
        export POSTGRES_URL="host=$data user=test dbname=postgres"
    else
        tail -n 5 "$folder/postgres.log" >&2
        export POSTGRES_URL_MISSING='postgres does not answer'
    fi
}

build() {
    nice cargo build --quiet --locked --manifest-path "$here/Cargo.toml" --target-dir "$target" --profile "$profile" --workspace "${features[@]}"
}

echo "building with --profile $profile ${features[*]}" >&2
started=$SECONDS
build
echo "built in $((SECONDS - started)) s" >&2

folder=$(mktemp -d)
if [[ -z $light ]]; then
    chmod 755 "$folder" # for the user postgres
    start_redis
    start_postgres
fi
# In the background, because a shell that waits for a program in the foreground does not heed signals. The
# servers under test end with the driver.
TMPDIR=$folder "$target/$profile/drive" "$target/$profile/crates" "${amount[@]}" "$@" &
driver=$!
pids=("$driver" "${pids[@]}")
status=0
wait "$driver" || status=$?
pids=("${pids[@]:1}")
exit "$status"
