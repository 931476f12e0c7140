//! What was written, before it is known to make sense; and the rules that decide.

use super::meaning::{Config, Forward, Route, Setting, Target};
use super::nearest::nearest;
use super::problem::{ConfigError, Place, Problem};
use crate::settings::parse_door_owner;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use transom_doors::{DoorOwner, check_path};
use transom_net::ListenAddress;
use transom_wire::method::{ALLOW_ALL, Method};
use transom_wire::syntax::is_token_byte;

/// A text and where it is written.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub value: String,
    pub place: Place,
}

/// A forward as it is written.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub place: Place,
    pub listen: Located,
    pub door: Option<Located>,
    pub owner: Option<Located>,
    pub routes: Vec<DraftRoute>,
}

/// A route as it is written.
#[derive(Debug, Clone)]
pub(super) struct DraftRoute {
    pub place: Place,
    pub method: Option<Located>,
    pub path: Located,
    pub door: Located,
    pub owner: Option<Located>,
}

/// Everything that was read, and what was wrong with it so far.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    pub forwards: Vec<Draft>,
    pub settings: Vec<Setting>,
    pub problems: Vec<Problem>,
}

/// What is spoken at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Tcp,
    Udp,
}

const SCHEMES: [(&str, Scheme); 3] = [
    ("http", Scheme::Http),
    ("tcp", Scheme::Tcp),
    ("udp", Scheme::Udp),
];

impl Drafts {
    /// Checks what single values and all of them together mean. `nothing` is what is wrong if there is no
    /// forward.
    pub(super) fn finish(mut self, nothing: Problem) -> Result<Config, ConfigError> {
        if self.forwards.is_empty() && self.problems.is_empty() {
            self.problems.push(nothing);
        }
        let mut forwards: Vec<Forward> = Vec::new();
        let mut addresses: Vec<(bool, ListenAddress, Place)> = Vec::new();
        let owners = owners(&self.forwards, &mut self.problems);
        for draft in &self.forwards {
            let Some((scheme, address)) = self.problems.take(listen(&draft.listen)) else {
                continue;
            };
            // HTTP is spoken over TCP. The kernel chooses another port 0 each time.
            let datagrams = scheme == Scheme::Udp;
            let (one, any_port) = match &address {
                ListenAddress::Inet(address) => ("a port", address.port() == 0),
                ListenAddress::Unix(_) => ("a path", false),
                ListenAddress::Systemd(_) => ("a name", false),
            };
            let same = addresses
                .iter()
                .find(|(d, a, _)| *d == datagrams && *a == address && !any_port);
            if let Some((_, _, first)) = same {
                let what =
                    format!("{address} is listened on already ({first}): {one} has one forward");
                self.problems.add(&draft.listen.place, what);
            }
            addresses.push((datagrams, address.clone(), draft.listen.place.clone()));
            if let Some(target) = target(scheme, draft, &mut self.problems) {
                forwards.push(Forward {
                    address,
                    target,
                    place: draft.listen.place.clone(),
                });
            }
        }
        if self.problems.is_empty() {
            self.settings.sort_by(|a, b| a.place.cmp(&b.place));
            return Ok(Config {
                settings: self.settings,
                forwards,
                owners,
            });
        }
        self.problems.sort_by(|a, b| a.place.cmp(&b.place));
        Err(ConfigError {
            problems: self.problems,
        })
    }
}

/// Which doors have an owner of their own. A door has one, however many forwards lead to it.
fn owners(forwards: &[Draft], problems: &mut Vec<Problem>) -> BTreeMap<PathBuf, DoorOwner> {
    let mut owners: BTreeMap<PathBuf, (DoorOwner, Place)> = BTreeMap::new();
    for forward in forwards {
        let of_routes = forward.routes.iter().map(|route| {
            let owner = route.owner.as_ref().or(forward.owner.as_ref());
            (Some(&route.door), owner)
        });
        let own = [(forward.door.as_ref(), forward.owner.as_ref())];
        for (door, owner) in own.into_iter().chain(of_routes) {
            let (Some(door), Some(owner)) = (door, owner) else {
                continue;
            };
            let read = parse_door_owner(&owner.value).map_err(|why| Problem {
                place: owner.place.clone(),
                what: format!("`owner`: {why}"),
            });
            let Some(read) = problems.take(read) else {
                continue;
            };
            let first = (owners.entry(PathBuf::from(&door.value)))
                .or_insert_with(|| (read, owner.place.clone()));
            if first.0 != read {
                let what = format!(
                    "{} has another owner already ({}): one door has one owner",
                    door.value, first.1
                );
                problems.add(&owner.place, what);
            }
        }
    }
    let without_place = |(door, (owner, _))| (door, owner);
    owners.into_iter().map(without_place).collect()
}

