//! What a server is made of. `hello` is an application and loops; `hello --door` an application and its door;
//! `transom serve` loops with the doors of others, and streams. Each may have `--admin`.
//!
//! A part says what it needs before anything is opened. It then starts, drains, and is joined. The plan adds
//! up the needs ([`crate::plan`]), and `server` puts the parts together.

pub(crate) mod access;
pub(crate) mod admin;
pub(crate) mod application;
pub(crate) mod door;
pub(crate) mod loops;
pub(crate) mod process;
pub(crate) mod streams;

use transom_arena::{Place, Term};

/// What a part needs.
#[derive(Default)]
pub(crate) struct Needs {
    /// Its terms of the memory equation.
    pub terms: Vec<Term>,
    /// Its threads. One term counts those of all parts.
    pub threads: usize,
    /// Its descriptors.
    pub descriptors: u64,
}

impl From<Vec<Term>> for Needs {
    /// What needs memory only.
    fn from(terms: Vec<Term>) -> Self {
        Needs {
            terms,
            ..Needs::default()
        }
    }
}

/// Descriptors of each loop, beside its listeners: epoll set, two doorbells, its own and the door's, and a
/// connection that it is about to close, whose place another loop has given to a new one.
const PER_LOOP: u64 = 4;

/// Descriptors of each channel between processes, at either side: its socket, two doorbells, the other's
/// pidfd, and three pieces of memory while it is opened.
const PER_CHANNEL: u64 = 7;

fn term(
    name: &'static str,
    place: Place,
    count: usize,
    unit: usize,
    holder: &'static str,
    flags: &'static str,
) -> Term {
    Term {
        name,
        count,
        unit,
        guards: 0,
        holder,
        flags,
        place,
    }
}
