//! What a front end forwards where: a TOML file, `--forward` flags, or both.
//!
//! ```toml
//! connections = 4096                  # any flag of `transom serve`, by its name; the flag prevails
//!
//! [[forward]]
//! listen = "http://0.0.0.0:8080"
//!
//! [[forward.map]]                     # the longest prefix wins; method is optional
//! method = "GET"
//! path   = "/primes"
//! door   = "/run/primes.door"
//!
//! [[forward.map]]
//! path  = "/"
//! door  = "/run/site.door"
//! owner = "site"                      # only this user may serve the door; otherwise --door-owner says who
//!
//! [[forward]]
//! listen = "http://unix:/run/site.sock"   # or http://systemd:NAME: sockets that systemd has opened
//! door   = "/run/site.door"
//!
//! [[forward]]
//! listen = "tcp://127.0.0.1:7007"     # the connection's descriptor goes through the door
//! door   = "/run/echo.door"
//! ```
//!
//! Nothing here opens, binds or looks at anything: text comes in, a [`Config`] or a list of [`Problem`]s goes
//! out, each with the file, line and column where it is, all at once.

mod draft;
mod file;
mod flag;
mod nearest;
#[cfg(test)]
mod tests;

use draft::Drafts;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use transom_doors::DoorOwner;
use transom_net::ListenAddress;
use transom_wire::Method;

/// What a front end is to do. Having one says that it holds together: every address is listened on once,
/// every route leads to one door.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Flags of the front end that the file sets.
    pub settings: Vec<Setting>,
    /// Where it listens, and which doors answer there. At least one.
    pub forwards: Vec<Forward>,
    /// Doors of which it is said who may serve them.
    pub owners: BTreeMap<PathBuf, DoorOwner>,
}

/// A flag of the front end, set by the file. [`Keys::check`] has accepted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The flag's name, without dashes.
    pub name: String,
    /// What would be written behind it.
    pub value: String,
    /// Where it is set.
    pub place: Place,
}

/// One address, and what happens to those who connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Where to listen.
    pub address: ListenAddress,
    /// What is spoken there, and who answers.
    pub target: Target,
    /// Where it is written, for errors that only show later, such as a port in use.
    pub place: Place,
}

/// What a forward does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// HTTP requests: the longest prefix of the path wins, and of equal ones the one with the method. In that
    /// order here.
    Http(Vec<Route>),
    /// Connections: their descriptors go through the door.
    Tcp(PathBuf),
    /// Datagrams: one in, one out.
    Udp(PathBuf),
}

/// Some of the requests of an HTTP forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Only requests with this method; never [`Method::Other`].
    pub method: Option<Method>,
    /// Requests whose decoded path has this prefix, whole segments of it. Starts with a slash.
    pub path: String,
    /// The door that answers them: an absolute path.
    pub door: PathBuf,
}

impl Route {
    /// The method as it stands in a request.
    #[must_use]
    pub fn method_name(&self) -> Option<&'static str> {
        self.method.map(method_name)
    }
}

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file.
    File {
        /// Its name, as it was given.
        name: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
    },
    /// On the command line: the flag and its value.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Place::Flag(text) => f.write_str(text),
        }
    }
}

/// One thing that is wrong: where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// A sentence.
    pub what: String,
}

/// Everything that is wrong, in the order in which it is written; one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            write!(f, "{line}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The flags that a file may set.
pub struct Keys<'k> {
    /// Their names, without dashes.
    pub names: Vec<String>,
    /// Of these, those that may be given more than once.
    pub lists: Vec<String>,
    /// Of these, those that are true or false.
    pub switches: Vec<String>,
    /// Whether a flag takes a value; if not, why.
    pub check: &'k dyn Fn(&str, &str) -> Result<(), String>,
}

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// A file that has been read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'s> {
    /// Its name, for errors.
    pub name: &'s str,
    /// What is in it.
    pub bytes: &'s [u8],
}

