#!/usr/bin/env bash
# Proves the simulator of the front end: puts faults into a copy of the front end, one at a time, and demands that the
# simulator finds each within a minute.
#
#   tests/simulator_faults.sh            all of them, about a minute each, which is mostly the compiler's
#   tests/simulator_faults.sh 7 12       these
#
# Prints a table: the fault, after how many seconds and with which seed it was found, and as what. Exits with status 1 if one
# was not found, or does not apply to the source any more: then change it here. Needs nothing but cargo. The copy is built in
# target/simulator-faults. The seeds begin with 0, or with TRANSOM_FIRST_SEED.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=60
copy=${CARGO_TARGET_DIR:-$PWD/target}/simulator-faults
wanted=" $* "
number=0
missed=()

fresh_copy() {
    mkdir -p "$copy/source"
    rm -rf "$copy/source/server"
    cp -R --preserve=timestamps Cargo.toml Cargo.lock arena doors platform server apps tests benches "$copy/source/"
}

# The file of the copy that has a text, once in all of them.
file_with() {
    local found=()
    mapfile -t found < <(grep -rlF --include='*.rs' -e "$(head -n 1 <<<"$1")" "$copy/source/server/front/src" |
        grep -v '/simulator/' || true)
    for file in "${found[@]}"; do
        if [[ $(<"$file") == *"$1"* ]]; then
            printf '%s\n' "$file"
        fi
    done
}

