//! `--door`: the door of an application, at a path that other processes open.

use super::{Needs, PER_CHANNEL, term};
use crate::serve::error::StartError;
use crate::serve::handed::Handed;
use crate::settings::{DoorSettings, Settings};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use transom_arena::{Place, Region, count_attaching_apart};
use transom_doors::{
    AttachOptions, Attachment, ChannelGeometry, ChannelMemory, Door, DoorEvent, Refusal, now_ns,
};
use transom_platform::Application;
use transom_wire::own_log::{info, is_time_to_say, warn};

/// When it was last said that there is no channel for a client, and how long it is not said again.
static SAID_FULL: AtomicU64 = AtomicU64::new(0);
const FULL_AGAIN_NS: u64 = 10_000_000_000;

/// A copy of its request for each thread of the application, channels for clients, and a thread that lets
/// them in. The descriptors of calls come on top.
pub(crate) fn needs(settings: &Settings, channel: &ChannelGeometry) -> Needs {
    let channels = settings.door.channels();
    let terms = vec![
        term(
            "snapshots",
            Place::Region,
            settings.application.buckets as usize,
            settings.channel.request_size.get(),
            "a door server thread's private copy of its request",
            "--buckets, --request-size",
        ),
        term(
            "channels",
            Place::Process,
            channels as usize,
            channel.replies_len() + channel.control_len(),
            "a client's each: (slots + those that lost requests may keep) × reply, headers, bitmaps; the requests are the client's",
            "--door-channels, --slots, --lost-limit, --reply-size",
        ),
    ];
    Needs {
        terms,
        threads: 1,
        descriptors: u64::from(channels) * PER_CHANNEL,
    }
}

/// Descriptors that calls bring if each has so many. Those of calls that wait count too: they are there
/// before a thread takes them up. And those of lost ones, which stay open.
pub(crate) fn descriptors_of_calls(settings: &Settings, of_one: u32) -> u64 {
    let calls = u64::from(settings.door.channels()) * u64::from(settings.slots());
    (calls + u64::from(settings.spare_slots())) * u64::from(of_one)
}

/// Makes a door, which has no path yet.
pub(crate) fn make(
    application: &'static Application,
    region: &mut Region,
    channel: ChannelGeometry,
    flags: &DoorSettings,
) -> Result<Door, StartError> {
    let snapshots = region.take("snapshots").expect("the plan has this term");
    // SAFETY: the part is page-aligned, zeroed, valid for ever, and this was its only handle.
    let snapshots = unsafe { ChannelMemory::new(snapshots.base(), snapshots.len()) };
    let door = application.door_with(|builder| {
        builder
            .channel_geometry(channel)
            .channels_max(flags.channels())
            .channels_per_user(flags.channels_per_user())
            .snapshots(snapshots)
            .on_event(tell)
    });
    Ok(door?)
}

/// A door that others find at its path.
pub(crate) struct AtPath {
    application: &'static Application,
    door: Door,
    /// None once it was given up.
    attachment: Option<Attachment>,
}

impl AtPath {
    /// Gives an application's door its path. An instance that has it, from which `handed` is, is told to
    /// give it up.
    pub(crate) fn attach(
        application: &'static Application,
        door: &Door,
        path: &Path,
        flags: &DoorSettings,
        handed: &Handed,
    ) -> Result<Self, StartError> {
        handed.say_ready_but_for_the_path();
        let options = AttachOptions {
            mode: flags.door_mode,
            owner: flags.door_owner,
            group: flags.door_group,
            wait: flags.door_wait.max(handed.path_patience()),
            begin: count_attaching_apart,
        };
        Ok(AtPath {
            application,
            door: door.clone(),
            attachment: Some(door.attach(path, &options)?),
        })
    }

    /// Gives up the path, which the next instance may then have.
    pub(crate) fn give_up(&mut self) {
        self.attachment = None;
    }

    /// Whether a call is under way that is to be waited for, or may still be taken up by a thread that has
    /// not seen the revoke yet.
    pub(crate) fn has_calls(&self) -> bool {
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
    pub(crate) fn calls_under_way(&self) -> u64 {
        let overdue = u64::from(self.application.lost().overdue);
        self.door.info().calls.under_way.saturating_sub(overdue)
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
