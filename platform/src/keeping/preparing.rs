//! What happens on a thread before its first call.

use super::{LOOK_AGAIN, Stage};
use crate::application::Application;
use crate::pace::Leave;
use std::thread::sleep;
use transom_arena::{Failed, Tenant};
use transom_wire::own_log::warn;

impl Application {
    /// Before a thread's first call: what its author wants to have done, and a rest if its bucket keeps too
    /// much. Then the bucket is in service. False if the door was revoked meanwhile.
    pub(crate) fn prepare(&self, place: u32, tenant: &mut Tenant) -> bool {
        for each in self.each_thread() {
            let parked = |_: Failed<'_>| (self.options().on_parked)();
            let outcome = tenant.enter(&parked, |_| each());
            if let Err(failed) = outcome.result {
                let (what, raise) = match failed {
                    Failed::Exhausted(exhaustion) => {
                        (exhaustion.reason.as_str(), Some(exhaustion.reason.flag()))
                    }
                    Failed::Panicked(note) => (note.message(), None),
                };
                if let Some(Leave { unlogged }) = self.lines().take() {
                    warn!(
                        what,
                        raise, unlogged, "what is to run once on each thread has failed"
                    );
                }
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
