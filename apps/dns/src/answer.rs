//! The answer to a query.

use crate::message::{Full, HEADER_LEN, Malformed, Name, Reader, Writer};
use crate::zone::{Data, NEGATIVE_TTL, RECORDS, SOA_NAMES, SOA_NUMBERS, TTL, ZONE, labels};

const FORMERR: u16 = 1;
const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
/// Needs an OPT record, for its upper bits (RFC 6891 §6.1.3).
const BADVERS: u16 = 16;

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;

const IN: u16 = 1;
const ANY: u16 = 255;
const HINFO: u16 = 13;
const OPT: u16 = 41;

/// The largest answer for a client that announces no size.
const PLAIN_MAX: usize = 512;

/// The size that we announce, and send at most: more would be fragmented on the way (DNS flag day 2020).
const EDNS_MAX: u16 = 1232;

/// A client's OPT record.
#[derive(Clone, Copy)]
struct Edns {
    size: u16,
    version: u8,
    /// It would like signatures; the bit goes back as it came (RFC 3225).
    wants_dnssec: bool,
}

/// A query that was understood.
struct Query {
    name: Name,
    kind: u16,
    class: u16,
    edns: Option<Edns>,
}

/// Writes the answer to `query` into `out`, and gives its length; `None` if it must not be answered.
pub fn answer(query: &[u8], out: &mut [u8]) -> Option<usize> {
    let header = query.first_chunk::<HEADER_LEN>()?;
    let flags = u16::from_be_bytes([header[2], header[3]]);
    if flags & QR != 0 {
        return None; // an answer to an answer would be answered
    }
    let kept = QR | (flags & (OPCODE | RECURSION_DESIRED));
    let parsed = if flags & OPCODE == 0 {
        parse(query).map_err(|Malformed| FORMERR)
    } else {
        Err(NOTIMP)
    };
    let (size, question) = match &parsed {
        Ok(question) => {
            let asked = question.edns.map_or(0, |edns| edns.size.min(EDNS_MAX));
            (usize::from(asked).max(PLAIN_MAX), Some(question))
        }
        Err(_) => (PLAIN_MAX, None),
    };
    let room = out.len().min(size);
    let mut writer = Writer::new(&mut out[..room]);
    let written = write_header(&mut writer, header, kept, parsed.as_ref().err().copied());
    match (written, question) {
        (Ok(()), Some(question)) => write_answer(&mut writer, question, kept).ok()?,
        (Ok(()), None) => {
            // A client that has sent an OPT record gets one, whatever the answer is (RFC 6891 §6.1.1).
            if let Ok(Some(edns)) = edns_of(query) {
                write_edns(&mut writer, edns, 0).ok()?;
            }
        }
        (Err(Full), _) => {}
    }
    written.ok().map(|()| writer.len())
}

fn parse(query: &[u8]) -> Result<Query, Malformed> {
    let mut counts = Reader::new(query, 4);
    let questions = counts.u16()?;
    if questions != 1 {
        return Err(Malformed);
    }
    let mut reader = Reader::new(query, HEADER_LEN);
    Ok(Query {
        name: reader.name()?,
        kind: reader.u16()?,
        class: reader.u16()?,
        edns: edns_of(query)?,
    })
}

/// The OPT record of a message of any kind: they all have the same four sections.
fn edns_of(message: &[u8]) -> Result<Option<Edns>, Malformed> {
    let mut counts = Reader::new(message, 4);
    let questions = counts.u16()?;
    let records = [counts.u16()?, counts.u16()?, counts.u16()?];
    let mut reader = Reader::new(message, HEADER_LEN);
    for _ in 0..questions {
        let _ = (reader.name()?, reader.u16()?, reader.u16()?);
    }
    let mut found = None;
    for _ in 0..records.iter().map(|&count| u32::from(count)).sum() {
        let (name, kind, class, ttl) = reader.record()?;
        if kind != OPT {
            continue;
        }
        if found.is_some() || name.wire() != [0] {
            return Err(Malformed);
        }
        found = Some(Edns {
            size: class,
            version: (ttl >> 16) as u8,
            wants_dnssec: ttl & 0x8000 != 0,
        });
    }
    Ok(found)
}

