//! `Forwarded` (RFC 7239) and `X-Forwarded-For`: fields to which each proxy on the way appends whom it has
//! the request from.
//!
//! What the last proxy has written stands at the right end; whatever stands further left was there when it
//! got the request, and a client can write anything. So the elements are read from the right, as long as
//! those who wrote them are trusted: the rightmost address that is not a trusted proxy's is the client's.
//! Nothing to the left of it is looked at.

use super::proxy::port;
use super::{Client, Malformed, Trusted, is_trusted};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The field that is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `Forwarded`.
    Forwarded,
    /// `X-Forwarded-For`.
    XForwardedFor,
}

/// Whom the fields of a request name as its client, if it comes from a proxy that is trusted; `Nobody` if
/// there is no such field. `fields` are names and values.
pub fn client<'f>(
    which: Field,
    trusted: &[Trusted],
    fields: impl DoubleEndedIterator<Item = (&'f str, &'f [u8])>,
) -> Result<Client, Malformed> {
    let name = match which {
        Field::Forwarded => "forwarded",
        Field::XForwardedFor => "x-forwarded-for",
    };
    let mut found = Client::Nobody;
    for (field, value) in fields.rev() {
        if !field.eq_ignore_ascii_case(name) {
            continue;
        }
        let mut left = Some(value);
        while let Some(value) = left {
            let (rest, element) = match which {
                Field::Forwarded => split_last(value, b','),
                Field::XForwardedFor => match value.iter().rposition(|&b| b == b',') {
                    Some(at) => (Some(&value[..at]), &value[at + 1..]),
                    None => (None, value),
                },
            };
            left = rest;
            let element = element.trim_ascii();
            if element.is_empty() {
                continue; // a list may have empty elements (RFC 9110 §5.6.1)
            }
            found = match which {
                Field::Forwarded => of_element(element)?,
                Field::XForwardedFor => of_entry(text(element)?)?,
            };
            match found {
                Client::At(address) if is_trusted(trusted, Some(address.ip())) => {}
                _ => return Ok(found),
            }
        }
    }
    Ok(found) // all of them are trusted: the first of them has asked by itself
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("an address is ASCII"))
}

/// Parts a list at its last separator that is not in a quoted string. From the right, so that a quote which a
/// client has left open does not reach into what a proxy has appended.
fn split_last(value: &[u8], separator: u8) -> (Option<&[u8]>, &[u8]) {
    let mut quoted = false;
    for (at, &byte) in value.iter().enumerate().rev() {
        if byte == b'"' {
            let before = value[..at].iter().rev();
            let escapes = before.take_while(|&&b| b == b'\\').count();
            quoted ^= escapes % 2 == 0;
        } else if byte == separator && !quoted {
            return (Some(&value[..at]), &value[at + 1..]);
        }
    }
    (None, value)
}

/// `for=192.0.2.60;proto=http`.
fn of_element(element: &[u8]) -> Result<Client, Malformed> {
    let mut client = None;
    let mut left = Some(element);
    while let Some(pairs) = left {
        let (rest, pair) = split_last(pairs, b';');
        left = rest;
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let Some(at) = pair.iter().position(|&b| b == b'=') else {
            return Err(Malformed("an element of Forwarded has names and values"));
        };
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        if !name.eq_ignore_ascii_case(b"for") {
            continue;
        }
        if client.is_some() {
            return Err(Malformed("an element of Forwarded has one `for`"));
        }
        client = Some(of_node(value)?);
    }
    // One who does not say whom it forwards for.
    Ok(client.unwrap_or(Client::Unknown))
}

/// `192.0.2.60`, `"192.0.2.60:80"`, `"[2001:db8::1]:80"`, `unknown`, `_hidden`.
fn of_node(value: &[u8]) -> Result<Client, Malformed> {
    let value = text(value)?;
    let inner = value
        .strip_prefix('"')
        .map(|rest| {
            rest.strip_suffix('"')
                .ok_or(Malformed("a quoted string ends"))
        })
        .transpose()?;
    if inner.is_none() && value.contains([':', '[', '"']) {
        return Err(Malformed("an address with a colon stands in quotes"));
    }
    let node = inner.unwrap_or(value);
    let (name, port) = split_port(node)?;
    if name.starts_with('_') {
        return Ok(Client::Unknown);
    }
    if name.contains(':') && !node.starts_with('[') {
        return Err(Malformed("an IPv6 address stands in brackets"));
    }
    at(name, port)
}

