//! Listeners: opened here, passed by systemd, or handed on by the process that had them before.
//!
//! The sockets of an address on TCP are one per loop, and the kernel spreads the connections over them. A
//! connection that waits in the backlog of one of them is lost when that one is closed, so the next instance
//! takes all of them. A Unix socket, or one that systemd has opened, is shared by all loops.

use super::handed::{Handed, own};
use super::predecessor::Note;
use super::why::End;
use crate::settings::FrontSettings;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use transom_front::Listener;
use transom_net::ListenAddress;
use transom_net::{self as net, ListenOptions};
use transom_wire::own_log::warn;

/// The first descriptor that systemd passes (`SD_LISTEN_FDS_START`).
const SYSTEMD_FIRST: RawFd = 3;

/// What speaks at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stream,
    Datagram,
}

/// What was open before this process began.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub handed: Handed,
    /// What the old instance has told, if there is one.
    pub predecessor: Option<Note>,
    /// Sockets of systemd and their names.
    systemd: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// Takes what an old instance has handed on, and leaves alone what systemd has passed.
    pub(super) fn take_handed() -> Result<Self, String> {
        let handed = Handed::take()?;
        Ok(Inherited {
            predecessor: Note::take()?.filter(|_| handed.is_there()),
            handed,
            systemd: Vec::new(),
        })
    }

    /// Takes what the environment says there is. Once, before anything is opened.
    pub(super) fn take() -> Result<Self, String> {
        Ok(Inherited {
            systemd: passed_by_systemd()?,
            ..Inherited::take_handed()?
        })
    }
}

fn passed_by_systemd() -> Result<Vec<(String, OwnedFd)>, String> {
    let var = |name| std::env::var(name).ok();
    // Meant for another process: this one's environment is a copy.
    if var("LISTEN_PID").and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let text = var("LISTEN_FDS").unwrap_or_default();
    let count: RawFd = text
        .parse()
        .ok()
        .filter(|count| (0..=1024).contains(count))
        .ok_or_else(|| format!("LISTEN_FDS is {text:?}, which is not a number of sockets"))?;
    let names = var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    (SYSTEMD_FIRST..SYSTEMD_FIRST + count)
        .map(|fd| {
            let name = names.next().unwrap_or_default().to_owned();
            Ok((
                name,
                own(fd).map_err(|error| {
                    format!("LISTEN_FDS is {count}, but descriptor {fd}: {error}")
                })?,
            ))
        })
        .collect()
}

/// An address that is listened on.
#[derive(Debug)]
struct Open {
    /// Its name when it is handed on.
    key: String,
    address: ListenAddress,
    sockets: Vec<Arc<OwnedFd>>,
    file: Option<SocketFile>,
}

/// All addresses that are listened on.
#[derive(Debug)]
pub(crate) struct Listeners {
    open: Vec<Open>,
}

/// An address that could not be listened on, by its place in the list.
pub(super) type Failed = (usize, io::Error);

impl Listeners {
    /// Listens on every address, on TCP and UDP with so many sockets each.
    pub(super) fn open(
        addresses: &[(Kind, ListenAddress, u32)],
        inherited: &mut Inherited,
        settings: &FrontSettings,
    ) -> Result<Self, Failed> {
        if addresses.is_empty() {
            return Ok(Listeners { open: Vec::new() });
        }
        let options = settings.listen_options();
        let keys = keys(addresses);
        for (n, (kind, address, _)) in addresses.iter().enumerate() {
            if let (ListenAddress::Inet(address), false) = (address, inherited.handed.has(&keys[n]))
            {
                // SO_REUSEPORT would let a second server of the same user take half of the first one's
                // connections.
                let options = options_of(addresses, *kind, *address, options);
                match kind {
                    Kind::Stream => net::probe(*address, options),
                    Kind::Datagram => net::probe_datagrams(*address, options),
                }
                .map_err(|error| (n, error))?;
            }
        }
        let mut open = Vec::new();
        for (n, key) in keys.into_iter().enumerate() {
            let one = Open::listen(addresses, n, key, inherited, settings);
            open.push(one.map_err(|error| (n, error))?);
        }
        for (flag, wanted, granted, limit) in net::not_granted(options).unwrap_or_default() {
            warn!(
                wanted,
                granted,
                "the kernel grants less than {flag} asks for: raise {limit}, or lower {flag}"
            );
        }
        for (name, _) in inherited.systemd.drain(..) {
            warn!(
                name,
                "systemd has passed a socket that is not listened on: it is closed"
            );
        }
        inherited.handed.close_the_rest();
        Ok(Listeners { open })
    }

