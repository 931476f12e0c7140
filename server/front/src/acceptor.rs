//! What decides which connections are let in.

use crate::limit::ConnectionLimit;
use crate::parts::Listener;
use std::sync::Arc;
use transom_net::ListenOptions;
use transom_net::addresses::Addresses;

/// Listeners, each with the number of its forward.
pub(crate) type Numbered = Vec<(Listener, u16)>;

/// What decides which connections are let in.
pub(crate) struct Acceptor {
    pub listeners: Numbered,
    /// What accepted connections are like, where they do not inherit it.
    pub options: ListenOptions,
    /// The listeners are watched.
    pub is_open: bool,
    /// When to try again to accept, after the system had no room for another connection; 0: not waiting for
    /// that.
    pub again_ms: u64,
    /// Until when no other idle connection is told the end for a new one.
    pub end_ms: u64,
    /// Until when not all connections are looked at for one that can be closed for a new one.
    pub search_ms: u64,
    /// Until when nothing is said about a system that has no room.
    pub quiet_until_ms: u64,
    pub addresses: Option<Arc<Addresses>>,
    pub limit: Arc<ConnectionLimit>,
    /// The connection that is closed now leaves its place to a new one.
    pub leaves_its_place: bool,
}

impl Acceptor {
    /// With listeners that are watched.
    pub(crate) fn new(
        listeners: Numbered,
        options: ListenOptions,
        addresses: Option<Arc<Addresses>>,
        limit: Arc<ConnectionLimit>,
    ) -> Self {
        Acceptor {
            listeners,
            options,
            is_open: true,
            again_ms: 0,
            end_ms: 0,
            search_ms: 0,
            quiet_until_ms: 0,
            addresses,
            limit,
            leaves_its_place: false,
        }
    }
}
