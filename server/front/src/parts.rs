//! What a loop is made of. Its maker has taken all of that from somewhere: memory from the region,
//! listeners from the system, doorways from doors.

use crate::doorway::DoorwayParts;
use crate::limit::ConnectionLimit;
use crate::orders::Orders;
use crate::routes::RouteTable;
use crate::stats::LoopStats;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use transom_arena::Part;
use transom_doors::{AsyncClient, Bell};
use transom_net::addresses::Addresses;

/// What a loop is made of.
pub struct Parts<C = AsyncClient> {
    /// Memory for the table of `Sizes::table`.
    pub connections: Part,
    /// For `Sizes::partial_heads`, of `Sizes::head_limit` each.
    pub buffers: Part,
    /// For `Sizes::scratch`.
    pub scratch: Part,
    /// Rings the loop awake.
    pub bell: Bell,
    /// The doors that it calls, by number.
    pub doorways: Vec<DoorwayParts<C>>,
    /// What it serves, by number.
    pub forwards: Vec<Forward>,
    /// What all loops count addresses in, if these have a limit.
    pub addresses: Option<Arc<Addresses>>,
    /// What all loops count their connections in.
    pub limit: Arc<ConnectionLimit>,
    /// What it counts.
    pub stats: Arc<LoopStats>,
    /// What it is told.
    pub orders: Arc<Orders>,
}

/// What a loop listens on for HTTP, and where the requests from there go.
pub struct Forward {
    /// Where its connections come from.
    pub listeners: Vec<Listener>,
    /// Where its requests go.
    pub routes: Arc<RouteTable>,
}

/// A socket that connections are accepted from.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Closed when it has no holder any more: neither a loop nor what hands it on to another process.
    pub socket: Arc<OwnedFd>,
    /// Other loops accept from it too.
    pub shared: bool,
}
