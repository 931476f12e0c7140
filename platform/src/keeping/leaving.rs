//! A request that leaves something, and a thread that has to end because of it.

use super::{SAY_AGAIN, Stage};
use crate::application::Application;
use crate::meter::RouteMeter;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use transom_arena::Tenant;
use transom_doors::now_ns;
use transom_wire::own_log::{info, is_time_to_say, warn};

impl Application {
    /// A request has left so many bytes. Logs it, once for each route.
    #[cold]
    pub(crate) fn note_left(
        &self,
        meter: &RouteMeter,
        left: usize,
        change: Option<&'static Location<'static>>,
    ) {
        self.keeping().left.fetch_add(1, Ordering::Relaxed);
        if !meter.is_first_to_leave() {
            return;
        }
        let route = meter.route;
        match change {
            None => info!(
                route,
                bytes = left,
                "requests of this route keep memory in the bucket of their thread; if it is the same each time, have it \
                 made before the first request (Router::warm)"
            ),
            Some(place) => info!(
                route,
                bytes = left,
                changed = %place,
                "requests of this route keep memory in the bucket of their thread; if it is the same each time, have it \
                 made before the first request (Router::warm), and if it was put into the Shared that is changed there, \
                 clone it inside the closure"
            ),
        }
    }

    /// A thread leaves its bucket because of what is kept there. The bucket is out of service until another
    /// one serves in it.
    #[cold]
    pub(crate) fn thread_leaves(
        &self,
        place: u32,
        tenant: &mut Tenant,
        (route, kept): (&'static str, usize),
    ) {
        let keeping = self.keeping();
        if !self.leaves_and_says_so(place, tenant, &keeping.left_said_ns) {
            return;
        }
        let (keep, threads_replaced) = (self.keep_limit(), keeping.ended());
        if self.keeps_too_much(kept) {
            info!(
                route,
                kept,
                keep,
                threads_replaced,
                raise = "--keep",
                "a bucket keeps more than it may: its thread ends, and another takes its place"
            );
        } else {
            info!(
                route,
                kept,
                costs = tenant.cost_of_kept(keeping.cut(place).pieces()),
                keep,
                threads_replaced,
                "what a bucket keeps cuts it in pieces, and a request found none that was large enough: its \
                 thread ends, and another takes its place"
            );
        }
    }

    /// A thread leaves because a request has left it inside a panic.
    #[cold]
    pub(crate) fn spoilt_thread_leaves(
        &self,
        place: u32,
        tenant: &mut Tenant,
        route: &'static str,
    ) {
        let keeping = self.keeping();
        if self.leaves_and_says_so(place, tenant, &keeping.spoilt_said_ns) {
            warn!(
                route,
                threads_replaced = keeping.ended(),
                "a request has left its thread inside a panic, as a coroutine does that is kept where it was suspended \
                 (in a destructor, or while a panic's message was formatted): the thread ends, and another takes its \
                 place"
            );
        }
    }

    /// A thread leaves its bucket. Whether it is time to say so, which was said last at that time.
    fn leaves_and_says_so(&self, place: u32, tenant: &mut Tenant, said_ns: &AtomicU64) -> bool {
        let keeping = self.keeping();
        tenant.set_resting(true);
        keeping.absence(place).reach(Stage::Ends);
        keeping.ended.fetch_add(1, Ordering::Relaxed);
        keeping.some_left.store(true, Ordering::SeqCst);
        (self.options().on_leave)();
        is_time_to_say(said_ns, now_ns(), SAY_AGAIN.as_nanos() as u64)
    }
}
