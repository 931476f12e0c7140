//! What a process has from outside while it begins to serve.

use super::listeners::Inherited;
use super::signals::Signals;
use std::time::Instant;
use transom_log::LogHandle;

/// A process that is beginning to serve.
pub(super) struct Beginning<'b> {
    pub inherited: Inherited,
    pub logs: &'b LogHandle,
    pub signals: &'b Signals,
    pub started: Instant,
}

impl Beginning<'_> {
    /// Tells the instance before this one, and whoever has started this one.
    pub(super) fn end(mut self) {
        self.inherited.handed.say_ready();
        self.signals.notify().ready();
    }
}
