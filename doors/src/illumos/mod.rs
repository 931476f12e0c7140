//! Native doors: the same callers and servers over illumos' own `door_call` and `door_return`.
//!
//! **What has been run.** Nothing here has run on illumos. The module is type-checked for `x86_64-unknown-illumos`
//! (`doors/check-illumos.sh`), never linked for it. On Linux it is compiled under `--cfg transom_illumos`, and its tests run
//! there over a stand-in for the kernel's calls (`fake`): they show that callers and servers agree with each other and with
//! the manual pages as we read them, not that illumos does. What the stand-in cannot show: that `door_return` takes the
//! stack away, the kernel's own limits, cancellation, `fork`, and `door_return` on a signal stack.
//!
//! **What differs from Linux**, because a native call is one request and one reply on one shuttle:
//! - No channel exists in the server. A caller holds a descriptor; its slots and threads are its own. `channels_max` and
//!   `channels_per_user` therefore limit nothing here, and `DoorInfo::channels` is 0.
//! - A door cannot be polled, and there is no asynchronous call: [`AsyncClient`] keeps one small thread per slot, and an
//!   eventfd.
//! - A reply leaves when the handler has returned, not at [`Call::complete`]: `door_return` takes the thread's stack away.
//! - Hence there are no interim replies: [`Call::interim`] says [`Gone`].
//! - [`Door::serve`] wants a handler that lives for ever, and returns only if the thread cannot join the pool: the kernel
//!   lays each request over the frames that the thread began with. Threads of a revoked door stay parked in the kernel.
//! - Limits of a request are the kernel's (`door_setparam`): a call that breaks them never reaches the process.
//! - Credentials are those of the process that makes the call, at the time of the call.

mod async_client;
mod attach;
mod call;
mod client;
mod error;
#[cfg(all(test, not(target_os = "illumos")))]
mod fake;
mod ffi;
mod server;
#[cfg(all(test, not(target_os = "illumos")))]
mod tests;
mod wire;

pub use async_client::AsyncClient;
pub use attach::Attachment;
pub use call::{Call, DoorHandler, EmergencyReply};
pub use client::Client;
pub use server::{Door, DoorBuilder};

use crate::status::Status;

/// The caller speaks another version of the protocol; the reply is the server's, in two bytes. Said to callers' side of this
/// module alone.
const WRONG_VERSION: Status = Status(8);
