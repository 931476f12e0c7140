//! Forwards of connections and datagrams: each is one thread with an epoll set, one socket, and a door.
//!
//! A connection goes through the door as a descriptor and is the application's from then on; a datagram goes
//! in with the call, and its answer comes back as the reply. What both share is here: calls in flight up to
//! the slots of the door, none waited for, and the instances of the application that come and go under them.
//! After its start a thread allocates only to open a door anew.

mod asked;
mod calls;
mod entries;
mod opening;
mod tcp;
mod traffic;
mod udp;

use crate::entrance::{Entrance, INSTANCES, Keeper};
use crate::opener::{REMOTE_SLOTS_IN_ALL, open_options};
use crate::orders::{Order, Orders};
use crate::signal::{Signal, halves};
use asked::CONNECTIONS_MAX;
pub use asked::{StreamForward, StreamKind, StreamOptions, connections_held};
use entries::{CallEntry, Entries};
use opening::Opening;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;
use traffic::{Loss, Taken, Traffic};
use transom_arena::Bytes;
use transom_doors::{AsyncClient, Bell, Patience, now_ns, start_closers};
use transom_net::{self as net, Epoll};
use transom_wire::own_log::warn;

/// Channels of a forward: to the instance of its application that takes calls, and to the one before it.
pub const CHANNELS: usize = INSTANCES;

/// Descriptors of a forward beside its channels and the connections that it holds: socket, epoll set,
/// doorbell.
pub const DESCRIPTORS: u64 = 3;

/// Bytes of a forward's own, beside its stack: what it knows of each slot, and one answer.
pub const TABLES_SIZE: usize =
    INSTANCES * REMOTE_SLOTS_IN_ALL * size_of::<Option<CallEntry<udp::Asked>>>()
        + CONNECTIONS_MAX * size_of::<tcp::Leaving>()
        + udp::SCRATCH_SIZE;

/// Taken from the socket before replies are looked at.
const BATCH: usize = 64;

/// How often a door is told of calls that no thread takes, in the end: all may be in long connections.
const STUCK_RAREST: Duration = Duration::from_millis(100);

/// How long to wait when the system has no descriptors for another connection.
const RECEIVE_AGAIN: Duration = Duration::from_millis(100);

