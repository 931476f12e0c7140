//! The event loop's caller over native doors: one small thread per slot, each in `door_call` or asleep, and
//! an eventfd.
//!
//! The loop and the threads share one lock, held for a few assignments at a time. Nothing is allocated once
//! the client exists. A slot's bytes belong to the loop while it fills them or reads the reply, and to one
//! thread in between; the lock hands them over.

use crate::calling::{Ended, Job, Outcome, Sent, Shared, State, worse};
use crate::found::{CALLER_STACK, Found, find, peer_state};
use crate::slot_memory::Memory;
use crate::wire::{HEADER_LEN, Header, Purpose};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Condvar, Mutex};
use transom_doors::back_end::slots::{Phase, Slots};
use transom_doors::{
    Bell, CallError, ChannelGeometry, ChannelMemory, Completion, DESCRIPTORS_MAX, Descriptors,
    Kind, Limit, Limits, OpenError, OpenOptions, Patience, PeerState, RemoteDoor, SlotId, Withdraw,
};

/// One caller of a door: owned by one thread at a time.
#[derive(Debug)]
pub struct AsyncClient {
    shared: Arc<Shared>,
    slots: Slots,
    /// Calls that `flush` will hand to the threads.
    staged: VecDeque<Job>,
    /// Calls that have no reply, to be told.
    lost: VecDeque<(u32, CallError)>,
    /// Bytes of the request in each slot.
    request_len: Box<[usize]>,
    outstanding: usize,
    peer: PeerState,
    /// The door, if it is another process's.
    found: Option<Found>,
    /// Descriptors that came with the reply in each slot.
    parcels: Box<[Descriptors]>,
}

/// What a channel needs and the system does not give.
#[derive(Debug)]
pub(crate) struct Missing {
    /// What was tried with the door.
    pub doing: &'static str,
    pub source: io::Error,
}

fn missing(doing: &'static str) -> impl Fn(io::Error) -> Missing {
    move |source| Missing { doing, source }
}

