//! The front end: loops that own connections, speak HTTP/1.1 and call the door.
//!
//! A loop is one thread with its own epoll set, listeners, connections and channel; loops share nothing on
//! the path of a request. It never blocks, never runs a handler and, once started, never allocates.
//!
//! ```text
//!      accept            whole head             whole body, or a slot full
//!   ──▶ Idle ──▶ Head ──────────▶ (Waiting) ──▶ Filling ──────────▶ Calling ──▶ Writing ──▶ Idle
//!                  ╰─ refused ──────────────────────────────────────────────▶ Lingering ──▶ Closed
//! ```
//!
//! A loop is generic over its world (`World`): the system that it runs on, or a simulation of one.

mod accepting;
mod acceptor;
mod access;
mod access_table;
mod agenda;
mod bodies;
mod closing;
mod complaints;
mod connection;
mod doorway;
mod entrance;
mod exchange;
pub mod forward;
mod gathering;
mod held;
mod instances;
mod limit;
mod lists;
mod memory;
mod naming;
mod opener;
mod options;
mod orders;
mod outbox;
mod output;
mod parts;
mod places;
mod policy;
mod pool;
mod reading;
mod replying;
mod requests;
mod routes;
mod rules;
mod signal;
mod slow;
mod stats;
mod table;
mod timers;
mod transport;
mod turn;
mod unwatched;
mod world;

pub use access_table::ACCESS_ENTRY_SIZE;
pub use agenda::QUEUE_ENTRY_SIZE;
pub use doorway::{DoorwayParts, SLOT_TABLES_SIZE};
pub use entrance::INSTANCES;
pub use limit::ConnectionLimit;
pub use opener::{Mailbox, OPENER_STACK, Opener, OpenerBuilder, REMOTE_SLOTS_IN_ALL, open_options};
pub use options::{Allowance, LOOP_STACK, Proxying, Rates, Sizes, Timeouts};
pub use orders::{Order, Orders};
pub use parts::{Forward, Listener, Parts};
pub use routes::{Route, RouteTable};
pub use rules::{Limits, Rules};
pub use stats::{Counter, LoopFigures, LoopStats};
pub use turn::Loop;
pub use world::{Caller, Events, Linux, World};

#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
