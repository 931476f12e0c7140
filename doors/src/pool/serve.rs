//! The body of a door server thread: claim, run, report, sleep.
//!
//! Nothing here allocates: the thread's allocator may be a bucket that is reset between two calls.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::back_end::clock::now_ns;
use crate::memory::channel::{Channel, Claimed};
use crate::pool::call::{Call, DoorHandler};
use crate::pool::pace::Samples;
use crate::pool::shared::Pool;
use crate::pool::spin::{Cpu, Spins};
use crate::pool::thread_state::ThreadState;
use crate::rules::sync::Ordering;
use crate::values::status::Status;

/// A lazy client is told of a completion after this long at the latest, if the thread keeps finding
/// work: as long as two or three wakes cost.
const UNREPORTED_NS: u64 = 20_000;

/// While handlers are short, the clock is read once for so many calls: it costs as much as a tenth of one.
const CLOCK_EVERY: u32 = 8;

/// What [`Door::serve`](crate::Door::serve) does.
pub fn serve<H: DoorHandler>(pool: &Pool, thread: u32, handler: &H) {
    pool.thread_arrived(thread);
    let mut server = Server {
        pool,
        thread,
        state: &pool.threads[thread as usize].0,
        next_channel: 0,
        samples: Samples::default(),
        now_ns: now_ns(),
        since_clock: 0,
        unreported_since_ns: 0,
        held: None,
        spins: Spins::default(),
        client_cpu: Cpu::default(),
    };
    loop {
        while let Some((channel, claimed)) = server.claim() {
            server.run(handler, channel, claimed);
            if handler.leaves() {
                server.let_go();
                server.settle();
                pool.keep_no_more(thread);
                pool.leave_to_block(thread);
                pool.ended.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
        server.let_go();
        server.settle();
        if server.has_luck() {
            continue;
        }
        pool.keep_no_more(thread);
        if pool.revoked().allows_end(|| pool.backlog(thread)) {
            break;
        }
        pool.idle().sleep(thread, || {
            pool.revoked().is_raised() || pool.backlog(thread)
        });
        server.restart_clock();
    }
    pool.idle().depart();
    pool.ended.fetch_add(1, Ordering::SeqCst);
}

/// A thread looks for calls before it sleeps if so many channels have to be looked at, at most: some ten
/// lines of memory.
const SPIN_CHANNELS: usize = 8;

struct Server<'a> {
    pool: &'a Pool,
    thread: u32,
    state: &'a ThreadState,
    /// Claims go round the channels, so that a busy one cannot starve the others.
    next_channel: usize,
    samples: Samples,
    /// The clock is read after each call, which is also the start of the next one, and after each
    /// sleep; while handlers are short, only after some calls.
    now_ns: u64,
    /// Calls since the clock was read.
    since_clock: u32,
    unreported_since_ns: u64,
    /// The channel of the last call, until another one's is taken up.
    held: Option<Held<'a>>,
    spins: Spins,
    /// Where the last call's client ran.
    client_cpu: Cpu,
}

/// The channel that the last call came by: it stays until this is dropped, whatever becomes of the client.
/// The client is told then of what was kept back.
struct Held<'a> {
    pool: &'a Pool,
    channel: &'a Channel,
    thread: u32,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.pool.tell_of_kept(self.channel, self.thread);
        let state = &self.pool.threads[self.thread as usize].0;
        state.holding.store(0, Ordering::Release);
    }
}

impl<'a> Server<'a> {
    fn claim(&mut self) -> Option<(&'a Channel, Claimed)> {
        let before = self.state.claimed.load(Ordering::Relaxed);
        // Before a call is taken, which is a read-modify-write: a thread that waits for the last one to end
        // must not miss it in between.
        self.state.claimed.store(before + 1, Ordering::Relaxed);
        let found = self.find_call();
        if found.is_none() {
            self.state.claimed.store(before, Ordering::Release);
        }
        found
    }

    fn find_call(&mut self) -> Option<(&'a Channel, Claimed)> {
        let look = self.pool.look(self.thread);
        let places = look.places();
        for n in 0..places {
            let place = match self.next_channel + n {
                place if place < places => place,
                place => place - places,
            };
            let Some(channel) = look.channel(place) else {
                continue;
            };
            if let Some(claimed) = channel.claim(self.thread) {
                self.next_channel = if place + 1 < places { place + 1 } else { 0 };
                return Some((self.hold(channel), claimed));
            }
        }
        None
    }

