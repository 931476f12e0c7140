//! The rules by which the two sides of a channel, and the threads of a door, agree without a lock: each a
//! view of some words, and nothing but atomics and the futex. They know no memory, no door and no call.
//!
//! `tests/loom` compiles this folder as it is, with the model checker's atomics and futex, and tries every
//! interleaving of them.

pub mod bitmap;
#[cfg(all(target_os = "linux", not(loom)))]
pub mod futex;
#[cfg(loom)]
#[path = "../../tests/loom/futex.rs"]
pub mod futex;
pub mod gone;
#[cfg(target_os = "linux")]
pub mod idle;
pub mod late;
pub mod revoke;
pub mod sync;
#[cfg(target_os = "linux")]
pub mod turn;
pub mod waiting;
