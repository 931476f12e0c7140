//! Front end and application in one process, joined by a door in memory.

use super::admin::{AdminHalf, AdminMemory};
use super::application::{Handlers, Installed};
use super::beginning::Beginning;
use super::error::StartError;
use super::front::{self, FrontHalf, LoopMemory, LoopOptions, Loops};
use super::handover::{Handover, What};
use super::listeners::{Inherited, Kind, Listeners};
use super::recycle::{Recycling, Way};
use super::signals::Signals;
use super::watch::{delay_drain, nothing_to_reload, until_told};
use super::why::End;
use super::{access, application, end};
use crate::admin::Told;
use crate::plan::Plan;
use crate::settings::Settings;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use transom_arena::{Part, Policy, seal};
use transom_doors::{ChannelGeometry, ChannelMemory, Door};
use transom_front::{DoorwayParts, Forward, RouteTable};
use transom_log::LogHandle;
use transom_log::access::AccessLog;
use transom_platform::{Application, begin_to_drain};
use transom_wire::own_log::info;

/// A server that is running.
pub(super) struct InProcess {
    application: &'static Application,
    door: Door,
    front: FrontHalf,
    listeners: Listeners,
    /// That of `--admin`, if there is one; it stays until the end.
    admin_listeners: Listeners,
    handover: Handover,
    recycling: Recycling,
    access: Option<AccessLog>,
    admin: Option<AdminHalf>,
}

impl InProcess {
    pub(super) fn start(
        plan: &Plan,
        settings: &Settings,
        handlers: Handlers,
        mut beginning: Beginning<'_>,
    ) -> Result<Self, StartError> {
        let (logs, signals) = (beginning.logs, beginning.signals);
        let predecessor = beginning.inherited.predecessor;
        let public = settings.listen.len();
        // Before the region is mapped, so that a port in use is said at once.
        let mut listeners = listen(plan, settings, &mut beginning.inherited)?;
        let handover =
            Handover::prepare(What::Listeners, Some(&listeners), &settings.front, signals);
        let way = Way::choose(&settings.application, plan, handover.obstacle())?;
        let access = log_access(settings, &listeners, signals)?;
        let mut region = application::map(plan, &settings.application)?;
        let channels = region.take("channels").expect("the plan has this term");
        let memory = LoopMemory::take(&mut region, ["connections", "partial heads", "scratch"]);
        let admin_memory = AdminMemory::take(&mut region, &settings.front);
        let Installed {
            application,
            aside,
            policy,
            warm_up,
        } = application::install(&mut region, plan, &settings.application, handlers)?;
        let door = application.door()?;
        let options = LoopOptions {
            settings: &settings.front,
            count: plan.loops as usize,
            addresses: front::addresses(&settings.front, settings.front.connections_in_all()),
            access: access.as_ref(),
        };
        let channel = (&door, plan.channel, channels);
        let loops = build_loops(options, memory, channel, (&listeners, public))?;
        application::start(application, &door, warm_up)?;
        let recycling = Recycling::new(application, settings, way, predecessor, None, signals);
        let told = Told {
            application: Some(application),
            recycle: Some(recycling.view()),
            front: Some(loops.view(&settings.front, Arc::default())),
            bound: &plan.bound,
            logs,
            access: access.as_ref(),
        };
        let sockets = listeners.of_loop(0, 1)[public..].concat();
        let admin = AdminHalf::start(told, (admin_memory, Some(aside)), sockets, &settings.front)?;
        let front = FrontHalf::start(loops, "loop")?;
        listeners.are_ours();
        end::say_bound(&plan.bound);
        say_ready(settings, &listeners, policy, &recycling, beginning.started);
        beginning.end();
        let admin_listeners = listeners.split_off(public);
        seal();
        Ok(InProcess {
            application,
            door,
            front,
            listeners,
            admin_listeners,
            handover,
            recycling,
            access,
            admin,
        })
    }

