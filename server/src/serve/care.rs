//! What the main thread does for the buckets of an application whenever it waits, whatever it waits for.
//!
//! There is one way to wait in here, `Signals::wait`, and it makes these rounds: while a server serves, while
//! a new instance starts, during the delay before a drain, and in the drain.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};
use transom_platform::{Application, Looked, LossWatch};

/// Replaces threads that have left, and finds the buckets that are lost.
pub(super) struct Care {
    application: &'static Application,
    watch: RefCell<LossWatch>,
    /// When the buckets are to be looked at next.
    due: Cell<Instant>,
}

impl Care {
    /// Begins to look after an application.
    pub(super) fn new(application: &'static Application) -> Self {
        Care {
            application,
            watch: RefCell::new(LossWatch::new(application)),
            due: Cell::new(Instant::now()),
        }
    }

    pub(super) fn application(&self) -> &'static Application {
        self.application
    }

    /// Starts threads in the places of those that have left, and looks at all buckets.
    pub(super) fn look(&self) -> Looked {
        let tend_again = self.application.tend();
        let looked = self.watch.borrow_mut().look();
        self.due.set(Instant::now() + looked.again_in);
        let again_in = tend_again.map_or(looked.again_in, |time| time.min(looked.again_in));
        Looked { again_in, ..looked }
    }

    /// The same, but looks at the buckets only if that is due. When to come again.
    pub(super) fn round(&self) -> Duration {
        let left = self.due.get().saturating_duration_since(Instant::now());
        if left.is_zero() {
            return self.look().again_in;
        }
        let tend_again = self.application.tend();
        tend_again.map_or(left, |time| time.min(left))
    }
}
