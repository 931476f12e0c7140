//! The forwards of connections and datagrams, as a front end is told to have them.

use super::loops::{EndIfPanicking, buffers_of_a_socket};
use super::{Needs, PER_CHANNEL, term};
use crate::config::{Config, Forward, Target};
use crate::plan::OF_INTERNET;
use crate::serve::error::StartError;
use crate::serve::listeners::Listeners;
use crate::settings::FrontSettings;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use transom_arena::Place;
use transom_doors::start_thread;
use transom_front::forward::{self, Forwards, StreamForward, StreamKind, StreamOptions};
use transom_front::{LOOP_STACK, Listener};
use transom_net::addresses::Addresses;
use transom_wire::own_log::warn;

/// A thread for each forward, its channels, and the connections of `tcp` ones.
pub(crate) fn needs(settings: &FrontSettings, tcp: usize, udp: usize) -> Needs {
    let streams = tcp + udp;
    if streams == 0 {
        return Needs::default();
    }
    let connections = tcp * forward::connections_held(settings.connections.get() as usize);
    let channels = streams * forward::CHANNELS;
    let terms = vec![
        term(
            "forward channels",
            Place::Process,
            channels,
            settings.channel_limit.get(),
            "a tcp or udp forward's to its door, at most; twice while an application is replaced",
            "--forward, --channel-limit",
        ),
        term(
            "forwards",
            Place::Process,
            streams,
            LOOP_STACK + forward::TABLES_SIZE,
            "a tcp or udp forward's stack, and what it knows of its calls",
            "--forward",
        ),
        term(
            "forwarded connections",
            Place::Kernel,
            connections,
            buffers_of_a_socket(settings),
            "a connection each of a tcp forward, at most",
            "--forward, --connections, --receive-buffer, --send-buffer",
        ),
        term(
            "datagram buffers",
            Place::Kernel,
            udp,
            2 * (settings.datagram_buffer.get() + settings.send_buffer.get()),
            "a udp forward each, at most",
            "--forward, --datagram-buffer, --send-buffer",
        ),
    ];
    Needs {
        terms,
        threads: streams,
        descriptors: connections as u64
            + streams as u64 * forward::DESCRIPTORS
            + channels as u64 * PER_CHANNEL,
    }
}

/// The socket of each; `listeners` are those of all forwards, in their order.
pub(crate) fn sockets(
    config: &Config,
    listeners: &Listeners,
) -> Result<Vec<Arc<OwnedFd>>, StartError> {
    let all = config.forwards.iter().zip(listeners.of_loop(0, 1));
    let one = |(forward, sockets): (&Forward, Vec<Listener>)| {
        let count = sockets.len();
        match <[_; 1]>::try_from(sockets) {
            Ok([only]) => Ok(only.socket),
            Err(_) => Err(StartError::of_forward(
                forward,
                io::Error::other(format!(
                    "{count} sockets have been passed for it, and it takes one: write a forward for each, and tell them \
                 apart by FileDescriptorName= in their socket units"
                )),
            )),
        }
    };
    all.filter(|(forward, _)| !forward.is_http())
        .map(one)
        .collect()
}

/// Starts a thread for each `tcp` and `udp` forward.
pub(crate) fn start(
    config: &Config,
    sockets: Vec<Arc<OwnedFd>>,
    settings: &FrontSettings,
    addresses: Option<Arc<Addresses>>,
    slots_lost: Arc<AtomicU64>,
) -> Result<Forwards, StartError> {
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
    let streams = config.forwards.iter().filter(|one| !one.is_http());
    let streams = streams.zip(sockets).map(stream).collect();
    forward::start(streams, &options, &|name, body| {
        start_thread(name, LOOP_STACK, move || {
            let _watch = EndIfPanicking;
            body();
        })
    })
    .map_err(StartError::Loop)
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
