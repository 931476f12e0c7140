//! Native doors: the same callers and servers over illumos' own `door_call` and `door_return`.
//!
//! **What has been run.** Nothing here has run on illumos. The crate is type-checked for
//! `x86_64-unknown-illumos` (`doors/check-illumos.sh`), never linked for it. On Linux its tests run over a
//! stand-in for the kernel's calls (`tests/stand_in.rs`): they show that callers and servers agree with each
//! other and with the manual pages as we read them, not that illumos does. What the stand-in cannot show:
//! that `door_return` takes the stack away, the kernel's own limits, cancellation, `fork`, and `door_return`
//! on a signal stack.
//!
//! **The interface is that of `transom-doors` on Linux**: the same names and signatures, held by
//! `doors/tests/conformance/interface.rs`, and the same types for everything that is only a value. What
//! touches the kernel exists twice: [`Door`], how a [`DoorBuilder`] builds it, [`Attachment`], [`Call`],
//! [`EmergencyReply`], [`Client`], [`AsyncClient`], and [`DoorHandler`], because it names `Call`.
//!
//! **What still differs in the interface**:
//! - [`Door::serve`] wants a handler that lives for ever, and returns only if the thread cannot join the
//!   pool: the kernel lays each request over the frames that the thread began with. Threads of a revoked door
//!   stay parked in the kernel.
//! - `MemoryError`, `BuildError::Board` and `OpenError::Memory` occur only on Linux: they are about memory
//!   that two processes share. `BuildError::System`, `Limit::Accept`, `Limit::Stack` and
//!   `Status::NOT_ACCEPTED` occur only here.
//!
//! **What differs in behaviour**, because a native call is one request and one reply on one shuttle:
//! - No channel exists in the server. A caller holds a descriptor; its slots and threads are its own.
//!   `channels_max` and `channels_per_user` limit nothing, `DoorInfo::clients` is 0, and
//!   `CallCounts::average_ns` is not measured: 0. `CallCounts::under_way` counts calls in handlers, not those
//!   that wait in the kernel.
//! - A door cannot be polled, and there is no asynchronous call: [`AsyncClient`] keeps one small thread per
//!   slot, and an eventfd. [`Client`] starts such a thread for its first call with a timeout.
//! - A reply leaves when the handler has returned, not at [`Call::complete`]: `door_return` takes the
//!   thread's stack away.
//! - Hence there are no interim replies: [`Call::interim`] says `Gone`, and [`AsyncClient::resume`] panics.
//! - A call brings only its request, and no more of a slot: [`Call::request_slot`] is the request.
//! - The request lies on the thread's stack: `snapshots` is not used, and a stack that is too small is
//!   `Limit::Stack`. A thread of [`DoorBuilder::handler`] has a stack for the door's requests; the handler
//!   itself is never dropped.
//! - Limits of a request are the kernel's (`door_setparam`): a call that breaks them never reaches the
//!   process, and they hold for callers in this process too.
//! - [`Call::cred`] is the process that makes the call, at the time of the call, and `accept` is asked at
//!   each call. Of the events there are `Opened` and `Refused`: nothing tells that a caller has left.
//! - `RemoteDoor::server` has its process from the kernel, and its user and group from the server itself.
//! - A reply is this process's own memory, so [`AsyncClient::reply`] can be used for every door; descriptors
//!   can be sent to a door of this process too.
//! - [`AsyncClient::peer_fd`] tells what a call has found out. A door without calls cannot be watched, so
//!   [`AsyncClient::check_peer`] has to be asked now and then.
//! - A door can be attached to several paths, and again (there is no `AttachError::AlreadyAttached`); any
//!   file can carry a door's name (there is no `NotASocket`). To open it takes permission to read the path,
//!   not to write it; the file stays.

mod async_client;
mod attach;
mod call;
mod calling;
mod client;
mod door;
mod error;
mod exchange;
mod ffi;
mod found;
#[cfg(target_os = "illumos")]
#[path = "../../tests/conformance/interface.rs"]
mod interface;
mod pool;
mod serving;
mod slot_memory;
#[cfg(all(test, not(target_os = "illumos")))]
mod tests;
mod wire;

// There the tests are never compiled.
#[cfg(target_os = "illumos")]
interface::conforms!(native, crate);

pub use async_client::AsyncClient;
pub use attach::Attachment;
pub use call::{Call, DoorHandler, EmergencyReply};
pub use client::Client;
pub use door::{Door, DoorBuilder};
pub use transom_doors::{
    AttachError, AttachOptions, Attributes, Bell, BuildError, CHANNELS_MAX, CallCounts, CallError,
    CallOptions, ChannelError, ChannelGeometry, ChannelMemory, Completion, Credentials,
    DESCRIPTORS_MAX, Descriptors, DoorEvent, DoorInfo, DoorOwner, GeometryError, Gone, Kind, Lie,
    Limit, Limits, NameTooLong, OpenError, OpenOptions, PAGE, Patience, PeerState, Refusal,
    RemoteDoor, Reply, Resumed, SLOTS_MAX, SlotId, Status, THREADS_MAX, ThreadCounts, Unreferenced,
    Withdraw, Words, check_path, now_ns, start_thread,
};

/// The caller speaks another version of the protocol; the reply is the server's, in two bytes. Said to
/// callers' side of this crate alone.
const WRONG_VERSION: Status = Status(8);
