//! The porter: one ordinary thread of a door that is attached to a path. It lets clients in, notices when
//! they leave, removes clients that lie, and tells the rest when the door is revoked. Otherwise it sleeps;
//! calls do not pass through it.

mod admission;
mod admitted;
mod leaving;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::back_end::bell::Bell;
use crate::back_end::threads;
use crate::between::ear::ear_for;
use crate::between::hello::Message;
use crate::between::link::{BATCHES, Link, Nudge};
use crate::between::porter::admitted::{Admitted, Stage, Token};
use crate::between::socket;
use crate::memory::channel::Channel;
use crate::pool::shared::Pool;
use crate::values::door::Unreferenced;

/// A client that has not finished its handshake after this long is removed.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// How often the porter looks at channels that clients have left and threads still hold, and at the listener
/// when there were no descriptors for a client that waits there.
const RETIRED: Duration = Duration::from_millis(20);

const STACK: usize = 128 << 10;
const EVENTS: usize = 64;
/// Tokens of the listener and of the bell. A client's are larger; see [`Token`].
const LISTENER: u64 = 0;
const BELL: u64 = 1;

/// What the porter is told.
#[derive(Debug)]
pub struct Orders {
    /// No new client is let in.
    pub detached: AtomicBool,
    pub bell: Bell,
}

struct Porter {
    pool: Arc<Pool>,
    orders: Arc<Orders>,
    epoll: OwnedFd,
    listener: Option<OwnedFd>,
    clients: Vec<Option<Admitted>>,
    /// How many there have been.
    admitted: u64,
    /// A client waits for which there was no descriptor: the listener does not tell of it again.
    kept_waiting: bool,
    /// More clients may be connecting, but others' events were to be handled first.
    more_to_admit: bool,
    /// Left by their clients, and still held by threads.
    retired: Vec<Arc<Channel>>,
    /// Left by their clients, and used for ever by threads to which lost calls have lent something.
    kept: Vec<&'static Channel>,
    told_revoked: bool,
    /// Since the owner was told that no client has the door open.
    had_client: bool,
    /// Of the next channel.
    next_id: u64,
    /// The owner was told that no client has the door open.
    unreferenced: bool,
}

/// Starts the porter of a door that is to be attached.
pub fn start(pool: Arc<Pool>, listener: OwnedFd, begin: fn()) -> io::Result<Arc<Orders>> {
    let bell = Bell::new()?;
    let mut place = pool.porter.lock().unwrap_or_else(PoisonError::into_inner);
    if place.is_some() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let epoll = ear_for(&[(listener.as_raw_fd(), LISTENER), (bell.as_raw_fd(), BELL)])?;
    let orders = Arc::new(Orders {
        detached: AtomicBool::new(false),
        bell,
    });
    let mut porter = Porter {
        orders: Arc::clone(&orders),
        epoll,
        listener: Some(listener),
        clients: Vec::new(),
        admitted: 0,
        kept_waiting: false,
        more_to_admit: false,
        retired: Vec::new(),
        kept: Vec::new(),
        told_revoked: false,
        had_client: false,
        next_id: 1,
        unreferenced: false,
        pool: Arc::clone(&pool),
    };
    threads::start("porter", STACK, move || {
        begin();
        porter.run();
    })?;
    *place = Some(orders.bell.clone());
    drop(place);
    Ok(orders)
}