impl Config {
    /// Reads a file, the values of `--forward` flags, or both: the flags' forwards come after the file's.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(
        file: Option<Source<'_>>,
        flags: &[String],
        keys: &Keys<'_>,
    ) -> Result<Self, ConfigError> {
        let mut drafts = Drafts::default();
        if let Some(source) = file {
            file::read(source, keys, &mut drafts);
        }
        flag::read(flags, &mut drafts);
        let nothing = match file {
            Some(source) => Problem {
                place: Place::start_of(source.name),
                what: "there is no [[forward]]: add one with `listen` and `door`".to_owned(),
            },
            None => Problem {
                place: Place::Flag("--forward".to_owned()),
                what: "there is nothing to forward: give it as in \
                       --forward http://127.0.0.1:8080=/run/hello.door, or a file with --config"
                    .to_owned(),
            },
        };
        drafts.finish(nothing)
    }

    /// The doors, each once, in the order in which they are first named.
    #[must_use]
    pub fn doors(&self) -> Vec<&Path> {
        let mut doors = Vec::new();
        for row in self.rows() {
            if !doors.contains(&row.door) {
                doors.push(row.door);
            }
        }
        doors
    }

    /// The same without what loops do not serve, and without flags.
    #[must_use]
    pub fn http_only(&self) -> Config {
        Config {
            settings: Vec::new(),
            forwards: self.http_forwards().cloned().collect(),
            owners: self.owners.clone(),
        }
    }

    /// Who may serve a door: whoever the file says, or else our own user and root.
    #[must_use]
    pub fn owner_of(&self, door: &Path) -> DoorOwner {
        let said = self.owners.get(door).copied();
        said.unwrap_or(DoorOwner::UsOrRoot)
    }

    /// Gives the doors of which the file does not say who may serve them this owner.
    pub fn own_the_rest(&mut self, owner: DoorOwner) {
        let doors: Vec<_> = self.doors().into_iter().map(Path::to_path_buf).collect();
        for door in doors {
            self.owners.entry(door).or_insert(owner);
        }
    }

    /// The forwards of HTTP, which loops serve; each other one is served by a thread of its own.
    pub fn http_forwards(&self) -> impl Iterator<Item = &Forward> {
        self.forwards.iter().filter(|forward| forward.is_http())
    }

    /// The forwards as lines of a table.
    #[must_use]
    pub fn rows(&self) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for forward in &self.forwards {
            let listen = forward.to_string();
            let whole = |what: &'static str, door| Row {
                listen: listen.clone(),
                method: "",
                path: what,
                door,
            };
            match &forward.target {
                Target::Http(routes) => rows.extend(routes.iter().map(|route| Row {
                    listen: listen.clone(),
                    method: route.method_name().unwrap_or("any"),
                    path: &route.path,
                    door: &route.door,
                })),
                Target::Tcp(door) => rows.push(whole("connections", door)),
                Target::Udp(door) => rows.push(whole("datagrams", door)),
            }
        }
        rows
    }
}

/// What goes through which door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'c> {
    /// Scheme, address and port.
    pub listen: String,
    /// A method, `any`, or nothing if it is not HTTP.
    pub method: &'c str,
    /// A prefix, or what is forwarded if it is not HTTP.
    pub path: &'c str,
    /// The door.
    pub door: &'c Path,
}

impl Forward {
    /// Whether requests are forwarded, and not connections or datagrams.
    #[must_use]
    pub fn is_http(&self) -> bool {
        matches!(self.target, Target::Http(_))
    }
}

impl fmt::Display for Forward {
    /// As in `listen`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.target {
            Target::Http(_) => "http",
            Target::Tcp(_) => "tcp",
            Target::Udp(_) => "udp",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

impl Place {
    fn start_of(name: &str) -> Self {
        Place::File {
            name: name.into(),
            line: 1,
            column: 1,
        }
    }
}

/// A method as it stands in a request.
const fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Patch => "PATCH",
        Method::Options => "OPTIONS",
        Method::Other => "another",
    }
}
