//! Why a server could not start, each with what to do about it.

use super::why::Because;
use crate::config::{ConfigError, Forward, Place};
use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use transom_net::ListenAddress;

/// Why the server could not start. Each is a sentence for the person who started it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    #[error("{0}")]
    Flags(String),
    #[error(transparent)]
    Router(#[from] transom_platform::RouterError),
    #[error(
        "--on-exhaustion escape: the author of this application has not promised that its handlers may be left by a jump (serve_escaping): leave the flag out"
    )]
    NoPromise,
    #[error(
        "this application serves {what}, and has no front end of its own: give it a path with --door PATH, and lead {what} there with `transom serve --forward {scheme}://ADDRESS:PORT=PATH`"
    )]
    NeedsDoor {
        scheme: &'static str,
        what: &'static str,
    },
    #[error(transparent)]
    Region(#[from] transom_arena::RegionError),
    #[error(transparent)]
    Buckets(#[from] transom_arena::BucketsError),
    #[error(transparent)]
    SharedHeap(#[from] transom_arena::SharedHeapError),
    #[error(transparent)]
    Overdraft(#[from] transom_arena::OverdraftError),
    #[cfg(feature = "c-heap")]
    #[error(transparent)]
    CHeap(#[from] transom_arena::CHeapError),
    #[error(transparent)]
    Application(#[from] transom_platform::ApplicationError),
    #[error("a channel cannot be made: {0}")]
    Channel(#[from] transom_doors::ChannelError),
    #[error("{flag} {address}: {}", explain(.source, .address))]
    Listen {
        flag: &'static str,
        address: ListenAddress,
        source: io::Error,
    },
    #[error("{0}")]
    Inherited(String),
    #[error(
        "--recycle handover is not possible here: {0}. Use --recycle exit, and a supervisor that starts the process anew when it ends with status 75"
    )]
    Recycle(Because),
    #[error("--config {}: {source}", .path.display())]
    ReadConfig { path: PathBuf, source: io::Error },
    #[error(
        "--config {}: it has {len} bytes, and at most {most} are read again while the server runs: SIGUSR2 starts a new instance, \
         which reads all of it", .path.display()
    )]
    LargeFile { path: PathBuf, len: u64, most: u64 },
    #[error(
        "what the file changes does not go with what stays as it is until SIGUSR2, which starts a new instance: {0}"
    )]
    Mixed(#[source] Box<StartError>),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{place}: {source}")]
    Setting {
        place: Place,
        source: Box<crate::plan::PlanError>,
    },
    #[error("{}", .0.to_string().trim_start_matches("error: ").trim_end())]
    CommandLine(#[from] clap::Error),
    #[error("{place}: {forward}: {}", explain(.source, .address))]
    Forward {
        place: Place,
        forward: String,
        address: ListenAddress,
        source: io::Error,
    },
    #[error("cannot start a loop: {0}; check `ulimit -n` and `ulimit -u`")]
    Loop(io::Error),
    #[error(
        "`ulimit -n` is {limit}, but {needed} descriptors are needed for {flag} {count} and what goes with it{handlers}. Lower {flag}, or raise the limit"
    )]
    Descriptors {
        limit: u64,
        needed: u64,
        flag: &'static str,
        count: u32,
        handlers: ForHandlers,
    },
    #[error(
        "cannot start the first door server thread: {0}; check `ulimit -u` and the cgroup's pids.max"
    )]
    FirstThreadStart(io::Error),
    #[error(transparent)]
    FirstThread(#[from] transom_platform::NotReady),
    #[error("--door: {0}")]
    Attach(#[from] transom_doors::AttachError),
    #[error(transparent)]
    Log(#[from] transom_log::LogError),
    #[error("--access-log-file {}: {}", .path.display(), explain_file(.source, .path))]
    AccessLog { path: PathBuf, source: io::Error },
    #[error(
        "--access-log: standard output cannot be written to: {0}; name a file with --access-log-file"
    )]
    AccessOutput(io::Error),
    #[error(
        "cannot start the thread that writes the access log: {0}; check `ulimit -u` and the cgroup's pids.max"
    )]
    AccessThread(io::Error),
    #[error("standard output cannot be written to: {0}")]
    Output(io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

fn explain(error: &io::Error, address: &ListenAddress) -> String {
    let low = matches!(address, ListenAddress::Inet(address) if address.port() < 1024);
    match error.kind() {
        io::ErrorKind::AddrInUse if address.path().is_some() => {
            format!("{error}; another process listens there: stop it, or choose another path")
        }
        io::ErrorKind::AddrInUse => {
            format!("{error}; another process listens there: stop it, or choose another port")
        }
        io::ErrorKind::PermissionDenied if low => {
            format!(
                "{error}; ports below 1024 need CAP_NET_BIND_SERVICE: use a port above, or grant it"
            )
        }
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            format!("{error}; this machine has no IPv6: listen on an address of IPv4, as 0.0.0.0")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{error}; this machine does not have that address")
        }
        io::ErrorKind::NotFound if address.path().is_some() => {
            format!("{error}; there is no such folder")
        }
        _ => error.to_string(),
    }
}

fn explain_file(error: &io::Error, path: &Path) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => format!("{error}; make its folder first"),
        Some(libc::EACCES | libc::EROFS) => {
            format!("{error}; let this user write there, or name another file")
        }
        Some(libc::EISDIR) => format!("{error}; name a file in it"),
        Some(libc::ENXIO) if is_socket(path) => format!(
            "{error}; that is a socket, which cannot be opened: name a file, or leave the flag out, and the lines go to \
             standard output"
        ),
        Some(libc::ENXIO) => format!("{error}; no process reads that pipe: start its reader first"),
        _ => format!("{error}; name a file that can be appended to"),
    }
}

fn is_socket(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.file_type().is_socket())
}

impl StartError {
    /// A forward that cannot be listened for.
    pub(super) fn of_forward(forward: &Forward, source: io::Error) -> Self {
        StartError::Forward {
            place: forward.place.clone(),
            forward: forward.to_string(),
            address: forward.address.clone(),
            source,
        }
    }

    /// The status of the process: 2 if flags, variables or the file are wrong whatever the machine has, so
    /// that another start would end the same way.
    pub(super) fn status(&self) -> u8 {
        let is_wrong = match self {
            StartError::Plan(plan) => !plan.is_of_the_machine(),
            StartError::Setting { source, .. } => !source.is_of_the_machine(),
            StartError::NoPromise
            | StartError::NeedsDoor { .. }
            | StartError::Config(_)
            | StartError::CommandLine(_) => true,
            _ => false,
        };
        if is_wrong { 2 } else { 1 }
    }
}

/// What handlers may have open at once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ForHandlers {
    /// `--buckets`.
    pub buckets: u32,
    /// Of each: `App::descriptors_per_request`.
    pub each: u32,
}

impl ForHandlers {
    pub(super) fn total(self) -> u64 {
        u64::from(self.buckets) * u64::from(self.each)
    }
}

impl fmt::Display for ForHandlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ForHandlers { buckets, each } = self;
        match self.total() {
            0 => Ok(()),
            total => write!(
                f,
                ", {total} of them for what handlers open (--buckets {buckets}, {each} each: App::descriptors_per_request)"
            ),
        }
    }
}
