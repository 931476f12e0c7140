//! SIGHUP at `transom serve`: its file is read again.
//!
//! The file is checked whole before anything changes, and a wrong one changes nothing. What needs no other
//! memory is in force at once: routes to doors that are known, limits, times, the log's level. What else the
//! file says is named, and waits for SIGUSR2, whose new instance reads the file from the beginning.
//!
//! Reading allocates from the process heap, in the main thread, and gives all of it back but for the new
//! rules. What reading it at the start has taken is there again for that, so a file may not have grown to
//! more than [`FILE_MAX`].

use super::asked;
use super::error::StartError;
use super::handover::Handover;
use super::parts::loops::{RunningLoops, route_table};
use crate::config::{Config, Forward, Target};
use crate::settings::file::Words;
use crate::settings::{ForwardSettings, FrontSettings};
use clap::ArgMatches;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use transom_front::{Limits, RouteTable, Rules};
use transom_log::LogHandle;
use transom_wire::own_log::{error, info, warn};

/// The largest file that is read again: some thousand routes.
const FILE_MAX: u64 = 256 << 10;

/// What is in force, and where it was read.
pub(super) struct Reload<'s> {
    asked: &'s ForwardSettings,
    /// What the flags were parsed from.
    line: &'s ArgMatches,
    /// As it is written: a port 0 is one.
    config: Config,
    words: Words,
    front: FrontSettings,
    /// Those that every loop has a doorway to; routes name them by their place.
    doors: Vec<PathBuf>,
}

/// What a new file changes.
struct Changes {
    /// What is in force now.
    done: Vec<String>,
    /// What is not.
    left: Vec<String>,
}

impl<'s> Reload<'s> {
    pub(super) fn new(
        asked: &'s ForwardSettings,
        line: &'s ArgMatches,
        config: &Config,
        (front, words): (FrontSettings, Words),
    ) -> Self {
        let http = config.http_only();
        Reload {
            asked,
            line,
            config: config.clone(),
            words,
            front,
            doors: http.doors().into_iter().map(Path::to_owned).collect(),
        }
    }

    /// The flags that are in force.
    pub(super) fn front(&self) -> &FrontSettings {
        &self.front
    }

    /// Reads the file again, says what has become of it, and puts in force what can be.
    pub(super) fn run(&mut self, loops: &RunningLoops, handover: &mut Handover, logs: &LogHandle) {
        if self.asked.config.is_none() {
            return super::watch::nothing_to_reload(handover);
        }
        match self.read(loops) {
            Ok(changes) => {
                let list = |names: &[String]| match names {
                    [] => "nothing".to_owned(),
                    names => names.join(", "),
                };
                if !changes.left.is_empty() {
                    warn!(
                        left = %list(&changes.left),
                        "SIGHUP: some of what the configuration file says is not in force, because it needs other memory: it \
                         needs SIGUSR2, which starts a new instance"
                    );
                }
                info!(
                    changed = %list(&changes.done),
                    "SIGHUP: the configuration file was read again, and is in force"
                );
                handover.set_timeout(self.front.handover_timeout);
                logs.set_level(self.front.log_level);
            }
            Err(why) => {
                for line in why.to_string().lines() {
                    error!(
                        why = line,
                        "SIGHUP: the configuration file is wrong, and nothing was changed"
                    );
                }
            }
        }
    }

