//! Where to listen: an address and a port, a path, or what systemd passes. Text in, an address out; nothing
//! is opened.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path of a Unix socket: `sun_path` has 108 bytes, and the last one is NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:8080`: on TCP.
    Inet(SocketAddr),
    /// `unix:/run/hello.sock`: a Unix socket at a path.
    Unix(PathBuf),
    /// `systemd:`, `systemd:NAME`: sockets that systemd has opened and passes when it starts the process
    /// (`sd_listen_fds(3)`). With a name those that have it (`FileDescriptorName=`), without one all the
    /// others.
    Systemd(Option<String>),
}

impl ListenAddress {
    /// The path of a Unix socket.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            ListenAddress::Unix(path) => Some(path),
            _ => None,
        }
    }

    /// Whether one socket is all there is, so that the loops share it: the kernel lets no second one be bound
    /// to a path, and of those that systemd passes there are as many as it says.
    pub fn is_shared(&self) -> bool {
        !matches!(self, ListenAddress::Inet(_))
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        ListenAddress::Inet(address)
    }
}

impl fmt::Display for ListenAddress {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Inet(address) => write!(f, "{address}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ListenAddress::Systemd(name) => {
                write!(f, "systemd:{}", name.as_deref().unwrap_or_default())
            }
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(ListenAddress::Unix);
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return socket_name(name).map(ListenAddress::Systemd);
        }
        let address = text.parse().map_err(|_| {
            format!(
                "{text:?} is not an IP address and a port, as in 127.0.0.1:8080 or [::1]:8080, nor unix:/run/hello.sock, \
                 nor systemd:NAME; names are not looked up"
            )
        })?;
        bindable(address).map(ListenAddress::Inet)
    }
}

/// What the kernel would only call an invalid argument.
fn bindable(address: SocketAddr) -> Result<SocketAddr, String> {
    let SocketAddr::V6(v6) = address else {
        return Ok(address);
    };
    if let Some(v4) = v6.ip().to_ipv4_mapped() {
        let port = v6.port();
        return Err(format!("{v6} is an address of IPv4: write {v4}:{port}"));
    }
    if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 {
        return Err(format!(
            "{v6} is an address of one link: write the number of its interface behind it, as in [fe80::1%2]:8080 \
             (`ip link` has the numbers)"
        ));
    }
    Ok(address)
}

fn socket_path(path: &str) -> Result<PathBuf, String> {
    let wrong = if !path.starts_with('/') {
        "the path of a Unix socket is absolute, as in unix:/run/hello.sock"
    } else if path.ends_with('/') {
        "that is a folder: the path of a Unix socket ends with its name"
    } else if path.chars().any(char::is_control) {
        "its path has a control character"
    } else if path.len() > SOCKET_PATH_MAX {
        "the path of a Unix socket has at most 107 bytes: choose a shorter one"
    } else {
        return Ok(PathBuf::from(path));
    };
    Err(format!("{path:?} cannot be listened on: {wrong}"))
}

fn socket_name(name: &str) -> Result<Option<String>, String> {
    let wrong = |b: u8| !(b' '..=b'~').contains(&b) || b == b':';
    if name.len() > 255 || name.bytes().any(wrong) {
        return Err(format!(
            "{name:?} is not the name of a socket: FileDescriptorName= takes up to 255 printable characters other than \
             a colon"
        ));
    }
    Ok(Some(name.to_owned()).filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            "127.0.0.1:8080",
            "[::1]:80",
            "[fe80::1%2]:80",
            "unix:/run/hello.sock",
            "systemd:",
            "systemd:web",
        ] {
            let address: ListenAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
            assert_eq!(address.is_shared(), !text.ends_with('0'), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told() {
        let long = format!("unix:/{}", "a".repeat(107));
        for (text, part) in [
            ("localhost:80", "names are not looked up"),
            ("127.0.0.1", "and a port"),
            ("", "and a port"),
            ("[::ffff:127.0.0.1]:80", "write 127.0.0.1:80"),
            ("[fe80::1]:80", "number of its interface"),
            ("unix:", "absolute"),
            ("unix:run/x", "absolute"),
            ("unix:/run/", "folder"),
            ("unix:/run/\0", "control"),
            ("unix:/run/a\nb", "control"),
            (&long, "107 bytes"),
            ("systemd:a:b", "colon"),
            ("systemd:a\n", "printable"),
        ] {
            let error = text.parse::<ListenAddress>().expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
