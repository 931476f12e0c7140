//! Why a server ends.

use transom_arena::Bytes;

/// Exit status of a process that is to be started anew: EX_TEMPFAIL of sysexits.h, "try again".
pub(super) const EXIT_RECYCLE: u8 = 75;

/// Why a server has to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to stop.
    Told,
    /// Too many buckets are lost, and no new instance has taken over: it is to be started anew.
    Recycle,
    /// A new instance has its listeners, or waits for the path of its door.
    HandedOver,
}

/// Why a process exits and does not hand over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Because {
    #[error("--recycle exit asks for it")]
    Asked,
    #[error("it is process 1, and everything in its PID namespace ends with it")]
    FirstProcess,
    #[error(
        "{name} has {limit}, and two instances need {}: twice the bound of {bound}",
        Bytes(.bound.get().saturating_mul(2))
    )]
    Memory {
        name: String,
        limit: Bytes,
        bound: Bytes,
    },
    #[error("where its program lies is not known: {0}")]
    NoProgram(String),
    #[error(
        "{0} watches this process id, and cannot be told of another one: without NOTIFY_SOCKET (Type=notify) it takes the \
         end of this process for the end of the service"
    )]
    Systemd(&'static str),
    #[error(
        "supervisord (SUPERVISOR_ENABLED) watches this process id, and cannot be told of another one"
    )]
    Supervisord,
}
