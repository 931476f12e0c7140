//! What a channel to another process has beyond its words: which process that is, what is believed of it, and
//! when it is given up.
//!
//! The truth about a call is kept here, in private memory; the channel's words are checked against it. A lie
//! ends the channel and nothing else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::back_end::bell::Bell;
use crate::between::hello::Message;
use crate::between::parcels::Parcels;
use crate::between::socket::{self, Due, Heard, PeerSocket};
use crate::memory::mapping::Mapping;
use crate::rules::sync::{AtomicU32, Ordering};
use crate::values::descriptors::Descriptors;
use crate::values::geometry::ChannelGeometry;
use crate::values::peer::Credentials;
use crate::values::refusal::Lie;
use std::sync::atomic::AtomicBool;

/// How often a socket is read for what was sent before: together more messages than its buffer holds.
pub const BATCHES: usize = 16;

/// Messages taken from one socket at a time: a client that sends many does not keep a thread from the others.
const MESSAGES: usize = 64;

/// A client's request to look after its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Nudge {
    /// It could not wake a thread for certain.
    Unsure = 1,
    /// Its calls have waited for long.
    Stuck = 2,
}

const OPEN: u32 = 0;
/// The client has left, or the door has given it up. Smaller numbers are lies.
const LEFT: u32 = u32::MAX;

/// The other process.
#[derive(Debug)]
pub struct Link {
    pub credentials: Credentials,
    pub socket: PeerSocket,
    /// Rings the porter.
    porter: Bell,
    /// How many descriptors a call may have.
    descriptors_max: usize,
    /// Calls wait, and the client could wake no thread.
    nudged: AtomicU32,
    /// Descriptors lie in the socket for which this process has no room.
    blocked: AtomicBool,
    /// Held from taking a message out of the socket until it has been acted on. Otherwise a thread that looks
    /// for a parcel may find neither it nor its message, because another thread is handling it.
    reading: Mutex<()>,
    /// By slot: one more than the thread that has claimed its call and not answered it; 0: none. A lost
    /// call's stays.
    in_service: Box<[AtomicU32]>,
    closed: AtomicU32,
    /// Descriptors that came for calls that no thread has taken up yet.
    parcels: Mutex<Parcels>,
    /// Requests, replies, control.
    _mappings: [Mapping; 3],
}

impl Link {
    pub fn new(
        geometry: ChannelGeometry,
        credentials: Credentials,
        socket: PeerSocket,
        porter: Bell,
        descriptors_max: u32,
        mappings: [Mapping; 3],
    ) -> Self {
        Self {
            credentials,
            socket,
            porter,
            descriptors_max: descriptors_max as usize,
            nudged: AtomicU32::new(0),
            blocked: AtomicBool::new(false),
            reading: Mutex::new(()),
            in_service: (0..geometry.slots_in_all())
                .map(|_| AtomicU32::new(0))
                .collect(),
            closed: AtomicU32::new(OPEN),
            parcels: Mutex::new(Parcels::new(geometry.slots_in_all())),
            _mappings: mappings,
        }
    }

    /// Notes that `thread` serves the call in `slot`; false if one is being served already, or was lost
    /// there.
    pub fn begin_service(&self, slot: u32, thread: u32) -> bool {
        self.in_service[slot as usize]
            .compare_exchange(0, thread + 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Before the reply is published: from then on the client may submit the next call.
    pub fn end_service(&self, slot: u32) {
        self.in_service[slot as usize].store(0, Ordering::Release);
    }

    /// Whether `thread` has claimed a call in `slot` and not answered it.
    pub fn is_in_service(&self, slot: u32, thread: u32) -> bool {
        self.in_service[slot as usize].load(Ordering::Acquire) == thread + 1
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) != OPEN
    }

    /// The client has left.
    pub fn close(&self) {
        let _ = self
            .closed
            .compare_exchange(OPEN, LEFT, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Which descriptors may come with a message.
    fn due(&self) -> Due {
        match self.descriptors_max {
            0 => Due::None,
            most => Due::AtMost(most),
        }
    }

    /// Takes what is left in the socket of a client that has left, and gives up the descriptors that came
    /// with it.
    pub fn discard(&self) {
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..MESSAGES * 16 {
            let Heard::Message(..) = socket::hear(&self.socket, self.due()) else {
                return;
            };
        }
    }

    /// Whether descriptors lie in the socket for which this process has no room.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }

    /// The client has lied: the porter shall put it out.
    pub fn poison(&self, lie: Lie) {
        if self
            .closed
            .compare_exchange(OPEN, lie as u32, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            self.porter.ring();
        }
    }

    /// Why it was given up, if that was a lie.
    pub fn lie(&self) -> Option<Lie> {
        Lie::of(self.closed.load(Ordering::Acquire))
    }

    /// What the client has asked for since the last time.
    pub fn take_nudge(&self) -> Option<Nudge> {
        match self.nudged.swap(0, Ordering::AcqRel) {
            0 => None,
            1 => Some(Nudge::Unsure),
            _ => Some(Nudge::Stuck),
        }
    }

    fn parcels(&self) -> MutexGuard<'_, Parcels> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the descriptors of calls that no thread will take up.
    pub fn drop_parcels(&self) {
        self.parcels().clear();
    }

    /// The descriptors of a call, which were sent before it was submitted.
    pub fn take_parcel(&self, slot: u32, generation: u32) -> Option<Descriptors> {
        // They may still be in the socket: a thread that needs them reads it, after any that is reading.
        for _ in 0..BATCHES {
            if let Some(descriptors) = self.parcels().take(slot, generation) {
                return Some(descriptors);
            }
            if !self.receive() {
                break;
            }
        }
        self.parcels().take(slot, generation)
    }

    /// Takes what lies in the socket. Returns whether there may be more; closes at a hang-up.
    pub fn receive(&self) -> bool {
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..MESSAGES {
            let heard = socket::hear(&self.socket, self.due());
            self.blocked
                .store(matches!(heard, Heard::NoRoom), Ordering::Release);
            match heard {
                Heard::Message(Ok(Message::Nudge { stuck }), _) => {
                    let nudge = if stuck { Nudge::Stuck } else { Nudge::Unsure };
                    self.nudged.fetch_max(nudge as u32, Ordering::AcqRel);
                    self.porter.ring();
                }
                Heard::Message(Ok(Message::Parcel { slot, generation }), descriptors) => {
                    if !self.parcels().keep(slot, generation, descriptors) {
                        self.poison(Lie::Slot);
                    }
                }
                Heard::Message(..) => {
                    self.poison(Lie::Message);
                    return false;
                }
                // It knows the limit from the welcome.
                Heard::TooMany => {
                    self.poison(Lie::TooManyDescriptors);
                    return false;
                }
                Heard::Nothing | Heard::NoRoom => return false,
                Heard::End => {
                    self.close();
                    return false;
                }
            }
        }
        true
    }
}
