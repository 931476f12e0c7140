//! The forwards of connections and datagrams, as a front end is told to have them.

use super::front::EndIfPanicking;
use crate::config::{Config, Forward, Target};
use crate::plan::OF_INTERNET;
use crate::settings::FrontSettings;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use transom_doors::start_thread;
use transom_front::LOOP_STACK;
use transom_front::forward::{self, Forwards, StreamForward, StreamKind, StreamOptions};
use transom_net::addresses::Addresses;
use transom_wire::own_log::warn;

/// Starts a thread for each `tcp` and `udp` forward.
pub(super) fn start(
    streams: &[Forward],
    sockets: Vec<Arc<OwnedFd>>,
    settings: &FrontSettings,
    config: &Config,
    addresses: Option<Arc<Addresses>>,
    slots_lost: Arc<AtomicU64>,
) -> io::Result<Forwards> {
    let stream = |(forward, socket): (&Forward, Arc<OwnedFd>)| {
        let name = forward.to_string();
        let (door, kind) = match &forward.target {
            Target::Tcp(door) => {
                warn_of_what_does_not_hold(&name, &socket, settings);
                (door, StreamKind::Connections)
            }
            Target::Udp(door) => {
                let buffer = settings.datagram_buffer.get();
                (door, StreamKind::Datagrams { buffer })
            }
            Target::Http(_) => unreachable!("loops serve HTTP"),
        };
        StreamForward {
            name,
            door: door.clone(),
            owner: config.owner_of(door),
            socket,
            kind,
        }
    };
    let options = StreamOptions {
        channel_limit: settings.channel_limit.get(),
        connections: settings.connections.get() as usize,
        sockets: settings.listen_options(),
        timeouts: settings.timeouts(),
        addresses,
        slots_lost,
    };
    let streams = streams.iter().zip(sockets).map(stream).collect();
    forward::start(streams, &options, &|name, body| {
        start_thread(name, LOOP_STACK, move || {
            let _watch = EndIfPanicking;
            body();
        })
    })
}

/// Says which flags that were given do not hold for a forward, because its listener is a Unix socket.
fn warn_of_what_does_not_hold(forward: &str, listener: &OwnedFd, settings: &FrontSettings) {
    if transom_net::local_address(listener).is_ok() {
        return;
    }
    let given = |flag: &&&str| settings.given.iter().any(|given| *given == flag[2..]);
    for flag in OF_INTERNET.iter().filter(given) {
        warn!(
            forward,
            flag,
            "this flag does not hold for a tcp:// forward that listens on a Unix socket: that has no addresses, and its kernel keeps no clocks of it"
        );
    }
}