    /// What one of so many loops accepts from, by address.
    pub(super) fn of_loop(&self, this: usize, loops: usize) -> Vec<Vec<Listener>> {
        let of_address = |open: &Open| {
            let shared = open.address.is_shared();
            let sockets = open.sockets.iter().enumerate();
            sockets
                .filter(|(n, _)| shared || n % loops == this)
                .map(|(_, socket)| Listener {
                    socket: socket.clone(),
                    shared,
                })
                .collect()
        };
        self.open.iter().map(of_address).collect()
    }

    /// The addresses, with the ports that the kernel chose.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.open.iter().map(|open| &open.address)
    }

    /// Every socket with its name, to be handed on.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (&str, RawFd)> {
        self.open.iter().flat_map(|open| {
            let fds = open.sockets.iter().map(AsRawFd::as_raw_fd);
            fds.map(|fd| (open.key.as_str(), fd))
        })
    }

    /// The server is ready: from here on the paths of its Unix sockets are removed with them.
    pub(super) fn are_ours(&mut self) {
        for file in self.open.iter_mut().filter_map(|open| open.file.as_mut()) {
            file.remove = true;
        }
    }

    /// Those of the addresses from a place on, apart from the others.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        Listeners {
            open: self.open.split_off(at),
        }
    }

    /// Closes them, but for what the loops still hold. Paths of Unix sockets are left to a new instance, if
    /// there is one.
    pub(super) fn give_up(&mut self, why: End) {
        for file in self.open.iter_mut().filter_map(|open| open.file.as_mut()) {
            file.remove &= why != End::HandedOver;
        }
        self.open.clear();
    }
}

/// Where IPv4's unspecified address is listened on at the same port, IPv6's has no IPv4.
fn options_of(
    all: &[(Kind, ListenAddress, u32)],
    kind: Kind,
    address: SocketAddr,
    options: ListenOptions,
) -> ListenOptions {
    let twin = ListenAddress::Inet((Ipv4Addr::UNSPECIFIED, address.port()).into());
    let has_twin = all.iter().any(|(k, a, _)| *k == kind && *a == twin);
    ListenOptions {
        only_ipv6: options.only_ipv6 || (has_twin && address.port() != 0),
        ..options
    }
}

/// What each address is called when it is handed on: as it is written, since a port 0 has become another one
/// meanwhile, and counted, since there may be several of those.
fn keys(addresses: &[(Kind, ListenAddress, u32)]) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let key = |(kind, address, _): &(Kind, ListenAddress, u32)| {
        let text = match kind {
            Kind::Stream => address.to_string(),
            Kind::Datagram => format!("udp:{address}"),
        };
        let count = seen.entry(text.clone()).or_default();
        *count += 1;
        format!("{count}={text}")
    };
    addresses.iter().map(key).collect()
}

impl Open {
    /// Listens on one of the addresses, or takes what was handed on or passed for it.
    fn listen(
        addresses: &[(Kind, ListenAddress, u32)],
        which: usize,
        key: String,
        inherited: &mut Inherited,
        settings: &FrontSettings,
    ) -> io::Result<Self> {
        let options = settings.listen_options();
        let (kind, address, count) = &addresses[which];
        let handed = inherited.handed.claim(&key);
        let is_handed = !handed.is_empty();
        let mut this = Open::new(key, address);
        match address {
            ListenAddress::Unix(path) if is_handed => this.file = SocketFile::adopt(path),
            ListenAddress::Unix(path) => {
                let (socket, file) = SocketFile::listen(path, options, settings.listen_mode)?;
                this.sockets.push(Arc::new(socket));
                this.file = Some(file);
            }
            ListenAddress::Systemd(name) if !is_handed => {
                let named: Vec<&str> = addresses.iter().filter_map(name_of).collect();
                let passed = of_systemd(&mut inherited.systemd, name.as_deref(), &named)?;
                this.sockets.extend(passed.into_iter().map(Arc::new));
            }
            ListenAddress::Inet(_) | ListenAddress::Systemd(_) => {}
        }
        this.sockets.extend(handed.into_iter().map(Arc::new));
        if let ListenAddress::Inet(inet) = address {
            let options = options_of(addresses, *kind, *inet, options);
            this.open_up_to(*count, *kind, options)?;
        }
        for socket in &this.sockets {
            net::adopt(socket, options)?;
        }
        Ok(this)
    }

