//! What handlers can know about the end of their process.

use std::sync::atomic::{AtomicBool, Ordering};

static DRAINING: AtomicBool = AtomicBool::new(false);

/// Whether this process has been told to end, or to hand over to another instance, and drains: it takes no
/// new requests, and those under way may go on until `--drain-timeout`. It stays so.
///
/// A handler that would go on for as long as its client stays (server-sent events, a `tcp` connection) should
/// end its answer then: the client connects anew, and reaches another instance. Otherwise it is cut at the
/// timeout. Threads of the application's own may ask too. It is an atomic load.
#[must_use]
pub fn is_draining() -> bool {
    DRAINING.load(Ordering::Relaxed)
}

/// The process begins to drain. For the server.
pub fn begin_to_drain() {
    DRAINING.store(true, Ordering::Relaxed);
}
