//! A door on ordinary threads, and an event loop that waits as the contract of
//! `AsyncClient::prepare_wait` says.
#![cfg(not(loom))]
#![allow(dead_code, missing_docs)] // every test crate uses its part

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use transom_doors::{
    AsyncClient, Call, CallError, ChannelGeometry, ChannelMemory, Completion, Door, DoorHandler,
    DoorInfo, Patience, SlotId, Status,
};

/// Longer than anything here takes on a busy machine; reached only by a test that fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub const SMALL: ChannelGeometry = ChannelGeometry {
    slots: 64,
    spares: 0,
    request_size: 4096,
    reply_size: 4096,
};

pub fn geometry(slots: u32) -> ChannelGeometry {
    ChannelGeometry { slots, ..SMALL }
}

/// Waits for a condition that another thread brings about.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::yield_now();
    }
}

/// Fresh memory, never given back.
pub fn memory(len: usize) -> ChannelMemory {
    let layout = std::alloc::Layout::from_size_align(len, 4096).unwrap();
    // SAFETY: no test asks for zero bytes.
    let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
    // SAFETY: fresh, zeroed, page-aligned, never freed, known to nothing else.
    unsafe { ChannelMemory::new(base, len) }
}

/// A door whose threads are std's.
pub struct House {
    pub door: Door,
    /// Threads that have come out of `serve`.
    pub ended: Arc<AtomicUsize>,
}

impl House {
    /// A door that is not started.
    pub fn new<H: DoorHandler + Send + Sync + 'static>(threads_max: u32, handler: H) -> Self {
        Self::with_starts(threads_max, handler, |_| Ok(()))
    }

    /// As `new`; `before` is asked before each start of a thread.
    pub fn with_starts<H: DoorHandler + Send + Sync + 'static>(
        threads_max: u32,
        handler: H,
        before: impl Fn(u32) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let this: Arc<OnceLock<Door>> = Arc::default();
        let handler = Arc::new(handler);
        let ended: Arc<AtomicUsize> = Arc::default();
        let create = {
            let (this, ended) = (Arc::clone(&this), Arc::clone(&ended));
            move |thread| {
                before(thread)?;
                let door = this.get().expect("set before start").clone();
                let (handler, ended) = (Arc::clone(&handler), Arc::clone(&ended));
                std::thread::Builder::new().spawn(move || {
                    door.serve(thread, &*handler);
                    ended.fetch_add(1, Ordering::SeqCst);
                })?;
                Ok(())
            }
        };
        let door = Door::builder()
            .threads_max(threads_max)
            .server_create(create)
            .build()
            .unwrap();
        assert!(this.set(door.clone()).is_ok());
        Self { door, ended }
    }

    pub fn caller(&self, geometry: ChannelGeometry) -> Caller {
        Caller::new(
            self.door
                .channel(geometry, memory(geometry.memory_len()))
                .unwrap(),
        )
    }

    pub fn info(&self) -> DoorInfo {
        self.door.info()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.door.revoke();
    }
}

/// A client with its own epoll set.
pub struct Caller {
    pub client: AsyncClient,
    epoll: i32,
    patience: Patience,
}

