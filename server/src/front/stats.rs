//! What a loop has done: counters that one thread writes and anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer: an ordinary addition, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn bump(&self) {
        self.0
            .store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one loop.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct LoopStats {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// The sums over all loops.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct LoopFigures {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl LoopFigures {
            /// Adds one loop's counters.
            pub fn add(&mut self, stats: &LoopStats) {
                $(self.$name += stats.$name.get();)*
            }
        }
    };
}

stats! {
    /// Connections accepted.
    accepted,
    /// Idle connections closed to make room for new ones.
    evicted,
    /// Calls submitted to the doors.
    requests,
    /// Calls that no thread of their instance had seen, and that were sent to the next one.
    unaccepted_resent,
    /// Answers with a status below 400.
    good,
    /// Answers 400 to 499.
    client_errors,
    /// Answers 500 to 599.
    server_errors,
    /// Of these: 503, no slot or no thread within the queue timeout.
    rejected,
    /// Of these: 502, the application went away during the call, or gave what is no reply.
    bad_gateway,
    /// Of these: 504, the deadline passed.
    late,
    /// Unfinished heads answered 408 to make room for others.
    partial_evicted,
    /// Connections closed because they did not begin with a PROXY header, or were not from a proxy that is trusted.
    proxy_refused,
    /// Requests whose `Forwarded` or `X-Forwarded-For` made no sense and was ignored.
    forwarded_ignored,
    /// Clients cut because they were slower than allowed, or held what others needed.
    slow_cut,
    /// Connections refused because their address had as many as it may.
    address_refused,
    /// Connections closed in the middle of a request or an answer, by the end of the drain.
    cut,
    /// Of these: in the middle of a head.
    cut_heads,
    /// Of these: in the middle of a body.
    cut_bodies,
    /// Of these: in a handler, or waiting for one.
    cut_calls,
    /// Of these: in the middle of an answer.
    cut_answers,
}

impl LoopStats {
    pub(crate) fn answered(&self, status: u16) {
        match status {
            0..=399 => self.good.bump(),
            400..=499 => self.client_errors.bump(),
            _ => self.server_errors.bump(),
        }
        match status {
            502 => self.bad_gateway.bump(),
            503 => self.rejected.bump(),
            504 => self.late.bump(),
            _ => {}
        }
    }
}
