//! Calls that no thread takes, because those that were expected to are in handlers that block.

use std::time::Duration;

/// How long calls are unclaimed before the door is told of them: the time after which another thread is woken
/// for a call that is stuck behind one that takes long. A wake costs 5 to 10 µs, so less would wake threads
/// for nothing.
pub(crate) const PATIENCE: Duration = Duration::from_micros(60);

/// Calls that no thread takes.
pub(crate) struct Stuck {
    unclaimed: u32,
    due_ns: u64,
    step: Duration,
}

impl Stuck {
    /// From now on.
    pub(super) fn new(now_ns: u64) -> Self {
        Stuck {
            unclaimed: 0,
            due_ns: now_ns + PATIENCE.as_nanos() as u64,
            step: PATIENCE,
        }
    }

    /// When the door is to be told of them next.
    pub(super) fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// So many are unclaimed: whether the door is to be told now. That is twice as far apart each time, up to
    /// `rarest`. After some were taken, or have come, it is told soon.
    pub(super) fn is_due(&mut self, unclaimed: u32, rarest: Duration, now_ns: u64) -> bool {
        if unclaimed != std::mem::replace(&mut self.unclaimed, unclaimed) {
            self.step = PATIENCE;
            self.due_ns = self.due_ns.min(now_ns + PATIENCE.as_nanos() as u64);
        }
        let is_due = now_ns >= self.due_ns;
        if is_due {
            self.due_ns = now_ns + self.step.as_nanos() as u64;
            self.step = (2 * self.step).min(rarest);
        }
        is_due
    }
}
