//! The threads of an event loop's caller, one for each slot, and what they share with the loop.

use crate::WRONG_VERSION;
use crate::exchange::{block_signals, exchange};
use crate::found::peer_state;
use crate::slot_memory::Memory;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use transom_doors::{
    Bell, CallError, DESCRIPTORS_MAX, Descriptors, Limit, Limits, PeerState, Status,
};

#[derive(Debug)]
pub struct Shared {
    pub door: Arc<OwnedFd>,
    pub memory: Memory,
    pub limits: Limits,
    pub takes_descriptors: bool,
    pub state: Mutex<State>,
    pub work: Condvar,
    pub bell: Bell,
    /// Rings when a call has found the door revoked or dead.
    pub news: Bell,
}

#[derive(Debug)]
pub struct State {
    pub jobs: VecDeque<Job>,
    pub ended: VecDeque<Ended>,
    /// The loop sleeps, and wants the bell.
    pub waiting: bool,
    pub stop: bool,
    pub peer: PeerState,
}

/// A call for a thread to make.
#[derive(Debug)]
pub struct Job {
    pub slot: u32,
    /// Bytes of header and request.
    pub len: usize,
    pub descriptors: Sent,
}

/// Duplicates of descriptors that are closed after the call. An array: the loop does not allocate.
#[derive(Debug, Default)]
pub struct Sent(pub [Option<OwnedFd>; DESCRIPTORS_MAX]);

/// How a call has ended.
#[derive(Debug)]
pub struct Ended {
    pub slot: u32,
    pub outcome: Outcome,
    pub descriptors: Descriptors,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Replied { status: Status, len: usize },
    Lost(CallError),
}

