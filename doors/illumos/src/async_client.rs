//! The event loop's caller over native doors: one small thread per slot, each in `door_call` or asleep, and
//! an eventfd.
//!
//! The loop and the threads share one lock, held for a few assignments at a time. Nothing is allocated after
//! the client is there. A slot's bytes belong to the loop while it fills them or reads the reply, and to one
//! thread in between; the lock hands them over.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::WRONG_VERSION;
use crate::client::{Found, block_signals, exchange, find, peer_state};
use crate::wire::{HEADER_LEN, Header, Purpose, STRIDE_EXTRA};
use transom_doors::back_end::slots::{Phase, Slots};
use transom_doors::{
    Bell, CallError, ChannelGeometry, ChannelMemory, Completion, DESCRIPTORS_MAX, Descriptors,
    Kind, Limit, Limits, OpenError, OpenOptions, Patience, PeerState, RemoteDoor, SlotId, Status,
    Withdraw,
};

/// The stack of a thread that only calls: its frames are a few hundred bytes.
pub(crate) const CALLER_STACK: usize = 64 << 10;

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

#[derive(Debug)]
struct Shared {
    door: Arc<OwnedFd>,
    memory: Memory,
    limits: Limits,
    takes_descriptors: bool,
    state: Mutex<State>,
    work: Condvar,
    bell: Bell,
    /// Rings when a call has found the door revoked or dead.
    news: Bell,
}

#[derive(Debug)]
struct State {
    jobs: VecDeque<Job>,
    ended: VecDeque<Ended>,
    /// The loop sleeps, and wants the bell.
    waiting: bool,
    stop: bool,
    peer: PeerState,
}

/// A call for a thread to make.
#[derive(Debug)]
struct Job {
    slot: u32,
    /// Bytes of header and request.
    len: usize,
    descriptors: Sent,
}

/// Duplicates of descriptors that are closed after the call. An array: the loop does not allocate.
#[derive(Debug, Default)]
struct Sent([Option<OwnedFd>; DESCRIPTORS_MAX]);

/// How a call has ended.
#[derive(Debug)]
struct Ended {
    slot: u32,
    outcome: Outcome,
    descriptors: Descriptors,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Replied { status: Status, len: usize },
    Lost(CallError),
}

/// Where the slots' bytes lie.
#[derive(Debug)]
struct Memory {
    geometry: ChannelGeometry,
    base: NonNull<u8>,
    /// Bytes to unmap at the end; 0 for memory that was handed over for ever.
    mapped: usize,
}

// SAFETY: plain addresses of memory that lives as long as the value; who touches which slot is settled by the
// lock.
unsafe impl Send for Memory {}
// SAFETY: as for Send; a shared reference gives out addresses only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Fresh memory for a channel of this geometry.
    fn map(geometry: ChannelGeometry) -> io::Result<Self> {
        let mapped = geometry.memory_len();
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that exists.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        match NonNull::new(base.cast()) {
            Some(base) if base.as_ptr() != libc::MAP_FAILED.cast() => Ok(Self {
                geometry,
                base,
                mapped,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Memory that was handed over; its owner has checked that it is as long as the geometry says.
    fn given(geometry: ChannelGeometry, memory: &ChannelMemory) -> Self {
        Self {
            geometry,
            base: memory.bytes().cast(),
            mapped: 0,
        }
    }

    /// Where the header of `slot` is; its request follows.
    fn message(&self, slot: u32) -> NonNull<u8> {
        let stride = STRIDE_EXTRA + self.geometry.request_size;
        let at = slot as usize * stride + STRIDE_EXTRA - HEADER_LEN;
        // SAFETY: the slots' strides fit the requests' part of the memory, which a test of `wire` holds.
        unsafe { self.base.add(at) }
    }

    fn request(&self, slot: u32) -> NonNull<u8> {
        // SAFETY: inside the slot's stride.
        unsafe { self.message(slot).add(HEADER_LEN) }
    }

    /// Where the reply of `slot` is; its trailer follows.
    fn reply(&self, slot: u32) -> NonNull<u8> {
        let at = self.geometry.requests_len() + slot as usize * self.reply_room();
        // SAFETY: as for `message`, in the replies' part, which comes after the requests'.
        unsafe { self.base.add(at) }
    }

    fn reply_room(&self) -> usize {
        self.geometry.reply_size + STRIDE_EXTRA
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.mapped != 0 {
            // SAFETY: the mapping is ours, and nobody has an address in it any more: clients and threads keep
            // this value.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
        }
    }
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
        // The client first: if a thread cannot be started, dropping it ends the others.
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

    /// Slots that were lost with their calls: none, because a native call takes no slot of its caller's with
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

    /// Nothing comes of it: the doorbell is rung by this process's own threads alone.
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

    /// A descriptor that becomes readable when a call has found the door revoked or dead. A door that nobody
    /// calls cannot be watched: ask [`check_peer`](Self::check_peer) now and then. Register it with
    /// `EPOLLIN | EPOLLET`.
    pub fn peer_fd(&self) -> Option<RawFd> {
        Some(self.shared.news.as_raw_fd())
    }

    /// Looks what the other side does. Unless it is [`PeerState::Serving`], drain the completions that are
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

    /// There is nobody to be nudged: the kernel hands each call to a door server thread as soon as one is
    /// free.
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
    /// Ends the threads: those that wait now, those inside a call when it has ended. Nobody waits for them;
    /// they keep what they need.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        state.jobs.clear();
        drop(state);
        self.shared.work.notify_all();
    }
}

impl Shared {
    /// No code that holds the lock can panic between two states, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a caller's thread.
    fn call_until_stopped(&self) {
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
        // A living door that lost one call (its thread has ended) goes on: that call alone has failed.
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
fn worse(a: PeerState, b: PeerState) -> PeerState {
    match (a, b) {
        (PeerState::Gone, _) | (_, PeerState::Gone) => PeerState::Gone,
        (PeerState::Revoked, _) | (_, PeerState::Revoked) => PeerState::Revoked,
        (PeerState::Serving, PeerState::Serving) => PeerState::Serving,
    }
}

/// What the event loop is told of a call, and the size of a reply that is too large for its slot. What the
/// door refused for good is an answer too, without bytes.
fn outcome_of(
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
    fn iter(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
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

    #[test]
    fn the_slots_of_a_channel_do_not_overlap() {
        let geometry = ChannelGeometry {
            slots: 65,
            spares: 0,
            request_size: 4096,
            reply_size: 8192,
        };
        let memory = Memory::map(geometry).expect("memory");
        let start = memory.base.as_ptr() as usize;
        let mut end = start;
        for slot in 0..65 {
            assert!(memory.message(slot).as_ptr() as usize >= end);
            end = memory.request(slot).as_ptr() as usize + geometry.request_size;
        }
        assert!(end <= memory.reply(0).as_ptr() as usize);
        for slot in 0..65 {
            assert!(memory.reply(slot).as_ptr() as usize >= end);
            end = memory.reply(slot).as_ptr() as usize + memory.reply_room();
        }
        assert!(end <= start + geometry.memory_len());
    }
}