fn write_edns(writer: &mut Writer<'_>, edns: Edns, code: u16) -> Result<(), Full> {
    writer.bytes(&[0])?;
    writer.u16(OPT)?;
    writer.u16(EDNS_MAX)?;
    let dnssec = if edns.wants_dnssec { 0x8000 } else { 0 };
    writer.u32(u32::from(code >> 4) << 24 | dnssec)?;
    writer.u16(0)?;
    writer.set_u16(10, 1);
    Ok(())
}

fn write_header(
    writer: &mut Writer<'_>,
    query: &[u8; HEADER_LEN],
    flags: u16,
    code: Option<u16>,
) -> Result<(), Full> {
    writer.bytes(&query[..2])?;
    writer.u16(flags | code.unwrap_or(0))?;
    writer.bytes(&[0; 8])
}

fn write_answer(writer: &mut Writer<'_>, query: &Query, flags: u16) -> Result<(), Full> {
    writer.bytes(query.name.wire())?;
    writer.u16(query.kind)?;
    writer.u16(query.class)?;
    writer.set_u16(4, 1);
    let question_end = writer.len();

    let badvers = query.edns.is_some_and(|edns| edns.version != 0);
    let mut code = if badvers {
        BADVERS
    } else {
        judge(&query.name, query.class)
    };
    let mut flags = flags;
    let opt_len = if query.edns.is_some() { 11 } else { 0 };
    if code == 0 || code == NXDOMAIN {
        flags |= AUTHORITATIVE;
        let written = write_records(writer, query).and_then(|counts| {
            writer.reserve(opt_len)?;
            Ok(counts)
        });
        match written {
            Ok((answers, authority)) => {
                writer.set_u16(6, answers);
                writer.set_u16(8, authority);
            }
            Err(Full) => {
                // Sends nothing instead of a half; the client asks again, for more room or over TCP.
                writer.truncate(question_end);
                flags |= TRUNCATED;
                code = 0;
            }
        }
    }
    if let Some(edns) = query.edns {
        write_edns(writer, edns, code)?;
    }
    writer.set_u16(2, flags | (code & 0xf));
    Ok(())
}

/// The code of an answer, by the name alone.
fn judge(name: &Name, class: u16) -> u16 {
    if !matches!(class, IN | ANY) || !ends_with(name, ZONE.into_iter()) {
        return REFUSED; // not ours to say
    }
    // A name exists if it, or one below it, has something (RFC 8020).
    let exists = RECORDS.iter().any(|(owner, _)| is_suffix(name, owner));
    if exists { 0 } else { NXDOMAIN }
}

fn equal(label: &[u8], other: &str) -> bool {
    label.eq_ignore_ascii_case(other.as_bytes())
}

/// Whether a name is one of ours.
fn is(name: &Name, owner: &'static str) -> bool {
    let mut ours = labels(owner);
    name.labels()
        .all(|label| ours.next().is_some_and(|other| equal(label, other)))
        && ours.next().is_none()
}

fn ends_with(name: &Name, suffix: impl Iterator<Item = &'static str> + Clone) -> bool {
    let (count, wanted) = (name.labels().count(), suffix.clone().count());
    count >= wanted
        && name
            .labels()
            .skip(count - wanted)
            .zip(suffix)
            .all(|(label, other)| equal(label, other))
}

/// Whether one of our names is this one or lies below it.
fn is_suffix(name: &Name, owner: &'static str) -> bool {
    let (count, ours) = (name.labels().count(), labels(owner).count());
    ours >= count
        && name
            .labels()
            .zip(labels(owner).skip(ours - count))
            .all(|(label, other)| equal(label, other))
}

