//! What a request target names: its form, authority, path and query (RFC 9112 §3.2).
//!
//! The bytes themselves have been checked with the request line; here they are cut, never changed.
//! A decoded path comes from [`super::path::decode_path`].

use std::net::Ipv6Addr;

use super::Refusal;
use super::bytes::{hex_digit, is_reg_name};
use super::method::Method;

/// The form of a request target. Authority-form belongs to CONNECT and never gets this far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`
    Origin,
    /// `*`, of OPTIONS only: the server as a whole.
    Asterisk,
    /// `http://authority/path?query`: its authority replaces the Host field.
    Absolute,
}

/// A target cut in its parts.
pub(super) struct Target<'b> {
    pub(super) form: TargetForm,
    /// The authority of an absolute-form, valid and not empty.
    pub(super) authority: Option<&'b str>,
    pub(super) path: &'b str,
    pub(super) query: Option<&'b str>,
}

/// Cuts `target`, the well-formed target of a request with `method`.
pub(super) fn parse(target: &str, method: Method) -> Result<Target<'_>, Refusal> {
    if target.starts_with('/') {
        let (path, query) = split_query(target);
        return Ok(Target {
            form: TargetForm::Origin,
            authority: None,
            path,
            query,
        });
    }
    if target == "*" {
        if method != Method::Options {
            return Err(Refusal::bad(
                "the target * with a method other than OPTIONS",
            ));
        }
        return Ok(Target {
            form: TargetForm::Asterisk,
            authority: None,
            path: target,
            query: None,
        });
    }
    let rest = after_scheme(target).ok_or(Refusal::bad(
        "a target that is neither a path nor an http URI",
    ))?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    // RFC 9110 §4.2.1: an http URI with an empty host must be rejected.
    if !is_authority(authority.as_bytes()) {
        return Err(Refusal::bad(
            "an http URI with an invalid or empty authority",
        ));
    }
    let (path, query) = split_query(rest);
    let path = if path.is_empty() { "/" } else { path };
    Ok(Target {
        form: TargetForm::Absolute,
        authority: Some(authority),
        path,
        query,
    })
}

fn split_query(target: &str) -> (&str, Option<&str>) {
    // Byte by byte: most targets are shorter than what a search for a character takes to begin.
    match target.bytes().position(|byte| byte == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

/// What follows `http://` or `https://`. The latter is what a client sent that talks to the proxy
/// that ended TLS in front of us; which of the two it was does not change what is served.
fn after_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}

/// Whether `value` is `uri-host [ ":" port ]` with a host in it (RFC 9110 §7.2, RFC 3986 §3.2.2).
///
/// Userinfo fails, because `@` is no character of a host. An empty port ("a:") is well-formed.
pub(super) fn is_authority(value: &[u8]) -> bool {
    if let [b'[', rest @ ..] = value {
        let Some(end) = rest.iter().position(|&byte| byte == b']') else {
            return false;
        };
        is_ipv6(&rest[..end]) && is_port_part(&rest[end + 1..])
    } else {
        // Nearly every host is done with in one look at each byte.
        let plain = value.iter().position(|&byte| !is_reg_name(byte));
        let end = match plain.map(|at| (at, value[at])) {
            None => return !value.is_empty(),
            Some((at, b':')) => at,
            Some(_) => {
                let colon = value.iter().position(|&byte| byte == b':');
                let end = colon.unwrap_or(value.len());
                if !is_registered_name(&value[..end]) {
                    return false;
                }
                end
            }
        };
        end > 0 && is_port_part(&value[end..])
    }
}

/// Future address forms (`v1.…`) are refused with the rest: RFC 3986 §3.2.2 wants an error for an
/// address mechanism that one does not know.
fn is_ipv6(inner: &[u8]) -> bool {
    std::str::from_utf8(inner).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

fn is_registered_name(name: &[u8]) -> bool {
    let mut rest = name;
    loop {
        rest = match rest {
            [] => return true,
            [b'%', high, low, rest @ ..] => match (hex_digit(*high), hex_digit(*low)) {
                (Some(0), Some(0)) | (None, _) | (_, None) => return false,
                _ => rest,
            },
            [byte, rest @ ..] if is_reg_name(*byte) => rest,
            _ => return false,
        };
    }
}

/// Nothing, or `:` and digits of at most 65535.
fn is_port_part(part: &[u8]) -> bool {
    match part {
        [] => true,
        [b':', digits @ ..] => digits
            .iter()
            .try_fold(0_u32, |port, byte| match byte {
                b'0'..=b'9' => {
                    Some(port * 10 + u32::from(byte - b'0')).filter(|port| *port <= 65535)
                }
                _ => None,
            })
            .is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_with_an_optional_port() {
        for good in [
            "a",
            "a:",
            "a:80",
            "a:65535",
            "a:0080",
            "a.b-c_d~e",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
            "x%20y",
            "a!$&'()*+,;=b",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for wrong in [
            "",
            ":80",
            "a b",
            "u@a",
            "u:p@a",
            "a:65536",
            "a:99999999999999999999",
            "a:+1",
            "a:b",
            "a:1:2",
            "a/b",
            "a?b",
            "a#b",
            "[",
            "[]",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]80",
            "[1.2.3.4]",
            "[v1.a]",
            "[::1%25eth0]",
            "a%",
            "a%4",
            "a%zz",
            "a%00",
            "\u{fc}",
            "a\tb",
            "a\u{7f}",
            "a\"b",
            "<a>",
            "a\\b",
        ] {
            assert!(!is_authority(wrong.as_bytes()), "{wrong}");
        }
    }
}
