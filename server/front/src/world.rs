//! What a loop asks of the system and of doors: sockets, events, clocks and calls. A server asks Linux; the
//! simulator of the tests answers from a script, with a clock of its own.
//!
//! The functions have no `self`: a loop has one world, chosen when it is compiled, and calls it directly.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::time::Duration;
use transom_doors::{
    AsyncClient, CallError, ChannelGeometry, Completion, Patience, PeerState, RemoteDoor, SlotId,
    Withdraw,
};
use transom_net::{self as net, Epoll, ListenOptions};

/// Where a loop lives. Descriptors are the caller's to keep open; errors are the kernel's.
pub trait World: 'static {
    /// What it waits with.
    type Events: Events;
    /// What it calls doors with.
    type Caller: Caller;

    /// Nanoseconds of a clock that only goes forward.
    fn now_ns() -> u64;
    /// Seconds since 1970.
    fn unix_seconds() -> u64;
    /// As [`net::accept`].
    fn accept(listener: RawFd, options: ListenOptions) -> io::Result<(RawFd, Option<SocketAddr>)>;
    /// As [`net::is_readable`].
    fn is_readable(fd: RawFd) -> bool;
    /// As [`net::receive`].
    fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize>;
    /// As [`net::peek`].
    fn peek(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize>;
    /// As [`net::has_unread`].
    fn has_unread(fd: RawFd) -> bool;
    /// As [`net::send_and_hold`].
    fn send_and_hold(fd: RawFd, bytes: &[u8], hold: bool) -> io::Result<usize>;
    /// As [`net::send_all`].
    fn send_all(fd: RawFd, pieces: &[IoSlice<'_>]) -> io::Result<usize>;
    /// As [`net::send_places`].
    ///
    /// # Safety
    /// As there: the places are valid for reads during the call.
    unsafe fn send_places(fd: RawFd, pieces: &[NonNull<[u8]>]) -> io::Result<usize>;
    /// As [`net::push`].
    fn push(fd: RawFd);
    /// As [`net::not_taken`].
    fn not_taken(fd: RawFd) -> u64;
    /// As [`net::reset_at_close`].
    fn reset_at_close(fd: RawFd);
    /// As [`net::shutdown_write`].
    fn shutdown_write(fd: RawFd);
    /// As [`net::is_over`].
    fn is_over(fd: RawFd) -> bool;
    /// As [`net::close`].
    fn close(fd: RawFd);
}

/// What a loop waits with: as [`Epoll`].
#[allow(clippy::missing_errors_doc, reason = "those of `Epoll`")]
pub trait Events: Sized {
    /// As [`Epoll::new`].
    fn new() -> io::Result<Self>;
    /// As [`Epoll::add_connection`].
    fn add_connection(&self, fd: RawFd, token: u64) -> io::Result<()>;
    /// As [`Epoll::add_bell`].
    fn add_bell(&self, fd: RawFd, token: u64) -> io::Result<()>;
    /// As [`Epoll::add_listener`].
    fn add_listener(&self, fd: RawFd, shared: bool, token: u64) -> io::Result<()>;
    /// As [`Epoll::remove`].
    fn remove(&self, fd: RawFd) -> io::Result<()>;
    /// As [`Epoll::wait`].
    fn wait(&self, events: &mut [libc::epoll_event], timeout: Option<Duration>) -> usize;
}

/// One loop's end of a door: as [`AsyncClient`], function by function.
#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "each is what `AsyncClient` has under that name"
)]
pub trait Caller {
    fn geometry(&self) -> ChannelGeometry;
    fn reserve(&mut self) -> Option<SlotId>;
    fn free_slots(&self) -> usize;
    fn lost_slots(&self) -> u32;
    fn usable_slots(&self) -> usize;
    fn outstanding(&self) -> usize;
    fn request(&self, slot: SlotId) -> &[u8];
    fn request_tail_mut(&mut self, slot: SlotId, from: usize) -> &mut [u8];
    fn submit(&mut self, slot: SlotId, len: usize, deadline_ns: u64);
    fn has_staged(&self) -> bool;
    fn flush(&mut self) -> Result<(), CallError>;
    fn resume(&mut self, slot: SlotId, request_len: usize);
    fn refill(&mut self, slot: SlotId) -> SlotId;
    fn release(&mut self, slot: SlotId);
    fn abandon(&mut self, slot: SlotId);
    fn withdraw(&mut self, slot: SlotId) -> Withdraw;
    fn drain(&mut self, f: impl FnMut(SlotId, Completion));
    fn reply(&self, slot: SlotId) -> &[u8];
    fn copy_reply(&self, slot: SlotId, from: usize, into: &mut [u8]) -> usize;
    fn reply_bytes(&self, slot: SlotId) -> NonNull<[u8]>;
    fn unclaimed(&self) -> u32;
    fn nudge(&mut self) -> bool;
    fn prepare_wait(&mut self, patience: Patience) -> bool;
    fn woke(&mut self);
    fn note_ring(&mut self, useful: bool);
    fn as_raw_fd(&self) -> RawFd;
    fn peer_fd(&self) -> Option<RawFd>;
    fn check_peer(&mut self) -> PeerState;
    fn peer_state(&self) -> PeerState;
    fn next_lost(&mut self) -> Option<(SlotId, CallError)>;
    fn door(&self) -> Option<RemoteDoor>;
    fn lie(&self) -> Option<&'static str>;