impl AsyncClient {
    /// Opens the door at `path`. Blocks for at most `options.timeout` or so, and starts one thread per slot.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let found = find(path, options)?;
        Self::to(found, options.take_descriptors).map_err(|missing| OpenError::System {
            path: path.to_owned(),
            doing: missing.doing,
            source: missing.source,
        })
    }

    /// A caller of a door that was opened, in memory of its own.
    pub(crate) fn to(found: Found, takes_descriptors: bool) -> Result<Self, Missing> {
        let memory = Memory::map(found.geometry).map_err(missing("map a channel for"))?;
        let door = Arc::clone(&found.door);
        let limits = found.remote.limits;
        Self::with_memory(door, memory, limits, Some(found), takes_descriptors)
    }

    /// A caller in memory that was handed over for ever and fits the geometry, for the door's own process.
    pub(crate) fn in_process(
        door: OwnedFd,
        geometry: ChannelGeometry,
        memory: &ChannelMemory,
        limits: Limits,
    ) -> Result<Self, Missing> {
        let memory = Memory::given(geometry, memory);
        Self::with_memory(Arc::new(door), memory, limits, None, true)
    }

    fn with_memory(
        door: Arc<OwnedFd>,
        memory: Memory,
        limits: Limits,
        found: Option<Found>,
        takes_descriptors: bool,
    ) -> Result<Self, Missing> {
        let slots = memory.geometry.slots;
        let many = slots as usize;
        let shared = Arc::new(Shared {
            door,
            memory,
            limits,
            takes_descriptors,
            state: Mutex::new(State {
                jobs: VecDeque::with_capacity(many),
                ended: VecDeque::with_capacity(many),
                waiting: false,
                stop: false,
                peer: PeerState::Serving,
            }),
            work: Condvar::new(),
            bell: Bell::new().map_err(missing("make a doorbell for"))?,
            news: Bell::new().map_err(missing("make a doorbell for"))?,
        });
        // The client is made first: if a thread cannot be started, dropping it ends the others.
        let client = Self {
            shared: Arc::clone(&shared),
            slots: Slots::new(slots, 0),
            staged: VecDeque::with_capacity(many),
            lost: VecDeque::with_capacity(many),
            request_len: vec![0; many].into_boxed_slice(),
            outstanding: 0,
            peer: PeerState::Serving,
            found,
            parcels: (0..slots).map(|_| Descriptors::default()).collect(),
        };
        for index in 0..slots {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("door-caller-{index}"))
                .stack_size(CALLER_STACK)
                .spawn(move || shared.call_until_stopped())
                .map_err(missing("start a thread to call"))?;
        }
        Ok(client)
    }

    /// The channel's geometry.
    pub fn geometry(&self) -> ChannelGeometry {
        self.shared.memory.geometry
    }

    /// A free slot, to be filled. `None`: all are in use.
    pub fn reserve(&mut self) -> Option<SlotId> {
        let slot = self.slots.reserve()?;
        self.request_len[slot.index()] = 0;
        Some(slot)
    }

    /// Slots that `reserve` can still give.
    pub fn free_slots(&self) -> usize {
        self.slots.count_free()
    }

    /// Slots that were lost with their calls: none, because a native call takes no slot of its caller with
    /// it.
    pub fn lost_slots(&self) -> u32 {
        self.slots.count_lost()
    }

    /// Slots that are free or in use: all.
    pub fn usable_slots(&self) -> usize {
        self.slots.count_usable()
    }

    /// Calls whose reply has not been drained: staged, waiting, running or abandoned.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The bytes of the request, to be filled before `submit`.
    ///
    /// # Panics
    /// If the slot is not being filled.
    pub fn request_mut(&mut self, slot: SlotId) -> &mut [u8] {
        self.request_tail_mut(slot, 0)
    }

    /// The same from an offset on.
    ///
    /// # Panics
    /// If the slot is not being filled, or is shorter than `from`.
    pub fn request_tail_mut(&mut self, slot: SlotId, from: usize) -> &mut [u8] {
        self.assert_filling(slot);
        let size = self.geometry().request_size;
        assert!(from <= size, "a slot of {size} bytes has none at {from}");
        let bytes = self.shared.memory.request(slot.index() as u32);
        // SAFETY: inside the slot's initialised bytes; while it is being filled no thread knows of it.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr().add(from), size - from) }
    }

    /// The bytes of a request that was submitted and not accepted, as long as its slot is not released.
    ///
    /// # Panics
    /// If the slot is not being filled.
    pub fn request(&self, slot: SlotId) -> &[u8] {
        self.assert_filling(slot);
        let bytes = self.shared.memory.request(slot.index() as u32);
        // SAFETY: as for `request_tail_mut`; `submit` has checked the length.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr(), self.request_len[slot.index()]) }
    }

    /// Stages the call: `len` bytes of the request, and a deadline on `CLOCK_MONOTONIC` in nanoseconds (0:
    /// none) that travels to the handler. It is made at `flush`.
    ///
    /// # Panics
    /// If the slot is not being filled, or `len` is more than it holds.
    pub fn submit(&mut self, slot: SlotId, len: usize, deadline_ns: u64) {
        self.stage(slot, len, deadline_ns, Sent::default());
    }

    /// As [`submit`](Self::submit), and sends duplicates of descriptors along, which the handler owns.
    ///
    /// # Errors
    /// The door refuses descriptors, or takes fewer, or this process has no room for the duplicates: the slot
    /// is still being filled.
    pub fn submit_with(
        &mut self,
        slot: SlotId,
        len: usize,
        deadline_ns: u64,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), CallError> {
        let most = DESCRIPTORS_MAX.min(self.shared.limits.descriptors_max as usize);
        if descriptors.len() > most {
            return Err(CallError::Refused(Limit::Descriptors));
        }
        let mut sent = Sent::default();
        for (place, descriptor) in sent.0.iter_mut().zip(descriptors) {
            *place = Some(
                descriptor
                    .try_clone_to_owned()
                    .map_err(|_| CallError::Full)?,
            );
        }
        self.stage(slot, len, deadline_ns, sent);
        Ok(())
    }

    fn stage(&mut self, slot: SlotId, len: usize, deadline_ns: u64, descriptors: Sent) {
        self.assert_filling(slot);
        let geometry = self.geometry();
        let size = geometry.request_size;
        assert!(len <= size, "a request of {len} bytes in a slot of {size}");
        let header = Header {
            purpose: Purpose::Call,
            deadline_ns,
            reply_max: geometry.reply_size as u64,
        }
        .encode();
        let message = self.shared.memory.message(slot.index() as u32);
        // SAFETY: HEADER_LEN bytes before the slot's request, which is ours while it is being filled.
        unsafe { ptr::copy_nonoverlapping(header.as_ptr(), message.as_ptr(), HEADER_LEN) };
        self.request_len[slot.index()] = len;
        self.slots[slot.index()].phase = Phase::Submitted;
        self.outstanding += 1;
        self.staged.push_back(Job {
            slot: slot.index() as u32,
            len: HEADER_LEN + len,
            descriptors,
        });
    }

    /// Whether there are calls that `flush` would publish.
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Hands the staged calls to the threads.
    ///
    /// # Errors
    /// [`CallError::NotAccepted`]: the door was revoked or is gone; [`next_lost`](Self::next_lost) tells
    /// which calls were not accepted, among them earlier ones that found it so.
    pub fn flush(&mut self) -> Result<(), CallError> {
        if self.peer == PeerState::Serving && !self.staged.is_empty() {
            let mut state = self.shared.lock();
            self.peer = state.peer;
            if self.peer == PeerState::Serving {
                let calls = self.staged.len();
                state.jobs.append(&mut self.staged);
                drop(state);
                for _ in 0..calls {
                    self.shared.work.notify_one();
                }
            }
        }
        for job in self.staged.drain(..) {
            self.lost.push_back((job.slot, CallError::NotAccepted));
        }
        if self.lost.is_empty() {
            Ok(())
        } else {
            Err(CallError::NotAccepted)
        }
    }

    /// Takes back a call that no thread has taken up. A slot that is being filled counts as withdrawn.
    pub fn withdraw(&mut self, slot: SlotId) -> Withdraw {
        match self.phase(slot) {
            Phase::Filling => Withdraw::Withdrawn,
            Phase::Submitted if self.unsubmit(slot) => {
                self.slots[slot.index()].phase = Phase::Filling;
                self.outstanding -= 1;
                Withdraw::Withdrawn
            }
            _ => Withdraw::Claimed,
        }
    }

    /// Gives up a call, whatever it is doing. If it is under way, its slot stays in quarantine until it has
    /// ended. The `SlotId` is not valid any more.
    pub fn abandon(&mut self, slot: SlotId) {
        match self.phase(slot) {
            Phase::Submitted if self.unsubmit(slot) => {
                self.outstanding -= 1;
                self.free(slot.index() as u32);
            }
            Phase::Submitted => self.slots[slot.index()].phase = Phase::Abandoned,
            _ => self.free(slot.index() as u32),
        }
    }

    /// Tries to take a call out of the threads' sight.
    fn unsubmit(&mut self, slot: SlotId) -> bool {
        let given_back = (slot.index() as u32, CallError::NotAccepted);
        if let Some(at) = self.lost.iter().position(|lost| *lost == given_back) {
            self.lost.remove(at);
            return true;
        }
        let mut state = self.shared.lock();
        for jobs in [&mut self.staged, &mut state.jobs] {
            if let Some(at) = jobs.iter().position(|job| job.slot == slot.index() as u32) {
                // Dropping the job closes its descriptors.
                jobs.remove(at);
                return true;
            }
        }
        false
    }

    /// The next reply, if there is one.
    pub fn next_completion(&mut self) -> Option<(SlotId, Completion)> {
        loop {
            let Ended {
                slot: index,
                outcome,
                descriptors,
            } = {
                let mut state = self.shared.lock();
                self.peer = state.peer;
                state.ended.pop_front()?
            };
            if self.slots[index as usize].phase == Phase::Abandoned {
                self.outstanding -= 1;
                self.free(index);
                continue;
            }
            match outcome {
                Outcome::Replied { status, len } => {
                    self.outstanding -= 1;
                    let slot = &mut self.slots[index as usize];
                    slot.phase = Phase::Replied;
                    slot.reply_len = len;
                    self.parcels[index as usize] = descriptors;
                    let completion = Completion {
                        status,
                        len,
                        kind: Kind::Final,
                    };
                    return Some((self.slots.id(index), completion));
                }
                Outcome::Lost(error) => self.lost.push_back((index, error)),
            }
        }
    }

    /// Calls `f` with every reply that is there.
    pub fn drain(&mut self, mut f: impl FnMut(SlotId, Completion)) {
        while let Some((slot, completion)) = self.next_completion() {
            f(slot, completion);
        }
    }

    /// A call that will have no reply; each is told once, after the completions have been drained.
    /// [`CallError::NotAccepted`]: its slot is being filled again, so its request can be read with
    /// [`request`](Self::request), then `release` it. [`CallError::MayHaveRun`]: its slot is free again and
    /// the id not valid any more.
    pub fn next_lost(&mut self) -> Option<(SlotId, CallError)> {
        loop {
            let (index, error) = self.lost.pop_front()?;
            self.outstanding -= 1;
            let id = self.slots.id(index);
            let slot = &mut self.slots[index as usize];
            if slot.phase == Phase::Abandoned {
                self.free(index);
                continue;
            }
            if error == CallError::NotAccepted {
                slot.phase = Phase::Filling;
            } else {
                self.free(index);
            }
            return Some((id, error));
        }
    }

    /// The bytes of the reply that `drain` has told of, until `release`. They are this process' own: the
    /// kernel has copied them here.
    ///
    /// # Panics
    /// If the slot has no reply.
    pub fn reply(&self, slot: SlotId) -> &[u8] {
        // SAFETY: the bytes are initialised (zeroed, then written by the kernel), and after its call no
        // thread touches the slot until it is submitted again, which needs `&mut self`.
        unsafe { self.reply_bytes(slot).as_ref() }
    }

    /// Copies the bytes of the reply from offset `from` on into `into`, as many as fit, and returns how many.
    ///
    /// # Panics
    /// If the slot has no reply.
    pub fn copy_reply(&self, slot: SlotId, from: usize, into: &mut [u8]) -> usize {
        let rest = self.reply(slot).get(from..).unwrap_or(&[]);
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        len
    }

    /// Where the reply lies, to be handed to a system call. Valid until `release`.
    ///
    /// # Panics
    /// If the slot has no reply.
    pub fn reply_bytes(&self, slot: SlotId) -> NonNull<[u8]> {
        let phase = self.phase(slot);
        assert!(
            phase == Phase::Replied,
            "{slot:?} is {phase:?}: it has no reply"
        );
        let bytes = self.shared.memory.reply(slot.index() as u32);
        NonNull::slice_from_raw_parts(bytes, self.slots[slot.index()].reply_len)
    }

    /// For a caller that is written for interim replies too; a native door has none.
    ///
    /// # Panics
    /// Always.
    pub fn resume(&mut self, slot: SlotId, request_len: usize) {
        let phase = self.phase(slot);
        panic!("{slot:?} is {phase:?}: only an interim reply is resumed, with {request_len} bytes");
    }

    /// Frees a slot whose reply has been read, or that was never submitted.
    ///
    /// # Panics
    /// If the call is under way: `abandon` is for that.
    pub fn release(&mut self, slot: SlotId) {
        let phase = self.phase(slot);
        assert!(
            matches!(phase, Phase::Replied | Phase::Filling),
            "{slot:?} is {phase:?}: abandon it instead"
        );
        self.free(slot.index() as u32);
    }

    /// The doorbell: register it with `EPOLLIN | EPOLLET`; it never needs reading.
    pub fn as_raw_fd(&self) -> RawFd {
        self.shared.bell.as_raw_fd()
    }

    /// This client's doorbell, for other threads of this process.
    pub fn bell(&self) -> Option<Bell> {
        Some(self.shared.bell.clone())
    }

    /// What is known of a door in another process; `None` in-process. `revoked` is asked now.
    pub fn door(&self) -> Option<RemoteDoor> {
        self.found.as_ref().map(Found::remote_now)
    }

    /// Does nothing: only this process's own threads ring the doorbell.
    pub fn note_ring(&mut self, useful: bool) {
        let _ = useful;
    }

    /// The descriptors that came with a reply.
    ///
    /// # Panics
    /// If the slot has no reply.
    pub fn take_descriptors(&mut self, slot: SlotId) -> Descriptors {
        let _ = self.reply_bytes(slot);
        std::mem::take(&mut self.parcels[slot.index()])
    }

    /// A descriptor that becomes readable when a call has found the door revoked or dead. A door without
    /// calls cannot be watched: ask [`check_peer`](Self::check_peer) now and then. Register it with
    /// `EPOLLIN | EPOLLET`.
    pub fn peer_fd(&self) -> Option<RawFd> {
        Some(self.shared.news.as_raw_fd())
    }

    /// Looks at what the other side does. Unless it is [`PeerState::Serving`], drain the completions that are
    /// there, then [`next_lost`](Self::next_lost) until it is empty.
    pub fn check_peer(&mut self) -> PeerState {
        let seen = peer_state(self.shared.door.as_raw_fd());
        let mut state = self.shared.lock();
        state.peer = worse(state.peer, seen);
        self.peer = state.peer;
        self.peer
    }

    /// What was last known of the other side, without looking.
    pub fn peer_state(&self) -> PeerState {
        self.peer
    }

    /// Announces that the caller goes to sleep in `epoll_wait`. `true`: sleep. `false`: there are replies,
    /// drain them first. Every reply rings here, whatever the patience.
    pub fn prepare_wait(&mut self, patience: Patience) -> bool {
        let _ = patience;
        let mut state = self.shared.lock();
        state.waiting = state.ended.is_empty();
        state.waiting
    }

    /// After `epoll_wait`: no doorbells while we are awake.
    pub fn woke(&mut self) {
        self.shared.lock().waiting = false;
    }

    /// Whether flushed calls wait for a thread of this client. Calls that wait for a door server thread are
    /// the kernel's.
    pub fn backlog(&self) -> bool {
        !self.shared.lock().jobs.is_empty()
    }

    /// Does nothing: the kernel hands each call to a door server thread as soon as one is free.
    pub fn nudge(&mut self) -> bool {
        false
    }

    #[cfg(test)]
    pub(crate) fn lost_len(&self) -> usize {
        self.lost.len()
    }

    fn free(&mut self, index: u32) {
        self.parcels[index as usize] = Descriptors::default();
        self.slots.free(index);
    }

    fn assert_filling(&self, slot: SlotId) {
        let phase = self.phase(slot);
        assert!(
            phase == Phase::Filling,
            "{slot:?} is {phase:?}: its request is not ours"
        );
    }

    fn phase(&self, id: SlotId) -> Phase {
        self.slots.phase(id)
    }
}

impl Drop for AsyncClient {
    /// Ends the threads: those that wait now, those inside a call when it has ended. They are not waited for,
    /// and keep what they need.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        state.jobs.clear();
        drop(state);
        self.shared.work.notify_all();
    }
}
