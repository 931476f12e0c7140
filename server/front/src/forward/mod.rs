//! Forwards of connections and datagrams: each is one thread with an epoll set, one socket, and a door.
//!
//! A connection goes through the door as a descriptor and is the application's from then on; a datagram goes
//! in with the call, and its answer comes back as the reply. What both share is here: calls in flight up to
//! the slots of the door, none waited for, and the instances of the application that come and go under them.
//! After its start a thread allocates only to open a door anew.

mod asked;
mod doorway;
mod instances;
mod tcp;
mod traffic;
mod udp;

use crate::doorway::INSTANCES;
use crate::opener::{REMOTE_SLOTS_IN_ALL, REMOTE_SLOTS_MAX, open_options};
use crate::orders::{Order, Orders};
pub use asked::{StreamForward, StreamKind, StreamOptions};
use doorway::{CallEntry, FIRST_CLIENT, Progress, StreamDoor};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;
use traffic::{Taken, Traffic};
use transom_arena::Bytes;
use transom_doors::{Bell, Patience, now_ns, start_closers};
use transom_net::{self as net, Epoll};
use transom_wire::own_log::warn;

/// Channels of a forward: to the instance of its application that takes calls, and to the one before it.
pub const CHANNELS: usize = INSTANCES;

/// Descriptors of a forward beside its channels and the connections that it holds: socket, epoll set,
/// doorbell.
pub const DESCRIPTORS: u64 = 3;

/// Connections that a forward holds at once: one for each slot of the instance that takes calls and of the
/// one before it.
pub const CONNECTIONS_MAX: usize = INSTANCES * REMOTE_SLOTS_MAX as usize;

/// Bytes of a forward's own, beside its stack: what it knows of each slot, and one answer.
pub const TABLES_SIZE: usize =
    INSTANCES * REMOTE_SLOTS_IN_ALL * size_of::<Option<CallEntry<udp::Asked>>>()
        + udp::SCRATCH_SIZE;

/// Taken from the socket before replies are looked at.
const BATCH: usize = 64;

/// How long calls may be unclaimed before another thread is asked for; doubled each time, up to
/// `PATIENCE_MAX`.
const PATIENCE: Duration = Duration::from_micros(60);
const PATIENCE_STEPS: u32 = 10;
const PATIENCE_MAX: Duration = Duration::from_millis(100);

/// How long to wait when the system has no descriptors for another connection.
const RECEIVE_AGAIN: Duration = Duration::from_millis(100);

/// How long to wait when the door's socket takes no more descriptors.
const SUBMIT_AGAIN: Duration = Duration::from_millis(1);

/// Tokens of the epoll set; from `FIRST_CLIENT` on two for each instance of the door.
const SOCKET: u64 = 0;
const BELL: u64 = 1;

/// Forwards that run.
pub struct Forwards {
    threads: Vec<JoinHandle<()>>,
    bells: Vec<Bell>,
    orders: Arc<Orders>,
    cut: Arc<AtomicU64>,
}

/// Starts a thread of a name.
pub type Spawn<'s> = dyn Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> + 's;

/// Starts a thread for each forward, and returns when each has begun and looked for its door. `spawn` gives a
/// thread [`LOOP_STACK`](crate::LOOP_STACK), and does what is to be done should it panic.
///
/// # Errors
/// There are no descriptors or threads left.
pub fn start(
    forwards: Vec<StreamForward>,
    options: &StreamOptions,
    spawn: &Spawn<'_>,
) -> io::Result<Forwards> {
    if !forwards.is_empty() {
        start_closers()?;
    }
    let mut started = Forwards {
        threads: Vec::new(),
        bells: Vec::new(),
        orders: Arc::default(),
        cut: Arc::default(),
    };
    let all_started = Arc::new(Barrier::new(forwards.len() + 1));
    for (n, forward) in forwards.into_iter().enumerate() {
        let bell = Bell::new()?;
        started.bells.push(bell.clone());
        let common = Common {
            bell,
            orders: started.orders.clone(),
            cut: started.cut.clone(),
            slots_lost: options.slots_lost.clone(),
            all_started: all_started.clone(),
        };
        let body = forwarder(forward, options, common)?;
        started.threads.push(spawn(format!("forward-{n}"), body)?);
    }
    all_started.wait();
    Ok(started)
}