    fn request_mut(&mut self, slot: SlotId) -> &mut [u8] {
        self.request_tail_mut(slot, 0)
    }
}

/// The system that a server runs on.
#[derive(Debug)]
pub struct Linux;

/// Functions that hand on to those of the same name of `$to`, a type or a crate.
macro_rules! hand_on {
    ($to:ident: $(fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(#[inline]
        fn $name($($arg: $type),*) $(-> $result)? {
            $to::$name($($arg),*)
        })*
    };
}

impl World for Linux {
    type Events = Epoll;
    type Caller = AsyncClient;

    #[inline]
    fn now_ns() -> u64 {
        transom_doors::now_ns()
    }

    hand_on! { net:
        fn unix_seconds() -> u64;
        fn accept(listener: RawFd, options: ListenOptions) -> io::Result<(RawFd, Option<SocketAddr>)>;
        fn is_readable(fd: RawFd) -> bool;
        fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize>;
        fn peek(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize>;
        fn has_unread(fd: RawFd) -> bool;
        fn send_and_hold(fd: RawFd, bytes: &[u8], hold: bool) -> io::Result<usize>;
        fn send_all(fd: RawFd, pieces: &[IoSlice<'_>]) -> io::Result<usize>;
        fn push(fd: RawFd);
        fn not_taken(fd: RawFd) -> u64;
        fn reset_at_close(fd: RawFd);
        fn shutdown_write(fd: RawFd);
        fn is_over(fd: RawFd) -> bool;
        fn close(fd: RawFd);
    }

    #[inline]
    unsafe fn send_places(fd: RawFd, pieces: &[NonNull<[u8]>]) -> io::Result<usize> {
        // SAFETY: the caller's promise.
        unsafe { net::send_places(fd, pieces) }
    }
}

impl Events for Epoll {
    hand_on! { Epoll:
        fn new() -> io::Result<Self>;
        fn add_connection(self: &Self, fd: RawFd, token: u64) -> io::Result<()>;
        fn add_bell(self: &Self, fd: RawFd, token: u64) -> io::Result<()>;
        fn add_listener(self: &Self, fd: RawFd, shared: bool, token: u64) -> io::Result<()>;
        fn remove(self: &Self, fd: RawFd) -> io::Result<()>;
        fn wait(self: &Self, events: &mut [libc::epoll_event], timeout: Option<Duration>) -> usize;
    }
}

impl Caller for AsyncClient {
    hand_on! { AsyncClient:
        fn geometry(self: &Self) -> ChannelGeometry;
        fn reserve(self: &mut Self) -> Option<SlotId>;
        fn free_slots(self: &Self) -> usize;
        fn lost_slots(self: &Self) -> u32;
        fn usable_slots(self: &Self) -> usize;
        fn outstanding(self: &Self) -> usize;
        fn request(self: &Self, slot: SlotId) -> &[u8];
        fn request_tail_mut(self: &mut Self, slot: SlotId, from: usize) -> &mut [u8];
        fn submit(self: &mut Self, slot: SlotId, len: usize, deadline_ns: u64);
        fn has_staged(self: &Self) -> bool;
        fn flush(self: &mut Self) -> Result<(), CallError>;
        fn resume(self: &mut Self, slot: SlotId, request_len: usize);
        fn refill(self: &mut Self, slot: SlotId) -> SlotId;
        fn release(self: &mut Self, slot: SlotId);
        fn abandon(self: &mut Self, slot: SlotId);
        fn withdraw(self: &mut Self, slot: SlotId) -> Withdraw;
        fn drain(self: &mut Self, f: impl FnMut(SlotId, Completion));
        fn reply(self: &Self, slot: SlotId) -> &[u8];
        fn copy_reply(self: &Self, slot: SlotId, from: usize, into: &mut [u8]) -> usize;
        fn reply_bytes(self: &Self, slot: SlotId) -> NonNull<[u8]>;
        fn unclaimed(self: &Self) -> u32;
        fn nudge(self: &mut Self) -> bool;
        fn prepare_wait(self: &mut Self, patience: Patience) -> bool;
        fn woke(self: &mut Self);
        fn note_ring(self: &mut Self, useful: bool);
        fn as_raw_fd(self: &Self) -> RawFd;
        fn peer_fd(self: &Self) -> Option<RawFd>;
        fn check_peer(self: &mut Self) -> PeerState;
        fn peer_state(self: &Self) -> PeerState;
        fn next_lost(self: &mut Self) -> Option<(SlotId, CallError)>;
        fn door(self: &Self) -> Option<RemoteDoor>;
        fn lie(self: &Self) -> Option<&'static str>;
    }
}
