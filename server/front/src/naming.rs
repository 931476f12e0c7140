//! Who a request is from, when its connection comes from a proxy.

use crate::accepting::AddressIsFull;
use crate::complaints::NOT_ASKED_FOR;
use crate::reading::Where;
use crate::turn::Loop;
use crate::world::World;
use std::net::SocketAddr;
use transom_http::Head;
use transom_http::peer::{Client, Malformed, forwarded, is_trusted, proxy};

impl<W: World> Loop<W> {
    /// Takes the header that a proxy sends first, if one is due: how many bytes it has. `None` if the rest of
    /// it has to come, or the connection was closed because it is none.
    pub(super) fn take_proxy_header(
        &mut self,
        index: u32,
        bytes: &[u8],
        source: Where,
    ) -> Option<usize> {
        if !self.table[index].transport.wants_proxy {
            return Some(0);
        }
        match proxy::parse(bytes, self.policy.limits.proxying.header_limit) {
            Ok(Some((len, client))) => {
                let connection = &mut self.table[index];
                connection.transport.wants_proxy = false;
                match client {
                    Client::Nobody => {}
                    Client::Unknown => {
                        (connection.transport.peer, connection.transport.trusted) = (None, false);
                    }
                    Client::At(peer) => {
                        connection.transport.peer = Some(peer);
                        connection.transport.trusted =
                            is_trusted(&self.policy.limits.proxying.trust, Some(peer.ip()));
                        let trusted = connection.transport.trusted;
                        match self.count_address(Some(peer), trusted) {
                            Ok(counted) => self.table[index].transport.counted = counted,
                            Err(AddressIsFull) => {
                                self.close(index);
                                return None;
                            }
                        }
                    }
                }
                Some(len)
            }
            Ok(None) => {
                self.keep_head(index, bytes, source);
                None
            }
            Err(Malformed(why)) => {
                self.stats.proxy_refused.bump();
                let peer = self.table[index].transport.peer;
                self.complaints.note(why, peer, self.clock.now_ms);
                self.close(index);
                None
            }
        }
    }

    /// Where a request comes from: its connection's other end or, if that is a proxy that is believed, whom
    /// it names.
    pub(super) fn peer(&self, index: u32, head: &Head<'_, '_>) -> Option<SocketAddr> {
        match self.named_client(index, head) {
            Ok(peer) => peer,
            Err(Malformed(why)) => {
                tracing::debug!(
                    why,
                    "a proxy has named its client in a way that makes no sense"
                );
                self.stats.forwarded_ignored.bump();
                self.table[index].transport.peer
            }
        }
    }

    /// As `peer`, and an error for a proxy that makes no sense.
    pub(super) fn named_client(
        &self,
        index: u32,
        head: &Head<'_, '_>,
    ) -> Result<Option<SocketAddr>, Malformed> {
        let connection = &self.table[index];
        let Some(which) = self
            .policy
            .limits
            .proxying
            .forwarded
            .filter(|_| connection.transport.trusted)
        else {
            return Ok(connection.transport.peer);
        };
        let fields = head.fields.iter().map(|field| (field.name, field.value));
        Ok(
            match forwarded::client(which, &self.policy.limits.proxying.trust, fields)? {
                Client::Nobody => connection.transport.peer,
                Client::Unknown => None,
                Client::At(peer) => Some(peer),
            },
        )
    }

    /// Says so if a connection begins with a header that only `--proxy-protocol require` reads.
    pub(super) fn note_unread_proxy_header(&mut self, index: u32, bytes: &[u8]) {
        let connection = &self.table[index];
        if connection.requests == 0
            && !self.policy.limits.proxying.required
            && proxy::is_begun(bytes)
        {
            let peer = connection.transport.peer;
            self.complaints.note(NOT_ASKED_FOR, peer, self.clock.now_ms);
        }
    }
}
