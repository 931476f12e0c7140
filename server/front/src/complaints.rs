//! What the log says of connections that end because of who a proxy says they are.

use std::net::SocketAddr;
use transom_wire::own_log::warn;

/// Connections that were closed because of what a proxy has sent, or because they are of no proxy that is
/// believed. A line says so, once a second at most: any client can cause them.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    quiet_until_ms: u64,
    unsaid: u64,
}

impl Complaints {
    /// One more, at this time of the caller's clock.
    pub fn note(&mut self, why: &str, peer: Option<SocketAddr>, now_ms: u64) {
        self.unsaid += 1;
        if now_ms < self.quiet_until_ms {
            return;
        }
        self.quiet_until_ms = now_ms + 1000;
        let connections = std::mem::take(&mut self.unsaid);
        if let Some(peer) = peer {
            warn!(why, %peer, connections, "connections were closed for their PROXY header");
        } else {
            warn!(
                why,
                connections, "connections were closed for their PROXY header"
            );
        }
    }
}

/// Why a connection is closed whose peer may not send such a header.
pub(super) const NOT_TRUSTED: &str = "--trust does not name its address";

/// Why a connection is closed that begins with such a header where none is read.
pub(super) const NOT_ASKED_FOR: &str = "PROXY headers are not read: set --proxy-protocol require, and name the proxy with --trust; or have it send none";
