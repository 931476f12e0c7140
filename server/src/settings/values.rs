//! Values that are not simply numbers: times, permissions, users.

use clap::Arg;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::ffi::CString;
use std::io;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use transom_doors::DoorOwner;

/// Gives a flag of a server its environment variable: `TRANSOM_` and its name. Tools have none.
pub(crate) fn with_variable(flag: Arg) -> Arg {
    let headings = [
        "Serving", "Proxies", "Memory", "Time", "Logs", "Door", "Forwards",
    ];
    let is_ours = |heading| headings.contains(&heading);
    if flag.get_env().is_some() || !flag.get_help_heading().is_some_and(is_ours) {
        return flag;
    }
    let variable = format!("TRANSOM_{}", flag.get_id().as_str().to_uppercase());
    flag.env(variable)
}

/// Reads `250ms`, `10s`, `2m`, `1h` or `0`.
///
/// # Errors
/// What is wrong with the text, and how times are written.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if number.bytes().all(|b| b == b'0') => 0,
        _ => {
            return Err(format!(
                "{text:?} is not a time: write a whole number and ms, s, m or h, as in 250ms"
            ));
        }
    };
    let most = u64::from(u32::MAX);
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor_ms))
        .filter(|&ms| ms <= most)
        .map(Duration::from_millis)
        .ok_or_else(|| {
            format!(
                "{text:?} is not a time between 0 and {} days",
                most / 86_400_000
            )
        })
}

/// Reads a whole number that is not 0.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_count<N: FromStr<Err = ParseIntError>>(text: &str) -> Result<N, String> {
    text.parse().map_err(|error: N::Err| match error.kind() {
        IntErrorKind::Zero => "the least is 1".to_owned(),
        _ => error.to_string(),
    })
}

/// Reads a level by its name. (`LevelFilter` takes numbers too, and no text at all for `off`.)
pub(super) fn level_parser() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .map(|name| name.parse().expect("the name of a level"))
}

/// Reads permissions as chmod(1) takes them, in octal.
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && !text.starts_with('+'))
        .ok_or_else(|| {
            format!("{text:?} is not a mode: write three or four octal digits, as in 0660")
        })
}

/// Reads the name of a host, without a port.
pub(super) fn parse_host(text: &str) -> Result<String, String> {
    let is_of_a_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match !text.is_empty() && text.bytes().all(is_of_a_name) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is not the name of a host: write it without a scheme and a port, as in metrics.example.org"
        )),
    }
}

/// Reads a user's number or name.
pub(super) fn parse_user(text: &str) -> Result<u32, String> {
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    id(text, "user", |name, buffer| {
        let mut found = std::ptr::null_mut();
        // SAFETY: the name ends with NUL, entry and buffer are there to write to, the buffer with its length.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: what was found is our entry, written by a call that succeeded.
        (code, unsafe { found.as_ref() }.map(|entry| entry.pw_uid))
    })
}

/// Reads who may serve a door.
pub(crate) fn parse_door_owner(text: &str) -> Result<DoorOwner, String> {
    match text {
        "anybody" => Ok(DoorOwner::Anybody),
        text => parse_user(text).map(DoorOwner::User),
    }
}

/// Reads a group's number or name.
pub(super) fn parse_group(text: &str) -> Result<u32, String> {
    let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
    id(text, "group", |name, buffer| {
        let mut found = std::ptr::null_mut();
        // SAFETY: as in `parse_user`.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: as in `parse_user`.
        (code, unsafe { found.as_ref() }.map(|entry| entry.gr_gid))
    })
}

/// The most bytes that the entry of a user or group may need: groups list their members.
const ENTRY_MAX: usize = 1 << 20;

/// A number, or what `look_up` finds for a name with a buffer that is large enough.
fn id(
    text: &str,
    kind: &str,
    mut look_up: impl FnMut(&CString, &mut [libc::c_char]) -> (libc::c_int, Option<u32>),
) -> Result<u32, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // The largest number means "leave it" to chown(2).
        return text
            .parse()
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| format!("{text} is more than the number of a {kind} can be"));
    }
    let unknown = || format!("there is no {kind} {text:?} on this machine");
    let name = CString::new(text).map_err(|_| unknown())?;
    let mut buffer = vec![0; 1024];
    loop {
        match look_up(&name, &mut buffer) {
            (libc::ERANGE, _) if buffer.len() < ENTRY_MAX => buffer.resize(2 * buffer.len(), 0),
            (libc::EINTR, _) => {}
            (0, Some(id)) => return Ok(id),
            // The ways in which getpwnam_r(3) says that there is none.
            (0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, None) => {
                return Err(unknown());
            }
            (code, _) => {
                let error = io::Error::from_raw_os_error(code);
                return Err(format!("cannot look up the {kind} {text:?}: {error}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_limits() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in [
            "",
            "5",
            "ms",
            "-1s",
            "1.5s",
            "1d",
            "99999999999999999999s",
            "2000h",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("0660"), Ok(0o660));
        assert_eq!(parse_mode("600"), Ok(0o600));
        assert_eq!(parse_mode("0"), Ok(0));
        for wrong in ["", "0680", "rw-rw----", "1777", "-1", "+660", "0x1ff"] {
            assert!(parse_mode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_are_names_only() {
        assert_eq!(
            parse_host("metrics.example.org"),
            Ok("metrics.example.org".to_owned())
        );
        for wrong in ["", "a:80", "http://a", "a/b", "a b", "[::1]"] {
            assert!(parse_host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn users_and_groups_have_names_or_numbers() {
        for parse in [parse_user, parse_group] {
            assert_eq!(parse("root"), Ok(0));
            assert_eq!(parse("4711"), Ok(4711));
            for wrong in ["", "no such one", "-1", "4294967295", "99999999999", "a\0b"] {
                assert!(parse(wrong).is_err(), "{wrong}");
            }
        }
    }
}