impl Caller {
    fn new(client: AsyncClient) -> Self {
        // SAFETY: no memory is involved.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: 0,
        };
        let fd = client.as_raw_fd();
        // SAFETY: both descriptors are open; `event` is a local.
        let added = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        assert_eq!(added, 0);
        Self {
            client,
            epoll,
            patience: Patience::Lazy,
        }
    }

    /// Stages a call.
    pub fn stage(&mut self, request: &[u8]) -> SlotId {
        let slot = self.client.reserve().expect("a free slot");
        self.client.request_mut(slot)[..request.len()].copy_from_slice(request);
        self.client.submit(slot, request.len(), 0);
        slot
    }

    /// Submits a call.
    pub fn send(&mut self, request: &[u8]) -> SlotId {
        let slot = self.stage(request);
        self.client.flush().unwrap();
        slot
    }

    pub fn try_send(&mut self, request: &[u8]) -> Result<SlotId, (SlotId, CallError)> {
        let slot = self.stage(request);
        self.client
            .flush()
            .map(|()| slot)
            .map_err(|error| (slot, error))
    }

    /// Sleeps once, as an event loop does. Returns whether the doorbell rang.
    pub fn sleep(&mut self, timeout: Duration) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        // SAFETY: one event of room; the timeout is a local; a null mask is allowed.
        unsafe {
            libc::epoll_pwait2(
                self.epoll,
                &raw mut event,
                1,
                &raw const timeout,
                std::ptr::null(),
            ) > 0
        }
    }

    /// The next reply, waited for by the contract.
    #[track_caller]
    pub fn next(&mut self) -> (SlotId, Completion) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = self.client.next_completion() {
                self.patience = Patience::Lazy;
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "no reply: {} outstanding",
                self.client.outstanding()
            );
            if self.client.prepare_wait(self.patience) {
                let short = self.patience == Patience::Lazy || self.client.backlog();
                let rang = self.sleep(if short {
                    Duration::from_micros(100)
                } else {
                    DEADLINE
                });
                self.client.woke();
                if !rang {
                    self.patience = Patience::Eager;
                    self.client.nudge();
                }
            }
        }
    }

    /// One call from start to end: its status and reply.
    #[track_caller]
    pub fn call(&mut self, request: &[u8]) -> (Status, Vec<u8>) {
        let sent = self.send(request);
        let (slot, completion) = self.next();
        assert_eq!(slot, sent);
        let reply = self.client.reply(slot).to_vec();
        self.client.release(slot);
        (completion.status, reply)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // SAFETY: ours, and open.
        unsafe { libc::close(self.epoll) };
    }
}

/// Holds handlers back until the test opens it.
#[derive(Default)]
pub struct Gate {
    inside: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Handler: waits at the gate.
    pub fn pass(&self) {
        let mut state = self.inside.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        while !state.1 {
            state = self.changed.wait(state).unwrap();
        }
        state.0 -= 1;
    }

    pub fn open(&self) {
        self.inside.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    pub fn waiting(&self) -> usize {
        self.inside.lock().unwrap().0
    }
}

/// A small generator of numbers that a seed repeats (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A hash that tells a request's reply from every other's (FNV-1a).
pub fn hash(bytes: &[u8]) -> [u8; 8] {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold).to_le_bytes()
}

/// What a borrower of room for a reply writes there.
pub const MARK: u8 = 0xEE;

/// Handler: lends the request to a thread that reads it for ever and counts in `changes` how often it has
/// changed. The call is lost meanwhile.
pub fn lend_request_and_lose(call: &mut Call<'_>, status: Status, changes: &AtomicU32) -> ! {
    let emergency = call.emergency();
    let lent = call.request();
    lose(emergency, status, move |begun| {
        let kept = lent.to_vec();
        loop {
            if std::hint::black_box(lent) != kept {
                changes.fetch_add(1, Ordering::SeqCst);
            }
            begun();
        }
    })
}

/// Handler: the same with the room for the reply, which the thread writes.
pub fn lend_room_and_lose(call: &mut Call<'_>, status: Status, changes: &AtomicU32) -> ! {
    let emergency = call.emergency();
    let lent = call.reply_mut();
    lose(emergency, status, move |begun| {
        lent.fill(MARK);
        loop {
            begun();
            if std::hint::black_box(&*lent)
                .iter()
                .any(|&byte| byte != MARK)
            {
                changes.fetch_add(1, Ordering::SeqCst);
            }
            std::hint::black_box(&mut *lent).fill(MARK);
        }
    })
}

/// Parks this thread with its call, once `borrower` has begun on a thread of a scope that never ends.
fn lose(
    emergency: transom_doors::EmergencyReply,
    status: Status,
    borrower: impl FnOnce(&dyn Fn()) + Send,
) -> ! {
    let begun = Gate::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            borrower(&|| {
                begun.open();
                std::thread::sleep(Duration::from_micros(50));
            });
        });
        begun.pass();
        // SAFETY: on the handler's thread, whose frames stay: the loop below never ends.
        unsafe { emergency.complete(status) };
        loop {
            std::thread::park();
        }
    })
}
