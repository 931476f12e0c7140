//! The front end: loops that own connections, speak HTTP/1.1 and call the door.
//!
//! A loop is one thread with its own epoll set, listeners, connections and channel; loops share nothing on
//! the path of a request. It never blocks, never runs a handler and, once started, never allocates.
//!
//! ```text
//!            accept            whole head             whole body, or a slot full      claimed
//!   Free ──▶ Idle ──▶ Head ──────────▶ (Waiting) ──▶ Body ──────────▶ Calling ──▶ Writing ──▶ Idle
//!              ▲        ╰─ refused ──────────────────────────────────────────────▶ Lingering ──▶ Free
//! ```

mod accepting;
mod access;
mod access_table;
mod bodies;
mod closing;
mod complaints;
mod connection;
mod doorway;
pub mod forward;
mod gathering;
mod held;
mod instances;
mod limit;
mod naming;
mod opener;
mod options;
mod orders;
mod output;
mod parts;
mod places;
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
mod turn;
mod unwatched;
mod world;

pub use access_table::ACCESS_ENTRY_SIZE;
pub use doorway::{DoorwayParts, INSTANCES, SLOT_TABLES_SIZE};
pub use limit::ConnectionLimit;
pub use opener::{Mailbox, OPENER_STACK, Opener, OpenerBuilder, REMOTE_SLOTS_IN_ALL, open_options};
pub use options::{Allowance, LOOP_STACK, Proxying, Rates, Sizes, Timeouts};
pub use orders::{Order, Orders};
pub use parts::{Forward, Listener, Parts};
pub use routes::{Route, RouteTable};
pub use rules::{Limits, Rules};
pub use stats::{Counter, LoopFigures, LoopStats};
pub use turn::{Loop, QUEUE_ENTRY_SIZE};
pub use world::{Caller, Events, Linux, World};

#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