/// As others write it: also an IPv6 address without brackets.
fn of_entry(entry: &str) -> Result<Client, Malformed> {
    if let Ok(address) = entry.parse::<Ipv6Addr>() {
        return Ok(Client::At(SocketAddr::new(address.to_canonical(), 0)));
    }
    let (name, port) = split_port(entry)?;
    at(name, port)
}

/// The name without brackets, and the port, 0 if there is none or it is not told.
fn split_port(node: &str) -> Result<(&str, u16), Malformed> {
    let wrong = Malformed("a port has up to five digits");
    let (name, rest) = match node.strip_prefix('[') {
        Some(inner) => {
            let (name, rest) = inner
                .split_once(']')
                .ok_or(Malformed("a bracket is closed"))?;
            if name.parse::<Ipv6Addr>().is_err() {
                return Err(Malformed("in brackets stands an IPv6 address"));
            }
            (name, rest)
        }
        None => node.split_at(node.find(':').unwrap_or(node.len())),
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => 0,
        Some(hidden) if hidden.starts_with('_') => 0,
        Some(digits) => port(digits).ok_or(wrong)?,
        None => return Err(wrong),
    };
    Ok((name, port))
}

fn at(name: &str, port: u16) -> Result<Client, Malformed> {
    if name.eq_ignore_ascii_case("unknown") {
        return Ok(Client::Unknown);
    }
    let address = match name.parse::<Ipv4Addr>() {
        Ok(v4) => IpAddr::V4(v4),
        Err(_) => {
            let v6: Ipv6Addr = name
                .parse()
                .map_err(|_| Malformed("it is neither an address nor `unknown`"))?;
            v6.to_canonical()
        }
    };
    Ok(Client::At(SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trusted() -> Vec<Trusted> {
        ["10.0.0.0/8", "2001:db8::/32"]
            .map(|text| text.parse().expect(text))
            .into()
    }

    fn read(which: Field, values: &[&[u8]]) -> Result<Client, Malformed> {
        let name = match which {
            Field::Forwarded => "FORWARDED",
            Field::XForwardedFor => "x-Forwarded-For",
        };
        let fields = values
            .iter()
            .flat_map(|value| [("Host", &b"a"[..]), (name, *value)]);
        client(which, &trusted(), fields.collect::<Vec<_>>().into_iter())
    }

    /// `-` nobody, `?` unknown, `!` malformed.
    fn expect(which: Field, rows: &[(&[&str], &str)]) {
        for (values, expected) in rows {
            let bytes: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
            let found = match read(which, &bytes) {
                Ok(Client::Nobody) => "-".to_owned(),
                Ok(Client::Unknown) => "?".to_owned(),
                Ok(Client::At(address)) => address.to_string(),
                Err(_) => "!".to_owned(),
            };
            assert_eq!(&found, expected, "{values:?}");
        }
    }

    #[test]
    fn x_forwarded_for_names_the_rightmost_who_is_not_trusted() {
        expect(
            Field::XForwardedFor,
            &[
                (&[], "-"),
                (&[""], "-"),
                (&[" , ,"], "-"),
                (&["192.0.2.1"], "192.0.2.1:0"),
                (&["192.0.2.1:80"], "192.0.2.1:80"),
                (&["2001:db9::1"], "[2001:db9::1]:0"),
                (&["[2001:db9::1]"], "[2001:db9::1]:0"),
                (&["[2001:db9::1]:80"], "[2001:db9::1]:80"),
                (&["::ffff:192.0.2.1"], "192.0.2.1:0"),
                (&["unknown"], "?"),
                (&["1.1.1.1, 192.0.2.1"], "192.0.2.1:0"),
                (&["1.1.1.1", "192.0.2.1"], "192.0.2.1:0"),
                (&["192.0.2.1, 10.0.0.1"], "192.0.2.1:0"),
                (&["192.0.2.1", "10.0.0.1 ,2001:db8::1"], "192.0.2.1:0"),
                (&["192.0.2.1", "10.0.0.1", ""], "192.0.2.1:0"),
                // All trusted: the one that is furthest away.
                (&["10.0.0.1, 10.0.0.2"], "10.0.0.1:0"),
                // What a client makes up.
                (&["nonsense, 192.0.2.1"], "192.0.2.1:0"),
                (&["10.0.0.9, 192.0.2.1, 10.0.0.1"], "192.0.2.1:0"),
                (&["\"", "192.0.2.1"], "192.0.2.1:0"),
                // What a trusted proxy should not have written.
                (&["192.0.2.1, nonsense"], "!"),
                (&["192.0.2.1, nonsense, 10.0.0.1"], "!"),
                (&["192.0.2.1:"], "!"),
                (&["192.0.2.1:65536"], "!"),
                (&["192.0.2.1:080"], "!"),
                (&["[192.0.2.1]"], "!"),
                (&["[2001:db9::1"], "!"),
                (&["[2001:db9::1]80"], "!"),
                (&["192.0.2"], "!"),
                (&["192.0.2.1 10.0.0.1"], "!"),
                (&["ä"], "!"),
            ],
        );
    }

    #[test]
    fn forwarded_names_the_rightmost_who_is_not_trusted() {
        expect(
            Field::Forwarded,
            &[
                (&[], "-"),
                (&["for=192.0.2.1"], "192.0.2.1:0"),
                (&["For=\"192.0.2.1:80\""], "192.0.2.1:80"),
                (
                    &["FOR=\"[2001:db9::1]:80\";proto=https;by=10.0.0.1"],
                    "[2001:db9::1]:80",
                ),
                (&["proto=https ; for=192.0.2.1"], "192.0.2.1:0"),
                (&["for=\"[2001:db9::1]\""], "[2001:db9::1]:0"),
                (&["for=unknown"], "?"),
                (&["for=\"unknown:80\""], "?"),
                (&["for=_hidden"], "?"),
                (&["for=\"_hidden:_port\""], "?"),
                (&["for=\"192.0.2.1:_port\""], "192.0.2.1:0"),
                (&["proto=https"], "?"),
                (&["for=192.0.2.1, for=10.0.0.1"], "192.0.2.1:0"),
                (
                    &["for=192.0.2.1", "for=10.0.0.1,for=\"[2001:db8::1]\""],
                    "192.0.2.1:0",
                ),
                (&["for=10.0.0.2, for=10.0.0.1"], "10.0.0.2:0"),
                (
                    &["for=192.0.2.1;secret=\"a, for=1.1.1.1\\\";\""],
                    "192.0.2.1:0",
                ),
                // What a client makes up.
                (&["for=\"1.1.1.1, for=192.0.2.1"], "192.0.2.1:0"),
                (&["for=\"1.1.1.1, for=\"192.0.2.1:80\""], "192.0.2.1:80"),
                (&["for=\"\\, for=\"192.0.2.1:80\""], "192.0.2.1:80"),
                (&["nonsense", "for=192.0.2.1"], "192.0.2.1:0"),
                // What a trusted proxy should not have written.
                (&["192.0.2.1"], "!"),
                (&["for=192.0.2.1:80"], "!"),
                (&["for=[2001:db9::1]"], "!"),
                (&["for=\"2001:db9::1\""], "!"),
                (&["for=\"192.0.2.1"], "!"),
                (&["for=192.0.2.1\""], "!"),
                (&["for=192.0.2.1;for=192.0.2.1"], "!"),
                (&["for="], "!"),
                (&["for=\"\""], "!"),
                (&["for=nonsense"], "!"),
            ],
        );
    }

    proptest! {
        #[test]
        fn whatever_stands_left_of_the_client_changes_nothing(
            garbage in "[ -~]{0,40}",
            more in prop::collection::vec("[ -~]{0,20}", 0..3),
        ) {
            for (which, element) in [
                (Field::XForwardedFor, "192.0.2.1:80"),
                (Field::Forwarded, "for=\"192.0.2.1:80\""),
            ] {
                for end in [element.to_owned(), format!("{garbage}, {element}")] {
                    let mut values: Vec<&[u8]> = more.iter().map(String::as_bytes).collect();
                    values.push(end.as_bytes());
                    let expected = Client::At("192.0.2.1:80".parse().expect("an address"));
                    prop_assert_eq!(read(which, &values), Ok(expected));
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(value in prop::collection::vec(any::<u8>(), 0..60)) {
            for which in [Field::XForwardedFor, Field::Forwarded] {
                let _ = read(which, &[&value]);
            }
        }

        #[test]
        fn nothing_that_looks_like_an_element_makes_it_panic(value in "(for|[=\"\\\\;,:_ 0-9.\\[\\]]){0,30}") {
            for which in [Field::XForwardedFor, Field::Forwarded] {
                let _ = read(which, &[value.as_bytes()]);
            }
        }
    }
}