/// Answers, or the SOA record that says that there are none; how many there are of each.
fn write_records(writer: &mut Writer<'_>, query: &Query) -> Result<(u16, u16), Full> {
    // The question's name, as it was asked.
    const OWNER: u16 = 0xc000 | HEADER_LEN as u16;
    let data = RECORDS.iter().find(|(owner, _)| is(&query.name, owner));
    let data = data.map_or(&[][..], |(_, data)| data);
    let mut answers = 0;
    if query.kind == ANY && !data.is_empty() {
        // As little as possible (RFC 8482 §4.2).
        record(writer, OWNER, HINFO, TTL, |writer| {
            writer.text("RFC8482")?;
            writer.text("")
        })?;
        return Ok((1, 0));
    }
    for &data in data.iter().filter(|data| data.kind() == query.kind) {
        record(writer, OWNER, data.kind(), TTL, |writer| {
            write_data(writer, data)
        })?;
        answers += 1;
    }
    if answers > 0 {
        return Ok((answers, 0));
    }
    // The zone's own name is the end of the question's.
    let zone_len = ZONE.iter().map(|label| label.len() + 1).sum::<usize>() + 1;
    let zone = OWNER + (query.name.wire().len() - zone_len) as u16;
    record(writer, zone, Data::Soa.kind(), NEGATIVE_TTL, |writer| {
        write_data(writer, Data::Soa)
    })?;
    Ok((0, 1))
}

fn record(
    writer: &mut Writer<'_>,
    owner: u16,
    kind: u16,
    ttl: u32,
    data: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
) -> Result<(), Full> {
    writer.u16(owner)?;
    writer.u16(kind)?;
    writer.u16(IN)?;
    writer.u32(ttl)?;
    let len_at = writer.len();
    writer.u16(0)?;
    let start = writer.len();
    data(writer)?;
    let len = u16::try_from(writer.len() - start).map_err(|_| Full)?;
    writer.set_u16(len_at, len);
    Ok(())
}

