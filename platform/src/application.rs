//! An application behind its door: door server threads, each bound to a bucket, and what they do with a call.

mod answer;
mod call;
mod counters;
mod figures;
mod losing;
mod options;
mod starting;

use crate::each_thread::EachThread;
use crate::keeping::Keeping;
use crate::meter::{Culprit, Meters, RouteMeter};
use crate::pace::LinePace;
use crate::service::Service;
use crate::sign::Signs;
use counters::Counters;
use std::sync::OnceLock;
use transom_arena::{Buckets, Policy, install_panic_hook};
use transom_doors::Door;
use transom_wire::histogram::Histogram;

pub use figures::{CallFigures, Figures, KeptFigures, ThreadFigures};
pub(crate) use losing::has_stack_for_a_line;
pub use options::ApplicationOptions;
pub use starting::{ApplicationError, NotReady};

/// An application that is being served. It lives as long as the process.
pub struct Application {
    service: &'static Service,
    policy: Policy,
    options: ApplicationOptions,
    buckets: Buckets,
    door: OnceLock<Door>,
    counters: Counters,
    meters: Meters,
    lines: LinePace,
    signs: Signs,
    keeping: Keeping,
}

impl Application {
    /// An application with these handlers in these buckets, under [`Policy::Overdraft`].
    #[must_use]
    pub fn new(
        service: impl Into<Service>,
        buckets: Buckets,
        options: ApplicationOptions,
    ) -> &'static Self {
        Self::with(Policy::Overdraft, service.into(), buckets, options)
    }

    /// An application whose requests are left by a jump when they outgrow their bucket.
    ///
    /// # Safety
    /// Every handler in `service` keeps the [escape contract](transom_arena::escape_contract).
    #[must_use]
    pub unsafe fn escaping(
        service: impl Into<Service>,
        buckets: Buckets,
        options: ApplicationOptions,
    ) -> &'static Self {
        Self::with(Policy::Escape, service.into(), buckets, options)
    }

    fn with(
        policy: Policy,
        service: Service,
        buckets: Buckets,
        options: ApplicationOptions,
    ) -> &'static Self {
        install_panic_hook(); // allocates, so before "ready"
        // Threads in buckets refer to it, and to the service, for as long as the process lives.
        let service: &'static Service = Box::leak(Box::new(service));
        let arena_size = buckets
            .iter()
            .next()
            .map_or(0, |bucket| bucket.geometry().arena_size());
        Box::leak(Box::new(Application {
            service,
            policy,
            options,
            buckets,
            door: OnceLock::new(),
            counters: Counters::default(),
            meters: Meters::new(service, arena_size),
            lines: LinePace::default(),
            signs: Signs::new(buckets.len()),
            keeping: Keeping::new(buckets.len()),
        }))
    }

    /// The handlers.
    #[must_use]
    pub fn service(&self) -> &Service {
        self.service
    }

    /// The buckets.
    #[must_use]
    pub fn buckets(&self) -> Buckets {
        self.buckets
    }

    /// What is counted by route; last, what had none.
    #[must_use]
    pub fn routes(&self) -> &[RouteMeter] {
        self.meters.routes()
    }

    /// What the requests of all routes together have needed, in arena bytes. It is added up where memory was
    /// kept for it from the start, so ask once, at the end.
    #[must_use]
    pub fn memory_of_all(&self) -> &Histogram {
        self.meters.memory_of_all()
    }

    /// The last 16 requests that outgrew their bucket, newest first. One that came at the very moment at
    /// which this was read before, or another was noted, may be missing.
    pub fn culprits(&self) -> impl Iterator<Item = Culprit> + use<> {
        self.meters.culprits()
    }

    /// What its threads say of their calls.
    pub(crate) fn signs(&self) -> &Signs {
        &self.signs
    }

    /// What the log calls a route, by its number, or a call without one.
    pub(crate) fn name_of_route(&self, route: Option<usize>) -> &'static str {
        self.meters.of(route).route
    }

    pub(crate) fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    pub(crate) fn options(&self) -> &ApplicationOptions {
        &self.options
    }

    pub(crate) fn lines(&self) -> &LinePace {
        &self.lines
    }

    pub(crate) fn keep_limit(&self) -> usize {
        self.options.keep
    }

    /// Whether so many bytes are more than a bucket may keep.
    pub(crate) fn keeps_too_much(&self, kept: usize) -> bool {
        kept > self.keep_limit()
    }

    pub(crate) fn each_thread(&self) -> impl Iterator<Item = &EachThread> {
        let of_routes = match self.service {
            Service::Requests(routes) => routes.warm(),
            Service::Connections(_) | Service::Datagrams(_) => &[],
        };
        self.options.each_thread.iter().chain(of_routes)
    }

    /// Whether requests have been left by a jump: what they had open, and had not registered, stays open.
    #[must_use]
    pub fn has_jumped(&self) -> bool {
        self.policy == Policy::Escape && self.routes().iter().any(|route| route.exhausted() > 0)
    }

    /// Whether the door takes no calls any more.
    pub(crate) fn is_revoked(&self) -> bool {
        self.door.get().is_none_or(|door| door.info().revoked)
    }

    /// Whether a thread that is started now has, or may get, something to do: calls that came before the door
    /// was revoked are still served.
    pub(crate) fn has_work(&self) -> bool {
        let door = self.door.get().map(transom_doors::Door::info);
        door.is_some_and(|door| !door.revoked || door.calls.under_way > 0)
    }

    /// Whether the client of the call that a bucket's thread serves has gone.
    pub(crate) fn client_has_gone(&self, bucket: u32) -> bool {
        self.door
            .get()
            .is_some_and(|door| door.is_abandoned(bucket))
    }
}