impl Porter {
    fn run(&mut self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // Clients that connected before the listener was in the set.
        self.admit();
        while !self.is_finished() {
            let timeout = self.timeout();
            let ms = timeout.map_or(-1, |timeout| {
                timeout.as_nanos().div_ceil(1_000_000) as libc::c_int
            });
            // SAFETY: the events are valid for their number.
            let count = unsafe {
                libc::epoll_wait(
                    self.epoll.as_raw_fd(),
                    events.as_mut_ptr(),
                    EVENTS as libc::c_int,
                    ms,
                )
            };
            for event in &events[..usize::try_from(count).unwrap_or(0)] {
                match event.u64 {
                    // Last: a client that has left makes room for one that comes.
                    LISTENER => self.more_to_admit = true,
                    BELL => {}
                    token => self.on_client(Token::decode(token)),
                }
            }
            if self.kept_waiting || self.more_to_admit {
                self.admit();
            }
            self.look_around();
        }
        *self
            .pool
            .porter
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Detached, and no client is left: then nothing can come any more.
    fn is_finished(&self) -> bool {
        self.listener.is_none()
            && self.clients.iter().all(Option::is_none)
            && self.retired.is_empty()
    }

    fn timeout(&self) -> Option<Duration> {
        if self.more_to_admit || self.clients.iter().flatten().any(|client| client.unread) {
            return Some(Duration::ZERO);
        }
        let handshakes = self.clients.iter().flatten().filter_map(Admitted::since);
        let handshake = handshakes
            .min()
            .map(|since| (since + HANDSHAKE).saturating_duration_since(Instant::now()));
        let again = !self.retired.is_empty() || self.kept_waiting;
        let retired = again.then_some(RETIRED);
        [handshake, retired].into_iter().flatten().min()
    }

    /// What the bell may have rung for, and what time brings.
    fn look_around(&mut self) {
        if self.orders.detached.load(Ordering::SeqCst) {
            self.listener = None;
            self.kept_waiting = false;
            self.more_to_admit = false;
        }
        if !self.told_revoked && self.pool.revoked().is_raised() {
            self.told_revoked = true;
            let message = Message::Revoked;
            for client in self.clients.iter().flatten() {
                if let Stage::Open { channel, .. } = &client.stage
                    && let Some(link) = &channel.link
                {
                    // A client that does not read sees it on the board with its next call.
                    let _ = socket::say(&link.socket, &message, &[]);
                }
            }
        }
        for index in 0..self.clients.len() {
            let Some(client) = &mut self.clients[index] else {
                continue;
            };
            match &client.stage {
                Stage::Open { channel, .. } => {
                    let link = channel.link.as_ref();
                    if client.unread {
                        // A part at a time: a client that sends without end does not keep us from others.
                        client.unread =
                            link.is_some_and(|link| !link.is_closed() && link.receive());
                    }
                    if link.is_some_and(Link::is_closed) {
                        self.put_out(index);
                    } else if let Some(nudge) = link.and_then(Link::take_nudge) {
                        self.help(nudge);
                    }
                }
                _ if client
                    .since()
                    .is_some_and(|since| since.elapsed() > HANDSHAKE) =>
                {
                    self.clients[index] = None;
                }
                _ => {}
            }
        }
        self.let_go_of_retired();
        self.tell_unreferenced();
    }

    /// Calls wait for which a client could not wake a thread.
    fn help(&self, nudge: Nudge) {
        let pool = &*self.pool;
        // SAFETY: this is the porter, and it removes nothing here.
        let backlog = unsafe { pool.channels.table().look_as_porter() }
            .channels()
            .any(Channel::has_backlog);
        if !backlog {
            return;
        }
        match nudge {
            Nudge::Stuck => {
                pool.nudge();
            }
            Nudge::Unsure => {
                if pool.board.idle().running() == 0 && !pool.wake_one() {
                    pool.grow();
                }
            }
        }
    }

    fn tell_unreferenced(&mut self) {
        let Some(unreferenced) = self.pool.remote.unreferenced else {
            return;
        };
        // Never before a client has had it open, even if we saw it come and go at once.
        let open = self.pool.clients.load(Ordering::Relaxed) > 0;
        // Nor while a call of a client that has left still runs.
        if open || !self.retired.is_empty() || !self.had_client {
            return;
        }
        self.had_client = false;
        if self.unreferenced && unreferenced == Unreferenced::Once {
            return;
        }
        self.unreferenced = true;
        if let Some(on_unreferenced) = &self.pool.remote.on_unreferenced {
            on_unreferenced();
        }
    }

    /// News of a client: of its socket, or of its process.
    fn on_client(&mut self, token: Token) {
        let Token {
            number,
            index,
            process,
        } = token;
        let Some(Some(client)) = self.clients.get_mut(index) else {
            return; // gone since the event
        };
        if client.number != number {
            return; // another one by now
        }
        if let Stage::Open { channel, .. } = &client.stage {
            // What a dead client has sent last is still read: it may be a lie.
            client.unread = true;
            if let (true, Some(link)) = (process, &channel.link) {
                for _ in 0..BATCHES {
                    if link.is_closed() || !link.receive() {
                        break;
                    }
                }
                link.close();
            }
            return; // `look_around` does the rest
        }
        if process {
            self.clients[index] = None;
            return;
        }
        self.on_handshake(index);
    }
}
