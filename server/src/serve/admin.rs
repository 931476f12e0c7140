//! The loop, the slots and the bucket that are kept aside for `--admin`.

use super::application::FIRST_THREAD_PATIENCE;
use super::error::StartError;
use super::front::{FrontHalf, Loops};
use super::signals::Signals;
use super::why::End;
use crate::admin::Admin;
use crate::plan::ADMIN_CHANNEL;
use crate::settings::FrontSettings;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transom_arena::{Buckets, Part, Region};
use transom_doors::{Bell, ChannelMemory, Door};
use transom_front::{
    ConnectionLimit, DoorwayParts, Forward, Listener, Loop, LoopStats, Order, Parts, RouteTable,
};
use transom_platform::{Application, ApplicationOptions};

/// How long what is being answered may take once everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// Its parts of the region.
pub(super) struct AdminMemory {
    channel: Part,
    connections: Part,
    heads: Part,
    scratch: Part,
}

impl AdminMemory {
    /// Takes them; `None` without `--admin`.
    pub(super) fn take(region: &mut Region, settings: &FrontSettings) -> Option<Self> {
        settings.admin.as_ref()?;
        let mut take = |name| region.take(name).expect("the plan has this term");
        Some(AdminMemory {
            channel: take("admin channel"),
            connections: take("admin connections"),
            heads: take("admin partial heads"),
            scratch: take("admin scratch"),
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
    /// Starts it in the buckets that are kept aside.
    pub(super) fn start(
        told: &'static Admin,
        memory: AdminMemory,
        buckets: Buckets,
        listeners: Vec<Listener>,
        settings: &FrontSettings,
    ) -> Result<Self, StartError> {
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
        let mut loops = Loops::default();
        let parts = Parts {
            connections: memory.connections,
            buffers: memory.heads,
            scratch: memory.scratch,
            bell: Bell::new().map_err(StartError::Loop)?,
            doorways: vec![DoorwayParts::InProcess(
                door.channel(ADMIN_CHANNEL, channel)?,
            )],
            forwards: vec![Forward {
                listeners,
                routes: Arc::new(RouteTable::everything_to(0)),
            }],
            addresses: None,
            limit: Arc::new(ConnectionLimit::new(settings.connections.get(), &[])),
            stats: Arc::new(LoopStats::default()),
            orders: loops.orders.clone(),
        };
        loops.stats.push(parts.stats.clone());
        loops.loops.push(
            Loop::new(settings.sizes(), &settings.allowance(), parts).map_err(StartError::Loop)?,
        );
        door.start().map_err(StartError::FirstThreadStart)?;
        application.wait_until_ready(FIRST_THREAD_PATIENCE)?;
        Ok(AdminHalf {
            told,
            front: FrontHalf::start(loops, "admin")?,
            door,
        })
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