/// Collects what is wrong and goes on.
trait Collect {
    fn add(&mut self, place: &Place, what: impl Into<String>);
    fn take<T>(&mut self, result: Result<T, Problem>) -> Option<T>;
}

impl Collect for Vec<Problem> {
    fn add(&mut self, place: &Place, what: impl Into<String>) {
        self.push(Problem {
            place: place.clone(),
            what: what.into(),
        });
    }

    fn take<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.push(problem)).ok()
    }
}

fn problem<T>(at: &Located, what: impl Into<String>) -> Result<T, Problem> {
    Err(Problem {
        place: at.place.clone(),
        what: what.into(),
    })
}

/// Who answers at an address.
fn target(scheme: Scheme, draft: &Draft, problems: &mut Vec<Problem>) -> Option<Target> {
    if let (Scheme::Tcp | Scheme::Udp, Some(first)) = (scheme, draft.routes.first()) {
        let what = "only http has a map: connections and datagrams have no path; give the forward one `door`";
        problems.add(&first.place, what);
        return None;
    }
    match (&draft.door, &draft.routes[..]) {
        (None, []) => {
            let what = match scheme {
                Scheme::Http => {
                    "the forward leads nowhere: give it `door`, or [[forward.map]] with `path` and `door`"
                }
                Scheme::Tcp | Scheme::Udp => "the forward leads nowhere: give it `door`",
            };
            problems.add(&draft.place, what);
            None
        }
        (Some(door), [_, ..]) => {
            let what = "the forward has `door` and [[forward.map]]: \
                        write the door as a map with path \"/\", or remove it";
            problems.add(&door.place, what);
            None
        }
        (Some(door), []) => {
            let door = problems.take(door_path(door))?;
            Some(match scheme {
                Scheme::Http => Target::Http(vec![Route {
                    method: None,
                    path: "/".to_owned(),
                    door,
                }]),
                Scheme::Tcp => Target::Tcp(door),
                Scheme::Udp => Target::Udp(door),
            })
        }
        (None, written) => Some(Target::Http(routes(written, problems))),
    }
}

/// The routes of a forward, in the order in which they are tried.
fn routes(written: &[DraftRoute], problems: &mut Vec<Problem>) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let mut places: Vec<&Place> = Vec::new();
    for draft in written {
        let method = match &draft.method {
            Some(token) => problems.take(method(token)).map(Some),
            None => Some(None),
        };
        let path = problems.take(prefix(&draft.path));
        let door = problems.take(door_path(&draft.door));
        let (Some(method), Some(path), Some(door)) = (method, path, door) else {
            continue;
        };
        let same = routes
            .iter()
            .position(|route| route.method == method && route.path == path);
        if let Some(first) = same {
            let name = method.map_or("every method", super::meaning::method_name);
            let what = format!(
                "{name} of {path} has a door already ({}): remove one of the two",
                places[first]
            );
            problems.add(&draft.path.place, what);
            continue;
        }
        routes.push(Route { method, path, door });
        places.push(&draft.place);
    }
    // Stable, so that those that are equal in both stay as they are written.
    routes.sort_by_key(|route| (std::cmp::Reverse(route.path.len()), route.method.is_none()));
    routes
}

