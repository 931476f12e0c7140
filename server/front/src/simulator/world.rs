//! The simulator as a [`World`]: each function asks the stage of its thread.

use super::caller::SimCaller;
use super::process::{Ground, Process};
use super::slots::Phase;
use super::stage::{number_of, system, with, with_any};
use crate::world::{Caller, Events, World};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::time::Duration;
use transom_doors::{
    CallError, ChannelGeometry, Completion, Patience, PeerState, RemoteDoor, SlotId, Withdraw,
};
use transom_net::ListenOptions;
use transom_wire::frame::REPLY_HEADER_LEN;

/// A second since 1970 at which the clock's 0 is taken to be.
const EPOCH: u64 = 1_700_000_000;

/// The simulated world of this thread.
pub(super) struct Simulated;

/// Its one epoll set.
pub(super) struct SimEvents;

fn send(fd: RawFd, bytes: &[u8], hold: bool) -> io::Result<usize> {
    system(|stage| {
        let ground = &mut stage.ground;
        let now = ground.clock.now_ns;
        let (at, socket) = ground.kernel.socket(fd);
        let result = socket.send(bytes, hold, now);
        socket.call_carrier(at, &mut ground.clock);
        let len = bytes.len();
        ground
            .clock
            .note(|| format!("socket {at} is sent {len} bytes, hold {hold}: {result:?}"));
        result
    })
}

fn receive(fd: RawFd, buffer: &mut [u8], peek: bool) -> io::Result<usize> {
    system(|stage| {
        let ground = &mut stage.ground;
        if !peek && ground.clock.once_in(ground.kernel.mishaps.interrupted) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (at, socket) = ground.kernel.socket(fd);
        let result = socket.receive(buffer, peek);
        ground
            .clock
            .note(|| format!("socket {at} is read, peek {peek}: {result:?}"));
        result
    })
}

impl World for Simulated {
    type Events = SimEvents;
    type Caller = SimCaller;

    fn now_ns() -> u64 {
        with(|stage| stage.ground.clock.now_ns)
    }

    fn unix_seconds() -> u64 {
        EPOCH + Self::now_ns() / 1_000_000_000
    }

    fn accept(listener: RawFd, _: ListenOptions) -> io::Result<(RawFd, Option<SocketAddr>)> {
        system(|stage| {
            let ground = &mut stage.ground;
            let at = ground.kernel.accept(listener, &mut ground.clock)?;
            ground.clock.note(|| format!("socket {at} is accepted"));
            Ok((number_of(at), Some(ground.kernel.sockets[at].peer)))
        })
    }

    fn is_readable(fd: RawFd) -> bool {
        system(|stage| stage.ground.kernel.is_readable(fd))
    }

    fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
        receive(fd, buffer, false)
    }

    fn peek(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
        receive(fd, buffer, true)
    }

    fn has_unread(fd: RawFd) -> bool {
        matches!(Self::peek(fd, &mut [0]), Ok(len) if len > 0)
    }

    fn send_and_hold(fd: RawFd, bytes: &[u8], hold: bool) -> io::Result<usize> {
        send(fd, bytes, hold)
    }

    fn send_all(fd: RawFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece.iter().copied())
            .collect();
        send(fd, &bytes, false)
    }

    unsafe fn send_places(fd: RawFd, pieces: &[NonNull<[u8]>]) -> io::Result<usize> {
        let mut bytes = Vec::new();
        for piece in pieces {
            // SAFETY: the caller's promise; one thread, so nothing writes there meanwhile.
            bytes.extend_from_slice(unsafe { piece.as_ref() });
        }
        send(fd, &bytes, false)
    }

    fn push(fd: RawFd) {
        system(|stage| {
            let ground = &mut stage.ground;
            let (at, _) = ground.kernel.socket(fd);
            ground.kernel.push(at, &mut ground.clock);
        });
    }

    fn not_taken(fd: RawFd) -> u64 {
        system(|stage| stage.ground.kernel.socket(fd).1.not_taken())
    }

    fn reset_at_close(fd: RawFd) {
        system(|stage| stage.ground.kernel.socket(fd).1.reset_at_close = true);
    }

    fn shutdown_write(fd: RawFd) {
        system(|stage| {
            let ground = &mut stage.ground;
            let now = ground.clock.now_ns;
            let (at, socket) = ground.kernel.socket(fd);
            socket.ends.server_ended_ns.get_or_insert(now);
            if socket.is_over() {
                return;
            }
            if socket.outbound.fin {
                // Linux wakes all that wait for it, each time.
                let complaint = format!("socket {at} is shut down twice, which wakes the loop");
                stage.complaints.push(complaint);
            }
            socket.outbound.fin = true;
            socket.outbound.held = 0;
            socket.call_carrier(at, &mut ground.clock);
            ground.kernel.tell(at);
            ground.clock.note(|| format!("socket {at} is shut down"));
        });
    }

    fn is_over(fd: RawFd) -> bool {
        system(|stage| stage.ground.kernel.socket(fd).1.is_over())
    }

    fn close(fd: RawFd) {
        system(|stage| {
            let ground = &mut stage.ground;
            let (at, socket) = ground.kernel.socket(fd);
            socket.close(at, &mut ground.clock);
            let ends = socket.ends;
            if ends.left_behind > 0 && stage.watch.stopped_ns.is_none() {
                let left = ends.left_behind;
                let complaint =
                    format!("the close of socket {at} leaves {left} bytes with the kernel");
                stage.complaints.push(complaint);
            }
            ground
                .clock
                .note(|| format!("socket {at} is closed: {ends:?}"));
        });
        with(|stage| stage.tell_of_close(fd));
    }
}

