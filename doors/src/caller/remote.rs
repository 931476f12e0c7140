//! A caller's end of a channel into another process: how it is opened, how threads there are woken, how its
//! death is seen.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::between::closer;
use crate::between::ear::{ear_for, is_ear};
use crate::between::hello::{Message, Welcome};
use crate::between::parcels::Parcels;
use crate::between::socket::{self, Due, Heard, PeerSocket};
use crate::caller::handshake::Handshake;
use crate::memory::board::Board;
use crate::memory::layout::Layout;
use crate::memory::mapping::{Mapping, Writer};
use crate::rules::sync::Ordering;
use crate::values::descriptors::{DESCRIPTORS_MAX, Descriptors};
use crate::values::door::{Attributes, Limits, RemoteDoor};
use crate::values::error::OpenError;
use crate::values::options::OpenOptions;
use crate::values::peer::{Credentials, PeerState};

/// After this many doorbells in a row that brought nothing, the other side counts as broken: an honest one
/// rings in vain a few times, not ten thousand times.
const EMPTY_RINGS_MAX: u32 = 10_000;

/// Messages that are read at a time: more than a socket's buffer holds, so that an honest server's are all
/// read, and one that sends without end does not keep the caller.
const MESSAGES_MAX: usize = 1024;

/// The other side of a channel.
#[derive(Debug)]
pub struct Remote {
    pub socket: PeerSocket,
    pub ear: OwnedFd,
    /// An epoll set that becomes readable with news of the other side.
    pub news: OwnedFd,
    pub state: PeerState,
    /// As it was when it was opened.
    door: RemoteDoor,
    /// Descriptors that came with a reply.
    parcels: Parcels,
    takes_descriptors: bool,
    told_revoked: bool,
    /// What it was given up for.
    pub lie: Option<&'static str>,
    empty_rings: u32,
    board: Board,
    process: Option<OwnedFd>,
    /// The process that opened it: a child that was forked since has no channel.
    opener: u32,
    /// Requests, replies, control.
    _mappings: [Mapping; 3],
}

impl Remote {
    /// Opens the door at `path`.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<(Self, Layout), OpenError> {
        // A timeout that no clock reaches is a year.
        let timeout = options.timeout.min(Duration::from_secs(365 * 86_400));
        let handshake = Handshake {
            path,
            options,
            deadline: Instant::now() + timeout,
        };
        closer::start().map_err(handshake.fail("start a thread that closes what comes from"))?;
        let (socket, server) = handshake.connect(timeout)?;
        let (welcome, mut descriptors) = handshake.say_hello(&socket)?;
        let geometry = welcome.geometry;
        let board =
            Board::receive(&mut descriptors, welcome.threads_max).map_err(handshake.lie())?;
        let replies = Mapping::receive(&mut descriptors, geometry.replies_len(), Writer::Creator)
            .map_err(handshake.lie())?;
        // To wait for another kind of descriptor, the kernel may have to ask another process each time.
        let ear = (descriptors.first().is_some_and(|fd| is_ear(fd.as_fd())))
            .then(|| descriptors.next())
            .flatten()
            .ok_or_else(|| handshake.not_understood())?;
        replies.touch();
        let [requests, control] = handshake.give_memory(&socket, geometry)?;
        let process = socket::process(&socket);
        let news = news_of(&socket, process.as_ref()).map_err(handshake.fail("listen to"))?;

