//! Front end and application in one process, joined by a door in memory.

use super::admin::{AdminHalf, AdminMemory};
use super::application::Handlers;
use super::error::StartError;
use super::front::{self, FrontHalf, Loops, bells};
use super::handover::{Handover, What};
use super::listeners::{Inherited, Kind, Listeners};
use super::recycle::{Recycling, Way};
use super::signals::Signals;
use super::watch::{delay_drain, nothing_to_reload, until_told};
use super::why::End;
use super::{access, application, end};
use crate::admin::{Admin, FrontView};
use crate::plan::Plan;
use crate::settings::Settings;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use transom_arena::{Part, seal};
use transom_doors::{ChannelMemory, Door};
use transom_front::{ConnectionLimit, DoorwayParts, Forward, Loop, LoopStats, Parts, RouteTable};
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
        mut inherited: Inherited,
        handlers: Handlers,
        logs: &LogHandle,
        signals: &Signals,
        started: Instant,
    ) -> Result<Self, StartError> {
        let predecessor = inherited.predecessor;
        // Before the region is mapped, so that a port in use is said at once.
        let public = settings.listen.len();
        let listen = settings.listen.iter().map(|address| (address, plan.loops));
        let listen: Vec<_> = listen
            .chain(settings.front.admin.iter().map(|address| (address, 1)))
            .map(|(address, sockets)| (Kind::Stream, address.clone(), sockets))
            .collect();
        let mut listeners =
            Listeners::open(&listen, &mut inherited, &settings.front).map_err(|(n, source)| {
                StartError::Listen {
                    flag: if n < public { "--listen" } else { "--admin" },
                    address: listen[n].1.clone(),
                    source,
                }
            })?;
        let listen: Vec<_> = listeners
            .addresses()
            .take(public)
            .map(|address| format!("http://{address}"))
            .collect();
        let timeout = settings.front.handover_timeout;
        let handover = Handover::prepare(What::Listeners, Some(&listeners), timeout, signals);
        let way = Way::choose(&settings.application, plan, handover.obstacle())?;
        let access = access::start(&settings.front, vec![listen.join(",")], Vec::new(), signals)?;

        let mut region = application::map(plan, &settings.application)?;
        let mut take = |name| region.take(name).expect("the plan has this term");
        let (mut channels, mut connections) = (take("channels"), take("connections"));
        let (mut heads, mut scratch) = (take("partial heads"), take("scratch"));
        let policy = handlers.policy;
        let admin_memory = AdminMemory::take(&mut region, &settings.front);
        let (application, aside) = application::install(
            &mut region,
            plan,
            &settings.application,
            handlers.service,
            policy,
            handlers.each_thread,
        )?;
        let door = application.door()?;

        let addresses = front::addresses(&settings.front, settings.front.connections_in_all());
        let mut loops = Loops::default();
        let count = plan.loops as usize;
        let routes = Arc::new(RouteTable::everything_to(0));
        let bells = bells(count)?;
        let limit = Arc::new(ConnectionLimit::new(
            settings.front.connections.get(),
            &bells,
        ));
        for (n, bell) in bells.into_iter().enumerate() {
            let left = count - n;
            let share = |part: &mut Part| part.share(left);
            let channel = share(&mut channels);
            // SAFETY: the part is page-aligned, zeroed, valid for ever, and this was its only handle.
            let memory = unsafe { ChannelMemory::new(channel.base(), channel.len()) };
            let parts = Parts {
                connections: share(&mut connections),
                buffers: share(&mut heads),
                scratch: share(&mut scratch),
                bell,
                doorways: vec![DoorwayParts::InProcess(door.channel(plan.channel, memory)?)],
                forwards: vec![Forward {
                    listeners: listeners.of_loop(n, count)[..public].concat(),
                    routes: routes.clone(),
                }],
                addresses: addresses.clone(),
                limit: limit.clone(),
                stats: Arc::new(LoopStats::default()),
                orders: loops.orders.clone(),
            };
            loops.stats.push(parts.stats.clone());
            let mut this = Loop::new(settings.front.sizes(), &settings.front.allowance(), parts)
                .map_err(StartError::Loop)?;
            if let Some(log) = &access {
                this.log_access(log.clone(), settings.front.connections_per_loop());
            }
            loops.loops.push(this);
        }
        application::start(application, &door, handlers.warm_up)?;
        let recycling = Recycling::new(application, settings, way, predecessor, None, signals);
        let admin = match admin_memory {
            Some(memory) => {
                let view = FrontView {
                    stats: loops.stats.clone(),
                    connections_max: settings.front.connections_in_all(),
                    slots_lost: Arc::default(),
                };
                let told = Admin::new(
                    Some(application),
                    Some(recycling.view()),
                    Some(view),
                    &plan.bound,
                    logs,
                    access.as_ref(),
                    &settings.front.admin_host,
                );
                let sockets = listeners.of_loop(0, 1)[public..].concat();
                Some(AdminHalf::start(
                    told,
                    memory,
                    aside,
                    sockets,
                    &settings.front,
                )?)
            }
            None => None,
        };
        let front = FrontHalf::start(loops, "loop")?;
        listeners.are_ours();
        end::say_bound(&plan.bound);
        let listen: Vec<_> = listeners.addresses().map(ToString::to_string).collect();
        info!(
            listen = %listen[..public].join(","),
            admin = listen.get(public).map(tracing::field::display),
            loops = plan.loops,
            buckets = settings.application.buckets,
            on_exhaustion = application::policy_name(policy),
            recycle = recycling.way().name(),
            because = recycling.way().obstacle().map(tracing::field::display),
            ready_ms = started.elapsed().as_millis() as u64,
            "ready"
        );
        inherited.handed.say_ready();
        signals.notify().ready();
        let admin_listeners = listeners.split_off(public);
        drop((listen, inherited, addresses));
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
