//! Whose turn it is in a streaming call: one word per slot that the door server thread sleeps on.
//!
//! A call belongs to the server from submit to completion. In between the two sides may exchange
//! pieces through the same slot: the server hands the turn to the client with an interim reply and
//! blocks; the client hands it back, or says that it has gone.

use crate::gone::Gone;
use crate::sync::{Futex, Ordering};

const SERVER: u32 = 0;
const CLIENT: u32 = 1;
const GONE: u32 = 2;
/// The final reply is there; only a caller that sleeps on the word is told so.
const DONE: u32 = 3;

/// A slot's turn word.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(transparent))]
pub struct Turn(Futex);

impl Turn {
    /// A word outside channel memory, for the model.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(Futex::default())
    }

    /// Client, before submitting: the server begins.
    pub fn begin(&self) {
        self.0.word().store(SERVER, Ordering::Relaxed);
    }

    /// Server: the piece is written, the client may have it.
    pub fn to_client(&self) -> Result<(), Gone> {
        // Fails only if the client has gone: nobody else writes while it is the server's turn.
        self.0
            .word()
            .compare_exchange(SERVER, CLIENT, Ordering::AcqRel, Ordering::Acquire)
            .map_or(Err(Gone), |_| Ok(()))
    }

    /// Server: blocks until the turn comes back, or `given_up` says that it never will: a client in
    /// another process may do with this word what it likes, and must not keep a thread by it.
    pub fn wait_for_client(&self, given_up: impl Fn() -> bool) -> Result<(), Gone> {
        loop {
            match self.0.word().load(Ordering::Acquire) {
                CLIENT if given_up() => return Err(Gone),
                CLIENT => self.0.wait_a_while(CLIENT),
                SERVER => return Ok(()),
                _ => return Err(Gone),
            }
        }
    }

    /// Client: whether the server has handed over a piece.
    pub fn is_clients(&self) -> bool {
        self.0.word().load(Ordering::Acquire) == CLIENT
    }

    /// Server, after the final reply of a call whose caller sleeps on the word.
    pub fn finish(&self) {
        // If the caller has left, there is nobody to tell.
        let word = self.0.word();
        if word
            .compare_exchange(SERVER, DONE, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.0.wake();
        }
    }

    /// Client: sleeps until the server has handed over a piece or the final reply, for `timeout` at
    /// most. A word that the client may write, although nothing is written: futex(2) takes a detour
    /// for memory that is mapped for reading (0.2 µs).
    #[cfg(not(loom))]
    pub fn wait_for_server(&self, timeout: std::time::Duration) {
        crate::sync::wait_on(self.0.word(), SERVER, Some(timeout));
    }

    /// Client: consumed; the server goes on.
    pub fn to_server(&self) {
        self.0.word().store(SERVER, Ordering::Release);
        self.0.wake();
    }

    /// Client: the server shall not wait for us, now or later in this call.
    pub fn leave(&self) {
        // Only a server that has handed us the turn can be asleep.
        if self.0.word().swap(GONE, Ordering::AcqRel) == CLIENT {
            self.0.wake();
        }
    }
}
