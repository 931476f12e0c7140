//! How a client gets in: what it says is checked before anything is allocated for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::back_end::bell::Bell;
use crate::between::closer;
use crate::between::ear::{ear_of, listen_to};
use crate::between::hello::{Hello, Message, NotAMessage, VERSION, Welcome};
use crate::between::link::Link;
use crate::between::porter::Porter;
use crate::between::porter::admitted::{Admitted, HANDSHAKES_MAX, Stage, Token};
use crate::between::socket::{self, Due, Heard, PeerSocket};
use crate::memory::channel::Channel;
use crate::memory::layout::Layout;
use crate::memory::mapping::{Mapping, Writer};
use crate::values::descriptors::Descriptors;
use crate::values::door::DoorEvent;
use crate::values::error::MemoryError;
use crate::values::geometry::ChannelGeometry;
use crate::values::peer::Credentials;
use crate::values::refusal::Refusal;

/// Clients let in before the others are looked after.
const ADMITTED_MAX: usize = 64;
/// Descriptors of memory that a client sends.
const HALVES: usize = 2;

impl Porter {
    pub(super) fn admit(&mut self) {
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
            self.clients[index] = Some(Admitted {
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

    /// Too many clients are silent: the one that has been silent for longest is removed, because an honest
    /// client finishes its handshake within a millisecond.
    fn make_room_for_a_handshake(&mut self) {
        let handshakes = self.clients.iter().flatten().filter_map(Admitted::since);
        if handshakes.count() < HANDSHAKES_MAX {
            return;
        }
        let since = |client: &Option<Admitted>| client.as_ref().and_then(Admitted::since);
        let silent = self
            .clients
            .iter_mut()
            .filter(|client| since(client).is_some());
        if let Some(oldest) = silent.min_by_key(|client| since(client)) {
            *oldest = None;
        }
    }

    fn refuse(&self, socket: &PeerSocket, client: Credentials, why: Refusal) {
        let _ = socket::say(socket, &Message::Refused(why), &[]);
        self.pool.tell(&DoorEvent::Refused { client, why });
    }

    pub(super) fn on_handshake(&mut self, index: usize) {
        while let Some(Some(client)) = self.clients.get(index) {
            let (socket, due) = match &client.stage {
                Stage::Hello { socket, .. } => (socket, Due::None),
                Stage::Memory { socket, .. } => (socket, Due::AtMost(HALVES)),
                Stage::Open { .. } => return,
            };
            let (message, descriptors) = match socket::hear(socket, due) {
                Heard::Message(message, descriptors) => (message, descriptors),
                Heard::TooMany | Heard::NoRoom => (Err(NotAMessage), Descriptors::default()),
                Heard::Nothing => return,
                Heard::End => {
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
            self.clients[index] = next.map(|stage| Admitted {
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
        let memory = |client: &&Admitted| !matches!(client.stage, Stage::Hello { .. });
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
            // Some clients may have left that were not looked at since: many come and leave in one turn.
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
        socket::say(socket, &welcome, &descriptors)?;
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
            let _ = socket::say(&link.socket, &Message::Ready, &[]);
        }
        self.pool.tell(&DoorEvent::Opened {
            client: credentials,
        });
        Some(Stage::Open { channel, place })
    }
}

/// Why a client has no channel, if its memory could not be made or mapped.
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

// The version is part of every message; this server speaks no other.
const _: () = assert!(VERSION == 3);
