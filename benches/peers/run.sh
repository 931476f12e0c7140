#!/usr/bin/env bash
# Runs servers beside each other with wrk, one core each, and prints what they do and how they compare to nginx.
#
#   benches/peers/run.sh                 hello, nginx and the cheapest epoll server
#   benches/peers/run.sh hello nginx     only these
#   benches/peers/run.sh door hello nginx-unix nginx-nginx nginx-php
#                                        an application in its own process: behind a door, beside hello in one process, nginx
#                                        before a Unix socket (behind which is the epoll server, the cheapest there can be, or nginx again), and nginx with php-fpm
#
# The server has one core to itself, wrk another; rounds alternate (A B C A B C …), because a machine is not the same from
# minute to minute and only ratios from the same minutes mean anything. Every server answers `GET /` with "hello, world\n";
# that is checked first. Below a wrk that is at its limit, CPU time per request is the figure that still tells.
#
# To add a server: a function start_NAME PORT that ends in `exec`, and its name in SERVERS.
set -euo pipefail
export LC_ALL=C

ROUNDS=${ROUNDS:-3}
DURATION=${DURATION:-5}             # seconds per run
WARM_UP=${WARM_UP:-1}               # seconds per server, once
CONNECTIONS=${CONNECTIONS:-64}
SERVER_CPU=${SERVER_CPU:-0}
CLIENT_CPU=${CLIENT_CPU:-1}
FIRST_PORT=${FIRST_PORT:-18080}
HELLO=${HELLO:-}                    # a built `hello`; empty: build it
HELLO_FLAGS=${HELLO_FLAGS:-}        # more flags for it, such as "--buckets 16 --bucket-size 256KiB"

SERVERS=(hello nginx epoll)
BASELINE=${BASELINE:-nginx}
BODY=$'hello, world\n'

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
built=${CARGO_TARGET_DIR:-$root/target}/release
scratch=                            # made in main
declare -A pid_of port_of

# --- the servers -----------------------------------------------------------------------------------------------------

start_hello() {
    # shellcheck disable=SC2086 # flags are words
    exec "${HELLO:-$built/hello}" --listen "127.0.0.1:$1" --loops 1 $HELLO_FLAGS
}

start_epoll() {
    exec "$built/peer-epoll" "127.0.0.1:$1"
}

# The application and the front end, each in its own process, on the same core. The application ends with its parent.
start_door() {
    local door=$scratch/hello.door
    # shellcheck disable=SC2086 # flags are words
    setpriv --pdeathsig TERM "${HELLO:-$built/hello}" --door "$door" $HELLO_FLAGS &
    exec "${TRANSOM:-$built/transom}" serve --loops 1 --forward "http://127.0.0.1:$1=$door"
}

start_nginx() {
    write_nginx_conf "$1" nginx 'return 200 "hello, world\n";'
    exec "$(nginx_path)" -e stderr -p "$scratch/nginx" -c "$scratch/nginx/nginx.conf"
}

start_nginx-unix() {
    local socket=$scratch/upstream.sock
    setpriv --pdeathsig TERM "$built/peer-epoll" "unix:$socket" &
    wait_for_socket "$socket"
    write_nginx_conf "$1" nginx-unix 'proxy_pass http://upstream; proxy_http_version 1.1; proxy_set_header Connection "";' \
        "upstream upstream { server unix:$socket; keepalive 128; keepalive_requests 1000000000; keepalive_timeout 1h; }"
    exec "$(nginx_path)" -e stderr -p "$scratch/nginx-unix" -c "$scratch/nginx-unix/nginx.conf"
}

# The same as nginx does it unless it is told otherwise: a new connection to the upstream for every request.
start_nginx-plain() {
    local socket=$scratch/upstream-plain.sock
    setpriv --pdeathsig TERM "$built/peer-epoll" "unix:$socket" &
    wait_for_socket "$socket"
    write_nginx_conf "$1" nginx-plain "proxy_pass http://unix:$socket:;"
    exec "$(nginx_path)" -e stderr -p "$scratch/nginx-plain" -c "$scratch/nginx-plain/nginx.conf"
}

