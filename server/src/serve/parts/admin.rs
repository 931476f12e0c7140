//! The loop, the slots and the bucket that are kept aside for `--admin`.

use super::application::FIRST_THREAD_PATIENCE;
use super::loops::{self, LoopOptions, Loops, RunningLoops};
use super::process::KERNEL_PER_THREAD;
use super::{Needs, PER_LOOP, term};
use crate::admin::{Admin, Told};
use crate::plan::PlanError;
use crate::serve::error::StartError;
use crate::serve::listeners::Listeners;
use crate::serve::signals::Signals;
use crate::serve::why::End;
use crate::settings::FrontSettings;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transom_arena::{BucketGeometry, Buckets, Bytes, Place, Region, Term};
use transom_doors::{ChannelGeometry, ChannelMemory, Door};
use transom_front::{DoorwayParts, Forward, RouteTable};
use transom_platform::{Application, ApplicationOptions};

/// How long what is being answered may take once everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// The channel between its loop and its bucket.
pub(crate) const CHANNEL: ChannelGeometry = ChannelGeometry {
    slots: 4,
    spares: 0,
    request_size: 32 << 10,
    reply_size: 32 << 10,
};

/// Bytes of its bucket where there are no others, and of the stack in it.
const BUCKET: (Bytes, Bytes) = (Bytes(256 << 10), Bytes(128 << 10));

/// Its bucket, of a process that has no others.
pub(crate) fn bucket(settings: &FrontSettings) -> Result<(BucketGeometry, Needs), PlanError> {
    let geometry = BucketGeometry::new(BUCKET.0, BUCKET.1)?;
    let bucket = Term {
        holder: "kept aside for --admin",
        flags: "--admin",
        ..geometry.term(1)?
    };
    let bucket = settings.admin.as_ref().map(|_| bucket);
    Ok((geometry, Vec::from_iter(bucket).into()))
}

/// Its loop with all that goes with it, if there is one. Its bucket is counted with the others.
pub(crate) fn needs(settings: &FrontSettings) -> Needs {
    if settings.admin.is_none() {
        return Needs::default();
    }
    let settings = &settings.for_admin();
    let of_loop = loops::terms(settings).into_iter().zip(LOOP);
    let channel = term(
        "admin channel",
        Place::Region,
        1,
        CHANNEL.memory_len(),
        "the slots that are kept aside",
        "--admin",
    );
    let named = |(of, name)| Term {
        name,
        flags: "--admin",
        ..of
    };
    let mut terms = vec![channel];
    terms.extend(of_loop.map(named));
    terms.push(term(
        "admin threads",
        Place::Kernel,
        2,
        KERNEL_PER_THREAD,
        "its loop and its bucket's thread",
        "--admin",
    ));
    terms.push(named((
        loops::socket_buffers(settings),
        "admin socket buffers",
    )));
    Needs {
        terms,
        threads: 0, // they have a term of their own
        descriptors: u64::from(settings.connections.get()) + PER_LOOP + 2, // its listener, and the file that it reads
    }
}

/// The terms of its loop: those of any loop, by names of their own. The first three are parts of the region.
const LOOP: [&str; 5] = [
    "admin connections",
    "admin partial heads",
    "admin scratch",
    "admin loop stack",
    "admin loop queue",
];

/// What answers there.
pub(crate) struct AdminHalf {
    told: &'static Admin,
    front: RunningLoops,
    door: Door,
}

impl AdminHalf {
    /// Starts it in the buckets that are kept aside, if the plan has memory for it.
    pub(crate) fn start(
        told: Told<'_>,
        region: &mut Region,
        buckets: Option<Buckets>,
        listeners: &Listeners,
        settings: &FrontSettings,
    ) -> Result<Option<Self>, StartError> {
        let Some((channel, buckets)) = region.take("admin channel").zip(buckets) else {
            return Ok(None);
        };
        let told = Admin::new(told, &settings.admin_host);
        let options = ApplicationOptions {
            on_parked: || {},
            on_leave: || {},
            keep: usize::MAX,
            keep_timeout: Duration::MAX,
            each_thread: Vec::new(),
            memory_header: false,
        };
        let routes = told.router().build()?;
        // SAFETY: its handlers are ours, and keep the contract: they read counters, allocate nothing outside
        // their bucket, and hold no lock across an allocation.
        let application = unsafe { Application::escaping(routes, buckets, options) };
        let door = application.door()?;
        // SAFETY: the part is page-aligned, zeroed, valid for ever, and this was its only handle.
        let channel = unsafe { ChannelMemory::new(channel.base(), channel.len()) };
        let settings = settings.for_admin();
        let channel = door.channel(CHANNEL, channel)?;
        let options = LoopOptions {
            settings: &settings,
            addresses: None,
            access: None,
        };
        let memory = [LOOP[0], LOOP[1], LOOP[2]];
        let memory = memory.map(|name| region.take(name).expect("the plan has this term"));
        let mut serves = Some((
            vec![DoorwayParts::InProcess(channel)],
            vec![Forward {
                listeners: listeners.of_loop(0, 1).concat(),
                routes: Arc::new(RouteTable::everything_to(0)),
            }],
        ));
        let loops = Loops::build(options, memory, |_, _| {
            Ok(serves.take().expect("there is one loop"))
        })?;
        door.start().map_err(StartError::FirstThreadStart)?;
        application.wait_until_ready(FIRST_THREAD_PATIENCE)?;
        Ok(Some(AdminHalf {
            told,
            front: loops.start("admin")?,
            door,
        }))
    }

    /// The server drains: it is not ready any more. A client that asks is still told so, unless another
    /// process is now asked.
    pub(crate) fn drains(&self, why: End) {
        self.told.drains();
        if why == End::HandedOver {
            self.front.drain(why);
        }
    }

    /// Everything else has ended.
    pub(crate) fn end(self, signals: &Signals) {
        let deadline = Instant::now() + LAST_ANSWERS;
        self.front.drain(End::Told);
        if !signals.wait_for(deadline, || self.front.have_ended()) {
            self.front.stop();
        }
        self.door.revoke();
        let _ = self.front.join();
    }
}
