//! `--door`: an application on its own. It has a region, buckets and a door at a path; no socket and no loop.

use super::handover::{End, until_told};
use super::signals::{Signals, Wake};
use super::{Handlers, StartError, application, end};
use crate::log::LogHandle;
use crate::plan::Plan;
use crate::settings::Settings;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use transom_arena::seal;
use transom_doors::{AttachOptions, Attachment, ChannelMemory, Door, DoorEvent};
use transom_platform::Application;

/// How often the drain looks whether calls are left.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// An application that is being served.
pub(super) struct Server {
    application: &'static Application,
    door: Door,
    /// None once it was given up.
    attachment: Option<Attachment>,
}

impl Server {
    pub(super) fn start(
        path: &Path,
        plan: &Plan,
        settings: &Settings,
        handlers: Handlers,
        signals: &Signals,
        started: Instant,
    ) -> Result<Self, StartError> {
        let mut region = application::map(plan, &settings.application)?;
        let snapshots = region.take("snapshots").expect("the plan has this term");
        let policy = handlers.policy;
        let application = application::install(
            &mut region,
            plan,
            &settings.application,
            handlers.service,
            policy,
            signals,
        )?;
        let flags = &settings.door;
        // SAFETY: the part is page-aligned, zeroed, valid for ever, and this was its only handle.
        let snapshots = unsafe { ChannelMemory::new(snapshots.base(), snapshots.len()) };
        let door = application.door_with(|builder| {
            builder
                .channel_geometry(plan.channel)
                .channels_max(flags.door_channels.get())
                .channels_per_user(flags.channels_per_user())
                .snapshots(snapshots)
                .on_event(tell)
        })?;
        application::start(application, &door, handlers.warm_up)?;
        // Last: whoever finds the path finds an application that answers.
        let options = AttachOptions {
            mode: flags.door_mode,
            owner: flags.door_owner,
            group: flags.door_group,
            wait: flags.door_wait,
        };
        let attachment = door.attach(path, &options)?;
        end::say_bound(&plan.bound);
        info!(
            door = %path.display(),
            mode = %format_args!("{:04o}", flags.door_mode),
            channels = flags.door_channels,
            buckets = settings.application.buckets,
            on_exhaustion = application::policy_name(policy),
            ready_ms = started.elapsed().as_millis() as u64,
            "ready"
        );
        signals.notify().ready();
        seal();
        Ok(Server {
            application,
            door,
            attachment: Some(attachment),
        })
    }

    pub(super) fn until_the_end(
        mut self,
        settings: &Settings,
        signals: &Signals,
        logs: &LogHandle,
    ) -> ExitCode {
        let recycle = until_told(signals, None) == End::Recycle;
        if recycle {
            application::say_parked(self.application, &settings.application);
        }
        let began = Instant::now();
        let timeout = settings.front.drain_timeout;
        info!(timeout_ms = timeout.as_millis() as u64, "draining");
        // In this order: the next instance may have the path before clients are told to look for it there.
        self.attachment = None;
        self.door.revoke();
        let in_time = self.wait_for_calls(began + timeout, signals);
        let cut = self.door.info().calls_under_way;
        let done = self.application.figures();
        end::summarise(None, Some(&done), None, logs, began.elapsed());
        end::Ending {
            recycle,
            sound: true,
            in_time,
            cut: end::Cut::of_calls(cut),
        }
        .status()
    }

    /// Whether a call is under way, or may still be taken up by a thread that has not seen the revoke yet. Threads that
    /// wait for a pinned bucket have none.
    fn has_calls(&self) -> bool {
        let door = self.door.info();
        let left = door.threads_parked + door.threads_ended;
        let serving = door.threads_started.saturating_sub(left) as usize;
        door.calls_under_way > 0 || serving > self.application.figures().buckets_pinned
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
                Wake::HandOver | Wake::Parked | Wake::TimedOut => {}
            }
        }
        true
    }
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
