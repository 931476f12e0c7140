//! Threads that are started before the process serves: porters, and those of a front end.

use std::io;
use std::sync::{Arc, Barrier};
use std::thread::{Builder, JoinHandle};

/// Starts a thread with a stack of `stack` bytes, and returns when it has begun: by then the standard library
/// has made its allocations for a thread, on both sides.
///
/// # Errors
/// The system has no room for a thread.
pub fn start(
    name: impl Into<String>,
    stack: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let begun = Arc::new(Barrier::new(2));
    let thread = Builder::new().name(name.into()).stack_size(stack).spawn({
        let begun = begun.clone();
        move || {
            begun.wait();
            drop(begun);
            body();
        }
    })?;
    begun.wait();
    Ok(thread)
}
