//! The access log of a server: opened at its start, ended with its summary.

use super::{Needs, term};
use crate::serve::error::StartError;
use crate::serve::signals::Signals;
use crate::settings::FrontSettings;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use transom_arena::Place;
use transom_front::ACCESS_ENTRY_SIZE;
use transom_log::access::{self, AccessLog, AccessOptions};

/// The log's queue and thread, and what loops keep of each connection for it, if there is one.
pub(crate) fn needs(settings: &FrontSettings) -> Needs {
    if settings.access_style().is_none() {
        return Needs::default();
    }
    let terms = vec![
        term(
            "access log",
            Place::Process,
            1,
            access::memory_bytes(usize::from(settings.access_log_queue.get())),
            "lines that wait to be written",
            "--access-log, --access-log-queue",
        ),
        term(
            "access entries",
            Place::Process,
            settings.loops() as usize * settings.connections_per_loop() as usize,
            ACCESS_ENTRY_SIZE,
            "what a line needs of a connection's request",
            "--access-log, --connections",
        ),
    ];
    Needs {
        terms,
        threads: 1,
        descriptors: 0,
    }
}

/// Starts the access log that the settings ask for; `forwards` and `doors` are the names of what the loops
/// number.
pub(crate) fn start(
    settings: &FrontSettings,
    forwards: Vec<String>,
    doors: Vec<String>,
    signals: &Signals,
) -> Result<Option<AccessLog>, StartError> {
    let Some(style) = settings.access_style() else {
        return Ok(None);
    };
    let (sink, path) = match &settings.access_log_file {
        Some(path) => {
            let failed = |source| StartError::AccessLog {
                path: path.clone(),
                source,
            };
            let name = CString::new(path.as_os_str().as_bytes())
                .map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
            (access::open(&name).map_err(failed)?, Some(name))
        }
        None => {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            (File::from(stdout.map_err(StartError::AccessOutput)?), None)
        }
    };
    let in_a_file = path.is_some();
    let log = access::start(AccessOptions {
        style,
        queue: usize::from(settings.access_log_queue.get()),
        sink,
        path,
        forwards,
        doors,
    })
    .map_err(StartError::AccessThread)?;
    if in_a_file {
        signals.reopen_on_hangup(log.clone());
    }
    Ok(Some(log))
}