# Puts one text in place of another, which must be there once.
replace() {
    local files text
    mapfile -t files < <(file_with "$1")
    if [ "${#files[@]}" -ne 1 ]; then
        printf 'simulator_faults.sh: fault %s does not apply: %s files have\n%s\n' "$number" "${#files[@]}" "$1" >&2
        exit 1
    fi
    text=$(<"${files[0]}")
    local rest=${text#*"$1"}
    if [[ $rest == *"$1"* ]]; then
        printf 'simulator_faults.sh: fault %s does not apply: it is there twice\n%s\n' "$number" "$1" >&2
        exit 1
    fi
    printf '%s\n' "${text/"$1"/"$2"}" >"${files[0]}"
}

# fault NAME OLD NEW [OLD NEW]…
fault() {
    number=$((number + 1))
    if [ "$wanted" != "  " ] && [[ $wanted != *" $number "* ]]; then
        return
    fi
    local name=$1
    shift
    fresh_copy
    while [ $# -gt 0 ]; do
        replace "$1" "$2"
        shift 2
    done
    local log=$copy/fault-$number.log
    if ! (cd "$copy/source" && CARGO_INCREMENTAL=1 CARGO_TARGET_DIR=$copy/build cargo test --quiet --package transom-front --lib --no-run) \
        >"$log" 2>&1; then
        printf 'simulator_faults.sh: fault %s does not compile, see %s\n' "$number" "$log" >&2
        exit 1
    fi
    if (cd "$copy/source" && TRANSOM_SECONDS=$seconds TRANSOM_FIRST_SEED=${TRANSOM_FIRST_SEED:-0} RUST_BACKTRACE=0 CARGO_INCREMENTAL=1 CARGO_TARGET_DIR=$copy/build cargo test --quiet \
        --package transom-front --lib simulated_schedules_end_well -- --nocapture) >"$log" 2>&1; then
        missed+=("$number")
        printf '| %2d | %s | NOT FOUND | | |\n' "$number" "$name"
        return
    fi
    local after seed as
    after=$(sed -n 's/.*is wrong, found after \([0-9.]*\) s.*/\1/p' "$log" | head -n 1)
    seed=$(sed -n 's/.*seed \([0-9]*\) is wrong.*/\1/p' "$log" | head -n 1)
    as=$(sed -n 's/.*seed [0-9]*: //p' "$log" | tail -n 1 | cut -c 1-110)
    printf '| %2d | %s | %s s | %s | %s |\n' "$number" "$name" "${after:-?}" "${seed:-?}" "$as"
}

printf '| | fault | found after | seed | as |\n|---|---|---|---|---|\n'

fault 'a wake is dropped: a request that waits for a slot is not looked at when one becomes free' \
    'self.agenda.again |= is_waited_for;' ''

fault 'a wake is dropped: no request is looked at when a new process is there' \
    '        self.look_again();
        let at = self.make_room(doorway);' \
    '        let at = self.make_room(doorway);'

fault 'a slot is freed twice' \
    'let (at, submitted) = (exchange.at, exchange.is_submitted());
        exchange.state = State::Idle;' \
    'let (at, submitted) = (exchange.at, exchange.is_submitted());'

fault 'a reset is lost' \
    '!any(libc::EPOLLERR)' 'true' \
    'self.broken |= any(libc::EPOLLERR | libc::EPOLLHUP);' ''

fault 'the end of what a client sends is lost' \
    'self.half_closed |= any(libc::EPOLLRDHUP | libc::EPOLLHUP);' ''

fault 'two answers are swapped: what is known of one is kept where another is' \
    '(client, &mut self.calls.outputs[slot.index()])' \
    '(client, &mut self.calls.outputs[slot.index() / 2])'

fault 'two calls are swapped: the slot remembers who had it before' \
    'self[at].calls.owners[slot.index()] = owner;' \
    'let place = &mut self[at].calls.owners[slot.index()];
        *place = if *place == u32::MAX { owner } else { *place };'

fault 'the place of a connection is not given back' \
    'if !std::mem::take(&mut self.acceptor.leaves_its_place) {
            self.acceptor.limit.give_back();' \
    'if !std::mem::take(&mut self.acceptor.leaves_its_place) {'

fault 'a connection is not taken from those of its address' \
    'self.forget_address(counted);
        if !std::mem' \
    'let _ = counted;
        if !std::mem'

fault 'a buffer is not given back' \
    'self.memory.pool.give_back(buffer);' 'let _ = buffer;'

fault 'the queue timeout of a call that runs is not taken out of its list' \
    'None => self.table.unlink(index),' 'None => {}'

fault 'a timer is not unlinked when its connection is closed' \
    'self.unlink(index);
        let free = self.free;' \
    'let free = self.free;'

fault 'what follows a request in a buffer is not moved to the start' \
    'self.on_head_bytes(index, bytes, Where::Buffer);
        self.compact(index);' \
    'self.on_head_bytes(index, bytes, Where::Buffer);'

fault 'the rest of a partial write is lost' \
    '                output.sent += sent;' \
    '                output.sent = if sent > 0 { output.total() } else { 0 };'

fault 'a client is told twice to continue' \
    'exchange.upload.expects = Expects::Asked;' ''

fault 'a call that may have run is sent again' \
    'match (has_not_run, has_begun) {' \
    'match (has_not_run || !has_begun, has_begun) {'

fault 'a call that has begun its answer is sent again' \
    'match (has_not_run, has_begun) {' \
    'match (has_not_run, false && has_begun) {'

fault 'the next request is in the buffer, and is not looked at' \
    '            self.note_arrival(index);
            self.queue(index);' ''

fault 'a short read before the end is taken for one that has emptied the socket' \
    'if len < into.len() && !self.urgent && !self.half_closed {' \
    'if len < into.len() && !self.urgent {'

fault 'what the kernel holds back is never pushed' \
    'connection.transport.push::<W>();' ''

fault 'a call that no thread takes up is not helped' \
    'stuck.is_due(unclaimed, rarest, now_ns) && client.nudge()' 'false'

fault 'the calls of a process that has gone are not taken back' \
    'self.instance(at).gone = true;
                self.collect_lost(at);' \
    'self.instance(at).gone = true;'

fault 'a reply of another process is not checked again when the rest of it is sent' \
    'if keys.hash_one(&scratch[fields.clone()]) != seal {' 'if seal == 0 {'

fault 'the end of an answer is held back for a request that is the rest of its own body (a mended bug)' \
    '
        && exchange.upload.rest.is_empty()
}' '
}' \
    'let _ = self.send_gathered(index, false);
        if let' 'if let'

fault 'a part of 100 Continue finds no room, and the connection is closed (a mended bug)' \
    'Ok(len) => self.append_gathered(index, &CONTINUE[len..]),' \
    'Ok(len) => len == CONTINUE.len(),'

fault 'empty lines behind answers that were put aside are taken for the beginning of a head (a mended bug)' \
    'if !rest.is_empty() {' 'if !rest.is_empty() || self.table[index].outbox.gathered.is_some() {'

fault 'a close leaves with the kernel what its client has not taken' \
    'transport.reset_at_close::<W>();
        }
        self.forget(index);' \
    '}
        self.forget(index);'

fault 'a client that is still taking answers loses them at the end' \
    'false => self.close_politely(index),
        }
    }

    /// Closes such' \
    'false => self.close(index),
        }
    }

    /// Closes such'

fault 'a client that sends its end is taken for one that has taken all' \
    '                    if transport.is_done::<W>() {
                        self.close(index);' \
    '                    if transport.half_closed {
                        self.close(index);'

fault 'the end is said again whenever the kernel tells of a client that has sent its end (a mended bug)' \
    '                    if transport.is_done::<W>() {
                        self.close(index);' \
    '                    transport.shutdown_write::<W>();
                    if transport.is_done::<W>() {
                        self.close(index);'

if [ "${#missed[@]}" -gt 0 ]; then
    printf '\nnot found: %s\n' "${missed[*]}" >&2
    exit 1
fi
