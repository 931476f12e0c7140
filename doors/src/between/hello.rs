//! What the two processes say to each other over the rendezvous socket: messages of one fixed size, numbers
//! little endian.
//!
//! ```text
//! client                                     server
//!   HELLO   version, slots, spares, bytes_max  ──▶
//!           ◀──  WELCOME  the door's numbers      + board, beds, replies, doorbell
//!           ◀──  REFUSED  why, in numbers           (instead)
//!   CHANNEL                            ──▶        + requests, control
//!           ◀──  READY
//!   NUDGE   calls wait               ──▶
//!   PARCEL  slot, generation           ──▶        + the descriptors of a call, before it is submitted
//!           ◀──  PARCEL  slot, generation         + the descriptors of a reply, before it is published
//!           ◀──  REVOKED
//! ```
//!
//! The functions are pure: bytes in, values out. Arbitrary bytes give an error and never a panic.

use crate::values::geometry::{ChannelGeometry, PAGE};
use crate::values::refusal::Refusal;

/// The version of this conversation and of every layout behind it.
pub const VERSION: u32 = 3;
/// Bytes of every message.
pub const MESSAGE: usize = 128;
/// Room to receive one: a longer message is noticed, and refused.
pub const ROOM: usize = MESSAGE + 1;

const MAGIC: [u8; 8] = *b"TRANSOMD";

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its version.
    pub version: u32,
    /// Its page size.
    pub page: u32,
    /// Slots it wants at most; 0: as many as the door offers.
    pub slots: u32,
    /// The most bytes that the whole channel may have.
    pub bytes_max: u64,
    /// Spare slots it has room for beside these.
    pub spares: u32,
}

/// What a door is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The server's process.
    pub pid: u32,
    /// Identifies this door in the whole system; no other ever has it.
    pub id: u128,
    /// See [`Attributes`](crate::Attributes).
    pub attributes: u32,
    /// The fewest bytes of a request.
    pub data_min: u64,
    /// The most.
    pub data_max: u64,
    /// The most descriptors of a call.
    pub descriptors_max: u32,
    /// Threads of the door at most; decides the size of its board.
    pub threads_max: u32,
    /// The channel's geometry.
    pub geometry: ChannelGeometry,
}

/// Any message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Client: the first.
    Hello(Hello),
    /// Server: the answer.
    Welcome(Welcome),
    /// Server: the other answer.
    Refused(Refusal),
    /// Client: its half of the memory is attached.
    Channel,
    /// Server: calls are taken from now on.
    Ready,
    /// Client: calls wait.
    Nudge {
        /// The calls have waited for long: threads that were expected to take them are in handlers that
        /// block. If false, no sleeper could be woken for certain.
        stuck: bool,
    },
    /// Descriptors of a call or reply are attached.
    Parcel {
        /// Of which slot.
        slot: u32,
        /// Of which use of it.
        generation: u32,
    },
    /// Server: no new calls.
    Revoked,
}

/// Bytes that are no message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side does not speak the door protocol")]
pub struct NotAMessage;

impl Message {
    /// Its bytes.
    pub fn encode(&self) -> [u8; MESSAGE] {
        let mut out = Output {
            bytes: [0; MESSAGE],
            at: 0,
        };
        out.put(&MAGIC);
        out.u32(VERSION);
        match *self {
            Message::Hello(hello) => hello.write(&mut out),
            Message::Welcome(welcome) => welcome.write(&mut out),
            Message::Refused(refusal) => write_refusal(refusal, &mut out),
            Message::Channel => out.u32(4),
            Message::Ready => out.u32(5),
            Message::Nudge { stuck } => {
                out.u32(6);
                out.u32(u32::from(stuck));
            }
            Message::Parcel { slot, generation } => {
                out.u32(7);
                out.u32(slot);
                out.u32(generation);
            }
            Message::Revoked => out.u32(8),
        }
        out.bytes
    }

