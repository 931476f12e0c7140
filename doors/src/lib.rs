//! Doors: calls from a front end into an application, through memory that is there from the start.
//!
//! A [`Door`] has door server threads and channels. A channel has a fixed number of slots; each
//! carries one call and its reply. The caller ([`AsyncClient`]) is an event loop that never blocks; the
//! handler ([`DoorHandler`]) is ordinary synchronous code on a door server thread. Submitted calls
//! and finished ones are bits in bitmaps, with a generation per slot; a doorbell rings only for a
//! side that sleeps; idle threads are reused last-in-first-out; threads are started one at a time,
//! only at a new high water of concurrency. After [`Door::start`] nothing here allocates.
//!
//! The semantics are those of illumos doors, as far as an event loop can have them. This crate
//! knows neither HTTP nor buckets: what runs on its threads, and on which memory they stand, is the
//! business of whoever starts them.
//!
//! ```
//! use std::sync::{Arc, OnceLock};
//! use transom_doors::{Call, ChannelGeometry, ChannelMemory, Door, Patience, Status};
//!
//! // Door server threads are started by whoever owns their memory; here, by std.
//! let this: Arc<OnceLock<Door>> = Arc::default();
//! let door = Door::builder()
//!     .threads_max(4)
//!     .server_create({
//!         let this = Arc::clone(&this);
//!         move |thread| {
//!             let door = this.get().expect("set before start").clone();
//!             std::thread::Builder::new().spawn(move || {
//!                 door.serve(thread, &|_: u32, call: &mut Call<'_>| {
//!                     let len = call.request().len();
//!                     call.reply_mut()[..len].fill(b'!');
//!                     call.complete(len, Status::OK);
//!                 });
//!             })?;
//!             Ok(())
//!         }
//!     })
//!     .build()?;
//! this.set(door.clone()).expect("set once");
//!
//! let geometry = ChannelGeometry { slots: 64, spares: 0, request_size: 4096, reply_size: 4096 };
//! let layout = std::alloc::Layout::from_size_align(geometry.memory_len(), 4096)?;
//! // SAFETY: the layout's size is not zero.
//! let base = std::ptr::NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
//! // SAFETY: fresh, zeroed, page-aligned, never freed, and known to nobody else.
//! let memory = unsafe { ChannelMemory::new(base, geometry.memory_len()) };
//! let mut client = door.channel(geometry, memory)?;
//! door.start()?;
//!
//! let slot = client.reserve().expect("64 slots are free");
//! client.request_mut(slot)[..3].copy_from_slice(b"abc");
//! client.submit(slot, 3, 0);
//! client.flush()?;
//! # let mut fd = libc::pollfd { fd: client.as_raw_fd(), events: libc::POLLIN, revents: 0 };
//! # if client.prepare_wait(Patience::Eager) { unsafe { libc::poll(&mut fd, 1, 10_000) }; client.woke(); }
//! let (slot, _) = client.next_completion().expect("after the doorbell");
//! assert_eq!(client.reply(slot), b"!!!");
//! client.release(slot);
//! door.revoke();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// The model checker takes the rule files (`bitmap`, `idle`, `late`, `revoke`, `turn`, `waiting`) into its
// own crate, `tests/loom.rs`: the rest lays atomics over raw memory, which the model's atomics
// cannot be.
#![cfg(not(loom))]

#[cfg(not(target_os = "illumos"))]
mod attach;
#[cfg_attr(target_os = "illumos", allow(dead_code))]
mod bell;
#[cfg_attr(target_os = "illumos", allow(dead_code))]
mod bitmap;
#[cfg(not(target_os = "illumos"))]
mod blocking;
#[cfg(not(target_os = "illumos"))]
mod board;
#[cfg_attr(target_os = "illumos", allow(dead_code))]
mod builder;
#[cfg(not(target_os = "illumos"))]
mod call;
#[cfg(not(target_os = "illumos"))]
mod channel;
#[cfg(not(target_os = "illumos"))]
mod client;
mod clock;
// On illumos always, because there its tests are never compiled.
#[cfg(not(target_os = "illumos"))]
mod closer;
#[cfg(any(test, target_os = "illumos"))]
mod conformance;
#[cfg(not(target_os = "illumos"))]
mod door;
#[cfg_attr(target_os = "illumos", allow(dead_code))]
mod error;
mod geometry;
mod gone;
#[cfg(not(target_os = "illumos"))]
mod growth;
#[cfg(not(target_os = "illumos"))]
mod hello;
#[cfg(not(target_os = "illumos"))]
mod idle;
#[cfg(any(target_os = "illumos", transom_illumos))]
pub mod illumos;
#[cfg(not(target_os = "illumos"))]
mod late;
#[cfg(not(target_os = "illumos"))]
mod layout;
#[cfg(not(target_os = "illumos"))]
mod link;
#[cfg(not(target_os = "illumos"))]
mod memory;
#[cfg(not(target_os = "illumos"))]
mod pace;
#[cfg(not(target_os = "illumos"))]
mod porter;
mod public;
#[cfg_attr(target_os = "illumos", allow(dead_code))]
mod remote_options;
#[cfg(not(target_os = "illumos"))]
mod revoke;
#[cfg(not(target_os = "illumos"))]
mod serve;
#[cfg_attr(target_os = "illumos", allow(dead_code))]
mod slot;
#[cfg(not(target_os = "illumos"))]
mod snapshots;
#[cfg(not(target_os = "illumos"))]
mod socket;
#[cfg(not(target_os = "illumos"))]
mod spin;
mod status;
#[cfg_attr(target_os = "illumos", path = "illumos/sync.rs")]
mod sync;
#[cfg(not(target_os = "illumos"))]
mod table;
#[cfg(not(target_os = "illumos"))]
mod telling;
mod threads;
#[cfg(not(target_os = "illumos"))]
mod turn;
#[cfg_attr(target_os = "illumos", allow(dead_code))]
mod waiting;
mod words;

// On illumos the kernel has doors: the callers and servers are those of `illumos`, under the same names.
// Everything that is only a value is shared.
#[cfg(target_os = "illumos")]
pub use illumos::{AsyncClient, Attachment, Call, Client, Door, DoorHandler, EmergencyReply};

#[cfg(not(target_os = "illumos"))]
pub use {
    attach::Attachment,
    blocking::Client,
    call::{Call, DoorHandler, EmergencyReply},
    client::AsyncClient,
    closer::{CLOSER_STACK, CLOSERS_MAX, start as start_closers},
    door::Door,
    memory::MemoryError,
};

pub use bell::Bell;
pub use builder::DoorBuilder;
pub use clock::now_ns;
pub use error::{
    AttachError, BuildError, CallError, ChannelError, GeometryError, Limit, OpenError,
};
pub use geometry::{ChannelGeometry, ChannelMemory, PAGE, SLOTS_MAX};
pub use gone::Gone;
pub use public::{
    AttachOptions, Attributes, CHANNELS_MAX, CallOptions, Credentials, Descriptors, DoorEvent,
    DoorInfo, DoorOwner, Lie, Limits, NameTooLong, OpenOptions, PeerState, Refusal, RemoteDoor,
    Reply, Resumed, THREADS_MAX, Unreferenced, check_path,
};
pub use slot::{Completion, Kind, SlotId, Withdraw};
pub use status::Status;
pub use threads::start as start_thread;
pub use waiting::Patience;
pub use words::Words;