/// How long to wait when the door's socket takes no more descriptors.
const SUBMIT_AGAIN: Duration = Duration::from_millis(1);

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
    if let StreamKind::Datagrams { buffer } = forward.kind {
        let granted = net::set_datagram_buffer(&forward.socket, buffer)?;
        if granted < buffer {
            warn!(
                forward = forward.name, wanted = %Bytes(buffer), granted = %Bytes(granted),
                "the kernel holds fewer datagrams than wanted, and drops the rest of a burst: raise net.core.rmem_max, or lower --datagram-buffer"
            );
        }
    }
    let open = open_options(options.channel_limit, forward.owner);
    let opening = |objection| Opening::new(forward.name, forward.door, open, objection);
    let queue = options.timeouts.queue;
    Ok(match forward.kind {
        StreamKind::Connections => {
            let most = connections_held(options.connections);
            let traffic = tcp::Connections::new(forward.socket, options, most);
            let opening = opening(tcp::Connections::objection);
            let this = Forwarder::new(common, opening, traffic, queue)?;
            Box::new(move || this.run())
        }
        StreamKind::Datagrams { .. } => {
            let traffic = udp::Datagrams::new(forward.socket, options.timeouts.deadline);
            let opening = opening(udp::Datagrams::objection);
            let this = Forwarder::new(common, opening, traffic, queue)?;
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
    entrance: Entrance<AsyncClient, Entries<T::Call>, Opening>,
    now_ns: u64,
    /// How long anything waits for the door.
    queue_timeout_ns: u64,
    /// No entry is due before.
    next_due_ns: u64,
    /// No call is to be looked at before.
    next_look_ns: u64,
    /// The socket may have more for us.
    readable: bool,
    receive_again_ns: u64,
    submit_again_ns: u64,
    /// There is more to do before the next sleep.
    again: bool,
    draining: bool,
    /// As it was shown last.
    slots_lost: u64,
}

impl<T: Traffic> Forwarder<T> {
    fn new(
        common: Common,
        opening: Opening,
        traffic: T,
        queue_timeout: Duration,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        // Each change is told once, so that connections which cannot be taken yet keep no thread awake.
        epoll.add_bell(traffic.socket(), Signal::Listener(0).token())?;
        epoll.add_bell(common.bell.as_raw_fd(), Signal::Bell.token())?;
        let now_ns = now_ns();
        let slots = [REMOTE_SLOTS_IN_ALL; INSTANCES];
        Ok(Forwarder {
            common,
            epoll,
            traffic,
            entrance: Entrance::new(0, slots, Entries::new, Some(opening), now_ns),
            now_ns,
            queue_timeout_ns: queue_timeout.as_nanos() as u64,
            next_due_ns: u64::MAX,
            next_look_ns: u64::MAX,
            readable: true,
            receive_again_ns: 0,
            submit_again_ns: 0,
            again: false,
            draining: false,
            slots_lost: 0,
        })
    }

    fn run(mut self) {
        self.tend(false);
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
            for at in self.entrance.places() {
                self.collect(at);
            }
            self.tend(false);
            self.expire();
            self.look_at_calls();
            self.see_off();
            self.send_unsent();
            if !self.draining {
                self.receive();
            }
            self.flush();
            if self.draining && self.count() == 0 {
                break;
            }
            self.show_slots_lost();
            let count = self.sleep(&mut events);
            self.now_ns = now_ns();
            for event in &events[..count] {
                self.on_event(event.u64);
            }
        }
        for at in self.entrance.places() {
            let cut = self.lose_all(at, Loss::Cut);
            self.common.cut.fetch_add(cut, Ordering::SeqCst);
        }
        let opening = self.entrance.source();
        self.traffic.summarise(&opening.forward, &opening.path);
    }

    fn on_event(&mut self, token: u64) {
        match Signal::of(halves(token).1) {
            Signal::Listener(_) => self.readable = true,
            Signal::Bell => {} // orders are looked at after every wait
            Signal::Client(at) => self.on_ring(at),
            Signal::Peer(at) => self.look_at_peer(at),
        }
    }

    /// Shows how many there are.
    fn show_slots_lost(&mut self) {
        let clients = self.entrance.instances.iter().flat_map(|one| &one.client);
        let now = clients.map(|client| u64::from(client.lost_slots())).sum();
        let before = std::mem::replace(&mut self.slots_lost, now);
        if now != before {
            let more = now.wrapping_sub(before);
            self.common.slots_lost.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Whether nothing that comes can be served: the door has been away for longer than anything may wait for
    /// it, or its application has lost all of our slots.
    fn is_closed(&self) -> bool {
        match self.entrance.server() {
            None => self.now_ns >= self.entrance.away_since_ns() + self.queue_timeout_ns,
            Some(instance) => instance.client().usable_slots() == 0,
        }
    }

    fn receive(&mut self) {
        if !self.readable || self.now_ns < self.receive_again_ns || self.has_sendable() {
            return;
        }
        for _ in 0..BATCH {
            let received = if self.is_closed() {
                Some(self.traffic.discard())
            } else {
                self.receive_call()
            };
            match received {
                Some(Taken::One) => {}
                // No slot, or no door yet: the kernel keeps what has come.
                None => return,
                Some(Taken::Nothing) => {
                    self.readable = false;
                    return;
                }
                Some(Taken::Exhausted) => {
                    self.receive_again_ns = self.now_ns + RECEIVE_AGAIN.as_nanos() as u64;
                    return;
                }
            }
        }
        self.again = true;
    }

    /// Lets those go whose calls have ended; when to look again.
    fn see_off(&mut self) -> u64 {
        let count = self.count() + self.traffic.leaving();
        self.traffic
            .see_off(count >= self.traffic.most(), self.now_ns)
    }

    /// Waits for events: not at all, or until something is due.
    fn sleep(&mut self, events: &mut [libc::epoll_event]) -> usize {
        let (_, stuck_due_ns) = self.entrance.help_stuck(STUCK_RAREST, self.now_ns);
        if std::mem::take(&mut self.again) {
            return self.epoll.wait(events, Some(Duration::ZERO));
        }
        let mut due = self.next_due_ns.min(self.next_look_ns).min(self.see_off());
        due = due.min(stuck_due_ns.unwrap_or(u64::MAX));
        if self.entrance.serving.is_none() {
            // With every look for the door, also whether it has been away for too long.
            due = due.min(self.entrance.ask_again_ns);
        }
        for again in [self.receive_again_ns, self.submit_again_ns] {
            if again > self.now_ns {
                due = due.min(again);
            }
        }
        if self.has_sendable() {
            due = due.min(self.now_ns + SUBMIT_AGAIN.as_nanos() as u64);
        }
        let mut timeout =
            (due != u64::MAX).then(|| Duration::from_nanos(due.saturating_sub(self.now_ns)));
        for client in self.entrance.clients_mut() {
            if !client.prepare_wait(Patience::Eager) {
                timeout = Some(Duration::ZERO);
            }
        }
        let count = self.epoll.wait(events, timeout);
        for client in self.entrance.clients_mut() {
            client.woke();
        }
        count
    }
}
