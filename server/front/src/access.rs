//! What a loop tells the access log: a table beside the connections, with what a line needs of the request
//! that each has.
//!
//! Where there is no access log there is no table, and each of these calls is one branch.

use crate::access_table::{Access, AccessEntry};
use crate::exchange::{Answer, State};
use crate::turn::Loop;
use crate::world::World;
use std::ops::Range;
use transom_http::Head;
use transom_log::access::{AccessLog, AccessRecord, Diagnostic};
use transom_log::{Queued, now_ms};

/// The status in the line of a request whose connection ended before an answer: as nginx has it.
const NO_ANSWER: u16 = 499;

impl<W: World> Loop<W> {
    /// Has a line written for each request of so many connections.
    pub fn log_access(&mut self, log: AccessLog, connections: u32) {
        let mut blank = AccessEntry {
            record: AccessRecord::blank(),
            begun: false,
            peer_known: false,
            arrived_ns: 0,
            waits_since_ns: 0,
            waited_ns: 0,
        };
        blank.clear();
        let entries = vec![blank; connections as usize].into_boxed_slice();
        self.access = Some(Access { log, entries });
    }

    /// Bytes are there, of what may become a request.
    pub(super) fn note_arrival(&mut self, index: u32) {
        let Some(access) = &mut self.access else {
            return;
        };
        let entry = access.entry(index);
        if entry.arrived_ns == 0 {
            entry.arrived_ns = self.clock.now_ns;
        }
    }

    /// There were none after all.
    pub(super) fn note_silence(&mut self, index: u32) {
        if let Some(access) = &mut self.access {
            access.entry(index).clear();
        }
    }

    /// A whole head. It may come more than once: a request that waits is parsed again.
    pub(super) fn note_head(&mut self, index: u32, head: &Head<'_, '_>) {
        let Some(access) = &mut self.access else {
            return;
        };
        if std::mem::replace(&mut access.entry(index).begun, true) {
            return;
        }
        let peer = self.named_client(index, head);
        let peer = peer.unwrap_or(self.table[index].transport.peer);
        let Some(access) = &mut self.access else {
            return;
        };
        let entry = access.entry(index);
        entry.peer_known = true;
        let record = &mut entry.record;
        record.peer = peer;
        record.request.push(head.method_text.as_bytes());
        record.request.push(b" ");
        record.request.push(head.target.as_bytes());
        record.request.push(match head.version_minor {
            0 => b" HTTP/1.0",
            _ => b" HTTP/1.1",
        });
        for field in head.fields {
            let value = if field.name.eq_ignore_ascii_case("referer") {
                &mut record.referer
            } else if field.name.eq_ignore_ascii_case("user-agent") {
                &mut record.user_agent
            } else {
                continue;
            };
            if !value.is_there() {
                value.push(field.value); // of several, the first
            }
        }
    }

    /// What is no head, or none yet, and will not be one.
    pub(super) fn note_no_head(&mut self, index: u32, bytes: &[u8]) {
        let Some(access) = &mut self.access else {
            return;
        };
        let entry = access.entry(index);
        if !std::mem::replace(&mut entry.begun, true) {
            let line = first_line(bytes);
            // What a proxy sends first is no request.
            if !line.is_empty() && !self.table[index].transport.wants_proxy {
                entry.record.request.push(line);
            }
        }
    }

    /// Which doorway the request is for.
    pub(super) fn note_doorway(&mut self, index: u32, doorway: u16) {
        if let Some(access) = &mut self.access {
            access.entry(index).record.doorway = doorway;
        }
    }

    /// The request waits for a slot.
    pub(super) fn note_wait(&mut self, index: u32) {
        let Some(access) = &mut self.access else {
            return;
        };
        let entry = access.entry(index);
        entry.record.doorway = self.table[index].exchange.at.doorway;
        if entry.arrived_ns == 0 {
            entry.arrived_ns = self.clock.now_ns;
        }
        if entry.waits_since_ns == 0 {
            entry.waits_since_ns = self.clock.now_ns;
        }
    }

    /// The request has a slot.
    pub(super) fn note_slot(&mut self, index: u32) {
        if let Some(access) = &mut self.access {
            access.entry(index).end_wait(self.clock.now_ns);
        }
    }

    /// The application's answer has begun, with this status.
    pub(super) fn note_status(&mut self, index: u32, status: u16) {
        if let Some(access) = &mut self.access {
            access.entry(index).record.status = status;
        }
    }

