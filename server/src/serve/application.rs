//! The application half of a server: its buckets, its state, its door and the first thread of it.

use super::error::StartError;
use super::signals::Signals;
use crate::plan::Plan;
use crate::settings::ApplicationSettings;
use std::time::Duration;
use transom_arena::{
    Buckets, Policy, Region, RegionOptions, forbid_process_heap, install_overdraft,
    install_shared_heap,
};
use transom_doors::Door;
use transom_platform::{Application, ApplicationOptions, EachThread, Service};

/// Bytes kept at the top of the process heap for what the C library allocates when a thread starts. Counted
/// in the equation's constant.
pub(super) const HEAP_HEADROOM: usize = 1 << 20;

/// What an application's author has written, and how it is to be run.
pub(super) struct Handlers {
    pub(super) service: Service,
    pub(super) policy: Policy,
    pub(super) warm_up: Option<Box<dyn FnOnce()>>,
    pub(super) each_thread: Vec<EachThread>,
}

/// An application that has its memory.
pub(super) struct Installed {
    pub(super) application: &'static Application,
    /// Buckets that are not for its requests.
    pub(super) aside: Buckets,
    pub(super) policy: Policy,
    pub(super) warm_up: Option<Box<dyn FnOnce()>>,
}

/// A thread starts within microseconds, on a crowded machine within milliseconds.
pub(super) const FIRST_THREAD_PATIENCE: Duration = Duration::from_secs(10);

/// Maps the region that a plan states.
pub(super) fn map(plan: &Plan, settings: &ApplicationSettings) -> Result<Region, StartError> {
    Ok(Region::map(
        &plan.bound,
        RegionOptions {
            lazy: settings.lazy,
            lock: settings.lock,
            huge_pages: settings.huge_pages,
        },
    )?)
}

/// Makes buckets and shared heap of their parts of the region, and an application that lives in them, but for
/// those that are kept aside.
pub(super) fn install(
    region: &mut Region,
    plan: &Plan,
    settings: &ApplicationSettings,
    handlers: Handlers,
) -> Result<Installed, StartError> {
    let mut take = |name| region.take(name).expect("the plan has this term");
    let (buckets, heap) = (take("buckets"), take("shared heap"));
    let overdraft = take("overdraft");
    #[cfg(feature = "c-heap")]
    let c_heap = take("C heap");
    let buckets = Buckets::install(region, &buckets, plan.bucket, settings.wipe.into())?;
    region.commit()?;
    install_shared_heap(heap)?;
    install_overdraft(overdraft, settings.overdraft_per_request())?;
    #[cfg(feature = "c-heap")]
    transom_arena::install_c_heap(c_heap, settings.c_heap_per_request())?;
    let (buckets, aside) = buckets.keep_aside(buckets.len() - settings.buckets);
    let options = ApplicationOptions {
        on_parked: Signals::parked,
        on_leave: Signals::parked,
        keep: settings.keep(&plan.bucket),
        keep_timeout: settings.keep_timeout,
        each_thread: handlers.each_thread,
        memory_header: settings.memory_header,
    };
    if settings.strict_heap {
        forbid_process_heap();
    }
    let application = match handlers.policy {
        Policy::Overdraft => Application::new(handlers.service, buckets, options),
        // SAFETY: `App::policy` chose it only if the author promised the contract.
        Policy::Escape => unsafe { Application::escaping(handlers.service, buckets, options) },
    };
    Ok(Installed {
        application,
        aside,
        policy: handlers.policy,
        warm_up: handlers.warm_up,
    })
}

/// Runs the author's warm-up and starts the first door server thread.
pub(super) fn start(
    application: &'static Application,
    door: &Door,
    warm_up: Option<Box<dyn FnOnce()>>,
) -> Result<(), StartError> {
    if let Some(warm_up) = warm_up {
        warm_up();
    }
    door.start().map_err(StartError::FirstThreadStart)?;
    Ok(application.wait_until_ready(FIRST_THREAD_PATIENCE)?)
}

/// What a policy is called in the log.
pub(super) fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Overdraft => "overdraft",
        Policy::Escape => "escape",
    }
}
