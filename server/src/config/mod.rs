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
mod keys;
mod meaning;
mod nearest;
mod problem;
#[cfg(test)]
mod tests;

use draft::Drafts;
use std::path::Path;
use transom_doors::DoorOwner;

pub use keys::{Keys, Source};
pub use meaning::{Config, Forward, Route, Setting, Target};
pub use problem::{ConfigError, Place, Problem};

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

    /// Who may serve a door: the user that the file says, or else our own user and root.
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
