//! A head, read a second time: slowly, from the rules in `docs/http.md` and nothing else, with no code of
//! `crate::http`.
//!
//! It waits for the whole head, looks at every rule, and collects the status of each one that is broken. The
//! parser may answer any of them, as it answers the first that it meets.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

/// What the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    /// There is no end of a head in them.
    Unfinished,
    /// No request; its client may get any of these.
    Refused(BTreeSet<u16>),
    Accepted(Parts),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunked,
}

/// What a request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) minor: u8,
    pub(super) host: String,
    pub(super) body: Body,
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
    pub(super) fields: Vec<(String, Vec<u8>)>,
    pub(super) head_len: usize,
}

/// The limits: of the target, of the head, of the number of fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) target: usize,
    pub(super) head: usize,
    pub(super) fields: usize,
}

pub(super) fn read(bytes: &[u8], limits: Limits) -> Reading {
    let mut broken = BTreeSet::new();
    let Some(lines) = Lines::cut(bytes) else {
        return Reading::Unfinished;
    };
    if lines.empty_before > 4 || lines.has_bare_lf {
        broken.insert(400);
    }
    if lines.head_len > limits.head {
        broken.insert(if lines.request_line_end > limits.head {
            414
        } else {
            431
        });
        // What lies beyond the limit is never looked at, so any rule may be the first that is broken, or
        // none.
    }
    let line = request_line(lines.request_line, limits, &mut broken);
    let fields = fields(&lines.fields, limits, &mut broken);
    let meaning = meaning(
        &fields,
        line.as_ref().map_or(1, |line| line.minor),
        &mut broken,
    );
    match line {
        Some(line) if broken.is_empty() => Reading::Accepted(Parts {
            host: line.authority.unwrap_or(meaning.host),
            method: line.method,
            target: line.target,
            path: line.path,
            query: line.query,
            minor: line.minor,
            body: meaning.body,
            keep_alive: meaning.keep_alive,
            expect_continue: meaning.expect_continue,
            fields,
            head_len: lines.head_len,
        }),
        _ => Reading::Refused(broken),
    }
}

/// A head cut at its line feeds.
struct Lines<'b> {
    empty_before: usize,
    has_bare_lf: bool,
    request_line: &'b [u8],
    request_line_end: usize,
    fields: Vec<&'b [u8]>,
    head_len: usize,
}

impl<'b> Lines<'b> {
    /// `None` without the empty line that ends a head.
    fn cut(bytes: &'b [u8]) -> Option<Self> {
        let mut lines: Vec<&[u8]> = Vec::new();
        let (mut at, mut empty_before, mut has_bare_lf) = (0, 0, false);
        let mut request_line_end = 0;
        loop {
            let len = bytes[at..].iter().position(|&byte| byte == b'\n')?;
            let line = &bytes[at..at + len];
            at += len + 1;
            let line = line.strip_suffix(b"\r").unwrap_or_else(|| {
                has_bare_lf = true;
                line
            });
            match (line.is_empty(), lines.is_empty()) {
                (true, true) => empty_before += 1,
                (true, false) => break,
                (false, first) => {
                    lines.push(line);
                    if first {
                        request_line_end = at;
                    }
                }
            }
        }
        Some(Self {
            empty_before,
            has_bare_lf,
            request_line: lines[0],
            request_line_end,
            fields: lines[1..].to_vec(),
            head_len: at,
        })
    }
}

struct Line {
    method: String,
    target: String,
    path: String,
    query: Option<String>,
    authority: Option<String>,
    minor: u8,
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Every `%` is followed by two hexadecimal digits that are not both zero.
fn has_whole_escapes(text: &[u8]) -> bool {
    text.split(|&byte| byte == b'%').skip(1).all(|after| {
        after.len() >= 2 && after[..2].iter().all(u8::is_ascii_hexdigit) && &after[..2] != b"00"
    })
}

fn request_line(line: &[u8], limits: Limits, broken: &mut BTreeSet<u16>) -> Option<Line> {
    let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    if parts.len() != 3 {
        broken.insert(400);
    }
    let method = parts[0];
    if !is_token(method) {
        broken.insert(400);
    }
    if method.len() > 32 || method == b"CONNECT" || method == b"TRACE" {
        broken.insert(501);
    }
    let target = *parts.get(1)?;
    if target.len() > limits.target {
        broken.insert(414);
    }
    let is_printable = target.iter().all(|byte| (0x21..0x7f).contains(byte));
    if target.is_empty() || !is_printable || target.contains(&b'#') || !has_whole_escapes(target) {
        broken.insert(400);
        return None;
    }
    let minor = match parts.get(2)? {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            match major {
                b'0' => broken.insert(400),
                b'1' => false,
                _ => broken.insert(505),
            };
            u8::from(*minor != b'0')
        }
        _ => {
            broken.insert(400);
            return None;
        }
    };
    let target = String::from_utf8(target.to_vec()).ok()?;
    let (authority, rest) = if target.starts_with('/') {
        (None, target.as_str())
    } else if target == "*" {
        if method != b"OPTIONS" {
            broken.insert(400);
        }
        (None, "*")
    } else {
        let lower = target.to_ascii_lowercase();
        let scheme = ["http://", "https://"]
            .iter()
            .find(|scheme| lower.starts_with(**scheme));
        let Some(scheme) = scheme else {
            broken.insert(400);
            return None;
        };
        let rest = &target[scheme.len()..];
        let end = rest.bytes().position(|byte| byte == b'/' || byte == b'?');
        let (authority, rest) = rest.split_at(end.unwrap_or(rest.len()));
        if authority.is_empty() || !is_host(authority) {
            broken.insert(400);
        }
        (Some(authority.to_owned()), rest)
    };
    let mut cut = rest.splitn(2, '?');
    let path = cut
        .next()
        .filter(|path| !path.is_empty())
        .unwrap_or("/")
        .to_owned();
    let query = cut.next().map(str::to_owned);
    let method = String::from_utf8(method.to_vec()).ok()?;
    Some(Line {
        method,
        path,
        query,
        authority,
        minor,
        target,
    })
}

