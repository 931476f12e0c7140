//! What a loop has done: counters that one thread writes and anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};
use transom_wire::histogram::{Histogram, Scale};

/// Requests that take longer are counted as above all bounds.
const REQUEST_MOST_NS: u64 = 64_000_000_000;

/// A counter with one writer: an ordinary addition, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn bump(&self) {
        self.0
            .store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Makes it a gauge.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
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
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct LoopStats {
            $($(#[$doc])* pub $name: Counter,)*
            /// Nanoseconds from a request's arrival to the last byte of its answer.
            pub request_time: Histogram,
        }

        impl Default for LoopStats {
            fn default() -> Self {
                LoopStats {
                    $($name: Counter::default(),)*
                    request_time: Histogram::new(Scale::NANOSECONDS, REQUEST_MOST_NS),
                }
            }
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
    /// Answers 500 and 502 to 599.
    server_errors,
    /// Answers 501: the client has asked for what HTTP has and this server has not. Nothing is wrong with the
    /// server.
    not_implemented,
    /// Of the 400 to 499, those of our own: 413, the body is larger than may be.
    body_refused,
    /// Of these: 414, the target.
    target_refused,
    /// Of these: 431, the head.
    head_refused,
    /// Of the 500 to 599, those of our own: 503, no slot, no buffer or no thread within the queue timeout.
    rejected,
    /// Of these: 502, the application went away during the call, or gave what is no reply.
    bad_gateway,
    /// Of these: 504, the deadline passed.
    late,
    /// Unfinished heads answered 408 to make room for others.
    partial_evicted,
    /// Connections closed because they did not begin with a PROXY header, or were not from a proxy that is
    /// trusted.
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
    /// Connections that are open now.
    connections,
    /// Slots of all doors that can be called now.
    slots,
    /// Of these, those with a call, or the beginning of one.
    slots_busy,
    /// Slots of these doors that lost requests keep for ever; they are none of the others.
    slots_lost,
    /// Requests that wait for a slot now.
    waiting,
}

impl LoopStats {
    /// An application has answered.
    pub(crate) fn replied(&self, status: u16) {
        match status {
            0..=399 => self.good.bump(),
            400..=499 => self.client_errors.bump(),
            501 => self.not_implemented.bump(),
            _ => self.server_errors.bump(),
        }
    }

    /// The front end has answered by itself, or cut an answer for a reason that has this status.
    pub(crate) fn answered(&self, status: u16) {
        self.replied(status);
        match status {
            413 => self.body_refused.bump(),
            414 => self.target_refused.bump(),
            431 => self.head_refused.bump(),
            502 => self.bad_gateway.bump(),
            503 => self.rejected.bump(),
            504 => self.late.bump(),
            _ => {}
        }
    }
}