impl Events for SimEvents {
    fn new() -> io::Result<Self> {
        Ok(SimEvents)
    }

    fn add_connection(&self, fd: RawFd, token: u64) -> io::Result<()> {
        system(|stage| {
            let ground = &mut stage.ground;
            ground.kernel.watch(fd, token, &mut ground.clock)
        })
    }

    fn add_bell(&self, fd: RawFd, token: u64) -> io::Result<()> {
        system(|stage| stage.ground.kernel.add_bell(fd, token));
        Ok(())
    }

    fn add_listener(&self, fd: RawFd, _: bool, token: u64) -> io::Result<()> {
        system(|stage| stage.ground.kernel.add_listener(fd, token));
        Ok(())
    }

    fn remove(&self, fd: RawFd) -> io::Result<()> {
        system(|stage| stage.ground.kernel.remove(fd))
    }

    fn wait(&self, events: &mut [libc::epoll_event], timeout: Option<Duration>) -> usize {
        let mailboxes = with(|stage| stage.mailboxes());
        for mailbox in mailboxes {
            drop(mailbox.clear(false)); // outside of the stage, which a dropped caller asks
        }
        with(|stage| stage.wait(events, timeout))
    }
}

impl SimCaller {
    fn process<R>(&self, f: impl FnOnce(&mut Process) -> R) -> R {
        with(|stage| f(&mut stage.processes[self.process]))
    }

    fn both<R>(&self, f: impl FnOnce(&mut Process, &mut Ground) -> R) -> R {
        system(|stage| f(&mut stage.processes[self.process], &mut stage.ground))
    }
}

impl Drop for SimCaller {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        with_any(|stage| {
            let process = &mut stage.processes[self.process];
            let complaint = process.leave(&mut stage.ground);
            stage.complaints.extend(complaint);
        });
    }
}

impl Caller for SimCaller {
    fn geometry(&self) -> ChannelGeometry {
        self.geometry
    }

    fn reserve(&mut self) -> Option<SlotId> {
        self.process(|process| process.slots.reserve())
    }

    fn free_slots(&self) -> usize {
        self.process(|process| process.slots.count_free())
    }

    fn lost_slots(&self) -> u32 {
        self.process(|process| process.slots.lost)
    }

    fn usable_slots(&self) -> usize {
        self.process(|process| process.slots.count_usable())
    }

    fn outstanding(&self) -> usize {
        self.process(|process| process.slots.outstanding)
    }

    fn request(&self, slot: SlotId) -> &[u8] {
        let len = self.process(|process| {
            process.slots.expect(slot, &[Phase::Filling], "request");
            process.shared.replies[slot.index()].request_len
        });
        let bytes = self.memory.request(slot.index());
        // SAFETY: one thread, and the slot is the caller's, which writes there by `&mut self` only.
        unsafe { &bytes.as_ref()[..len] }
    }

