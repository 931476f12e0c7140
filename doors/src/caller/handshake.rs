//! How a caller gets its channel into another process: what it sends, what it receives, what it checks.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::between::closer;
use crate::between::hello::{Hello, Message, Welcome};
use crate::between::socket::{self, Due, Heard, PeerSocket};
use crate::memory::mapping::{Mapping, Writer};
use crate::values::descriptors::Descriptors;
use crate::values::door::THREADS_MAX;
use crate::values::error::{MemoryError, OpenError};
use crate::values::geometry::ChannelGeometry;
use crate::values::options::OpenOptions;
use crate::values::peer::Credentials;
use crate::values::refusal::Refusal;

/// Descriptors that a welcome brings: board, beds, replies, doorbell.
const GIVEN: usize = 4;

/// A door that is being opened.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    pub path: &'a Path,
    pub options: &'a OpenOptions,
    pub deadline: Instant,
}

impl<'a> Handshake<'a> {
    /// Connects to a server that may serve there.
    pub fn connect(self, timeout: Duration) -> Result<(PeerSocket, Credentials), OpenError> {
        let connected = socket::connect(self.path, timeout);
        let (socket, server) = connected.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => self.away(),
            _ => self.fail("connect to")(source),
        })?;
        if !self.options.owner.admits(server.uid) {
            return Err(OpenError::Stranger {
                path: self.path.to_owned(),
                server,
                owner: self.options.owner,
            });
        }
        if closer::is_stuck(server.uid) {
            let uid = server.uid.into();
            return Err(self.refused(Refusal::Unclosed { uid }));
        }
        Ok((socket, server))
    }

    /// Says what is wanted, and checks what the door offers.
    pub fn say_hello(self, socket: &PeerSocket) -> Result<(Welcome, Descriptors), OpenError> {
        let options = self.options;
        let hello = Hello::ours(
            options.slots.unwrap_or(0),
            options.spares.unwrap_or(u32::MAX),
            options.channel_bytes_max as u64,
        );
        socket::say(socket, &Message::Hello(hello), &[]).map_err(self.fail("speak to"))?;
        let (message, descriptors) = self.hear(socket, Due::AtMost(GIVEN))?;
        let Message::Welcome(welcome) = message else {
            return Err(self.not_understood());
        };
        if !options.take_descriptors {
            socket::let_descriptors_in(socket, false);
        }
        let geometry = welcome.geometry;
        if geometry.check().is_err()
            || !(1..=THREADS_MAX).contains(&welcome.threads_max)
            || (options.slots).is_some_and(|slots| geometry.slots > slots)
            || (options.spares).is_some_and(|spares| geometry.spares > spares)
        {
            return Err(self.not_understood());
        }
        if geometry.memory_len() > options.channel_bytes_max {
            return Err(self.refused(Refusal::Bytes {
                needed: geometry.memory_len() as u64,
                allowed: options.channel_bytes_max as u64,
            }));
        }
        Ok((welcome, descriptors))
    }

    /// Makes the caller's half of the channel, requests and control, and waits until the server has it.
    pub fn give_memory(
        self,
        socket: &PeerSocket,
        geometry: ChannelGeometry,
    ) -> Result<[Mapping; 2], OpenError> {
        let (requests, requests_fd) = Mapping::create(
            c"transom-requests",
            geometry.requests_len(),
            Writer::Creator,
        )
        .map_err(self.lie())?;
        let (control, control_fd) =
            Mapping::create(c"transom-control", geometry.control_len(), Writer::Both)
                .map_err(self.lie())?;
        let halves = [requests_fd.as_fd(), control_fd.as_fd()];
        socket::say(socket, &Message::Channel, &halves).map_err(self.fail("speak to"))?;
        match self.hear(socket, Due::None)? {
            (Message::Ready, _) => Ok([requests, control]),
            _ => Err(self.not_understood()),
        }
    }

    /// Waits for the next message.
    fn hear(self, socket: &PeerSocket, due: Due) -> Result<(Message, Descriptors), OpenError> {
        loop {
            return match socket::hear(socket, due) {
                Heard::Message(Ok(Message::Refused(why)), _) => Err(self.refused(why)),
                Heard::Message(Ok(message), descriptors) => Ok((message, descriptors)),
                Heard::Message(Err(_), _) | Heard::TooMany => Err(self.not_understood()),
                Heard::Nothing => {
                    let left = self.deadline.saturating_duration_since(Instant::now());
                    if !left.is_zero() && socket::wait_readable(&[socket.as_fd()], Some(left)) {
                        continue;
                    }
                    Err(OpenError::TimedOut {
                        path: self.path.to_owned(),
                    })
                }
                // The server has died, or has just detached.
                Heard::End => Err(self.away()),
                Heard::NoRoom => {
                    let source = io::Error::from_raw_os_error(libc::EMFILE);
                    Err(self.fail("receive the memory of")(source))
                }
            };
        }
    }

    /// The system says no.
    pub fn fail(self, doing: &'static str) -> impl Fn(io::Error) -> OpenError + use<'a> {
        move |source| OpenError::System {
            path: self.path.to_owned(),
            doing,
            source,
        }
    }

    /// Memory is not what was agreed, or there is none.
    pub fn lie(self) -> impl Fn(MemoryError) -> OpenError + use<'a> {
        move |source| OpenError::Memory {
            path: self.path.to_owned(),
            source,
        }
    }

    pub fn not_understood(self) -> OpenError {
        OpenError::Protocol {
            path: self.path.to_owned(),
        }
    }

    fn refused(self, why: Refusal) -> OpenError {
        OpenError::Refused {
            path: self.path.to_owned(),
            why,
        }
    }

    fn away(self) -> OpenError {
        OpenError::Away {
            path: self.path.to_owned(),
        }
    }
}