/// What a forward's thread does.
fn forwarder(
    forward: StreamForward,
    options: &StreamOptions,
    common: Common,
) -> io::Result<Box<dyn FnOnce() + Send>> {
    let StreamForward {
        name,
        door,
        owner,
        socket,
        kind,
    } = forward;
    if let StreamKind::Datagrams { buffer } = kind {
        let granted = net::set_datagram_buffer(&socket, buffer)?;
        if granted < buffer {
            warn!(
                forward = name, wanted = %Bytes(buffer), granted = %Bytes(granted),
                "the kernel holds fewer datagrams than wanted, and drops the rest of a burst: raise net.core.rmem_max, or lower --datagram-buffer"
            );
        }
    }
    let open = open_options(options.channel_limit, owner);
    let queue_timeout = options.timeouts.queue;
    Ok(match kind {
        StreamKind::Connections => {
            let doorway = StreamDoor::new(name, door, open, queue_timeout);
            let traffic = tcp::Connections::new(socket, options);
            let this = Forwarder::new(common, doorway, traffic)?;
            Box::new(move || this.run())
        }
        StreamKind::Datagrams { .. } => {
            let doorway = StreamDoor::new(name, door, open, queue_timeout);
            let traffic = udp::Datagrams::new(socket, options.timeouts.deadline);
            let this = Forwarder::new(common, doorway, traffic)?;
            Box::new(move || this.run())
        }
    })
}

impl Forwards {
    /// Tells all what to do about new work.
    pub fn tell(&self, order: Order) {
        self.orders.give(order);
        for bell in &self.bells {
            bell.ring();
        }
    }

    /// Whether all have ended.
    pub fn have_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// How many calls were cut, once all have ended, and whether none panicked.
    pub fn join(self) -> (u64, bool) {
        let mut sound = true;
        for thread in self.threads {
            if thread.join().is_err() {
                transom_wire::own_log::error!("a forward panicked: please report this");
                sound = false;
            }
        }
        (self.cut.load(Ordering::SeqCst), sound)
    }
}

/// What every forward has.
struct Common {
    bell: Bell,
    orders: Arc<Orders>,
    cut: Arc<AtomicU64>,
    slots_lost: Arc<AtomicU64>,
    all_started: Arc<Barrier>,
}

/// One forward, on its thread.
struct Forwarder<T: Traffic> {
    common: Common,
    epoll: Epoll,
    traffic: T,
    doorway: StreamDoor<T>,
    now_ns: u64,
    /// The socket may have more for us.
    readable: bool,
    receive_again_ns: u64,
    submit_again_ns: u64,
    /// There is more to do before the next sleep.
    again: bool,
    draining: bool,
    /// Sleeps in a row while calls were unclaimed.
    quiet: u32,
    /// As it was shown last.
    slots_lost: u64,
}

