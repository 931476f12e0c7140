//! The application of a server: its buckets, its state, and the first thread of its door.

use super::door::{self, AtPath};
use super::{Needs, term};
use crate::plan::PlanError;
use crate::serve::end::LastResort;
use crate::serve::error::StartError;
use crate::serve::handed::Handed;
use crate::serve::predecessor::Note;
use crate::serve::recycle::{Channels, Recycling, Way};
use crate::serve::signals::Signals;
use crate::settings::Settings;
use std::time::Duration;
use transom_arena::{
    BucketGeometry, Buckets, Bytes, Place, Policy, Region, forbid_process_heap, install_overdraft,
    install_shared_heap,
};
use transom_doors::{ChannelGeometry, Door};
use transom_log::Pending;
use transom_platform::{Application, ApplicationOptions, EachThread, Service, begin_to_drain};
use transom_wire::own_log::info;

/// Bytes kept at the top of the process heap for what the C library allocates when a thread starts. Counted
/// in the equation's constant.
pub(crate) const HEAP_HEADROOM: usize = 1 << 20;

/// What an application's author has written, and how it is to be run.
pub(crate) struct Handlers {
    pub(crate) service: Service,
    pub(crate) policy: Policy,
    pub(crate) warm_up: Option<Box<dyn FnOnce()>>,
    pub(crate) each_thread: Vec<EachThread>,
}

impl Handlers {
    /// Has the log take the lines of the application too, unless the warm-up installs something for them.
    pub(crate) fn claim_after_warm_up(&mut self, pending: Pending) {
        let warm_up = self.warm_up.take();
        self.warm_up = Some(Box::new(move || {
            if let Some(warm_up) = warm_up {
                warm_up();
            }
            pending.claim();
        }));
        say_backtraces();
    }
}

/// A backtrace that is made in a request reads the program's symbol tables there, and keeps them.
fn say_backtraces() {
    let set = |name| std::env::var_os(name).map(|value| value != "0");
    if set("RUST_LIB_BACKTRACE").or_else(|| set("RUST_BACKTRACE")) == Some(true) {
        info!(
            "RUST_BACKTRACE is set. The first backtrace that a handler prints (an error of anyhow by {{:?}}) loads the symbol tables of the program, which fit no bucket: print one in App::warm_up, or set RUST_LIB_BACKTRACE=0"
        );
    }
}

/// An application that has its memory.
pub(crate) struct Installed<'s> {
    settings: &'s Settings,
    application: &'static Application,
    pub(crate) door: Door,
    policy: Policy,
    warm_up: Option<Box<dyn FnOnce()>>,
}

/// A thread starts within microseconds, on a crowded machine within milliseconds.
pub(crate) const FIRST_THREAD_PATIENCE: Duration = Duration::from_secs(10);

/// A bucket and a thread for each request, one bucket more for `--admin`, and what requests share.
pub(crate) fn needs(settings: &Settings, bucket: &BucketGeometry) -> Result<Needs, PlanError> {
    let application = &settings.application;
    let count = application.buckets as usize;
    let mut buckets = bucket.term(count)?; // without any there is nothing to keep one aside of
    if settings.front.admin.is_some() {
        buckets = bucket.term(count + 1)?;
        buckets.holder = "a request each; one is kept aside for --admin";
    }
    let pool = |name, bytes: Bytes, holder, flags| {
        term(name, Place::Region, 1, bytes.get(), holder, flags)
    };
    let mut terms = vec![
        buckets,
        pool(
            "shared heap",
            application.shared_heap,
            "state that outlives requests",
            "--shared-heap",
        ),
        pool(
            "overdraft",
            application.overdraft,
            "requests that have outgrown their bucket, until they end",
            "--overdraft",
        ),
    ];
    if cfg!(feature = "c-heap") {
        terms.push(pool(
            "C heap",
            application.c_heap,
            "what C libraries allocate in requests",
            "--c-heap",
        ));
    }
    Ok(Needs {
        terms,
        threads: count,
        descriptors: 0,
    })
}

impl<'s> Installed<'s> {
    /// Makes an application that lives in these buckets, but for those that are kept aside, and in the pools
    /// that the region has for it; and its door.
    pub(crate) fn new(
        region: &mut Region,
        buckets: Buckets,
        (bucket, channel): (BucketGeometry, ChannelGeometry),
        settings: &'s Settings,
        handlers: Handlers,
    ) -> Result<(Self, Buckets), StartError> {
        let flags = &settings.application;
        let mut take = |name| region.take(name).expect("the plan has this term");
        install_shared_heap(take("shared heap"))?;
        install_overdraft(take("overdraft"), flags.overdraft_per_request())?;
        #[cfg(feature = "c-heap")]
        transom_arena::install_c_heap(take("C heap"), flags.c_heap_per_request())?;
        let (buckets, aside) = buckets.keep_aside(buckets.len() - flags.buckets);
        let options = ApplicationOptions {
            on_parked: Signals::parked,
            on_leave: Signals::parked,
            keep: flags.keep(&bucket),
            keep_timeout: flags.keep_timeout,
            each_thread: handlers.each_thread,
            memory_header: flags.memory_header,
        };
        if flags.strict_heap {
            forbid_process_heap();
        }
        let application = match handlers.policy {
            Policy::Overdraft => Application::new(handlers.service, buckets, options),
            // SAFETY: `App::policy` chose it only if the author promised the contract.
            Policy::Escape => unsafe { Application::escaping(handlers.service, buckets, options) },
        };
        let door = match settings.door.door {
            None => application.door()?,
            Some(_) => door::make(application, region, channel, &settings.door)?,
        };
        let installed = Installed {
            settings,
            application,
            door,
            policy: handlers.policy,
            warm_up: handlers.warm_up,
        };
        Ok((installed, aside))
    }

    /// Runs the author's warm-up, starts the first door server thread, and begins to look after the buckets.
    pub(crate) fn start(
        self,
        way: Way,
        predecessor: Option<Note>,
        signals: &Signals,
    ) -> Result<Served<'s>, StartError> {
        let Installed {
            settings,
            application,
            door,
            policy,
            warm_up,
        } = self;
        if let Some(warm_up) = warm_up {
            warm_up();
        }
        door.start().map_err(StartError::FirstThreadStart)?;
        application.wait_until_ready(FIRST_THREAD_PATIENCE)?;
        let channels = settings.door.door.as_ref().map(|_| Channels {
            door: door.clone(),
            max: settings.door.channels(),
        });
        Ok(Served {
            recycling: Recycling::new(application, settings, way, predecessor, channels, signals),
            settings,
            application,
            door,
            policy,
        })
    }
}

/// An application that is served.
pub(crate) struct Served<'s> {
    pub(crate) settings: &'s Settings,
    pub(crate) application: &'static Application,
    pub(crate) door: Door,
    pub(crate) policy: Policy,
    pub(crate) recycling: Recycling,
}

impl Served<'_> {
    /// Gives its door a path, if it is to have one.
    pub(crate) fn attach(&self, handed: &Handed) -> Result<Option<AtPath>, StartError> {
        let flags = &self.settings.door;
        let attach = |path| AtPath::attach(self.application, &self.door, path, flags, handed);
        flags.door.as_deref().map(attach).transpose()
    }

    /// Tells its handlers that the process ends, and sees to it that they do not keep it from that.
    pub(crate) fn drain(&self, timeout: Duration) -> LastResort {
        begin_to_drain();
        LastResort::after_drain(self.application, timeout)
    }
}

/// What a policy is called in the log.
pub(crate) fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Overdraft => "overdraft",
        Policy::Escape => "escape",
    }
}
