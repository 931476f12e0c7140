//! What is forwarded, as a forward's thread and its door see it: connections or datagrams.

use std::os::fd::RawFd;
use std::path::Path;
use transom_doors::{AsyncClient, CallError, Completion, SlotId};

/// What is forwarded: connections or datagrams.
pub(super) trait Traffic {
    /// What is known of one call.
    type Call;

    /// The socket that more of them come from.
    fn socket(&self) -> RawFd;

    /// Why this door cannot take them.
    fn objection(client: &AsyncClient) -> Option<&'static str>;

    /// Takes one from the socket and writes its frame, of so many bytes.
    fn receive(&mut self, frame: &mut [u8]) -> Result<(Self::Call, usize), Taken>;

    /// Takes one from the socket and drops it: the door has been away for too long, or has no slot left.
    fn discard(&mut self) -> Taken;

    /// How many there may be at once, beside the slots of the door.
    fn most(&self) -> usize;

    /// Looks at a call that has begun, at its time.
    fn look_at(&mut self, call: &mut Self::Call, now_ns: u64) -> Look;

    /// When a call that begins now is first looked at.
    fn first_look_ns(&self, now_ns: u64) -> u64;

    /// How many there are beside the calls, which count among them.
    fn leaving(&self) -> usize {
        0
    }

    /// Looks at those once it is time; `is_full`: others may wait for their places. When to look again;
    /// `u64::MAX` for never.
    fn see_off(&mut self, _is_full: bool, _now_ns: u64) -> u64 {
        u64::MAX
    }

    /// There may be no more at once, and some may wait.
    fn note_full(&mut self, forward: &str, count: usize, now_ns: u64);

    /// When a call submitted now must have been answered; 0 for never.
    fn due_ns(&self, now_ns: u64) -> u64;

    /// Submits a call whose frame lies in its slot.
    fn submit(
        &self,
        client: &mut AsyncClient,
        slot: SlotId,
        len: usize,
        due_ns: u64,
        call: &Self::Call,
    ) -> Result<(), CallError>;

    /// The call has ended. Whether the application knows what to do with such calls.
    fn complete(
        &mut self,
        call: Self::Call,
        client: &AsyncClient,
        slot: SlotId,
        completion: Completion,
    ) -> bool;

    /// The end of the call will not be heard of.
    fn lose(&mut self, call: Self::Call, why: Loss);

    /// A call that was not accepted goes to another instance.
    fn count_resent(&mut self);

    /// Nothing more comes.
    fn stop_receiving(&mut self);

    /// Says what was done.
    fn summarise(&self, forward: &str, door: &Path);
}

/// What came of taking something from a socket.
pub(super) enum Taken {
    /// A call, or something that is none; there may be more.
    One,
    /// Nothing is there.
    Nothing,
    /// The system has no descriptors or memory: later.
    Exhausted,
}

/// What is to be done about a call that was looked at.
pub(super) enum Look {
    /// It is looked at again then; `u64::MAX` for never.
    Again(u64),
    /// It is given up: it is of no use any more.
    GiveUp,
}

/// Why a call has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its deadline passed, or it waited too long for its door.
    Late,
    /// The application died while it ran.
    MayHaveRun,
    /// No instance has accepted it, nor will.
    NotAccepted,
    /// Its client has gone, and its handler has not returned.
    ClientHasGone,
    /// The door is opened again too often for its end to be heard of.
    LetGo,
    /// The drain has ended before it.
    Cut,
}
