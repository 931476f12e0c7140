//! [`ApplicationOptions`].

use crate::each_thread::EachThread;
use std::time::Duration;

/// How an application serves.
pub struct ApplicationOptions {
    /// Called, from any context and possibly a signal handler, when a bucket is parked: it may only set
    /// flags.
    pub on_parked: fn(),
    /// Called by a thread that leaves its bucket: it must make
    /// [`Application::tend`](super::Application::tend) run soon. It may only set flags.
    pub on_leave: fn(),
    /// Bytes that a bucket may keep of what its requests leave.
    pub keep: usize,
    /// How long a bucket that keeps more may rest before it counts as lost.
    pub keep_timeout: Duration,
    /// Run once on each door server thread before its first call.
    pub each_thread: Vec<EachThread>,
    /// Every response says in a field `Transom-Memory` what its request has used: for development.
    pub memory_header: bool,
}
