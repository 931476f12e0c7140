//! The loop, the slots and the bucket that are kept aside for `--admin`.

use super::application::FIRST_THREAD_PATIENCE;
use super::error::StartError;
use super::front::{FrontHalf, LoopMemory, LoopOptions, Loops};
use super::signals::Signals;
use super::why::End;
use crate::admin::{Admin, Told};
use crate::plan::ADMIN_CHANNEL;
use crate::settings::FrontSettings;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transom_arena::{Buckets, Part, Region};
use transom_doors::{ChannelMemory, Door};
use transom_front::{DoorwayParts, Forward, Listener, Order, RouteTable};
use transom_platform::{Application, ApplicationOptions};

/// How long what is being answered may take once everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// Its parts of the region.
pub(super) struct AdminMemory {
    channel: Part,
    of_loop: LoopMemory,
}

impl AdminMemory {
    /// Takes them; `None` without `--admin`.
    pub(super) fn take(region: &mut Region, settings: &FrontSettings) -> Option<Self> {
        settings.admin.as_ref()?;
        let names = ["admin connections", "admin partial heads", "admin scratch"];
        Some(AdminMemory {
            channel: region
                .take("admin channel")
                .expect("the plan has this term"),
            of_loop: LoopMemory::take(region, names),
        })
    }
}

/// What answers there.
pub(super) struct AdminHalf {
    told: &'static Admin,
    front: FrontHalf,
    door: Door,
}

impl AdminHalf {
    /// Starts it in the buckets that are kept aside, if the plan has memory for it.
    pub(super) fn start(
        told: Told<'_>,
        (memory, buckets): (Option<AdminMemory>, Option<Buckets>),
        listeners: Vec<Listener>,
        settings: &FrontSettings,
    ) -> Result<Option<Self>, StartError> {
        let Some((memory, buckets)) = memory.zip(buckets) else {
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
        let channel = unsafe { ChannelMemory::new(memory.channel.base(), memory.channel.len()) };
        let settings = settings.for_admin();
        let channel = door.channel(ADMIN_CHANNEL, channel)?;
        let options = LoopOptions {
            settings: &settings,
            count: 1,
            addresses: None,
            access: None,
        };
        let mut serves = Some((
            vec![DoorwayParts::InProcess(channel)],
            vec![Forward {
                listeners,
                routes: Arc::new(RouteTable::everything_to(0)),
            }],
        ));
        let loops = Loops::build(options, memory.of_loop, |_, _| {
            Ok(serves.take().expect("there is one loop"))
        })?;
        door.start().map_err(StartError::FirstThreadStart)?;
        application.wait_until_ready(FIRST_THREAD_PATIENCE)?;
        Ok(Some(AdminHalf {
            told,
            front: FrontHalf::start(loops, "admin")?,
            door,
        }))
    }

    /// The server drains: it is not ready any more. Whoever asks is still told so, unless another process is
    /// now asked.
    pub(super) fn drains(&self, why: End) {
        self.told.drains();
        if why == End::HandedOver {
            self.front.tell(Order::HandOver);
        }
    }

    /// Everything else has ended.
    pub(super) fn end(self, signals: &Signals) {
        let deadline = Instant::now() + LAST_ANSWERS;
        self.front.drain(End::Told, deadline, signals, || true);
        self.door.revoke();
        let _ = self.front.join();
    }
}
