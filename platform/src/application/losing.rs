//! Requests that do not end well: what is counted and logged of them, and how a call is lost.

use super::Application;
use crate::meter::RouteMeter;
use crate::pace::Leave;
use std::fmt;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use transom_arena::{CRefusal, Exhaustion, Failed, Reason, stack_remaining};
use transom_doors::{EmergencyReply, Status as CallStatus};
use transom_wire::frame::outcome;
use transom_wire::own_log::warn;

/// A log record is built on the stack; if less than this is left, none is written, and only the counters
/// tell.
const LOG_STACK: usize = 12 << 10;

pub(crate) fn has_stack_for_a_line() -> bool {
    stack_remaining().is_none_or(|left| left >= LOG_STACK)
}

impl Application {
    /// Counts a failure, and says what the door is told of it.
    pub(super) fn count_failure(&self, failed: &Failed<'_>) -> u32 {
        let (counter, status) = match failed {
            Failed::Exhausted(exhaustion) => match exhaustion.reason {
                Reason::Arena => (&self.counters.exhausted_arena, outcome::EXHAUSTED_ARENA),
                Reason::Stack => (&self.counters.exhausted_stack, outcome::EXHAUSTED_STACK),
                Reason::SharedHeap => (
                    &self.counters.exhausted_shared_heap,
                    outcome::EXHAUSTED_SHARED_HEAP,
                ),
            },
            Failed::Panicked(_) => (&self.counters.panicked, outcome::PANICKED),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Failed::Exhausted(exhaustion) = failed {
            let asked = exhaustion.asked as u64;
            self.counters
                .largest_refused
                .fetch_max(asked, Ordering::Relaxed);
        }
        status
    }

    /// Ends a call that is lost: its thread never runs again, and its client is told at once.
    ///
    /// The handler's frames stay as they are, and threads to which they have lent something (in
    /// `std::thread::scope`, or a pool's scope) go on using it for as long as the process lives. So nothing
    /// that can be lent may be used for anything else from here on:
    ///
    /// - **locals, and all that is in the arena**: the bucket is parked, and neither its stack nor its arena
    ///   is used again;
    /// - **the request's head and its body** (`Request`, `Datagram`): they lie in the request slot, or in the
    ///   thread's snapshot of it; **the room for the answer** (`BodyWriter::space`, `DatagramReply::space`):
    ///   in the reply slot. The call is lost with its slot, see [`EmergencyReply`];
    /// - **a body that comes in pieces** is read into memory of the handler's own, so no piece is ever lent;
    /// - **a connection's descriptor** (`Connection::stream`) stays open, so that its number is given to no
    ///   other file. Its connection is shut down, both ways: then its client sees the end, and so do threads
    ///   that read or write there;
    /// - **routes, meters and the application** live as long as the process.
    ///
    /// # Safety
    /// As for [`EmergencyReply::complete`], of this call.
    pub(super) unsafe fn lose(
        &self,
        meter: &RouteMeter,
        failed: &Failed<'_>,
        stream: Option<&TcpStream>,
        emergency: &EmergencyReply,
    ) {
        let status = self.count_failure(failed);
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(stream) = stream {
            // An error says that it has ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // SAFETY: the caller's promise.
        unsafe { emergency.complete(CallStatus(status)) };
        (self.options.on_parked)();
        // Last: a subscriber of the application may want a lock that the handler's frames hold for ever.
        self.name_culprit(meter, failed, true);
    }

    /// One line for the culprit, and a place in the list.
    pub(super) fn name_culprit(&self, meter: &RouteMeter, failed: &Failed<'_>, parked: bool) {
        if let Failed::Exhausted(exhaustion) = failed {
            self.meters.count_culprit(meter, exhaustion);
        }
        if !has_stack_for_a_line() {
            return;
        }
        if let Failed::Exhausted(exhaustion) = failed {
            self.meters.list_culprit(meter, exhaustion, parked);
        }
        let leave = match parked {
            true => Some(self.lines.always()), // of buckets that are lost there are no more than buckets
            false => self.lines.take(),
        };
        let Some(Leave { unlogged }) = leave else {
            return;
        };
        let route = meter.route;
        match failed {
            Failed::Exhausted(exhaustion) => {
                let Exhaustion {
                    reason, used, size, ..
                } = *exhaustion;
                let in_pieces = exhaustion.in_pieces();
                warn!(
                    route,
                    reason = reason.as_str(),
                    asked = %Asked(exhaustion),
                    used,
                    free_in_pieces = (in_pieces > 0).then_some(in_pieces),
                    size,
                    raise = reason.flag(),
                    or = (parked && reason == Reason::Arena).then_some("--overdraft-per-request"),
                    parked,
                    unlogged,
                    "a request outgrew its bucket{}",
                    if parked { ", which is lost" } else { "" }
                );
            }
            Failed::Panicked(note) => {
                let frames = Frames(note.frames());
                let (panic, after) = (note.message(), note.before());
                warn!(route, panic, after, %frames, parked, unlogged, "a handler panicked");
            }
        }
    }

    /// C libraries report in different words that they got no memory, and none says what to do.
    #[cold]
    pub(super) fn say_refused(&self, route: &'static str, refusal: CRefusal) {
        let Some(Leave { unlogged }) = self.lines().take() else {
            return;
        };
        let CRefusal { asked, is_full } = refusal;
        let raise = match is_full {
            true => "--c-heap",
            false => "--c-heap-per-request",
        };
        warn!(
            route,
            asked, raise, unlogged, "malloc was refused: a C library got NULL in a request"
        );
    }
}

/// Bytes asked for, as far as they are known.
struct Asked<'e>(&'e Exhaustion);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Exhaustion {
                asked: 0,
                reason: Reason::Stack,
                ..
            } => f.write_str("a deeper stack"),
            Exhaustion { asked: 0, free, .. } => write!(f, "more than {free}"),
            Exhaustion { asked, .. } => write!(f, "{asked}"),
        }
    }
}

/// Return addresses as `addr2line -e BINARY` takes them.
struct Frames<'f>(&'f [usize]);

impl fmt::Display for Frames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, frame) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{frame:#x}")?;
        }
        Ok(())
    }
}
