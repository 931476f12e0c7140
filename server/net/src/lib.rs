//! Sockets as a loop needs them: how they are opened, taken, read, written and closed; the set of events
//! that a loop waits for; and what is counted of clients: how many connections an address has, and how slow
//! one is.
//!
//! Everything is non-blocking, and errors are the kernel's. It knows no protocol above TCP and UDP, and no
//! setting.

mod accept;
pub mod addresses;
mod clock;
mod datagrams;
mod epoll;
mod internet;
mod listen;
mod listen_address;
mod options;
pub mod pace;
mod stream;

pub use accept::{accept, is_shortage};
pub use clock::{timespec, unix_seconds};
pub use datagrams::{
    Sender, dropped_datagrams, probe_datagrams, receive_datagrams, receive_from, send_to,
    set_datagram_buffer,
};
pub use epoll::Epoll;
pub use listen::{
    adopt, is_listening, is_readable, listen, listen_at, local_address, probe, somebody_listens_at,
};
pub use listen_address::ListenAddress;
pub use options::{ListenOptions, not_granted};
pub use stream::{
    close, close_without_waiting, has_unread, idle_for, is_over, left_after_the_end, not_taken,
    peek, push, receive, reset_at_close, send, send_all, send_and_hold, send_places, shutdown,
    shutdown_write, watch_for_vanishing,
};

use std::os::fd::{BorrowedFd, RawFd};

/// A descriptor of which the caller knows that it is open, as a loop does of its connections.
#[inline]
fn borrowed<'fd>(fd: RawFd) -> BorrowedFd<'fd> {
    // SAFETY: the callers' descriptors are open, and stay so for the system call that this is for.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
