//! What a forward of connections or datagrams is asked to be.

use crate::entrance::INSTANCES;
use crate::opener::REMOTE_SLOTS_MAX;
use crate::options::Timeouts;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use transom_doors::DoorOwner;
use transom_net::ListenOptions;
use transom_net::addresses::Addresses;

/// Connections that a forward holds at once: one for each slot of the instance that takes calls and of the
/// one before it.
pub(super) const CONNECTIONS_MAX: usize = INSTANCES * REMOTE_SLOTS_MAX as usize;

/// How many connections a forward holds at once where `--connections` says so many.
#[must_use]
pub fn connections_held(connections: usize) -> usize {
    connections.min(CONNECTIONS_MAX)
}

/// A forward of connections or datagrams.
pub struct StreamForward {
    /// As it is written, for the log.
    pub name: String,
    /// Its door's path.
    pub door: PathBuf,
    /// Who may serve that.
    pub owner: DoorOwner,
    /// Where they come from.
    pub socket: Arc<OwnedFd>,
    /// What comes from there.
    pub kind: StreamKind,
}

/// What a forward forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Connections, each as a descriptor.
    Connections,
    /// Datagrams, of which the kernel is to hold so many bytes.
    Datagrams {
        /// Of those that were not taken yet.
        buffer: usize,
    },
}

/// What all forwards of connections and datagrams are given.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Bytes of a channel, at most.
    pub channel_limit: usize,
    /// Connections that a forward may hold, beside the slots of its door.
    pub connections: usize,
    /// What accepted connections are like, where they do not inherit it.
    pub sockets: ListenOptions,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// What addresses are counted in, if these have a limit.
    pub addresses: Option<Arc<Addresses>>,
    /// How many slots lost calls keep, in all forwards together.
    pub slots_lost: Arc<AtomicU64>,
}
