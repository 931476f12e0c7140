//! What loops, and forwards of connections and datagrams, are told to do about new work.

use crate::rules::{Board, Rules};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What all loops are told.
#[derive(Debug, Default)]
pub struct Orders {
    state: AtomicU32,
    pub(crate) rules: Board,
}

/// What a loop does about new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Order {
    /// All that comes.
    Serve = 0,
    /// Accept nothing more, because another process does, and close no connection before it has had an
    /// answer that says so: a client that has connected, or was promised that it stays so, may be about
    /// to use it.
    HandOver = 1,
    /// Accept nothing, end what has begun.
    Drain = 2,
    /// Close everything.
    Stop = 3,
}

impl Orders {
    /// Tells them, unless they were told more than that.
    pub fn give(&self, order: Order) {
        self.state.fetch_max(order as u32, Ordering::SeqCst);
    }

    /// Has every loop go by these rules from its next turn on.
    pub fn change_rules(&self, rules: Rules) {
        self.rules.put(Arc::new(rules));
    }

    /// What they were told last.
    pub fn get(&self) -> Order {
        match self.state.load(Ordering::Relaxed) {
            0 => Order::Serve,
            1 => Order::HandOver,
            2 => Order::Drain,
            _ => Order::Stop,
        }
    }
}
