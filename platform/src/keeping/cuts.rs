//! Buckets in which kept bytes cost more than their size, because of where they lie.

use crate::application::Application;
use std::sync::atomic::Ordering;
use transom_arena::{Pieces, Tenant};
use transom_doors::now_ns;

impl Application {
    /// Whether the thread of a bucket is to end because of what is kept there, after a request that may have
    /// found no piece for what it wanted.
    pub(crate) fn is_to_leave(
        &self,
        place: u32,
        tenant: &mut Tenant,
        kept: usize,
        found_no_piece: Option<Pieces>,
    ) -> bool {
        if self.keeps_too_much(kept) {
            return true;
        }
        let cut = self.keeping().cut(place);
        if kept == 0 {
            // All of the arena is one piece.
            cut.since_ns.store(0, Ordering::Relaxed);
            return false;
        }
        match cut.since_ns() {
            0 => found_no_piece.is_some_and(|pieces| {
                cut.note(pieces);
                self.is_cut(place, tenant)
            }),
            // A thread has left because of that already, and it has not helped.
            _ => {
                // Requests that have only these find none for longer.
                if found_no_piece == Some(Pieces::BelowTheKept) {
                    cut.note(Pieces::BelowTheKept);
                }
                if cut.is_to_be_looked_at() {
                    self.is_cut(place, tenant);
                }
                false
            }
        }
    }

    /// Whether the bucket was cut when that was looked at last.
    pub(crate) fn is_noted_as_cut(&self, place: u32) -> bool {
        self.keeping().cut(place).since_ns() != 0
    }

    /// Whether the bucket is cut: that is noted.
    #[cold]
    fn is_cut(&self, place: u32, tenant: &mut Tenant) -> bool {
        let cut = self.keeping().cut(place);
        let costs = tenant.cost_of_kept(cut.pieces());
        let (is_cut, now_ns) = (self.keeps_too_much(costs), now_ns());
        cut.looked_ns.store(now_ns, Ordering::Relaxed);
        match (is_cut, cut.since_ns()) {
            (true, 0) => cut.since_ns.store(now_ns, Ordering::Relaxed),
            (false, 1..) => cut.since_ns.store(0, Ordering::Relaxed),
            _ => {}
        }
        is_cut
    }

    /// A new thread has taken the place of one that has ended: perhaps its thread-locals were what had cut
    /// the bucket.
    pub(super) fn look_at_cut_again(&self, place: u32, tenant: &mut Tenant) {
        if self.is_noted_as_cut(place) {
            self.is_cut(place, tenant);
        }
    }

    /// How many of the buckets that are not lost have been cut for as long as one may rest.
    #[must_use]
    pub fn cut(&self) -> u32 {
        let now_ns = now_ns();
        let for_ns = self.options().keep_timeout.as_nanos() as u64;
        let is_cut = |&bucket: &u32| {
            let since_ns = self.keeping().cut(bucket).since_ns();
            since_ns != 0
                && since_ns.saturating_add(for_ns) <= now_ns
                && self.loss_of(bucket).is_none()
        };
        (0..self.buckets().len()).filter(is_cut).count() as u32
    }
}
