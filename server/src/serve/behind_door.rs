//! `--door`: an application on its own. It has a region, buckets and a door at a path; no socket and no loop.

use super::admin::{AdminHalf, AdminMemory};
use super::application::{Handlers, Installed};
use super::beginning::Beginning;
use super::error::StartError;
use super::handover::{Handover, What};
use super::listeners::{Inherited, Kind, Listeners};
use super::recycle::{Channels, Recycling, Way};
use super::signals::{Signals, Wake};
use super::watch::{nothing_to_reload, until_told};
use super::why::End;
use super::{application, end};
use crate::admin::Told;
use crate::plan::Plan;
use crate::settings::{DoorSettings, FrontSettings, Settings};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use transom_arena::{Part, Policy, count_attaching_apart, seal};
use transom_doors::{AttachOptions, Attachment, ChannelMemory, Door, DoorEvent, Refusal, now_ns};
use transom_log::LogHandle;
use transom_platform::{Application, begin_to_drain};
use transom_wire::own_log::{error, info, is_time_to_say, warn};

/// When it was last said that there is no channel for a client, and how long it is not said again.
static SAID_FULL: AtomicU64 = AtomicU64::new(0);
const FULL_AGAIN_NS: u64 = 10_000_000_000;

/// How often the drain looks whether calls are left.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// An application that is being served.
pub(super) struct BehindDoor {
    application: &'static Application,
    door: Door,
    /// None once it was given up.
    attachment: Option<Attachment>,
    /// Of `--admin`.
    listeners: Option<Listeners>,
    admin: Option<AdminHalf>,
    handover: Handover,
    recycling: Recycling,
}

impl BehindDoor {
    /// Serves at the path that the settings have.
    pub(super) fn start(
        plan: &Plan,
        settings: &Settings,
        handlers: Handlers,
        mut beginning: Beginning<'_>,
    ) -> Result<Self, StartError> {
        let (logs, signals) = (beginning.logs, beginning.signals);
        let path = settings.door.door.as_deref();
        let path = path.expect("an application without a path has a front end");
        let mut listeners = open_admin(&settings.front, &mut beginning.inherited)?;
        let own = listeners.as_ref();
        let handover = Handover::prepare(What::Path, own, &settings.front, signals);
        let way = Way::choose(&settings.application, plan, handover.obstacle())?;
        let mut region = application::map(plan, &settings.application)?;
        let snapshots = region.take("snapshots").expect("the plan has this term");
        let admin_memory = AdminMemory::take(&mut region, &settings.front);
        let Installed {
            application,
            aside,
            policy,
            warm_up,
        } = application::install(&mut region, plan, &settings.application, handlers)?;
        let flags = &settings.door;
        let door = make_door(application, plan, flags, snapshots)?;
        application::start(application, &door, warm_up)?;
        let channels = Some(Channels {
            door: door.clone(),
            max: flags.channels(),
        });
        let predecessor = beginning.inherited.predecessor;
        let recycling = Recycling::new(application, settings, way, predecessor, channels, signals);
        let told = Told {
            application: Some(application),
            recycle: Some(recycling.view()),
            front: None,
            bound: &plan.bound,
            logs,
            access: None,
        };
        let sockets = listeners.iter().flat_map(|all| all.of_loop(0, 1).concat());
        let place = (admin_memory, Some(aside));
        let admin = AdminHalf::start(told, place, sockets.collect(), &settings.front)?;
        // Last: whoever finds the path finds an application that answers.
        beginning.inherited.handed.say_ready_but_for_the_path();
        let attachment = door.attach(path, &attach_options(flags, &beginning.inherited))?;
        if let Some(listeners) = &mut listeners {
            listeners.are_ours();
        }
        say_ready(
            plan,
            settings,
            listeners.as_ref(),
            policy,
            &recycling,
            beginning.started,
        );
        beginning.end();
        seal();
        Ok(BehindDoor {
            application,
            door,
            attachment: Some(attachment),
            listeners,
            admin,
            handover,
            recycling,
        })
    }

    pub(super) fn until_the_end(
        mut self,
        settings: &Settings,
        signals: &Signals,
        logs: &LogHandle,
    ) -> ExitCode {
        let mut why = until_told(
            signals,
            &mut self.handover,
            Some(&mut self.recycling),
            nothing_to_reload,
        );
        let began = Instant::now();
        let timeout = settings.front.drain_timeout;
        info!(timeout_ms = timeout.as_millis() as u64, "draining");
        begin_to_drain();
        let last_resort = end::LastResort::after_drain(self.application, timeout);
        if let Some(admin) = &self.admin {
            admin.drains(why);
        }
        // In this order: the next instance may have the path before clients are told to look for it there.
        self.attachment = None;
        if why == End::HandedOver && !self.handover.wait_until_it_has_the_path(signals) {
            error!(
                "the new instance has not taken the path of the door: this one is to be started anew"
            );
            why = End::Recycle;
        }
        self.door.revoke();
        let in_time = self.wait_for_calls(began + timeout, signals);
        let cut = self.calls_under_way();
        if let Some(listeners) = self.listeners.take() {
            listeners.give_up(why);
        }
        if let Some(admin) = self.admin.take() {
            admin.end(signals);
        }
        end::summarise(None, Some(self.application), None, logs, began.elapsed());
        last_resort.settle();
        end::Ending {
            recycle: why == End::Recycle,
            sound: true,
            in_time,
            cut: end::Cut::of_calls(cut),
        }
        .status()
    }

