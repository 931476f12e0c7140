//! New threads in the places of those that had to end.

use super::{LOOK_AGAIN, SAY_AGAIN, Stage};
use crate::application::Application;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;
use transom_arena::BucketState;
use transom_doors::{Words, now_ns};
use transom_wire::own_log::{error, is_time_to_say};

impl Application {
    /// Starts threads in the places of those that have left and are gone. When to look again, if some are not
    /// gone yet or cannot be replaced.
    ///
    /// To be called by one thread, now and then and after `ApplicationOptions::on_leave`.
    pub fn tend(&'static self) -> Option<Duration> {
        let keeping = self.keeping();
        if !keeping.some_left.swap(false, Ordering::SeqCst) {
            return None;
        }
        let has_work = self.has_work();
        let (mut without, mut refused) = (0, None);
        for (bucket, place) in self.buckets().iter().zip(0..) {
            let absence = keeping.absence(place);
            if absence.stage() == Stage::Ends && bucket.has_ended() {
                absence.reach(Stage::HasNone);
            }
            // Where one is refused, the others would be.
            if absence.stage() == Stage::HasNone && refused.is_none() && has_work {
                absence.reach(Stage::Prepares); // from here on it is the new thread's
                if let Err(error) = self.start_thread(place) {
                    absence.reach(Stage::HasNone);
                    refused = Some((place, error));
                }
            }
            let has_none = matches!(absence.stage(), Stage::Ends | Stage::HasNone);
            if has_none && bucket.state() != BucketState::Parked {
                without += 1;
            }
        }
        if let Some((place, error)) = refused {
            self.say_that_none_starts(place, &error);
        }
        if without == 0 {
            return None;
        }
        keeping.some_left.store(true, Ordering::SeqCst);
        Some(LOOK_AGAIN)
    }

    /// Says so now and then.
    fn say_that_none_starts(&self, bucket: u32, error: &io::Error) {
        if !is_time_to_say(
            &self.keeping().said_ns,
            now_ns(),
            SAY_AGAIN.as_nanos() as u64,
        ) {
            return;
        }
        error!(
            bucket,
            "a door server thread cannot be started anew: {}; check `ulimit -u` and the cgroup's pids.max. Its bucket \
             is out of service until one can be, which is tried again and again",
            Words(error)
        );
    }
}