fn write_data(writer: &mut Writer<'_>, data: Data) -> Result<(), Full> {
    match data {
        Data::A(address) => writer.bytes(&address),
        Data::Aaaa(address) => writer.bytes(&address),
        Data::Txt(texts) => texts.iter().try_for_each(|text| writer.text(text)),
        Data::Ns(name) => writer.name(labels(name)),
        Data::Soa => {
            for name in SOA_NAMES {
                writer.name(labels(name))?;
            }
            SOA_NUMBERS
                .iter()
                .try_for_each(|&number| writer.u32(number))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn wire(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes
    }

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(wire(name));
        bytes.extend([(kind >> 8) as u8, kind as u8, 0, 1]);
        bytes
    }

    /// With an OPT record of this size and version.
    fn with_opt(mut query: Vec<u8>, size: u16, version: u8) -> Vec<u8> {
        query[11] += 1;
        query.extend([0, 0, 41]);
        query.extend(size.to_be_bytes());
        query.extend([0, version, 0x80, 0, 0, 0]);
        query
    }

    fn reply(query: &[u8]) -> Vec<u8> {
        let mut out = vec![0xdb; 4096];
        let len = answer(query, &mut out).expect("an answer");
        out.truncate(len);
        assert_eq!(out[..2], query[..2], "the id");
        assert_eq!(out[2] & 0x81, 0x81, "an answer, as recursive as was asked");
        out
    }

    fn code(reply: &[u8]) -> u16 {
        u16::from(reply[3] & 0xf)
    }

    /// Questions, answers, authority, additional.
    fn counts(reply: &[u8]) -> [u16; 4] {
        [4, 6, 8, 10].map(|at| u16::from_be_bytes([reply[at], reply[at + 1]]))
    }

    fn is_authoritative(reply: &[u8]) -> bool {
        reply[2] & 4 != 0
    }

    fn is_truncated(reply: &[u8]) -> bool {
        reply[2] & 2 != 0
    }

    #[test]
    fn what_is_there_is_answered_in_the_case_of_the_question() {
        let reply = reply(&query("wWw.TransoM.eXample", 1));
        assert_eq!((code(&reply), counts(&reply)), (0, [1, 2, 0, 0]));
        assert!(is_authoritative(&reply) && !is_truncated(&reply));
        let question = wire("wWw.TransoM.eXample");
        let records = 12 + question.len() + 4;
        assert_eq!(reply[12..12 + question.len()], question);
        let expected = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, 80];
        assert_eq!(reply[records..records + 16], expected);
        assert_eq!(reply.len(), records + 32);
    }

    #[test]
    fn every_type_of_the_zone_is_answered() {
        for (kind, data) in [
            (2, wire("ns1.transom.example")),
            (16, b"\x22memory is decided before it starts".to_vec()),
            (28, zone_v6()),
        ] {
            let reply = reply(&query("transom.example", kind));
            assert_eq!((code(&reply), counts(&reply)), (0, [1, 1, 0, 0]), "{kind}");
            assert!(reply.ends_with(&data), "{kind}");
        }
        let reply = reply(&query("transom.example.", 6));
        let names = [
            wire("ns1.transom.example"),
            wire("hostmaster.transom.example"),
        ]
        .concat();
        assert!(reply.windows(names.len()).any(|part| part == names));
    }

    fn zone_v6() -> Vec<u8> {
        let address: std::net::Ipv6Addr = "2001:db8::1".parse().expect("an address");
        address.octets().to_vec()
    }

    #[test]
    fn what_is_not_there_is_said_with_the_zones_soa() {
        for (name, kind, expected) in [
            ("nobody.transom.example", 1, NXDOMAIN),
            ("a.www.transom.example", 1, NXDOMAIN),
            ("four.transom.example", 28, 0),
            ("deep.transom.example", 1, 0),
            ("deep.transom.example", ANY, 0),
            ("four.transom.example", 999, 0),
        ] {
            let reply = reply(&query(name, kind));
            assert_eq!(code(&reply), expected, "{name}");
            assert_eq!(counts(&reply), [1, 0, 1, 0], "{name}");
            assert!(is_authoritative(&reply), "{name}");
            // Its owner is a pointer to the zone's name within the question.
            let at = 12 + wire(name).len() + 4;
            let pointer = usize::from(u16::from_be_bytes([reply[at], reply[at + 1]]) & 0x3fff);
            assert!(
                reply[pointer..].starts_with(&wire("transom.example")),
                "{name}"
            );
            assert_eq!(reply[at + 2..at + 4], [0, 6], "{name}");
        }
    }

    #[test]
    fn any_is_answered_with_as_little_as_possible() {
        let reply = reply(&query("transom.example", ANY));
        assert_eq!((code(&reply), counts(&reply)), (0, [1, 1, 0, 0]));
        assert!(reply.ends_with(b"\x07RFC8482\x00"));
    }

    #[test]
    fn other_zones_and_classes_are_refused() {
        let mut chaos = query("transom.example", 1);
        *chaos.last_mut().expect("a class") = 3;
        for query in [
            query("example", 1),
            query("", 2),
            query("example.org", 1),
            chaos,
        ] {
            let reply = reply(&query);
            assert_eq!((code(&reply), counts(&reply)), (REFUSED, [1, 0, 0, 0]));
            assert!(!is_authoritative(&reply));
        }
    }

    #[test]
    fn what_cannot_be_read_or_done_is_said() {
        let good = query("www.transom.example", 1);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for (bytes, expected) in [
            (with(2, 1 | 4 << 3), NOTIMP),
            (with(5, 0), FORMERR),
            (with(5, 2), FORMERR),
            (with(11, 1), FORMERR), // a record that is not there
            (with(12, 0x40), FORMERR),
            (good[..good.len() - 1].to_vec(), FORMERR),
            (good[..12].to_vec(), FORMERR),
            (with_opt(with_opt(good.clone(), 512, 0), 512, 0), FORMERR),
        ] {
            let reply = reply(&bytes);
            assert_eq!(code(&reply), expected);
            assert_eq!((counts(&reply), reply.len()), ([0; 4], 12));
        }
        // A client that has sent an OPT record gets one (RFC 6891 §6.1.1).
        for (at, byte, expected) in [
            (2, 1 | 1 << 3, NOTIMP),
            (2, 1 | 2 << 3, NOTIMP),
            (2, 1 | 4 << 3, NOTIMP),
            (2, 1 | 5 << 3, NOTIMP),
            (2, 1 | 15 << 3, NOTIMP),
            (5, 0, FORMERR), // the question is read as a record, and the OPT record not
        ] {
            let mut bytes = with_opt(good.clone(), 4096, 0);
            bytes[at] = byte;
            let reply = reply(&bytes);
            let opt = u16::from(expected == NOTIMP);
            assert_eq!((code(&reply), counts(&reply)), (expected, [0, 0, 0, opt]));
            let record = [0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0];
            assert_eq!(reply.ends_with(&record), opt == 1);
        }
        // No question at all, and an OPT record.
        let mut none = good[..12].to_vec();
        none[5] = 0;
        let reply = reply(&with_opt(none, 4096, 0));
        assert_eq!((code(&reply), counts(&reply)), (FORMERR, [0, 0, 0, 1]));
        let mut out = [0; 512];
        assert_eq!(answer(&good[..11], &mut out), None, "not even a header");
        assert_eq!(answer(&with(2, 0x81), &mut out), None, "an answer");
    }

    #[test]
    fn a_compressed_name_is_read_and_a_loop_is_not() {
        // The question, then an additional record whose name is a pointer to the question's.
        let mut bytes = query("www.transom.example", 1);
        bytes[11] = 1;
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(code(&reply(&bytes)), 0);
        for target in [0, 11, 12, 13] {
            let mut bytes = query("www.transom.example", 1);
            bytes.splice(12.., [0xc0, target, 0, 1, 0, 1]);
            assert_eq!(code(&reply(&bytes)), FORMERR, "to {target}");
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_is_cut_and_says_so() {
        let plain = query("long.transom.example", 16);
        let cut = reply(&plain);
        assert!(is_truncated(&cut));
        assert_eq!((code(&cut), counts(&cut)), (0, [1, 0, 0, 0]));
        for (size, whole) in [(0, false), (512, false), (1232, true), (4096, true)] {
            let reply = reply(&with_opt(plain.clone(), size, 0));
            assert_eq!(is_truncated(&reply), !whole, "{size}");
            assert_eq!(counts(&reply), [1, u16::from(whole), 0, 1], "{size}");
        }
    }

    #[test]
    fn edns_is_answered_and_another_version_of_it_is_not() {
        let answered = reply(&with_opt(query("four.transom.example", 1), 4096, 0));
        assert_eq!((code(&answered), counts(&answered)), (0, [1, 1, 0, 1]));
        assert!(answered.ends_with(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]));
        let refused = reply(&with_opt(query("four.transom.example", 1), 4096, 1));
        assert_eq!((code(&refused), counts(&refused)), (0, [1, 0, 0, 1]));
        assert!(refused.ends_with(&[0, 0, 41, 0x04, 0xd0, 1, 0, 0x80, 0, 0, 0]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_answered_within_their_room_or_not_at_all(
            start in prop::sample::select(vec![0usize, 2, 5, 12, 13, 30]),
            tail in vec(prop_oneof![any::<u8>(), Just(0), Just(0xc0), Just(12), Just(41)], 0..120),
            room in 0usize..600,
        ) {
            let mut bytes = with_opt(query("www.transom.example", 16), 900, 0);
            bytes.truncate(start);
            bytes.extend(tail);
            let mut out = vec![0; room];
            if let Some(len) = answer(&bytes, &mut out) {
                prop_assert!((HEADER_LEN..=room).contains(&len));
            }
        }

        #[test]
        fn a_question_of_any_bytes_is_repeated_as_it_was(labels in vec(vec(any::<u8>(), 1..20), 0..6)) {
            let mut bytes = query("", 1);
            let name: Vec<u8> = labels
                .iter()
                .flat_map(|label| std::iter::once(label.len() as u8).chain(label.iter().copied()))
                .chain([0])
                .collect();
            bytes.splice(12..13, name.iter().copied());
            let reply = reply(&bytes);
            prop_assert_eq!(&reply[12..12 + name.len()], &name[..]);
        }
    }
}