    /// Whether a call is under way that is to be waited for, or may still be taken up by a thread that has
    /// not seen the revoke yet.
    fn has_calls(&self) -> bool {
        let lost = self.application.lost();
        if lost.total() >= self.application.buckets().len() {
            return false; // no thread is left for those that wait; their front ends send them to the next instance
        }
        let door = self.door.info();
        let left = door.threads.parked + door.threads.ended;
        let serving = door.threads.started.saturating_sub(left) as usize;
        self.calls_under_way() > 0 || serving > lost.overdue as usize
    }

    /// Calls under way, but for those that are overdue: their clients have been answered by their front ends.
    fn calls_under_way(&self) -> u64 {
        let overdue = u64::from(self.application.lost().overdue);
        self.door.info().calls.under_way.saturating_sub(overdue)
    }

    /// Whether all calls have completed before the deadline and before a second signal.
    fn wait_for_calls(&self, deadline: Instant, signals: &Signals) -> bool {
        while self.has_calls() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            match signals.wait(Some(left.min(LOOK_AGAIN))) {
                Wake::Signal => return false,
                Wake::HandOver | Wake::HangUp | Wake::Parked | Wake::TimedOut => {}
            }
        }
        true
    }
}

/// The door, before it has a path. Takes the only handle on the snapshots.
fn make_door(
    application: &'static Application,
    plan: &Plan,
    flags: &DoorSettings,
    snapshots: Part,
) -> Result<Door, StartError> {
    // SAFETY: the part is page-aligned, zeroed, valid for ever, and this was its only handle.
    let snapshots = unsafe { ChannelMemory::new(snapshots.base(), snapshots.len()) };
    let door = application.door_with(|builder| {
        builder
            .channel_geometry(plan.channel)
            .channels_max(flags.channels())
            .channels_per_user(flags.channels_per_user())
            .snapshots(snapshots)
            .on_event(tell)
    });
    Ok(door?)
}

fn attach_options(flags: &DoorSettings, inherited: &Inherited) -> AttachOptions {
    AttachOptions {
        mode: flags.door_mode,
        owner: flags.door_owner,
        group: flags.door_group,
        wait: flags.door_wait.max(inherited.handed.path_patience()),
        begin: count_attaching_apart,
    }
}

fn say_ready(
    plan: &Plan,
    settings: &Settings,
    listeners: Option<&Listeners>,
    policy: Policy,
    recycling: &Recycling,
    started: Instant,
) {
    end::say_bound(&plan.bound);
    let flags = &settings.door;
    let path = flags.door.as_deref().unwrap_or(Path::new(""));
    let admin = listeners.into_iter().flat_map(Listeners::addresses).next();
    info!(
        door = %path.display(),
        mode = %format_args!("{:04o}", flags.door_mode),
        channels = flags.channels(),
        buckets = settings.application.buckets,
        on_exhaustion = application::policy_name(policy),
        recycle = recycling.way().name(),
        because = recycling.way().obstacle().map(tracing::field::display),
        admin = admin.map(tracing::field::display),
        ready_ms = started.elapsed().as_millis() as u64,
        "ready"
    );
}

/// Listens where `--admin` says.
fn open_admin(
    settings: &FrontSettings,
    inherited: &mut Inherited,
) -> Result<Option<Listeners>, StartError> {
    let Some(address) = &settings.admin else {
        return Ok(None);
    };
    let wanted = [(Kind::Stream, address.clone(), 1)];
    let opened = Listeners::open(&wanted, inherited, settings);
    opened.map(Some).map_err(|(_, source)| StartError::Listen {
        flag: "--admin",
        address: address.clone(),
        source,
    })
}

/// News of the door's clients, for the log.
fn tell(event: &DoorEvent) {
    match event {
        DoorEvent::Opened { client } => {
            info!(
                pid = client.pid,
                uid = client.uid,
                "a client has opened the door"
            );
        }
        DoorEvent::Left { client } => {
            info!(pid = client.pid, uid = client.uid, "a client has left");
        }
        DoorEvent::Kept { client } => {
            warn!(
                pid = client.pid,
                uid = client.uid,
                "the channel of a client that has left stays, because a request was lost in it: it is one of --door-channels until the process is replaced"
            );
        }
        DoorEvent::Refused {
            why: Refusal::Channels { .. } | Refusal::ChannelsPerUser { .. },
            ..
        } if !is_time_to_say(&SAID_FULL, now_ns(), FULL_AGAIN_NS) => {} // who has no channel asks again and again
        DoorEvent::Refused { client, why } => {
            warn!(pid = client.pid, uid = client.uid, %why, "a client was turned away");
        }
        DoorEvent::Poisoned { client, lie } => {
            warn!(
                pid = client.pid,
                uid = client.uid,
                %lie,
                "a client has lied, and its channel was given up"
            );
        }
        _ => {}
    }
}