/// Nothing, or a host and perhaps a port.
fn is_host(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<Ipv6Addr>().is_err() {
            return false;
        }
        match after.strip_prefix(':') {
            Some(port) => ("v6", port),
            None if after.is_empty() => ("v6", ""),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some(("", _)) => return false,
            Some(parts) => parts,
            None => (text, ""),
        }
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit())
        && port.trim_start_matches('0').len() <= 5
        && port.bytes().fold(0_u64, |sum, byte| {
            (sum * 10 + u64::from(byte - b'0')).min(1 << 20)
        }) <= 65535;
    let is_name = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte));
    is_port && is_name && has_whole_escapes(host.as_bytes())
}

fn fields(lines: &[&[u8]], limits: Limits, broken: &mut BTreeSet<u16>) -> Vec<(String, Vec<u8>)> {
    if lines.len() > limits.fields {
        broken.insert(431);
    }
    let mut fields = Vec::new();
    for line in lines {
        let colon = line
            .iter()
            .position(|&byte| byte == b':')
            .unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let is_value = value
            .iter()
            .all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f));
        if colon == line.len() || !is_token(name) || !is_value {
            broken.insert(400);
            continue;
        }
        let is_blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
        let start = value
            .iter()
            .position(|byte| !is_blank(byte))
            .unwrap_or(value.len());
        let end = value
            .iter()
            .rposition(|byte| !is_blank(byte))
            .map_or(start, |at| at + 1);
        let name = String::from_utf8_lossy(name).into_owned();
        fields.push((name, value[start..end].to_vec()));
    }
    fields
}

struct Meaning {
    host: String,
    body: Body,
    keep_alive: bool,
    expect_continue: bool,
}

/// The members of a list, in lower case.
fn members(value: &[u8]) -> Vec<String> {
    let text: String = value.iter().map(|&byte| byte as char).collect();
    text.split(',')
        .map(|member| member.trim_matches([' ', '\t']).to_ascii_lowercase())
        .collect()
}

fn meaning(fields: &[(String, Vec<u8>)], minor: u8, broken: &mut BTreeSet<u16>) -> Meaning {
    let all = |name: &str| -> Vec<&Vec<u8>> {
        let named = fields
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value).collect()
    };
    let hosts = all("host");
    if hosts.len() > 1 || (hosts.is_empty() && minor == 1) {
        broken.insert(400);
    }
    let host = hosts.first().map_or(String::new(), |host| {
        String::from_utf8(host.to_vec()).unwrap_or_else(|_| "\u{0}".to_owned())
    });
    if !is_host(&host) {
        broken.insert(400);
    }

    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    if lengths.len() + codings.len() > 1 || (minor == 0 && !codings.is_empty()) {
        broken.insert(400);
    }
    let mut body = Body::None;
    for length in lengths {
        let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(length)
            .ok()
            .and_then(|text| text.parse().ok());
        match number.filter(|_| is_number) {
            Some(number) => body = Body::Length(number),
            None => drop(broken.insert(400)),
        }
    }
    for coding in codings {
        let members = members(coding);
        let is_list = members.iter().all(|member| is_token(member.as_bytes()));
        let chunked = members.iter().filter(|member| *member == "chunked").count();
        let last = members.last().is_some_and(|member| member == "chunked");
        match (is_list, last && chunked == 1, members.len()) {
            (true, true, 1) => body = Body::Chunked,
            (true, true, _) => drop(broken.insert(501)),
            _ => drop(broken.insert(400)),
        }
    }

    let expects = all("expect");
    if expects
        .iter()
        .any(|value| !value.eq_ignore_ascii_case(b"100-continue"))
    {
        broken.insert(417);
    }
    let options: Vec<String> = all("connection")
        .iter()
        .flat_map(|value| members(value))
        .collect();
    let says = |option: &str| options.iter().any(|other| other == option);
    Meaning {
        host,
        body,
        keep_alive: !says("close") && (minor == 1 || says("keep-alive")),
        expect_continue: !expects.is_empty()
            && minor == 1
            && !matches!(body, Body::None | Body::Length(0)),
    }
}
