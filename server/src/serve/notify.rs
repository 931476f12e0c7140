//! Words to a service manager (`sd_notify(3)`): a datagram to the socket that `NOTIFY_SOCKET` names. Without
//! the variable nothing is said. A manager that does not read does not hinder a drain: what its socket has
//! no room for is dropped, and what it waits for ([`PATIENCE`]) is dropped a little later.

use std::cell::Cell;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// How long the main thread waits for room for what a service manager has to hear: that we are ready, and who
/// goes on.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is told to a service manager.
#[derive(Debug)]
pub(super) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants a sign of life, at least: half of what it waits for.
    watchdog: Option<Duration>,
    /// When it had one last.
    last: Cell<Instant>,
}

impl Notify {
    /// As the environment asks.
    pub(super) fn from_environment() -> Self {
        let var = |name| std::env::var(name).ok();
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|path| {
            let address = match path.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(path),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_write_timeout(Some(PATIENCE)).ok()?;
            Some((socket, address.ok()?))
        });
        let is_for_us = var("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = var("WATCHDOG_USEC")
            .and_then(|text| text.parse().ok())
            .filter(|&micros: &u64| micros > 0 && is_for_us && to.is_some())
            .map(|micros| Duration::from_micros(micros / 2));
        Notify {
            to,
            watchdog,
            last: Cell::new(Instant::now()),
        }
    }

    /// It reads its file again; [`Notify::ready`] follows. (`Type=notify-reload` wants the time of the clock
    /// that never goes back.)
    pub(super) fn reloading(&self) {
        let mut line = [0; 64];
        let mut rest = &mut line[..];
        let micros = transom_doors::now_ns() / 1000;
        if write!(rest, "RELOADING=1\nMONOTONIC_USEC={micros}").is_ok() {
            let left = rest.len();
            self.say(&line[..line.len() - left]);
        }
    }

    /// It serves.
    pub(super) fn ready(&self) {
        self.insist(b"READY=1");
    }

    /// It drains, and will end.
    pub(super) fn stopping(&self) {
        self.say(b"STOPPING=1");
    }

    /// It drains, and that process goes on in its stead.
    pub(super) fn main_pid(&self, pid: libc::pid_t) {
        let mut line = [0; 32];
        let mut rest = &mut line[..];
        if write!(rest, "MAINPID={pid}").is_ok() {
            let left = rest.len();
            self.insist(&line[..line.len() - left]);
        }
    }

    /// When the next sign of life is due; `None`: none is waited for.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let interval = self.watchdog?;
        Some(interval.saturating_sub(self.last.get().elapsed()))
    }

    /// Gives a sign of life if one is due.
    pub(super) fn ping(&self) {
        if self.due_in().is_some_and(|left| left.is_zero()) {
            self.last.set(Instant::now());
            self.say(b"WATCHDOG=1");
        }
    }

    /// Says it if there is room for it now.
    fn say(&self, words: &[u8]) {
        self.send(words, false);
    }

    /// Says it as soon as there is room for it, within [`PATIENCE`].
    fn insist(&self, words: &[u8]) {
        self.send(words, true);
    }

    /// The manager may not be listening, which is not ours to repair.
    fn send(&self, words: &[u8], may_wait: bool) {
        if let Some((socket, address)) = &self.to
            && socket.set_nonblocking(!may_wait).is_ok()
        {
            let _ = socket.send_to_addr(words, address);
        }
    }
}