    /// Keeps a channel of the table beyond the look that has found it.
    fn hold(&mut self, channel: &Channel) -> &'a Channel {
        match &self.held {
            Some(held) if std::ptr::eq(held.channel, channel) => held.channel,
            _ => {
                self.let_go();
                self.state.holding.store(channel.id, Ordering::Relaxed);
                let address = std::ptr::from_ref(channel).addr();
                self.state.channel.store(address, Ordering::Relaxed);
                let channel: *const Channel = channel;
                // SAFETY: a channel of this process stays as long as the door, which `pool` borrows; one to
                // another process stays while it is held, which it is since before the caller's look ends,
                // until `Held` is dropped.
                let channel = unsafe { &*channel };
                self.held = Some(Held {
                    pool: self.pool,
                    channel,
                    thread: self.thread,
                });
                channel
            }
        }
    }

    /// Tells of what was kept back of the last call's channel, and holds none.
    fn let_go(&mut self) {
        self.held = None;
    }

    fn run<H: DoorHandler>(&mut self, handler: &H, channel: &Channel, claimed: Claimed) {
        if self.pool.pace().is_slow() {
            self.pool.tell_of_kept(channel, self.thread);
        }
        if self.pool.leave_to_handler(self.thread) {
            // A wake or a start is no service time; counted as such, it would call for more
            // threads.
            self.restart_clock();
        }
        self.client_cpu = claimed.cpu;
        self.state.slot.store(claimed.slot, Ordering::Relaxed);
        let mut call = Call::new(self.pool, channel, claimed, self.thread, self.now_ns);
        if let Err(status) = call.begin() {
            call.complete(0, status);
            self.pool.idle().search(self.thread);
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| handler.call(self.thread, &mut call)));
        if !call.is_completed() {
            call.complete(0, Status::FAULT);
        }
        self.pool.idle().search(self.thread);
        if let Err(payload) = outcome {
            // A payload's own destructor may panic; nothing may unwind out of `serve`.
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(second);
            }
        }

        self.since_clock += 1;
        if self.since_clock < CLOCK_EVERY && !self.pool.pace().is_slow() {
            return;
        }
        self.read_clock();
        self.report_in_time();
    }

    /// The time since the clock was last read was not service.
    fn restart_clock(&mut self) {
        self.now_ns = now_ns();
        self.since_clock = 0;
    }

    /// Learns how long the calls since the clock was read have taken.
    fn read_clock(&mut self) {
        let calls = std::mem::take(&mut self.since_clock);
        let began_ns = std::mem::replace(&mut self.now_ns, now_ns());
        let took_ns = self.now_ns.saturating_sub(began_ns);
        self.samples.note_several(took_ns, calls, self.pool.pace());
    }

    /// Whether a call comes while the thread looks a little longer, instead of sleeping; not if all clients
    /// sleep. One thread of a door at a time: it is counted as running, and will do for all callers as long
    /// as handlers are short.
    fn has_luck(&mut self) -> bool {
        let pool = self.pool;
        // A thread leaves a revoked door without waiting; looking at many channels takes longer than it is
        // worth.
        if pool.revoked().is_raised()
            || pool.pace().is_slow()
            || pool.channels.table().places() > SPIN_CHANNELS
            || pool.spinning.swap(true, Ordering::Relaxed)
        {
            return false;
        }
        let has_come = || {
            let look = pool.look(self.thread);
            if pool.revoked().is_raised() || look.channels().any(Channel::has_backlog) {
                return Some(true);
            }
            let sleeps = |channel: &Channel| channel.layout.waiting().shown().is_some();
            look.channels().all(sleeps).then_some(false)
        };
        let luck = self.spins.look(self.client_cpu, has_come);
        pool.spinning.store(false, Ordering::Relaxed);
        if luck {
            self.restart_clock();
        }
        luck
    }

    fn report_in_time(&mut self) {
        if self.state.unreported.load(Ordering::Relaxed) == 0 {
            self.unreported_since_ns = 0;
        } else if self.unreported_since_ns == 0 {
            self.unreported_since_ns = self.now_ns;
        } else if self.now_ns - self.unreported_since_ns > UNREPORTED_NS {
            self.pool.report(self.thread);
            self.unreported_since_ns = 0;
        }
    }

    /// Nothing left to claim: say everything that was kept back.
    fn settle(&mut self) {
        if self.state.unreported.load(Ordering::Relaxed) != 0 {
            self.pool.report(self.thread);
        }
        self.unreported_since_ns = 0;
        if self.since_clock > 0 {
            self.read_clock();
        }
        self.samples.flush(self.pool.pace());
    }
}