# With kept connections and a server behind it that reads what it is asked: nginx again.
start_nginx-nginx() {
    local socket=$scratch/upstream-nginx.sock
    write_nginx_conf "unix:$socket" nginx-upstream 'return 200 "hello, world\n";'
    setpriv --pdeathsig TERM "$(nginx_path)" -e stderr -p "$scratch/nginx-upstream" -c "$scratch/nginx-upstream/nginx.conf" &
    wait_for_socket "$socket"
    write_nginx_conf "$1" nginx-nginx 'proxy_pass http://upstream; proxy_http_version 1.1; proxy_set_header Connection "";' \
        "upstream upstream { server unix:$socket; keepalive 128; keepalive_requests 1000000000; keepalive_timeout 1h; }"
    exec "$(nginx_path)" -e stderr -p "$scratch/nginx-nginx" -c "$scratch/nginx-nginx/nginx.conf"
}

start_nginx-php() {
    local directory=$scratch/nginx-php socket=$scratch/php.sock
    mkdir -p "$directory"
    printf '<?php header("Content-Type: text/plain"); header("Content-Length: 13"); echo "hello, world\n";' >"$directory/hello.php"
    cat >"$directory/php.conf" <<CONF
[global]
error_log = $directory/php.log
daemonize = no
[www]
user = nobody
listen = $socket
listen.mode = 0666
pm = static
pm.max_children = 8
CONF
    chmod 755 "$scratch" "$directory"
    setpriv --pdeathsig TERM "$(php_path)" --fpm-config "$directory/php.conf" &
    wait_for_socket "$socket"
    write_nginx_conf "$1" nginx-php "fastcgi_pass unix:$socket; fastcgi_keep_conn on; fastcgi_param SCRIPT_FILENAME $directory/hello.php; fastcgi_param REQUEST_METHOD GET;"
    exec "$(nginx_path)" -e stderr -p "$directory" -c "$directory/nginx.conf"
}

wait_for_socket() {
    local deadline=$((SECONDS + 10))
    until [[ -S $1 ]]; do
        if ((SECONDS >= deadline)); then give_up "nobody serves $1"; fi
        sleep 0.05
    done
}

# PORT NAME LOCATION [HTTP]: what the location does, and what else is in the http block.
write_nginx_conf() {
    local directory=$scratch/$2
    mkdir -p "$directory"
    cat >"$directory/nginx.conf" <<CONF
daemon off;
worker_processes 1;
$( ((EUID != 0)) || echo 'user root; # its worker must reach sockets in our scratch folder')
pid $directory/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    default_type text/plain;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    ${4:-}
    server {
        listen $( [[ $1 == unix:* ]] || echo 127.0.0.1: )$1 backlog=1024;
        location / { $3 }
    }
}
CONF
}

# --- what is needed --------------------------------------------------------------------------------------------------

give_up() {
    echo "run.sh: $*" >&2
    exit 2
}

nginx_path() {
    PATH=$PATH:/usr/sbin command -v nginx
}

php_path() {
    PATH=$PATH:/usr/sbin
    compgen -c php-fpm | sort -u | tail -n 1
}

wanted() {
    local name
    for name; do
        if [[ " ${SERVERS[*]} " == *" $name "* ]]; then return 0; fi
    done
    return 1
}