impl Shared {
    /// No code that holds the lock can panic between two states, so a poisoned one is as good as any.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a caller's thread.
    pub fn call_until_stopped(&self) {
        block_signals();
        while let Some(job) = self.next_job() {
            let (outcome, descriptors) = self.call(&job);
            // Before the call is reported as ended: the descriptors that were sent are closed here.
            let slot = job.slot;
            drop(job);
            let news = match outcome {
                // Whatever else is known of it, it takes no more calls.
                Outcome::Lost(CallError::NotAccepted) => {
                    worse(PeerState::Revoked, peer_state(self.door.as_raw_fd()))
                }
                Outcome::Lost(_) => peer_state(self.door.as_raw_fd()),
                Outcome::Replied { .. } => PeerState::Serving,
            };
            self.report(slot, outcome, descriptors, news);
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn call(&self, job: &Job) -> (Outcome, Descriptors) {
        let message = NonNull::slice_from_raw_parts(self.memory.message(job.slot), job.len);
        let mut borrowed = [self.door_as_placeholder(); DESCRIPTORS_MAX];
        let mut many = 0;
        for descriptor in job.descriptors.iter() {
            borrowed[many] = descriptor;
            many += 1;
        }
        // SAFETY: a submitted slot's bytes belong to the thread that took its job, until `report`.
        let ended = unsafe {
            exchange(
                self.door.as_raw_fd(),
                &self.limits,
                message,
                &borrowed[..many],
                self.memory.reply(job.slot),
                self.memory.reply_room(),
            )
        };
        let (ended, descriptors) = match ended {
            Ok((status, len, descriptors)) => (Ok((status, len)), descriptors),
            Err(error) => (Err(error), Descriptors::default()),
        };
        let (outcome, told) = outcome_of(ended, self.memory.geometry.reply_size);
        if let Some(needed) = told {
            // As a handler says it.
            let bytes = (needed as u64).to_le_bytes();
            // SAFETY: the slot's reply has a page at least, and is this thread's until `report`.
            unsafe {
                ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    self.memory.reply(job.slot).as_ptr(),
                    bytes.len(),
                );
            }
        }
        let descriptors = if self.takes_descriptors {
            descriptors
        } else {
            Descriptors::default()
        };
        (outcome, descriptors)
    }

    /// Something to fill an array of borrowed descriptors with, never sent.
    fn door_as_placeholder(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.door.as_fd()
    }

    fn report(&self, slot: u32, outcome: Outcome, descriptors: Descriptors, news: PeerState) {
        let mut state = self.lock();
        // A living door that lost one call (its thread has ended) goes on: only that call has failed.
        let outcome = match outcome {
            Outcome::Lost(CallError::MayHaveRun) if news == PeerState::Serving => {
                Outcome::Replied {
                    status: Status::FAULT,
                    len: 0,
                }
            }
            other => other,
        };
        state.peer = worse(state.peer, news);
        state.ended.push_back(Ended {
            slot,
            outcome,
            descriptors,
        });
        let ring = std::mem::replace(&mut state.waiting, false);
        drop(state);
        if news != PeerState::Serving {
            self.news.ring();
        }
        if ring {
            self.bell.ring();
        }
    }
}

/// A door that was revoked is never taken for a serving one again, nor a dead one for a living one.
pub fn worse(a: PeerState, b: PeerState) -> PeerState {
    match (a, b) {
        (PeerState::Gone, _) | (_, PeerState::Gone) => PeerState::Gone,
        (PeerState::Revoked, _) | (_, PeerState::Revoked) => PeerState::Revoked,
        (PeerState::Serving, PeerState::Serving) => PeerState::Serving,
    }
}

/// What the event loop is told of a call, and the size of a reply that is too large for its slot. What the
/// door refused for ever is an answer too, without bytes.
pub fn outcome_of(
    ended: Result<(Status, usize), CallError>,
    reply_size: usize,
) -> (Outcome, Option<usize>) {
    let too_big = |needed: usize| {
        let outcome = Outcome::Replied {
            status: Status::REPLY_TOO_BIG,
            len: size_of::<u64>(),
        };
        (outcome, Some(needed))
    };
    let status = match ended {
        // The server is another one than that which said hello.
        Ok((WRONG_VERSION, _)) => return (Outcome::Lost(CallError::NotAccepted), None),
        Ok((status, len)) if len <= reply_size => return (Outcome::Replied { status, len }, None),
        Ok((_, needed)) | Err(CallError::ReplyTooBig { needed }) => return too_big(needed),
        Err(error @ (CallError::NotAccepted | CallError::MayHaveRun | CallError::TimedOut)) => {
            return (Outcome::Lost(error), None);
        }
        Err(CallError::Refused(limit)) => match limit {
            Limit::DataMin => Status::DATA_MIN,
            Limit::DataMax | Limit::Stack => Status::DATA_MAX,
            Limit::Descriptors => Status::DESCRIPTORS,
            Limit::ServerDescriptors => Status::DESCRIPTORS_LOST,
            Limit::Accept => Status::NOT_ACCEPTED,
        },
        // `exchange` does not say these.
        Err(CallError::Full | CallError::Fault | CallError::Streamed) => Status::FAULT,
    };
    (Outcome::Replied { status, len: 0 }, None)
}

impl Sent {
    pub fn iter(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.0.iter().flatten().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_larger_than_its_slot_is_told_as_such() {
        assert_eq!(
            outcome_of(Ok((Status::OK, 4096)), 4096),
            (
                Outcome::Replied {
                    status: Status::OK,
                    len: 4096
                },
                None
            )
        );
        let too_big = Outcome::Replied {
            status: Status::REPLY_TOO_BIG,
            len: 8,
        };
        assert_eq!(
            outcome_of(Ok((Status::OK, 4097)), 4096),
            (too_big, Some(4097))
        );
        assert_eq!(
            outcome_of(Err(CallError::ReplyTooBig { needed: 9000 }), 4096),
            (too_big, Some(9000))
        );
    }

    #[test]
    fn only_what_the_peer_did_makes_a_call_lost() {
        assert_eq!(
            outcome_of(Err(CallError::NotAccepted), 4096),
            (Outcome::Lost(CallError::NotAccepted), None)
        );
        assert_eq!(
            outcome_of(Err(CallError::MayHaveRun), 4096),
            (Outcome::Lost(CallError::MayHaveRun), None)
        );
        assert_eq!(
            outcome_of(Err(CallError::Refused(Limit::DataMax)), 4096),
            (
                Outcome::Replied {
                    status: Status::DATA_MAX,
                    len: 0
                },
                None
            )
        );
    }

    #[test]
    fn a_door_never_gets_better() {
        let states = [PeerState::Serving, PeerState::Revoked, PeerState::Gone];
        for (i, a) in states.into_iter().enumerate() {
            for (j, b) in states.into_iter().enumerate() {
                assert_eq!(worse(a, b), states[i.max(j)]);
            }
        }
    }
}