    /// So much of the answer's body has been sent.
    pub(super) fn note_sent(&mut self, index: u32, body_bytes: usize) {
        if let Some(access) = &mut self.access {
            access.entry(index).record.body_bytes += body_bytes as u64;
        }
    }

    /// Why the application has no answer, or no end of it.
    pub(super) fn note_failure(&mut self, index: u32, diagnostic: Option<&str>) {
        if let Some(access) = &mut self.access {
            access.entry(index).record.diagnostic = match diagnostic {
                Some("bucket-exhausted") => Some(Diagnostic::BucketExhausted),
                Some("handler-panicked") => Some(Diagnostic::HandlerPanicked),
                _ => None,
            };
        }
    }

    /// The answer is one of our own, of which bytes from here to there were sent just now. With the last of
    /// them it is the request's end.
    pub(super) fn note_answer(
        &mut self,
        index: u32,
        status: u16,
        answer: &[u8],
        sent: Range<usize>,
    ) {
        if self.access.is_none() {
            return;
        }
        let connection = &self.table[index];
        if let Some(buffer) = connection.inbox.buffer {
            let filled = connection.inbox.used as usize..connection.inbox.filled as usize;
            // SAFETY: the buffer's memory lives for ever, belongs to this connection, and is not written
            // while it is looked at.
            let bytes = unsafe { &self.memory.pool.place(buffer).as_ref()[filled] };
            self.note_no_head(index, bytes); // unless there was one
        }
        if let Some(access) = &mut self.access {
            access.entry(index).begun = true;
        }
        let head_end = answer.windows(4).position(|part| part == b"\r\n\r\n");
        let head_len = head_end.map_or(answer.len(), |at| at + 4);
        self.note_status(index, status);
        let of_body = |place: usize| place.saturating_sub(head_len);
        self.note_sent(index, of_body(sent.end) - of_body(sent.start));
        if sent.end == answer.len() {
            self.note_end(index, false);
        }
    }

    /// The connection ends. If it has a request, its answer, or the rest of it, was not sent.
    pub(super) fn note_close(&mut self, index: u32) {
        let Some(access) = &mut self.access else {
            return;
        };
        let entry = access.entry(index);
        if !entry.begun {
            entry.clear();
            return;
        }
        if entry.record.status == 0 {
            entry.record.status = NO_ANSWER;
        }
        let exchange = &self.table[index].exchange;
        if let State::Writing(Answer::OfSlot { slot, .. }) = exchange.state {
            let (_, output) = self.doorways[exchange.at].writing(slot);
            let sent = output.body_sent();
            self.note_sent(index, sent);
        }
        self.note_end(index, true);
    }

    /// The request has had its answer, or what there is of it: its line is written, and the next one may
    /// begin.
    pub(super) fn note_end(&mut self, index: u32, aborted: bool) {
        let Some(access) = &mut self.access else {
            return;
        };
        // The loop's own clock stands still while it answers.
        let now_ns = W::now_ns();
        let connection = &self.table[index];
        let entry = &mut access.entries[index as usize];
        entry.end_wait(now_ns);
        let duration_ns = match entry.arrived_ns {
            0 => 0,
            arrived => now_ns.saturating_sub(arrived),
        };
        let record = &mut entry.record;
        record.unix_ms = now_ms();
        if !entry.peer_known {
            record.peer = connection.transport.peer;
        }
        record.duration_us = duration_ns / 1000;
        record.waited_us = entry.waited_ns / 1000;
        record.number = connection.requests.saturating_add(1);
        record.forward = connection.transport.forward;
        record.aborted = aborted;
        access.log.submit(record, self.clock.now_ms);
        entry.clear();
    }
}

/// The first line of what was read, without its end; empty lines before it do not count.
fn first_line(bytes: &[u8]) -> &[u8] {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let from = bytes.iter().position(|byte| !is_end(byte));
    let line = &bytes[from.unwrap_or(bytes.len())..];
    &line[..line.iter().position(is_end).unwrap_or(line.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_what_stands_before_an_end_of_line() {
        for (bytes, line) in [
            (
                &b"GET / HTTP/1.1\r\nHost: a\r\n"[..],
                &b"GET / HTTP/1.1"[..],
            ),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", b"GET / HTTP/1.1"),
            (b"GET / HT", b"GET / HT"),
            (b"\x16\x03\x01\n", b"\x16\x03\x01"),
            (b"\r\n", b""),
            (b"", b""),
        ] {
            assert_eq!(first_line(bytes), line);
        }
    }
}