    fn read(&mut self, loops: &RunningLoops) -> Result<Changes, StartError> {
        let path = self.asked.config.as_deref();
        let about = path.and_then(|path| Some((path, std::fs::metadata(path).ok()?)));
        if let Some((path, _)) = about.as_ref().filter(|(_, about)| !about.is_file()) {
            // Reading it may take for ever, and this is the thread that SIGTERM goes to.
            return Err(StartError::ReadConfig {
                path: (*path).to_owned(),
                source: io::Error::other("it is no file, and only a file is read again"),
            });
        }
        let len = about.map(|(_, about)| about.len());
        if let (Some(path), Some(len @ FILE_MAX..)) = (path, len) {
            return Err(StartError::LargeFile {
                path: path.to_owned(),
                len,
                most: FILE_MAX,
            });
        }
        let new = asked::read_asked(self.asked)?;
        let (front, words) = FrontSettings::with_words(&new.settings, Some(self.line))?;
        asked::plan(&front, &new)?;
        // What changes goes together with what stays until SIGUSR2, or nothing changes.
        let mut mixed = self.front.clone();
        mixed.change_to(&front);
        asked::plan(&mixed, &self.config).map_err(|error| StartError::Mixed(Box::new(error)))?;
        let mut changes = Changes {
            done: Vec::new(),
            left: Vec::new(),
        };
        let routes = self.change_routes(&new, &mut changes);
        self.change_flags(&front, words, &mut changes);
        if !changes.done.is_empty() {
            let limits = Limits::new(&self.front.allowance());
            loops.change_rules(Rules { routes, limits });
        }
        Ok(changes)
    }

    /// The routes of every forward, new ones where they lead to doors that are known.
    fn change_routes(&mut self, new: &Config, changes: &mut Changes) -> Vec<Arc<RouteTable>> {
        let mut unseen: Vec<&Forward> = new.forwards.iter().collect();
        for old in &mut self.config.forwards {
            // One forward is another if the same is spoken at the same address; there may be several ports 0.
            let key = old.to_string();
            let Some(n) = unseen.iter().position(|new| new.to_string() == key) else {
                changes.left.push(format!("{old} is gone"));
                continue;
            };
            let forward = unseen.remove(n);
            if forward.target == old.target {
                continue;
            }
            let unknown = match &forward.target {
                Target::Http(routes) => {
                    let mut doors = routes.iter().map(|route| &route.door);
                    doors.find(|door| !self.doors.contains(door))
                }
                Target::Tcp(door) | Target::Udp(door) => Some(door),
            };
            match unknown {
                Some(door) => changes
                    .left
                    .push(format!("{old} leads to another door, {}", door.display())),
                None => {
                    old.target = forward.target.clone();
                    changes.done.push(format!("routes of {old}"));
                }
            }
        }
        changes
            .left
            .extend(unseen.iter().map(|new| format!("{new} is new")));
        // Their threads open them as they were told at the start.
        for door in self.config.doors() {
            let said = new.owners.get(door);
            if said.is_some_and(|said| *said != self.config.owner_of(door)) {
                changes
                    .left
                    .push(format!("the owner of {}", door.display()));
            }
        }
        let tables = self.config.http_forwards();
        tables
            .map(|forward| Arc::new(route_table(forward, &self.doors)))
            .collect()
    }

    fn change_flags(&mut self, front: &FrontSettings, words: Words, changes: &mut Changes) {
        let streams = self.config.forwards.iter().any(|one| !one.is_http());
        let counted = |front: &FrontSettings| front.connections_per_address.is_some();
        let counting_changes = counted(front) != counted(&self.front);
        for (name, value) in words {
            if self.words.get(&name) == Some(&value) {
                continue;
            }
            let changes_in_place = FrontSettings::CHANGEABLE.contains(&name.as_str())
                && !(name == "connections-per-address" && counting_changes);
            if !changes_in_place {
                changes.left.push(format!("--{name}"));
                continue;
            }
            changes.done.push(format!("--{name}"));
            if streams && OF_STREAMS.contains(&name.as_str()) {
                changes
                    .left
                    .push(format!("--{name} of tcp:// and udp:// forwards"));
            }
            self.words.insert(name, value);
        }
        self.front.change_to(front);
    }
}

/// Flags of which the forwards of connections and datagrams have copies.
const OF_STREAMS: [&str; 5] = [
    "queue-timeout",
    "deadline",
    "idle-timeout",
    "write-timeout",
    "connections-per-address",
];
