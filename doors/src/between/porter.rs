//! The porter: one ordinary thread of a door that is attached to a path. It lets clients in, sees them leave,
//! puts out those that lie, and tells the rest when the door is revoked. It sleeps while nothing of that
//! happens; calls do not pass it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::back_end::bell::Bell;
use crate::back_end::threads;
use crate::between::closer;
use crate::between::ear::{ear_for, ear_of, listen_to};
use crate::between::hello::{Hello, Message, NotAMessage, ROOM, VERSION, Welcome};
use crate::between::link::{BATCHES, Link, Nudge};
use crate::between::socket::{self, Due, PeerSocket, Received};
use crate::memory::channel::Channel;
use crate::memory::layout::Layout;
use crate::memory::mapping::{Mapping, Writer};
use crate::pool::shared::Pool;
use crate::values::descriptors::Descriptors;
use crate::values::door::{DoorEvent, Unreferenced};
use crate::values::error::MemoryError;
use crate::values::geometry::ChannelGeometry;
use crate::values::peer::Credentials;
use crate::values::refusal::Refusal;

/// A client that has not said everything after this long is forgotten.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// Clients that may be in the middle of their handshake.
const HANDSHAKES_MAX: usize = 64;
/// Clients let in before the others are looked after.
const ADMITTED_MAX: usize = 64;
/// How often channels are looked at that clients have left and threads still hold, and the listener when
/// there were no descriptors for who waits there.
const RETIRED: Duration = Duration::from_millis(20);

/// Descriptors of memory that a client sends.
const HALVES: usize = 2;

const STACK: usize = 128 << 10;
const EVENTS: usize = 64;
/// Tokens of the listener and of the bell. A client's are larger; see [`Token`].
const LISTENER: u64 = 0;
const BELL: u64 = 1;

/// What the porter is told.
#[derive(Debug)]
pub struct Orders {
    /// Nobody new is let in.
    pub detached: AtomicBool,
    pub bell: Bell,
}

struct Porter {
    pool: Arc<Pool>,
    orders: Arc<Orders>,
    epoll: OwnedFd,
    listener: Option<OwnedFd>,
    clients: Vec<Option<Client>>,
    /// How many there have been.
    admitted: u64,
    /// Somebody waits for whom there was no descriptor: the listener does not tell of him again.
    kept_waiting: bool,
    /// Others were connecting when it was somebody else's turn.
    more_to_admit: bool,
    /// Left by their clients, and still held by threads.
    retired: Vec<Arc<Channel>>,
    /// Left by their clients, and used for ever by threads to which lost calls have lent something.
    kept: Vec<&'static Channel>,
    told_revoked: bool,
    /// Since the owner was told that nobody has the door open.
    had_client: bool,
    /// Of the next channel.
    next_id: u64,
    /// The owner was told that nobody has the door open.
    unreferenced: bool,
}

/// What an event is about. The place of a client that has gone is given to the next one, so the number of the
/// client says whether an event that was told before is still about whoever has the place.
#[derive(Clone, Copy)]
struct Token {
    /// From 1 on, never used again.
    number: u64,
    /// Less than 2^16: there are fewer clients, with those in their handshakes.
    index: usize,
    /// Of the process, not of the socket.
    process: bool,
}

impl Token {
    fn encode(self) -> u64 {
        self.number << 17 | (self.index as u64) << 1 | u64::from(self.process)
    }

    fn decode(token: u64) -> Self {
        Self {
            number: token >> 17,
            index: (token >> 1) as usize & 0xffff,
            process: token & 1 != 0,
        }
    }
}

const _: () = assert!(crate::values::door::CHANNELS_MAX as usize + HANDSHAKES_MAX < 1 << 16);

struct Client {
    number: u64,
    credentials: Credentials,
    stage: Stage,
    /// Its socket was not read to the end.
    unread: bool,
    /// Tells the death of a process that has left its socket to a child.
    _process: Option<OwnedFd>,
}

enum Stage {
    Hello {
        socket: PeerSocket,
        since: Instant,
    },
    Memory {
        socket: PeerSocket,
        since: Instant,
        geometry: ChannelGeometry,
        replies: Mapping,
        bell: Bell,
    },
    Open {
        channel: Arc<Channel>,
        place: u32,
    },
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
        // Whoever connected before the listener was in the set.
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
                    // Last: who has left makes room for who comes.
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

    /// Detached, and nobody is left: then nothing can come any more.
    fn is_finished(&self) -> bool {
        self.listener.is_none()
            && self.clients.iter().all(Option::is_none)
            && self.retired.is_empty()
    }