    fn request_tail_mut(&mut self, slot: SlotId, from: usize) -> &mut [u8] {
        let allowed = [Phase::Filling, Phase::Interim];
        self.process(|process| {
            let phase = process.slots.expect(slot, &allowed, "request_tail_mut");
            let body_at = process.shared.replies[slot.index()].body_at;
            assert!(
                phase != Phase::Interim || from >= body_at,
                "{slot:?}: a handler may be reading what is before {body_at}"
            );
        });
        let mut bytes = self.memory.request(slot.index());
        // SAFETY: one thread, and the slot is the caller's; a process copies what it reads.
        unsafe { &mut bytes.as_mut()[from..] }
    }

    fn submit(&mut self, slot: SlotId, len: usize, _: u64) {
        self.process(|process| process.submit(slot, len));
    }

    fn has_staged(&self) -> bool {
        self.process(|process| process.slots.staged != 0)
    }

    fn flush(&mut self) -> Result<(), CallError> {
        self.both(Process::flush)
    }

    fn resume(&mut self, slot: SlotId, request_len: usize) {
        self.both(|process, ground| process.resume(slot, request_len, ground));
    }

    fn refill(&mut self, slot: SlotId) -> SlotId {
        self.process(|process| process.refill(slot))
    }

    fn release(&mut self, slot: SlotId) {
        self.process(|process| process.release(slot));
    }

    fn abandon(&mut self, slot: SlotId) {
        self.both(|process, ground| process.abandon(slot, ground));
    }

    fn withdraw(&mut self, slot: SlotId) -> Withdraw {
        self.process(|process| process.withdraw(slot))
    }

    fn drain(&mut self, mut f: impl FnMut(SlotId, Completion)) {
        self.both(|_, _| ()); // the other side goes on meanwhile
        while let Some((slot, completion)) = self.process(Process::next_completion) {
            f(slot, completion);
        }
    }

    fn reply(&self, slot: SlotId) -> &[u8] {
        assert!(self.bells.1.is_none(), "another process's bytes are copied");
        let bytes = self.reply_bytes(slot);
        // SAFETY: one thread, and the slot is the caller's.
        unsafe { bytes.as_ref() }
    }

    fn copy_reply(&self, slot: SlotId, from: usize, into: &mut [u8]) -> usize {
        let bytes = self.reply_bytes(slot);
        let is_behind_header = from >= REPLY_HEADER_LEN;
        self.process(|process| process.shared.replies[slot.index()].is_checked |= is_behind_header);
        // SAFETY: as in `reply`.
        let bytes = unsafe { bytes.as_ref() };
        let rest = bytes.get(from..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        len
    }

    fn reply_bytes(&self, slot: SlotId) -> NonNull<[u8]> {
        let len = self.process(|process| {
            let allowed = [Phase::Replied, Phase::Interim, Phase::Lost];
            process.slots.expect(slot, &allowed, "reply_bytes");
            process.slots.all[slot.index()].reply_len
        });
        let bytes = self.memory.reply(slot.index());
        NonNull::slice_from_raw_parts(bytes.cast(), len)
    }

    fn unclaimed(&self) -> u32 {
        self.process(|process| process.shared.submitted.count_ones())
    }

    fn nudge(&mut self) -> bool {
        self.both(|process, ground| {
            // Of a door in another process it is not known whether a thread is on its way.
            process.shared.submitted != 0
                && process.nudge(&mut ground.clock)
                && ground.clock.once_in(2)
        })
    }

    fn prepare_wait(&mut self, patience: Patience) -> bool {
        self.both(|process, _| process.prepare_wait(patience))
    }

    fn woke(&mut self) {
        self.process(|process| process.shared.waiting = None);
    }

    fn note_ring(&mut self, _: bool) {}

    fn as_raw_fd(&self) -> RawFd {
        self.bells.0
    }

    fn peer_fd(&self) -> Option<RawFd> {
        self.bells.1
    }

    fn check_peer(&mut self) -> PeerState {
        if self.bells.1.is_none() {
            return PeerState::Serving;
        }
        self.both(|process, _| process.look())
    }

    fn peer_state(&self) -> PeerState {
        self.process(|process| process.standing.known)
    }

    fn next_lost(&mut self) -> Option<(SlotId, CallError)> {
        self.process(Process::next_lost)
    }

    fn door(&self) -> Option<RemoteDoor> {
        None
    }

    fn lie(&self) -> Option<&'static str> {
        None
    }
}
