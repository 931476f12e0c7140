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
//! knows neither HTTP nor buckets: the code that starts its threads decides what runs on them, and on
//! which memory they stand.
//!
//! | folder | holds |
//! |---|---|
//! | `rules/` | how the two sides, and a door's threads, agree without a lock; model-checked by `tests/loom` |
//! | `values/` | what is said and told: limits, errors, credentials; the same on every system |
//! | `back_end/` | what a back end is built of: its builder, a caller's slots, a doorbell |
//! | `memory/` | segments, what lies where in them, the server's view of its channels |
//! | `caller/` | an event loop's client and a blocking one |
//! | `pool/` | a door's threads: what each does, how many there are, when clients are told |
//! | `between/` | what crosses processes: names, clients that come and go, messages, descriptors |
//!
//! All but the first three is the back end for Linux. The one for illumos, over its native doors, is the
//! crate `transom-doors-illumos` in `doors/illumos/`: type-checked, and never run there.
//!
//! ```
//! use std::sync::{Arc, OnceLock};
//! use transom_doors::{Call, ChannelGeometry, ChannelMemory, Door, Patience, Status};
//!
//! // The owner of their memory starts the door server threads; here, std.
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
//! // SAFETY: fresh, zeroed, page-aligned, never freed, and known to nothing else.
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

// The model checker compiles the folder `rules` in its own crate, `tests/loom`: the rest lays atomics over
// raw memory, which the model's atomics do not allow.
#![cfg(not(loom))]

// The same on every system.
#[doc(hidden)]
pub mod back_end;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]
mod rules;
mod values;

// The back end for Linux.
#[cfg(target_os = "linux")]
mod between;
#[cfg(target_os = "linux")]
mod caller;
#[cfg(target_os = "linux")]
mod door;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod pool;

#[cfg(target_os = "linux")]
pub use {
    between::attach::Attachment,
    between::closer::{CLOSER_STACK, CLOSERS_MAX, start as start_closers},
    caller::async_client::AsyncClient,
    caller::blocking::Client,
    door::{Door, DoorBuilder},
    pool::call::{Call, DoorHandler},
    pool::emergency::EmergencyReply,
};

pub use back_end::bell::Bell;
pub use back_end::builder::Builder;
pub use back_end::clock::now_ns;
pub use back_end::threads::start as start_thread;
pub use rules::gone::Gone;
pub use rules::waiting::Patience;
pub use values::call::{Completion, Kind, Reply, Resumed, SlotId, Withdraw};
pub use values::channel_memory::ChannelMemory;
pub use values::descriptors::{DESCRIPTORS_MAX, Descriptors};
pub use values::door::{
    Attributes, CHANNELS_MAX, CallCounts, DoorEvent, DoorInfo, Limits, RemoteDoor, THREADS_MAX,
    ThreadCounts, Unreferenced,
};
pub use values::error::{
    AttachError, BuildError, CallError, ChannelError, Limit, MemoryError, OpenError,
};
pub use values::geometry::{ChannelGeometry, GeometryError, PAGE, SLOTS_MAX};
pub use values::options::{AttachOptions, CallOptions, OpenOptions};
pub use values::path::{NameTooLong, check_path};
pub use values::peer::{Credentials, DoorOwner, PeerState};
pub use values::refusal::{Lie, Refusal};
pub use values::status::Status;
pub use values::words::Words;