impl<T: Traffic> Forwarder<T> {
    fn new(common: Common, doorway: StreamDoor<T>, traffic: T) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        // Each change is told once, so that connections which nobody can take yet keep no thread awake.
        epoll.add_bell(traffic.socket(), SOCKET)?;
        epoll.add_bell(common.bell.as_raw_fd(), BELL)?;
        Ok(Forwarder {
            common,
            epoll,
            traffic,
            doorway,
            now_ns: now_ns(),
            readable: true,
            receive_again_ns: 0,
            submit_again_ns: 0,
            again: false,
            draining: false,
            quiet: 0,
            slots_lost: 0,
        })
    }

    fn run(mut self) {
        self.doorway
            .tend(&mut self.traffic, &self.epoll, self.now_ns);
        self.common.all_started.wait();
        self.now_ns = now_ns();
        let nothing = libc::epoll_event { events: 0, u64: 0 };
        let mut events = [nothing; 16];
        loop {
            match self.common.orders.get() {
                Order::Serve => {}
                Order::HandOver | Order::Drain if self.draining => {}
                Order::HandOver | Order::Drain => {
                    self.draining = true;
                    // Closing it would not do: a new instance may have the same socket.
                    let _ = self.epoll.remove(self.traffic.socket());
                    self.traffic.stop_receiving();
                }
                Order::Stop => break,
            }
            self.collect();
            self.doorway
                .tend(&mut self.traffic, &self.epoll, self.now_ns);
            self.doorway.expire(&mut self.traffic, self.now_ns);
            self.doorway.look_at_calls(&mut self.traffic, self.now_ns);
            self.send_again();
            if !self.draining {
                self.receive();
            }
            if self.doorway.flush(&mut self.traffic, self.now_ns) == Progress::Stuck {
                self.again = true;
            }
            if self.draining && self.doorway.is_empty() {
                break;
            }
            self.show_slots_lost();
            let count = self.sleep(&mut events);
            self.now_ns = now_ns();
            for event in &events[..count] {
                self.on_event(event.u64);
            }
        }
        let cut = self.doorway.let_all_go(&mut self.traffic);
        self.common.cut.fetch_add(cut, Ordering::SeqCst);
        self.traffic
            .summarise(self.doorway.forward(), self.doorway.path());
    }

    fn on_event(&mut self, token: u64) {
        match token {
            SOCKET => self.readable = true,
            BELL => {} // orders are looked at after every wait
            _ => {
                let at = ((token - FIRST_CLIENT) / 2) as usize;
                if (token - FIRST_CLIENT).is_multiple_of(2) {
                    let useful = self.doorway.collect(at, &mut self.traffic, self.now_ns);
                    self.doorway.note_ring(at, useful);
                    if useful {
                        self.quiet = 0;
                    }
                } else {
                    self.doorway
                        .look_at_peer(at, &mut self.traffic, self.now_ns);
                }
            }
        }
    }

    /// Has whoever asks from outside see how many there are.
    fn show_slots_lost(&mut self) {
        let now = self.doorway.slots_lost();
        let before = std::mem::replace(&mut self.slots_lost, now);
        if now != before {
            let more = now.wrapping_sub(before);
            self.common.slots_lost.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Takes the replies that are there.
    fn collect(&mut self) {
        for at in 0..INSTANCES {
            if self.doorway.collect(at, &mut self.traffic, self.now_ns) {
                self.quiet = 0;
            }
        }
    }

    /// Sends what an instance did not accept, or its socket did not take.
    fn send_again(&mut self) {
        if self.now_ns < self.submit_again_ns {
            return;
        }
        if self.doorway.send_unsent(&mut self.traffic, self.now_ns) == Progress::Stuck {
            self.submit_again_ns = self.now_ns + SUBMIT_AGAIN.as_nanos() as u64;
        }
    }

    fn receive(&mut self) {
        if !self.readable || self.now_ns < self.receive_again_ns || self.doorway.has_sendable() {
            return;
        }
        for _ in 0..BATCH {
            let received = if self.doorway.is_closed(self.now_ns) {
                self.traffic.discard()
            } else {
                match self.doorway.receive(&mut self.traffic, self.now_ns) {
                    Some(received) => received,
                    // No slot, or nobody there yet: the kernel keeps what has come.
                    None => return,
                }
            };
            match received {
                Taken::Call((), _) => self.quiet = 0,
                Taken::Skipped => {}
                Taken::Nothing => {
                    self.readable = false;
                    return;
                }
                Taken::Exhausted => {
                    self.receive_again_ns = self.now_ns + RECEIVE_AGAIN.as_nanos() as u64;
                    return;
                }
            }
        }
        self.again = true;
    }

    /// Waits for events: not at all, until calls are unclaimed for too long, or until something is due.
    fn sleep(&mut self, events: &mut [libc::epoll_event]) -> usize {
        if std::mem::take(&mut self.again) {
            return self.epoll.wait(events, Some(Duration::ZERO));
        }
        let mut due = self.doorway.next_due_ns();
        for again in [self.receive_again_ns, self.submit_again_ns] {
            if again > self.now_ns {
                due = due.min(again);
            }
        }
        if self.doorway.has_sendable() {
            due = due.min(self.now_ns + SUBMIT_AGAIN.as_nanos() as u64);
        }
        let backlog = self.doorway.backlog();
        if backlog {
            let step = (PATIENCE * (1 << self.quiet)).min(PATIENCE_MAX);
            due = due.min(self.now_ns + step.as_nanos() as u64);
        }
        let mut timeout =
            (due != u64::MAX).then(|| Duration::from_nanos(due.saturating_sub(self.now_ns)));
        if !self.doorway.prepare_wait(Patience::Eager) {
            timeout = Some(Duration::ZERO);
        }
        let count = self.epoll.wait(events, timeout);
        self.doorway.woke();
        if backlog && count == 0 {
            self.doorway.nudge();
            self.quiet = (self.quiet + 1).min(PATIENCE_STEPS);
        }
        count
    }
}