    fn timeout(&self) -> Option<Duration> {
        if self.more_to_admit || self.clients.iter().flatten().any(|client| client.unread) {
            return Some(Duration::ZERO);
        }
        let handshakes = self.clients.iter().flatten().filter_map(Client::since);
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
            let message = Message::Revoked.encode();
            for client in self.clients.iter().flatten() {
                if let Stage::Open { channel, .. } = &client.stage
                    && let Some(link) = &channel.link
                {
                    // A client that does not read sees it on the board with its next call.
                    let _ = socket::send(link.socket.as_fd(), &message, &[]);
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
                        // A part at a time: whoever sends without end does not keep us from the others.
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

    /// Unmaps the channels without a client that no thread holds any more, but those in which a call was
    /// lost.
    fn let_go_of_retired(&mut self) {
        let mut at = 0;
        while let Some(channel) = self.retired.get(at) {
            if self.pool.is_held(channel.id) {
                at += 1;
                continue;
            }
            let channel = self.retired.swap_remove(at);
            // After the look whether it is held: a thread says that a call is lost before it lets go.
            if channel.has_lost_calls() {
                self.keep(channel);
            }
        }
    }

    /// Threads may use a lost call's part of the channel for as long as the process lives.
    fn keep(&mut self, channel: Arc<Channel>) {
        // SAFETY: the pointer is one that an `Arc` had, whose count is never given back.
        let channel: &'static Channel = unsafe { &*Arc::into_raw(channel) };
        self.kept.push(channel);
        self.pool.channels.kept.fetch_add(1, Ordering::Relaxed);
        if let Some(link) = &channel.link {
            let client = link.credentials;
            self.pool.tell(&DoorEvent::Kept { client });
        }
    }

    /// Calls wait that a client could not wake anybody for.
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
        // Never before somebody has had it open, be it for so short that we saw him come and go at once.
        let open = self.pool.clients.load(Ordering::Relaxed) > 0;
        // Nor while a call of somebody who has left still runs.
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

    fn admit(&mut self) {
        self.kept_waiting = false;
        self.more_to_admit = false;
        for _ in 0..ADMITTED_MAX {
            let Some(listener) = &self.listener else {
                return;
            };
            if closer::is_full() {
                self.kept_waiting = true;
                return;
            }
            let (socket, credentials) = match socket::accept(listener) {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    self.kept_waiting = error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            };
            self.make_room_for_a_handshake();
            let index = match self.clients.iter().position(Option::is_none) {
                Some(index) => index,
                None => {
                    self.clients.push(None);
                    self.clients.len() - 1
                }
            };
            self.admitted += 1;
            let number = self.admitted;
            let token = |process| Token {
                number,
                index,
                process,
            };
            let process = socket::process(&socket);
            let listening = listen_to(&self.epoll, socket.as_raw_fd(), token(false).encode())
                .and_then(|()| {
                    process.as_ref().map_or(Ok(()), |process| {
                        listen_to(&self.epoll, process.as_raw_fd(), token(true).encode())
                    })
                });
            if listening.is_err() {
                continue;
            }
            self.clients[index] = Some(Client {
                number,
                credentials,
                stage: Stage::Hello {
                    socket,
                    since: Instant::now(),
                },
                unread: false,
                _process: process,
            });
            self.on_client(token(false));
        }
        self.more_to_admit = true;
    }

    /// Too many clients that say nothing: the one that has been silent for longest has to go, because an
    /// honest one says all it has to say within a millisecond.
    fn make_room_for_a_handshake(&mut self) {
        let handshakes = self.clients.iter().flatten().filter_map(Client::since);
        if handshakes.count() < HANDSHAKES_MAX {
            return;
        }
        let since = |client: &Option<Client>| client.as_ref().and_then(Client::since);
        let silent = self
            .clients
            .iter_mut()
            .filter(|client| since(client).is_some());
        if let Some(oldest) = silent.min_by_key(|client| since(client)) {
            *oldest = None;
        }
    }

    fn refuse(&self, socket: &PeerSocket, client: Credentials, why: Refusal) {
        let _ = socket::send(socket.as_fd(), &Message::Refused(why).encode(), &[]);
        self.pool.tell(&DoorEvent::Refused { client, why });
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

    fn on_handshake(&mut self, index: usize) {
        while let Some(Some(client)) = self.clients.get(index) {
            let (socket, due) = match &client.stage {
                Stage::Hello { socket, .. } => (socket, Due::None),
                Stage::Memory { socket, .. } => (socket, Due::AtMost(HALVES)),
                Stage::Open { .. } => return,
            };
            let mut bytes = [0; ROOM];
            let (message, descriptors) = match socket::receive(socket, &mut bytes, due) {
                Ok(Received::Message { len: 0, .. }) => {
                    self.clients[index] = None;
                    return;
                }
                Ok(Received::Message { len, descriptors }) => {
                    (Message::decode(&bytes[..len]), descriptors)
                }
                Ok(Received::TooMany | Received::NoRoom) => {
                    (Err(NotAMessage), Descriptors::default())
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.clients[index] = None;
                    return;
                }
            };
            let Some(client) = self.clients[index].take() else {
                return;
            };
            let credentials = client.credentials;
            let next = match (client.stage, message) {
                (Stage::Hello { socket, .. }, Ok(Message::Hello(hello))) => {
                    self.welcome(socket, credentials, &hello)
                }
                (
                    Stage::Memory {
                        socket,
                        geometry,
                        replies,
                        bell,
                        ..
                    },
                    Ok(Message::Channel),
                ) => self.open(socket, credentials, geometry, replies, bell, descriptors),
                (Stage::Hello { socket, .. } | Stage::Memory { socket, .. }, _) => {
                    self.refuse(&socket, credentials, Refusal::Protocol);
                    None
                }
                (Stage::Open { .. }, _) => None,
            };
            self.clients[index] = next.map(|stage| Client {
                number: client.number,
                credentials,
                // It may have sent more than was read here.
                unread: matches!(stage, Stage::Open { .. }),
                stage,
                _process: client._process,
            });
        }
    }

    /// Checks everything that can be checked before anything is allocated.
    fn check(&self, client: &Credentials, hello: &Hello) -> Result<ChannelGeometry, Refusal> {
        hello.check()?;
        let remote = &self.pool.remote;
        if self.pool.revoked().is_raised() {
            return Err(Refusal::Revoked);
        }
        if remote.accept.as_ref().is_some_and(|accept| !accept(client)) {
            return Err(Refusal::User {
                uid: client.uid.into(),
            });
        }
        if closer::is_stuck(client.uid) {
            let uid = client.uid.into();
            return Err(Refusal::Unclosed { uid });
        }
        let memory = |client: &&Client| !matches!(client.stage, Stage::Hello { .. });
        let all =
            self.clients.iter().flatten().filter(memory).count() + self.without_client().count();
        if all >= remote.channels_max as usize {
            let max = remote.channels_max.into();
            return Err(Refusal::Channels { max });
        }
        let max = remote.channels_per_user.unwrap_or(remote.channels_max);
        let theirs = self.clients.iter().flatten().filter(memory);
        let theirs = theirs
            .filter(|other| other.credentials.uid == client.uid)
            .count();
        let left = self.without_client().filter_map(|old| old.link.as_ref());
        let left = left
            .filter(|link| link.credentials.uid == client.uid)
            .count();
        if theirs + left >= max as usize {
            return Err(Refusal::ChannelsPerUser {
                max: max.into(),
                uid: client.uid.into(),
            });
        }
        let mut geometry = remote.geometry.ok_or(Refusal::Revoked)?;
        if hello.slots != 0 {
            geometry.slots = geometry.slots.min(hello.slots);
        }
        geometry.spares = geometry.spares.min(hello.spares);
        let needed = geometry.memory_len() as u64;
        if needed > hello.bytes_max {
            return Err(Refusal::Bytes {
                needed,
                allowed: hello.bytes_max,
            });
        }
        Ok(geometry)
    }

    /// Channels whose memory is still there, although their clients have left.
    fn without_client(&self) -> impl Iterator<Item = &Channel> {
        let retired = self.retired.iter().map(|channel| &**channel);
        retired.chain(self.kept.iter().copied())
    }

    fn welcome(
        &mut self,
        socket: PeerSocket,
        credentials: Credentials,
        hello: &Hello,
    ) -> Option<Stage> {
        let mut checked = self.check(&credentials, hello);
        if matches!(
            checked,
            Err(Refusal::Channels { .. } | Refusal::ChannelsPerUser { .. })
        ) {
            // Some may have left that were not looked at since: many come and go in one turn.
            for client in self.clients.iter_mut().flatten() {
                client.unread = true;
            }
            self.look_around();
            checked = self.check(&credentials, hello);
        }
        let outcome = checked.and_then(|geometry| {
            self.send_welcome(&socket, geometry)
                .map_err(|error| refusal_of(&error))
        });
        match outcome {
            Ok((geometry, replies, bell)) => Some(Stage::Memory {
                socket,
                since: Instant::now(),
                geometry,
                replies,
                bell,
            }),
            Err(why) => {
                self.refuse(&socket, credentials, why);
                None
            }
        }
    }

    fn send_welcome(
        &self,
        socket: &PeerSocket,
        geometry: ChannelGeometry,
    ) -> Result<(ChannelGeometry, Mapping, Bell), MemoryError> {
        let pool = &*self.pool;
        let limits = pool.remote.limits;
        let bell = Bell::new()?;
        let ear = ear_of(&bell)?;
        let (replies, replies_fd) =
            Mapping::create(c"transom-replies", geometry.replies_len(), Writer::Creator)?;
        let [board, beds] = pool.board_fds.as_ref().ok_or_else(|| {
            MemoryError::System(io::Error::other("the door has no board to show"))
        })?;
        let welcome = Message::Welcome(Welcome {
            pid: std::process::id(),
            id: pool.id,
            attributes: pool.attributes().encode(),
            data_min: limits.data_min as u64,
            data_max: limits.data_max as u64,
            descriptors_max: limits.descriptors_max,
            threads_max: pool.threads_max(),
            geometry,
        });
        let descriptors = [board, beds, &replies_fd, &ear].map(AsFd::as_fd);
        socket::let_descriptors_in(socket, true);
        socket::send(socket.as_fd(), &welcome.encode(), &descriptors)?;
        Ok((geometry, replies, bell))
    }

    fn open(
        &mut self,
        socket: PeerSocket,
        credentials: Credentials,
        geometry: ChannelGeometry,
        replies: Mapping,
        bell: Bell,
        mut descriptors: Descriptors,
    ) -> Option<Stage> {
        if self.pool.remote.limits.descriptors_max == 0 {
            socket::let_descriptors_in(&socket, false);
        }
        let mapped = Mapping::receive(&mut descriptors, geometry.requests_len(), Writer::Creator)
            .and_then(|requests| {
                let len = geometry.control_len();
                let control = Mapping::receive(&mut descriptors, len, Writer::Both)?;
                Ok([requests, replies, control])
            });
        let mappings = match mapped {
            Ok(mappings) => mappings,
            Err(error @ MemoryError::System(_)) => {
                self.refuse(&socket, credentials, refusal_of(&error));
                return None;
            }
            Err(_) => {
                self.refuse(&socket, credentials, Refusal::Protocol);
                return None;
            }
        };
        let place = self.pool.channels.table().free_place()?;
        let bases = [mappings[0].base(), mappings[1].base(), mappings[2].base()];
        // SAFETY: the geometry is the door's, which was checked, with fewer slots and spares at most; the
        // mappings have the lengths that it says and stay as long as the channel, whose link has them.
        // Requests are mapped for reading.
        let layout = unsafe { Layout::of_parts(geometry, bases) };
        let link = Link::new(
            geometry,
            credentials,
            socket,
            self.orders.bell.clone(),
            self.pool.remote.limits.descriptors_max,
            mappings,
        );
        let channel = Arc::new(Channel::new(place, self.next_id, layout, bell, Some(link)));
        self.next_id += 1;
        self.pool.channels.table().insert(place, &channel);
        self.pool.clients.fetch_add(1, Ordering::Relaxed);
        self.had_client = true;
        if let Some(link) = &channel.link {
            let _ = socket::send(link.socket.as_fd(), &Message::Ready.encode(), &[]);
        }
        self.pool.tell(&DoorEvent::Opened {
            client: credentials,
        });
        Some(Stage::Open { channel, place })
    }

    /// Takes a channel away whose client has left or lied.
    fn put_out(&mut self, index: usize) {
        let Some(Client {
            stage: Stage::Open { channel, place },
            credentials: client,
            ..
        }) = self.clients[index].take()
        else {
            return;
        };
        let pool = &*self.pool;
        pool.channels.table().remove(place, pool.presences());
        // Threads that wait for this client's turn wait no longer.
        for slot in 0..channel.layout.geometry().slots_in_all() {
            channel.layout.turn(slot).leave();
        }
        pool.clients.fetch_sub(1, Ordering::Relaxed);
        if let Some(link) = &channel.link {
            // The other side, if it lives, sees a hang-up now and not only when the last thread has let go.
            socket::hang_up(&link.socket);
            pool.tell(&match link.lie() {
                Some(lie) => DoorEvent::Poisoned { client, lie },
                None => DoorEvent::Left { client },
            });
            if pool.is_held(channel.id) || channel.has_lost_calls() {
                // A call that runs on, or was lost, keeps the channel, but not the descriptors of other
                // calls.
                link.discard();
                link.drop_parcels();
                self.retired.push(channel);
            }
        }
    }
}

impl Client {
    /// Since when its handshake is under way.
    fn since(&self) -> Option<Instant> {
        match self.stage {
            Stage::Hello { since, .. } | Stage::Memory { since, .. } => Some(since),
            Stage::Open { .. } => None,
        }
    }
}

/// Why a client has no channel, if its memory could not be made or shown to it.
fn refusal_of(error: &MemoryError) -> Refusal {
    let errno = match error {
        MemoryError::System(error) => error.raw_os_error().unwrap_or(0),
        _ => 0,
    };
    match errno {
        libc::EPIPE | libc::ECONNRESET => Refusal::HungUp,
        errno => Refusal::Resources {
            errno: errno.unsigned_abs().into(),
        },
    }
}

// The version is part of every message; a server that spoke another would not be this one.
const _: () = assert!(VERSION == 3);