    /// Reads a message. A hello or a refusal of another version is read too, so that the difference can be
    /// named.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAMessage> {
        let mut input = Input(bytes);
        if bytes.len() != MESSAGE || input.take::<8>()? != MAGIC {
            return Err(NotAMessage);
        }
        let version = input.u32()?;
        let kind = input.u32()?;
        if version != VERSION && !matches!(kind, 1 | 3) {
            return Err(NotAMessage);
        }
        Ok(match kind {
            1 => Message::Hello(Hello::read(version, &mut input)?),
            2 => Message::Welcome(Welcome::read(&mut input)?),
            3 => Message::Refused(read_refusal(&mut input)?),
            4 => Message::Channel,
            5 => Message::Ready,
            6 => Message::Nudge {
                stuck: match input.u32()? {
                    0 => false,
                    1 => true,
                    _ => return Err(NotAMessage),
                },
            },
            7 => Message::Parcel {
                slot: input.u32()?,
                generation: input.u32()?,
            },
            8 => Message::Revoked,
            _ => return Err(NotAMessage),
        })
    }
}

impl Hello {
    /// What a client of this build says.
    pub fn ours(slots: u32, spares: u32, bytes_max: u64) -> Self {
        Self {
            version: VERSION,
            page: PAGE as u32,
            slots,
            bytes_max,
            spares,
        }
    }

    /// Whether a server of this build can serve that client.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.version != VERSION {
            return Err(Refusal::Version {
                client: self.version.into(),
                server: VERSION.into(),
            });
        }
        if self.page != PAGE as u32 {
            return Err(Refusal::Page {
                client: self.page.into(),
                server: PAGE as u64,
            });
        }
        Ok(())
    }

    fn write(self, out: &mut Output) {
        out.u32(1);
        out.u32(self.page);
        out.u32(self.slots);
        out.u64(self.bytes_max);
        out.u32(self.spares);
        // A future version may say another number in the common place.
        out.bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
    }

    fn read(version: u32, input: &mut Input<'_>) -> Result<Self, NotAMessage> {
        Ok(Self {
            version,
            page: input.u32()?,
            slots: input.u32()?,
            bytes_max: input.u64()?,
            spares: input.u32()?,
        })
    }
}

impl Welcome {
    fn write(self, out: &mut Output) {
        out.u32(2);
        out.u32(self.pid);
        out.put(&self.id.to_le_bytes());
        out.u32(self.attributes);
        out.u64(self.data_min);
        out.u64(self.data_max);
        out.u32(self.descriptors_max);
        out.u32(self.threads_max);
        out.u32(self.geometry.slots);
        out.u64(self.geometry.request_size as u64);
        out.u64(self.geometry.reply_size as u64);
        out.u32(self.geometry.spares);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, NotAMessage> {
        Ok(Self {
            pid: input.u32()?,
            id: u128::from_le_bytes(input.take()?),
            attributes: input.u32()?,
            data_min: input.u64()?,
            data_max: input.u64()?,
            descriptors_max: input.u32()?,
            threads_max: input.u32()?,
            geometry: ChannelGeometry {
                slots: input.u32()?,
                request_size: input.size()?,
                reply_size: input.size()?,
                spares: input.u32()?,
            },
        })
    }
}

fn write_refusal(refusal: Refusal, out: &mut Output) {
    let (code, first, second) = match refusal {
        Refusal::Version { client, server } => (1, client, server),
        Refusal::Page { client, server } => (2, client, server),
        Refusal::Bytes { needed, allowed } => (3, needed, allowed),
        Refusal::Channels { max } => (4, max, 0),
        Refusal::ChannelsPerUser { max, uid } => (5, max, uid),
        Refusal::User { uid } => (6, uid, 0),
        Refusal::Revoked => (7, 0, 0),
        Refusal::Resources { errno } => (8, errno, 0),
        Refusal::Protocol => (9, 0, 0),
        Refusal::Unclosed { uid } => (10, uid, 0),
        Refusal::HungUp => (11, 0, 0),
    };
    out.u32(3);
    out.u32(code);
    out.u64(first);
    out.u64(second);
}

fn read_refusal(input: &mut Input<'_>) -> Result<Refusal, NotAMessage> {
    let code = input.u32()?;
    let (first, second) = (input.u64()?, input.u64()?);
    let (client, server) = (first, second);
    Ok(match code {
        1 => Refusal::Version { client, server },
        2 => Refusal::Page { client, server },
        3 => Refusal::Bytes {
            needed: first,
            allowed: second,
        },
        4 => Refusal::Channels { max: first },
        5 => Refusal::ChannelsPerUser {
            max: first,
            uid: second,
        },
        6 => Refusal::User { uid: first },
        7 => Refusal::Revoked,
        8 => Refusal::Resources { errno: first },
        9 => Refusal::Protocol,
        10 => Refusal::Unclosed { uid: first },
        11 => Refusal::HungUp,
        _ => return Err(NotAMessage),
    })
}

/// The bytes of a message as they are put together.
struct Output {
    bytes: [u8; MESSAGE],
    at: usize,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn u32(&mut self, number: u32) {
        self.put(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.put(&number.to_le_bytes());
    }
}

/// The bytes of a message that were not read yet.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NotAMessage> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(NotAMessage)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<u32, NotAMessage> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, NotAMessage> {
        self.take().map(u64::from_le_bytes)
    }