install_tools() {
    local missing=()
    command -v wrk >/dev/null || missing+=(wrk)
    if wanted nginx nginx-unix nginx-plain nginx-nginx nginx-php && ! nginx_path >/dev/null; then missing+=(nginx-light); fi
    if wanted nginx-php && [[ -z $(php_path) ]]; then missing+=(php-fpm); fi
    command -v taskset >/dev/null || missing+=(util-linux)
    if ((${#missing[@]} == 0)); then return; fi
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        give_up "missing: ${missing[*]} (as root on Debian, this script installs them)"
    fi
    echo "installing ${missing[*]}" >&2
    # Without the policy file, Debian would start nginx as a service on port 80.
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        policy_is_ours=$policy
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2 ||
        give_up "apt-get could not install ${missing[*]} (apt-get update?)"
}

check_machine() {
    local cpu
    for cpu in "$SERVER_CPU" "$CLIENT_CPU"; do
        taskset -c "$cpu" true 2>/dev/null ||
            give_up "CPU $cpu is not ours to use: server and wrk need a core each (SERVER_CPU, CLIENT_CPU)"
    done
}

build() {
    local packages=()
    if wanted hello door && [[ -z $HELLO ]]; then packages+=(-p hello); fi
    if wanted door && [[ -z ${TRANSOM:-} ]]; then packages+=(-p transom-cli); fi
    if wanted epoll nginx-unix nginx-plain; then packages+=(-p transom-benches); fi
    if ((${#packages[@]} == 0)); then return; fi
    cargo build --release --manifest-path "$root/Cargo.toml" "${packages[@]}" >&2 ||
        give_up "cargo could not build: ${packages[*]}"
}

# --- starting and ending ---------------------------------------------------------------------------------------------

clean_up() {
    local name
    for name in "${!pid_of[@]}"; do
        kill "${pid_of[$name]}" 2>/dev/null || true
    done
    for name in "${!pid_of[@]}"; do
        wait "${pid_of[$name]}" 2>/dev/null || true
    done
    if [[ -n ${policy_is_ours:-} ]]; then rm -f "$policy_is_ours"; fi
    if [[ -n $scratch ]]; then rm -rf "$scratch"; fi
}

somebody_listens_on() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

start() {
    local name=$1
    while somebody_listens_on "$FIRST_PORT"; do FIRST_PORT=$((FIRST_PORT + 1)); done
    local port=$FIRST_PORT
    FIRST_PORT=$((FIRST_PORT + 1))
    (
        trap - EXIT
        taskset -cp "$SERVER_CPU" "$BASHPID" >/dev/null
        "start_$name" "$port"
    ) >"$scratch/$name.log" 2>&1 &
    pid_of[$name]=$!
    port_of[$name]=$port

    local deadline=$((SECONDS + 20))
    until somebody_listens_on "$port"; do
        if ! kill -0 "${pid_of[$name]}" 2>/dev/null || ((SECONDS >= deadline)); then
            cat "$scratch/$name.log" >&2
            give_up "$name did not start"
        fi
        sleep 0.05
    done
}

# One GET without a client of our own; the answer must be the one that everybody gives.
check_answer() {
    local name=$1 line status length=0 body='' head_bytes=0
    exec 3<>"/dev/tcp/127.0.0.1/${port_of[$name]}"
    printf 'GET / HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n\r\n' "${port_of[$name]}" >&3
    IFS= read -r -t 5 -u 3 status || give_up "$name does not answer"
    line=$status
    while [[ -n ${line%$'\r'} ]]; do
        head_bytes=$((head_bytes + ${#line} + 1))
        IFS= read -r -t 5 -u 3 line || give_up "$name sends half a head"
        if [[ ${line,,} == content-length:* ]]; then
            length=${line#*:}
            length=${length//[^0-9]/}
        fi
    done
    head_bytes=$((head_bytes + 2))
    IFS= read -r -t 5 -u 3 -N "$length" body || true
    exec 3<&- 3>&-
    if [[ $status != "HTTP/1.1 200 "* || $body != "$BODY" ]]; then
        give_up "$name answers '${status%$'\r'}' and ${#body} bytes: $body"
    fi
    echo "$name: pid ${pid_of[$name]}, port ${port_of[$name]}, head $head_bytes bytes, body $length bytes" >&2
}

# --- measuring -------------------------------------------------------------------------------------------------------

# The process and its descendants.
tree() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v root="$1" '
        { pid = $1; sub(/^.*\) /, ""); parent[pid] = $2 }
        END {
            for (pid in parent) {
                for (up = pid; up != root && up in parent; up = parent[up]);
                if (up == root) print pid
            }
        }'
}

# User and system time of the tree so far, in clock ticks.
cpu_ticks() {
    local pid total=0 fields
    for pid in $(tree "$1"); do
        fields=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
        # shellcheck disable=SC2206 # fields are words
        fields=(${fields##*) })
        total=$((total + fields[11] + fields[12]))
    done
    echo "$total"
}

rss_kb() {
    local pid
    for pid in $(tree "$1"); do
        awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true
    done | awk '{ total += $1 } END { print total + 0 }'
}

load() {
    taskset -c "$CLIENT_CPU" wrk -t1 -c"$CONNECTIONS" -d"${2}s" --latency "http://127.0.0.1:${port_of[$1]}/"
}

# Appends one run to the server's results: requests/s, p50 and p99 in µs, CPU µs per request, RSS in MB.
measure() {
    local name=$1 before after rss
    before=$(cpu_ticks "${pid_of[$name]}")
    load "$name" "$DURATION" >"$scratch/wrk" || give_up "wrk failed against $name: $(cat "$scratch/wrk")"
    after=$(cpu_ticks "${pid_of[$name]}")
    rss=$(rss_kb "${pid_of[$name]}")
    if grep -E 'Non-2xx|Socket errors' "$scratch/wrk" >&2; then
        give_up "$name did not answer every request with 200"
    fi
    awk -v ticks=$((after - before)) -v hertz="$(getconf CLK_TCK)" -v rss="$rss" '
        function us(time) {
            if (time ~ /us$/) return time + 0
            if (time ~ /ms$/) return time * 1000
            return time * 1000000
        }
        $1 == "50%" { p50 = us($2) }
        $1 == "99%" { p99 = us($2) }
        / requests in / { requests = $1 }
        $1 == "Requests/sec:" { rate = $2 }
        END {
            if (!requests) exit 1
            printf "%.0f %.0f %.0f %.3f %.1f\n", rate, p50, p99, ticks / hertz * 1000000 / requests, rss / 1024
        }' "$scratch/wrk" >>"$scratch/results.$name" || give_up "wrk got no answer from $name"
    echo "$name: $(awk 'END { print $1 " requests/s, " $4 " CPU µs per request" }' "$scratch/results.$name")" >&2
}

# --- telling ---------------------------------------------------------------------------------------------------------

# The median (or, with "min" and "max", that) of column $2 of a server's results.
statistic() {
    sort -g -k"$2,$2" "$scratch/results.$1" | awk -v column="$2" -v what="${3:-median}" '
        { value[NR] = $column }
        END {
            if (what == "min") print value[1]
            else if (what == "max") print value[NR]
            else print NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2
        }'
}

table() {
    local name
    printf '\n| server | requests/s, median (min–max) | p50 µs | p99 µs | CPU µs/request | RSS MB |\n'
    printf '|---|---:|---:|---:|---:|---:|\n'
    for name in "${SERVERS[@]}"; do
        printf '| %s | %.0f (%.0f–%.0f) | %.0f | %.0f | %.2f | %.1f |\n' "$name" \
            "$(statistic "$name" 1)" "$(statistic "$name" 1 min)" "$(statistic "$name" 1 max)" \
            "$(statistic "$name" 2)" "$(statistic "$name" 3)" "$(statistic "$name" 4)" "$(statistic "$name" 5)"
    done
}

ratios() {
    local name column
    if ! wanted "$BASELINE"; then return; fi
    printf '\n| ratio to %s | requests/s | p50 | p99 | CPU/request | RSS |\n' "$BASELINE"
    printf '|---|---:|---:|---:|---:|---:|\n'
    for name in "${SERVERS[@]}"; do
        if [[ $name == "$BASELINE" ]]; then continue; fi
        printf '| %s/%s |' "$name" "$BASELINE"
        for column in 1 2 3 4 5; do
            awk -v a="$(statistic "$name" $column)" -v b="$(statistic "$BASELINE" $column)" \
                'BEGIN { if (b > 0) printf " %.2f |", a / b; else printf " n/a |" }'
        done
        printf '\n'
    done
}

main() {
    if (($# > 0)); then SERVERS=("$@"); fi
    local name round
    for name in "${SERVERS[@]}"; do
        declare -F "start_$name" >/dev/null || give_up "no server is called $name"
    done
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    install_tools
    check_machine
    build
    scratch=$(mktemp -d)
    echo "load before: $(cut -d' ' -f1-3 /proc/loadavg) (others' work shows in the figures)" >&2

    for name in "${SERVERS[@]}"; do
        start "$name"
        check_answer "$name"
        load "$name" "$WARM_UP" >/dev/null
    done
    for ((round = 0; round < ROUNDS; round++)); do
        for name in "${SERVERS[@]}"; do measure "$name"; done
    done
    table
    ratios
}

main "$@"