    fn new(key: String, address: &ListenAddress) -> Self {
        Open {
            key,
            address: address.clone(),
            sockets: Vec::new(),
            file: None,
        }
    }

    /// Opens as many sockets as are missing, and notes the port that the kernel chose.
    fn open_up_to(&mut self, count: u32, kind: Kind, options: ListenOptions) -> io::Result<()> {
        let ListenAddress::Inet(mut address) = self.address else {
            return Ok(());
        };
        if let Some(first) = self.sockets.first() {
            address.set_port(net::local_address(first)?.port());
        }
        while self.sockets.len() < count as usize {
            let socket = match kind {
                Kind::Stream => net::listen(address, options)?,
                Kind::Datagram => net::receive_datagrams(address, options)?,
            };
            // With port 0 the kernel chooses once, and the other loops take the same.
            address.set_port(net::local_address(&socket)?.port());
            self.sockets.push(Arc::new(socket));
        }
        self.address = ListenAddress::Inet(address);
        Ok(())
    }
}

/// The name that an address of systemd's asks for, if it does.
fn name_of((_, address, _): &(Kind, ListenAddress, u32)) -> Option<&str> {
    match address {
        ListenAddress::Systemd(name) => name.as_deref(),
        ListenAddress::Inet(_) | ListenAddress::Unix(_) => None,
    }
}

/// The sockets of a name, or all that no other address names.
fn of_systemd(
    passed: &mut Vec<(String, OwnedFd)>,
    wanted: Option<&str>,
    named: &[&str],
) -> io::Result<Vec<OwnedFd>> {
    let is_wanted = |name: &str| match wanted {
        Some(wanted) => name == wanted,
        None => !named.contains(&name),
    };
    let there = match &passed[..] {
        [] => "systemd has passed none to this process: start it by its socket unit".to_owned(),
        some => {
            let names: Vec<_> = some.iter().map(|(name, _)| format!("{name:?}")).collect();
            format!("those that systemd has passed are {}", names.join(", "))
        }
    };
    let mut sockets = Vec::new();
    for (name, socket) in std::mem::take(passed) {
        if !is_wanted(&name) {
            passed.push((name, socket));
        } else if net::is_listening(&socket) {
            sockets.push(socket);
        } else {
            let fd = socket.as_raw_fd();
            return Err(io::Error::other(format!(
                "descriptor {fd}, which systemd has passed as {name:?}, takes no connections: \
                 write ListenStream= in its socket unit, and Accept=no"
            )));
        }
    }
    if sockets.is_empty() {
        return Err(io::Error::other(format!(
            "there is no such socket; {there}"
        )));
    }
    Ok(sockets)
}

/// The path of a Unix socket, removed when it is dropped if it is ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: whatever else is at the path later is not ours to remove.
    id: (u64, u64),
    remove: bool,
}

impl SocketFile {
    fn listen(path: &Path, options: ListenOptions, mode: u32) -> io::Result<(OwnedFd, Self)> {
        let folder = fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
        // Between looking and binding, no other process that listens at a path in this folder looks or binds.
        // Released when it is closed.
        folder.lock()?;
        remove_stale(path)?;
        // SAFETY: a plain system call. No other thread makes files yet, and the mask is back at once.
        let before = unsafe { libc::umask(0o777 & !mode) };
        let socket = net::listen_at(path, options);
        // SAFETY: as above.
        unsafe { libc::umask(before) };
        let socket = socket?;
        let mut file = SocketFile::adopt(path)
            .ok_or_else(|| io::Error::other("what was made there has gone at once"))?;
        file.remove = true;
        Ok((socket, file))
    }

    /// The path of a socket that another process has made. It is that one's until we are ready.
    fn adopt(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(SocketFile {
            path: path.to_owned(),
            id: (found.dev(), found.ino()),
            remove: false,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_there = || {
            let found = fs::symlink_metadata(&self.path);
            found.is_ok_and(|found| (found.dev(), found.ino()) == self.id)
        };
        if self.remove && still_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket at which no process listens: a process that was killed leaves one behind.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::other(
            "there is something that is no socket: remove it, or choose another path",
        ));
    }
    if net::somebody_listens_at(path)? {
        return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
    }
    fs::remove_file(path)
}