    pub(super) fn until_the_end(
        mut self,
        settings: &Settings,
        signals: &Signals,
        logs: &LogHandle,
    ) -> ExitCode {
        let why = until_told(
            signals,
            &mut self.handover,
            Some(&mut self.recycling),
            nothing_to_reload,
        );
        if let Some(admin) = &self.admin {
            admin.drains(why);
        }
        delay_drain(signals, why, settings.front.drain_delay);
        let began = Instant::now();
        let timeout = settings.front.drain_timeout;
        info!(timeout_ms = timeout.as_millis() as u64, "draining");
        begin_to_drain();
        let last_resort = end::LastResort::after_drain(self.application, timeout);
        self.listeners.give_up(why);
        let in_time = self.front.drain(why, began + timeout, signals, || true);
        self.door.revoke();
        let (front, sound) = self.front.join();
        self.admin_listeners.give_up(why);
        if let Some(admin) = self.admin {
            admin.end(signals);
        }
        let access = self.access.as_ref();
        end::summarise(
            Some(&front),
            Some(self.application),
            access,
            logs,
            began.elapsed(),
        );
        last_resort.settle();
        end::Ending {
            recycle: why == End::Recycle,
            sound,
            in_time,
            cut: end::Cut::of_front(&front),
        }
        .status()
    }
}

/// Listens where `--listen` says, and after that where `--admin` does.
fn listen(
    plan: &Plan,
    settings: &Settings,
    inherited: &mut Inherited,
) -> Result<Listeners, StartError> {
    let public = settings.listen.len();
    let listen = settings.listen.iter().map(|address| (address, plan.loops));
    let listen: Vec<_> = listen
        .chain(settings.front.admin.iter().map(|address| (address, 1)))
        .map(|(address, sockets)| (Kind::Stream, address.clone(), sockets))
        .collect();
    Listeners::open(&listen, inherited, &settings.front).map_err(|(n, source)| StartError::Listen {
        flag: if n < public { "--listen" } else { "--admin" },
        address: listen[n].1.clone(),
        source,
    })
}

fn log_access(
    settings: &Settings,
    listeners: &Listeners,
    signals: &Signals,
) -> Result<Option<AccessLog>, StartError> {
    let public = listeners.addresses().take(settings.listen.len());
    let names: Vec<_> = public.map(|address| format!("http://{address}")).collect();
    access::start(&settings.front, vec![names.join(",")], Vec::new(), signals)
}

/// Builds the loops, each with a channel to the door, and with listeners of so many addresses.
fn build_loops(
    options: LoopOptions<'_>,
    memory: LoopMemory,
    (door, geometry, mut channels): (&Door, ChannelGeometry, Part),
    (listeners, public): (&Listeners, usize),
) -> Result<Loops, StartError> {
    let count = options.count;
    let routes = Arc::new(RouteTable::everything_to(0));
    Loops::build(options, memory, |n, _| {
        let channel = channels.share(count - n);
        // SAFETY: the part is page-aligned, zeroed, valid for ever, and this was its only handle.
        let memory = unsafe { ChannelMemory::new(channel.base(), channel.len()) };
        let doorway = DoorwayParts::InProcess(door.channel(geometry, memory)?);
        let forward = Forward {
            listeners: listeners.of_loop(n, count)[..public].concat(),
            routes: routes.clone(),
        };
        Ok((vec![doorway], vec![forward]))
    })
}

fn say_ready(
    settings: &Settings,
    listeners: &Listeners,
    policy: Policy,
    recycling: &Recycling,
    started: Instant,
) {
    let listen: Vec<_> = listeners.addresses().map(ToString::to_string).collect();
    let (listen, admin) = listen.split_at(settings.listen.len());
    info!(
        listen = %listen.join(","),
        admin = admin.first().map(tracing::field::display),
        loops = settings.front.loops(),
        buckets = settings.application.buckets,
        on_exhaustion = application::policy_name(policy),
        recycle = recycling.way().name(),
        because = recycling.way().obstacle().map(tracing::field::display),
        ready_ms = started.elapsed().as_millis() as u64,
        "ready"
    );
}