        let mappings = [requests, replies, control];
        let bases = [mappings[0].base(), mappings[1].base(), mappings[2].base()];
        // SAFETY: the geometry was checked, and the lengths of the mappings are what it says; they stay as
        // long as this value, which the client that uses the layout owns. Replies are mapped for reading.
        let layout = unsafe { Layout::of_parts(geometry, bases) };
        let remote = Self {
            socket,
            ear,
            news,
            state: PeerState::Serving,
            door: door_of(&welcome, server),
            parcels: Parcels::new(geometry.slots_in_all()),
            takes_descriptors: options.take_descriptors,
            told_revoked: false,
            lie: None,
            empty_rings: 0,
            board,
            process,
            opener: std::process::id(),
            _mappings: mappings,
        };
        Ok((remote, layout))
    }

    /// Whether this is the process that opened the door.
    pub fn is_ours(&self) -> bool {
        self.opener == std::process::id()
    }

    /// What is known of the door; whether it was revoked is looked up now.
    pub fn door(&self) -> RemoteDoor {
        let mut door = self.door;
        door.attributes.revoked = self.board.revoked().is_raised();
        door
    }

    /// What the door takes.
    pub fn limits(&self) -> Limits {
        self.door.limits
    }

    /// After publishing: whether calls may stay with no thread to serve them.
    pub fn refuses_after_publishing(&self) -> bool {
        self.state != PeerState::Serving || self.board.revoked().is_raised_after_publishing()
    }

    /// As `Pool::ring_for`, from outside.
    pub fn ring_for(&mut self, calls: u32) {
        let idle = self.board.idle();
        let running = idle.running();
        let wanted = self.board.pace().threads_for(calls, running);
        if wanted == 0 {
            return;
        }
        let started = self.board.started().load(Ordering::SeqCst);
        let rung = idle.wake_from_outside(wanted, started);
        // A thread that was woken finds company itself.
        let nobody = rung.woken == 0 && running == 0;
        if nobody && (rung.uncertain || started < self.board.threads()) {
            self.say_nudge(false);
        }
    }

    /// As `Pool::nudge`, from outside. The result is not known here.
    pub fn nudge(&mut self) {
        self.say_nudge(true);
    }

    /// If the socket is full, the porter has enough to read.
    fn say_nudge(&self, stuck: bool) {
        let _ = socket::say(&self.socket, &Message::Nudge { stuck }, &[]);
    }

    /// Reads what the other side has said.
    pub fn listen(&mut self) -> PeerState {
        for _ in 0..MESSAGES_MAX {
            if self.state == PeerState::Gone || !self.receive_one() {
                break;
            }
        }
        if self.state == PeerState::Serving && self.board.revoked().is_raised() {
            self.state = PeerState::Revoked;
        }
        let ended =
            |process: &OwnedFd| socket::wait_readable(&[process.as_fd()], Some(Duration::ZERO));
        if self.process.as_ref().is_some_and(ended) {
            self.state = PeerState::Gone;
        }
        self.state
    }

    fn receive_one(&mut self) -> bool {
        let due = match self.takes_descriptors {
            true => Due::AtMost(DESCRIPTORS_MAX),
            false => Due::None,
        };
        match socket::hear(&self.socket, due) {
            Heard::Message(Ok(Message::Revoked), _) if self.told_revoked => {
                self.poison("the same message again and again");
            }
            Heard::Message(Ok(Message::Revoked), _) => {
                self.told_revoked = true;
                self.state = PeerState::Revoked;
            }
            Heard::Message(Ok(Message::Parcel { .. }), _) if !self.takes_descriptors => {
                self.poison("descriptors that were not asked for");
            }
            Heard::Message(Ok(Message::Parcel { slot, generation }), descriptors) => {
                if !self.parcels.keep(slot, generation, descriptors) {
                    self.poison("descriptors for a slot that does not exist");
                }
            }
            Heard::Message(..) => self.poison("a message that means nothing here"),
            Heard::TooMany if self.takes_descriptors => {
                self.poison("more descriptors than a reply has");
                return false;
            }
            Heard::TooMany => {
                self.poison("descriptors that were not asked for");
                return false;
            }
            Heard::Nothing | Heard::NoRoom => return false,
            Heard::End => {
                self.state = PeerState::Gone;
                return false;
            }
        }
        true
    }

    /// The descriptors of a reply, which were sent before it was published.
    pub fn take_parcel(&mut self, slot: u32, generation: u32) -> Option<Descriptors> {
        for _ in 0..2 {
            let parcel = self.parcels.take(slot, generation);
            if parcel.is_some() {
                return parcel;
            }
            self.listen();
        }
        None
    }

    /// The other side has lied, or is broken: we trust nothing from it any more.
    pub fn poison(&mut self, lie: &'static str) {
        self.lie.get_or_insert(lie);
        self.state = PeerState::Gone;
        socket::hang_up(&self.socket);
    }

    /// Notes whether a doorbell has brought anything.
    pub fn note_ring(&mut self, useful: bool) {
        self.empty_rings = if useful { 0 } else { self.empty_rings + 1 };
        if self.empty_rings > EMPTY_RINGS_MAX {
            self.poison("doorbells without a reply");
        }
    }

    /// After a wait: a bell that has rung is not heard again until it rings again. An epoll set is readable
    /// until what it has to tell was taken from it, and the bell itself is never read. Does not wait. What
    /// the other side has given us as an ear may be something else; then this finds nothing.
    pub fn hush(&self) {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: there is room for one event.
        unsafe { libc::epoll_wait(self.ear.as_raw_fd(), &raw mut event, 1, 0) };
    }

    /// Where a caller can wait for a reply and for bad news at once.
    pub fn ears(&self) -> [BorrowedFd<'_>; 2] {
        [self.ear.as_fd(), self.news.as_fd()]
    }
}

/// An epoll set that hears of messages, of a hang-up and of the process's end.
fn news_of(socket: &PeerSocket, process: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    match process {
        Some(process) => ear_for(&[(socket.as_raw_fd(), 0), (process.as_raw_fd(), 1)]),
        None => ear_for(&[(socket.as_raw_fd(), 0)]),
    }
}

/// What a door has said of itself.
fn door_of(welcome: &Welcome, server: Credentials) -> RemoteDoor {
    RemoteDoor {
        pid: welcome.pid,
        id: welcome.id,
        attributes: Attributes::decode(welcome.attributes),
        limits: Limits {
            data_min: usize::try_from(welcome.data_min).unwrap_or(usize::MAX),
            data_max: usize::try_from(welcome.data_max).unwrap_or(usize::MAX),
            descriptors_max: welcome.descriptors_max,
        },
        server,
    }
}