fn listen(at: &Located) -> Result<(Scheme, ListenAddress), Problem> {
    let text = at.value.as_str();
    let Some((scheme, address)) = text.split_once("://") else {
        return problem(
            at,
            format!("{text:?} is not a scheme, an address and a port, as in http://127.0.0.1:8080"),
        );
    };
    let Some((_, scheme)) = SCHEMES.iter().find(|(name, _)| *name == scheme) else {
        let meant = nearest(scheme, SCHEMES.map(|(name, _)| name));
        let meant = meant.map_or(String::new(), |name| format!("; did you mean {name}://?"));
        return problem(
            at,
            format!("the scheme {scheme:?} is not http, tcp or udp{meant}"),
        );
    };
    if address.starts_with("unix:") || address.starts_with("systemd:") {
        if *scheme == Scheme::Udp {
            return problem(
                at,
                format!("{address:?} is for connections: datagrams come to an address and a port"),
            );
        }
        return match address.parse() {
            Ok(address) => Ok((*scheme, address)),
            Err(why) => problem(at, why),
        };
    }
    if let Ok(address) = address.parse() {
        return Ok((*scheme, ListenAddress::Inet(address)));
    }
    let no_port = |address: &str| {
        let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        address.parse::<IpAddr>().is_ok() || inner.is_some_and(|a| a.parse::<Ipv6Addr>().is_ok())
    };
    let (host, path) = address.split_at(address.find('/').unwrap_or(address.len()));
    if !path.is_empty() && (host.parse::<SocketAddr>().is_ok() || no_port(host)) {
        let what = match scheme {
            Scheme::Http => format!(
                "{path:?} does not belong to an address: write it as `path` of a [[forward.map]]"
            ),
            Scheme::Tcp | Scheme::Udp => {
                format!("{path:?} does not belong to an address: only http has paths")
            }
        };
        return problem(at, what);
    }
    let host = host.strip_suffix(':').unwrap_or(host);
    if no_port(host) {
        let brackets = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        return problem(
            at,
            format!("{host} has no port: write it behind the address, as in {brackets}:8080"),
        );
    }
    problem(
        at,
        format!(
            "{address:?} is not an IP address and a port, as in 127.0.0.1:8080 or [::1]:8080; names are not looked up. A Unix socket is \
             unix:/run/hello.sock, what systemd passes systemd:NAME"
        ),
    )
}

fn method(at: &Located) -> Result<Method, Problem> {
    let token = at.value.as_str();
    if token.is_empty() || !token.bytes().all(is_token_byte) {
        return problem(
            at,
            format!("{token:?} is not a method: it is a word, as in GET"),
        );
    }
    match Method::from_token(token.as_bytes()) {
        Method::Other => {
            let upper = token.to_ascii_uppercase();
            let meant = match Method::from_token(upper.as_bytes()) {
                Method::Other => String::new(),
                _ => format!("; did you mean {upper}?"),
            };
            problem(
                at,
                format!("the front end forwards {ALLOW_ALL}, not {token}{meant}"),
            )
        }
        method => Ok(method),
    }
}

fn prefix(at: &Located) -> Result<String, Problem> {
    let path = at.value.as_str();
    let wrong = if !path.starts_with('/') {
        "a path begins with \"/\""
    } else if path.contains(['?', '#']) {
        "a path ends before \"?\" and \"#\": a query does not choose the door"
    } else if path.contains('%') {
        "a path is compared decoded: write the character itself, not its percent-escape"
    } else if path.chars().any(char::is_control) {
        "a path has no control characters"
    } else if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        "requests have no \".\" and \"..\" left when their path is compared: leave them out"
    } else {
        return Ok(path.to_owned());
    };
    problem(at, format!("{path:?} matches no request: {wrong}"))
}

fn door_path(at: &Located) -> Result<PathBuf, Problem> {
    let path = at.value.as_str();
    let wrong = if path.is_empty() {
        "a door has a path, as in /run/hello.door"
    } else if !path.starts_with('/') {
        "the path of a door is absolute, so that it does not depend on where the front end is started"
    } else if path.contains('\0') {
        "a path has no NUL"
    } else if path.ends_with('/') {
        "that is a folder: a door's path ends with its name"
    } else {
        let path = PathBuf::from(path);
        return match check_path(&path) {
            Ok(()) => Ok(path),
            Err(why) => problem(at, format!("the door {path:?} cannot be: {why}")),
        };
    };
    problem(at, format!("the door {path:?} cannot be: {wrong}"))
}
