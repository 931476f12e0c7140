//! Whose turn it is in a streaming call: one word per slot that the door server thread sleeps on.
//!
//! A call belongs to the server from submit to completion. In between the two sides may exchange
//! pieces through the same slot: the server hands the turn to the client with an interim reply and
//! blocks; the client hands it back, or says that it has gone.

use std::time::Duration;

use crate::rules::futex::Futex;
use crate::rules::gone::Gone;
use crate::rules::sync::Ordering;

const SERVER: u32 = 0;
const CLIENT: u32 = 1;
const GONE: u32 = 2;
/// The final reply is there; only a caller that may sleep on the word is told so.
const DONE: u32 = 3;
/// The server's, and the client sleeps until that changes. A client that does not sleep is not woken: on one
/// CPU the answer is often there before its caller could go to sleep, and a needless wake costs a system
/// call.
const AWAITED: u32 = 4;

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
        if self.hand_over(CLIENT) {
            Ok(())
        } else {
            Err(Gone)
        }
    }

    /// Server: ends its turn. Fails if the client has gone. Otherwise a client whose turn it is not can only
    /// go to sleep.
    fn hand_over(&self, to: u32) -> bool {
        let word = self.0.word();
        let mut from = SERVER;
        loop {
            match word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire) {
                Ok(AWAITED) => {
                    self.0.wake();
                    return true;
                }
                Ok(_) => return true,
                Err(AWAITED) if from == SERVER => from = AWAITED,
                Err(_) => return false,
            }
        }
    }

    /// Server: blocks until the turn comes back, or `given_up` says that it never will: a client in
    /// another process can write anything to this word, and must not keep a thread by that.
    pub fn wait_for_client(&self, given_up: impl Fn() -> bool) -> Result<(), Gone> {
        loop {
            match self.0.word().load(Ordering::Acquire) {
                CLIENT if given_up() => return Err(Gone),
                CLIENT => self.0.wait_a_while(CLIENT),
                SERVER | AWAITED => return Ok(()),
                _ => return Err(Gone),
            }
        }
    }

    /// Client: whether the server has handed over a piece.
    pub fn is_clients(&self) -> bool {
        self.0.word().load(Ordering::Acquire) == CLIENT
    }

    /// Server: whether the client waits no longer.
    pub fn is_abandoned(&self) -> bool {
        self.0.word().load(Ordering::Acquire) == GONE
    }

    /// Server, after the final reply of a call whose caller may sleep on the word.
    pub fn finish(&self) {
        // If the caller has left, there is nothing to tell it.
        self.hand_over(DONE);
    }

    /// Client: whether the server has handed over a piece or the final reply.
    pub fn is_over(&self) -> bool {
        !matches!(self.0.word().load(Ordering::Acquire), SERVER | AWAITED)
    }

    /// Client: sleeps until the server has handed over a piece or the final reply, for `timeout` at most. On
    /// a word that the client may write, although a sleeper need not: futex(2) takes a detour for memory that
    /// is mapped for reading (0.2 µs).
    pub fn wait_for_server(&self, timeout: Duration) {
        let word = self.0.word();
        let asleep = word.compare_exchange(SERVER, AWAITED, Ordering::AcqRel, Ordering::Acquire);
        // After a timeout it is left as it is: a needless wake, at worst.
        if matches!(asleep, Ok(_) | Err(AWAITED)) {
            self.0.wait_for(AWAITED, timeout);
        }
    }

    /// Client: consumed; the server goes on.
    pub fn to_server(&self) {
        self.0.word().store(SERVER, Ordering::Release);
        self.0.wake();
    }

    /// Client: the server shall not wait for us, now or later in this call.
    pub fn leave(&self) {
        // Only a server that has handed us the turn can be asleep; or, if the porter says this, a caller.
        // That one wakes by itself soon enough.
        if self.0.word().swap(GONE, Ordering::AcqRel) == CLIENT {
            self.0.wake();
        }
    }
}
