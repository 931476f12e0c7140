//! Frames of connections, datagrams and answers: what is written is read, and whatever is read is checked.

use proptest::collection::vec;
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};
use transom_wire::frame::{
    ANSWER_HEADER_LEN, CONNECTION_LEN, DATAGRAM_HEADER_LEN, DATAGRAM_MAX, FrameError, RawDatagram,
    decode_answer, decode_connection, decode_datagram, decode_request, encode_answer,
    encode_connection, encode_datagram,
};

fn connection(peer: Option<SocketAddr>) -> Vec<u8> {
    let mut bytes = vec![0xdb; CONNECTION_LEN];
    encode_connection(&mut bytes, peer);
    bytes
}

fn datagram(peer: Option<SocketAddr>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xdb; DATAGRAM_HEADER_LEN];
    encode_datagram(&mut bytes, peer, payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

fn answer(payload: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = vec![0xdb; ANSWER_HEADER_LEN];
    let len = encode_answer(&mut bytes, payload.map(<[u8]>::len));
    bytes.extend_from_slice(payload.unwrap_or_default());
    assert_eq!(bytes.len(), len);
    bytes
}

fn peer() -> Option<SocketAddr> {
    Some(([192, 0, 2, 7], 4711).into())
}

#[test]
fn each_lie_about_a_connection_has_its_error() {
    let bytes = connection(peer());
    let after = |at: usize, lie: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = lie;
        decode_connection(&bytes).expect_err("a lie")
    };
    assert_eq!(
        decode_connection(&bytes[..CONNECTION_LEN - 1]),
        Err(FrameError::Truncated)
    );
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(decode_connection(&longer), Err(FrameError::Length));
    assert_eq!(after(0, b'D'), FrameError::Kind);
    assert_eq!(after(1, 1), FrameError::Version(1));
    for (at, lie) in [(2, 5), (2, 0), (3, 1), (6, 1), (7, 1), (23, 1)] {
        assert_eq!(after(at, lie), FrameError::Header, "{lie} at {at}");
    }
}

#[test]
fn each_lie_about_a_datagram_has_its_error() {
    let bytes = datagram(peer(), b"four");
    let after = |at: usize, lie: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = lie;
        decode_datagram(&bytes).expect_err("a lie")
    };
    assert_eq!(
        decode_datagram(&bytes[..DATAGRAM_HEADER_LEN - 1]),
        Err(FrameError::Truncated)
    );
    for len in [DATAGRAM_HEADER_LEN, bytes.len() - 1] {
        assert_eq!(decode_datagram(&bytes[..len]), Err(FrameError::Length));
    }
    assert_eq!(after(0, b'C'), FrameError::Kind);
    assert_eq!(after(1, 0), FrameError::Version(0));
    for (at, lie) in [(2, 5), (2, 0), (3, 1), (23, 1)] {
        assert_eq!(after(at, lie), FrameError::Header, "{lie} at {at}");
    }
    for (at, lie) in [(6, 5), (6, 3), (7, 1)] {
        assert_eq!(after(at, lie), FrameError::Length, "{lie} at {at}");
    }
    // Its length in 16 bits says what is there, and is still more than a datagram has.
    let mut largest = datagram(peer(), &vec![0; DATAGRAM_MAX]);
    assert!(decode_datagram(&largest).is_ok());
    largest.push(0);
    largest[6..8].copy_from_slice(&(DATAGRAM_MAX as u16 + 1).to_le_bytes());
    assert_eq!(decode_datagram(&largest), Err(FrameError::Length));
}

#[test]
fn each_lie_about_an_answer_has_its_error() {
    let bytes = answer(Some(b"four"));
    let after = |at: usize, lie: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = lie;
        decode_answer(&bytes).expect_err("a lie")
    };
    assert_eq!(decode_answer(&bytes[..7]), Err(FrameError::Truncated));
    assert_eq!(
        decode_answer(&bytes[..bytes.len() - 1]),
        Err(FrameError::Length)
    );
    assert_eq!(after(0, b'R'), FrameError::Kind);
    assert_eq!(after(1, 1), FrameError::Version(1));
    assert_eq!(after(2, 2), FrameError::Header);
    assert_eq!(after(2, 0), FrameError::Header, "bytes of no answer");
    assert_eq!(after(3, 1), FrameError::Header);
    assert_eq!(after(4, 5), FrameError::Length);
}

#[test]
fn an_empty_answer_is_not_the_absence_of_one() {
    assert_eq!(decode_answer(&answer(Some(b""))), Ok(Some(&b""[..])));
    assert_eq!(decode_answer(&answer(None)), Ok(None));
}

fn peers() -> impl Strategy<Value = Option<SocketAddr>> {
    let address = any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port));
    prop_oneof![Just(None), address.prop_map(Some)]
}

proptest! {
    #[test]
    fn what_is_written_is_read(peer in peers(), payload in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(decode_connection(&connection(peer)), Ok(peer));
        let bytes = datagram(peer, &payload);
        prop_assert_eq!(decode_datagram(&bytes), Ok(RawDatagram { peer, bytes: &payload }));
        let bytes = answer(Some(&payload));
        prop_assert_eq!(decode_answer(&bytes), Ok(Some(&payload[..])));
    }

    #[test]
    fn a_frame_of_one_kind_is_none_of_another(peer in peers(), payload in vec(any::<u8>(), 0..100)) {
        for bytes in [connection(peer), datagram(peer, &payload), answer(Some(&payload))] {
            let read = [
                decode_connection(&bytes).is_ok(),
                decode_datagram(&bytes).is_ok(),
                decode_answer(&bytes).is_ok(),
                decode_request(&bytes).is_ok(),
            ];
            prop_assert_eq!(read.iter().filter(|&&read| read).count(), 1);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_are_what_would_be_written(
        kind in prop::sample::select(vec![b'C', b'D', b'A']),
        mut bytes in vec(prop_oneof![3 => Just(0u8), 1 => Just(1), 1 => Just(4), 1 => any::<u8>()], 0..80),
    ) {
        if let [first, version, ..] = &mut bytes[..] {
            (*first, *version) = (kind, 1);
        }
        if let Ok(peer) = decode_connection(&bytes) {
            prop_assert_eq!(&connection(peer), &bytes);
        }
        if let Ok(read) = decode_datagram(&bytes) {
            prop_assert_eq!(&datagram(read.peer, read.bytes), &bytes);
        }
        if let Ok(read) = decode_answer(&bytes) {
            prop_assert_eq!(&answer(read), &bytes);
        }
    }
}
