//! What happens on a thread before its first call.

use super::{LOOK_AGAIN, Stage};
use crate::application::{Application, has_stack_for_a_line};
use crate::pace::Leave;
use std::cell::Cell;
use std::thread::sleep;
use transom_arena::{Failed, Report, Tenant};
use transom_wire::own_log::warn;

/// Says that it has failed, before its cleanups run.
struct Preparing<'a> {
    application: &'a Application,
    is_said: Cell<bool>,
}

impl Report for Preparing<'_> {
    fn failed(&self, failed: Failed<'_>) {
        if self.is_said.replace(true) || !has_stack_for_a_line() {
            return;
        }
        let (what, raise) = match failed {
            Failed::Exhausted(exhaustion) => {
                (exhaustion.reason.as_str(), Some(exhaustion.reason.flag()))
            }
            Failed::Panicked(note) => (note.message(), None),
        };
        if let Some(Leave { unlogged }) = self.application.lines().take() {
            warn!(
                what,
                raise, unlogged, "what is to run once on each thread has failed"
            );
        }
    }

    fn stuck(&self, failed: Failed<'_>) {
        self.failed(failed);
        (self.application.options().on_parked)();
    }
}

impl Application {
    /// Before a thread's first call: what its author wants to have done, and a rest if its bucket keeps too
    /// much. Then the bucket is in service. False if the door was revoked meanwhile.
    pub(crate) fn prepare(&self, place: u32, tenant: &mut Tenant) -> bool {
        for each in self.each_thread() {
            let preparing = Preparing {
                application: self,
                is_said: Cell::new(false),
            };
            if let Err(failed) = tenant.enter(&preparing, |_| each()).result {
                preparing.failed(failed);
            }
        }
        let absence = self.keeping().absence(place);
        if self.keeps_too_much(tenant.look_at_kept()) {
            tenant.set_resting(true);
            absence.reach(Stage::Rests);
        }
        while self.keeps_too_much(tenant.look_at_kept()) {
            if self.is_revoked() {
                return false;
            }
            sleep(LOOK_AGAIN);
        }
        self.look_at_cut_again(place, tenant);
        self.keeping().serves(place);
        tenant.set_resting(false);
        true
    }
}