    fn size(&mut self) -> Result<usize, NotAMessage> {
        usize::try_from(self.u64()?).map_err(|_| NotAMessage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all() -> Vec<Message> {
        let geometry = ChannelGeometry {
            slots: 64,
            spares: 5,
            request_size: 16 << 10,
            reply_size: 64 << 10,
        };
        let mut all = vec![
            Message::Hello(Hello::ours(8, 3, 1 << 20)),
            Message::Welcome(Welcome {
                pid: 77,
                id: u128::MAX / 3,
                attributes: 5,
                data_min: 1,
                data_max: u64::MAX,
                descriptors_max: 16,
                threads_max: 64,
                geometry,
            }),
            Message::Channel,
            Message::Ready,
            Message::Nudge { stuck: true },
            Message::Nudge { stuck: false },
            Message::Parcel {
                slot: 3,
                generation: 9,
            },
            Message::Revoked,
        ];
        let refusals = [
            Refusal::Version {
                client: 2,
                server: 1,
            },
            Refusal::Page {
                client: 16384,
                server: 4096,
            },
            Refusal::Bytes {
                needed: 9,
                allowed: 8,
            },
            Refusal::Channels { max: 4 },
            Refusal::ChannelsPerUser { max: 2, uid: 1000 },
            Refusal::User { uid: 1000 },
            Refusal::Revoked,
            Refusal::Resources { errno: 24 },
            Refusal::Protocol,
            Refusal::Unclosed { uid: 1000 },
            Refusal::HungUp,
        ];
        all.extend(refusals.map(Message::Refused));
        all
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        for message in all() {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn a_hello_of_another_version_is_read_and_refused_with_both_numbers() {
        let mut hello = Hello::ours(0, 0, 0);
        hello.version = 7;
        let Ok(Message::Hello(read)) = Message::decode(&Message::Hello(hello).encode()) else {
            panic!("a hello");
        };
        let refusal = read.check().expect_err("another version");
        let sentence = refusal.to_string();
        assert!(
            sentence.contains('7') && sentence.contains(&VERSION.to_string()),
            "{sentence}"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_message_or_one_that_is_written_so(mut bytes in proptest::collection::vec(any::<u8>(), MESSAGE), kind in 0u8..12) {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            bytes[12..16].copy_from_slice(&u32::from(kind).to_le_bytes());
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }

        #[test]
        fn any_length_is_taken_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(&bytes);
        }
    }
}
