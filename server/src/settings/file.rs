//! Flags of a front end that a file sets, by their names and in their syntax.

use super::FrontSettings;
use super::values::{parse_door_owner, with_variable};
use crate::config::{Keys, Setting};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser};
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use transom_doors::DoorOwner;

/// The flags of `transom serve`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Forwards", mut_args = with_variable)]
pub struct ForwardSettings {
    /// File that says what to forward where; it may also set the flags below, by name. A flag prevails over
    /// the file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// What to forward to which door: http://ADDRESS:PORT=DOOR, http://ADDRESS:PORT/PREFIX=DOOR, tcp://…,
    /// udp://…. May be given more than once. In place of ADDRESS:PORT, unix:PATH is a Unix socket (before a
    /// prefix: unix:PATH:/PREFIX), systemd:NAME one that systemd has opened
    #[arg(long, value_delimiter = ',', value_name = "FROM=DOOR")]
    pub forward: Vec<String>,

    /// User who may serve a door, unless the file gives it an `owner`; `anybody` for every user. No other one
    /// gets requests [default: the one who starts the front end, and root]
    #[arg(long, value_parser = parse_door_owner, value_name = "USER|UID|anybody")]
    pub door_owner: Option<DoorOwner>,

    /// What owns the sockets.
    #[command(flatten)]
    pub front: FrontSettings,
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct FrontOnly {
    #[command(flatten)]
    front: FrontSettings,
}

/// The flags that a file may set: all that have a value.
pub(crate) fn keys() -> Keys<'static> {
    let command = FrontOnly::command();
    let names = |are: fn(&&clap::Arg) -> bool| {
        let flags = command.get_arguments().filter(are);
        flags
            .filter_map(|flag| flag.get_long().map(str::to_owned))
            .collect()
    };
    Keys {
        lists: names(|flag| matches!(flag.get_action(), ArgAction::Append)),
        names: names(|flag| matches!(flag.get_action(), ArgAction::Set | ArgAction::Append)),
        switches: names(|flag| {
            let values = flag.get_num_args();
            values.is_some_and(|values| values.min_values() == 0)
        }),
        check: &takes,
    }
}

/// Whether a flag takes a value; if not, why.
fn takes(name: &str, value: &str) -> Result<(), String> {
    let Err(error) = FrontOnly::try_parse_from([format!("--{name}={value}")]) else {
        return Ok(());
    };
    if let Some(why) = error.source() {
        return Err(why.to_string());
    }
    // Values that are one of a few: the list is part of the sentence.
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let sentence = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    Err(sentence.trim_start_matches("error: ").to_owned())
}

impl FrontSettings {
    /// These settings: what the command line says, else the environment, else the file, else the default.
    /// `line` is what the command line was parsed to, if there was one.
    ///
    /// # Errors
    /// What clap says of a value that it takes by itself, and not together with the others.
    pub(crate) fn from_file(
        settings: &[Setting],
        line: Option<&ArgMatches>,
    ) -> Result<Self, clap::Error> {
        Self::with_words(settings, line).map(|(front, _)| front)
    }

    /// As [`FrontSettings::from_file`], and what each flag was set to, in words.
    ///
    /// # Errors
    /// As for [`FrontSettings::from_file`].
    pub(crate) fn with_words(
        settings: &[Setting],
        line: Option<&ArgMatches>,
    ) -> Result<(Self, Words), clap::Error> {
        let mut words: Vec<OsString> = Vec::new();
        for flag in FrontOnly::command().get_arguments() {
            let (id, Some(name)) = (flag.get_id().as_str(), flag.get_long()) else {
                continue;
            };
            match line.and_then(|line| line.value_source(id).map(|source| (line, source))) {
                Some((line, ValueSource::CommandLine)) => {
                    let values = line.get_raw(id).into_iter().flatten();
                    let valued = matches!(flag.get_action(), ArgAction::Set | ArgAction::Append);
                    words.extend(values.map(|value| {
                        let mut word = OsString::from(format!("--{name}"));
                        if valued {
                            word.push("=");
                            word.push(value);
                        }
                        word
                    }));
                }
                // It is read from there again.
                _ if flag
                    .get_env()
                    .is_some_and(|name| std::env::var_os(name).is_some()) => {}
                _ => {
                    let set = settings.iter().filter(|setting| setting.name == name);
                    words.extend(set.map(|set| format!("--{name}={}", set.value).into()));
                }
            }
        }
        let matches = FrontOnly::command().try_get_matches_from(words)?;
        let mut front = FrontOnly::from_arg_matches(&matches)?.front;
        let command = FrontOnly::command();
        let is_given = |flag: &&clap::Arg| {
            let values = matches.get_raw(flag.get_id().as_str());
            let default = flag.get_default_values().iter().map(AsRef::<OsStr>::as_ref);
            values.is_some_and(|values| !values.eq(default))
        };
        let given = command.get_arguments().filter(is_given);
        front.given = given
            .filter_map(|flag| flag.get_long().map(str::to_owned))
            .collect();
        let words = command.get_arguments().filter_map(|flag| {
            let values = matches.get_raw(flag.get_id().as_str());
            let values = values.into_iter().flatten().map(OsString::from).collect();
            Some((flag.get_long()?.to_owned(), values))
        });
        let words = words.collect();
        Ok((front, words))
    }
}

/// What each flag is set to, by its name without dashes.
pub(crate) type Words = BTreeMap<String, Vec<OsString>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;
    use std::time::Duration;

    fn set(name: &str, value: &str) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            place: Place::Flag("a test".to_owned()),
        }
    }

    #[test]
    fn a_file_sets_what_the_command_line_does_not() {
        let file = [
            set("connections", "7"),
            set("queue-timeout", "5ms"),
            set("log", "json"),
            set("trust", "10.0.0.0/8,unix:"),
        ];
        let line = FrontOnly::command()
            .try_get_matches_from(["--connections", "9", "--check"])
            .expect("flags");
        let front = FrontSettings::from_file(&file, Some(&line)).expect("it parses");
        assert_eq!(front.connections.get(), 9);
        assert_eq!(front.queue_timeout, Duration::from_millis(5));
        assert_eq!(front.log, super::super::LogSetting::Json);
        assert!(front.check);
        assert_eq!(front.trust.len(), 2);
        let front = FrontSettings::from_file(&file, None).expect("it parses");
        assert_eq!(front.connections.get(), 7);
        assert!(!front.check);
    }

    #[test]
    fn keys_are_the_flags_with_values() {
        let keys = keys();
        let has = |name: &str| keys.names.iter().any(|key| key == name);
        for name in [
            "connections",
            "idle-timeout",
            "channel-limit",
            "log",
            "trust",
            "ipv6-only",
        ] {
            assert!(has(name), "{name}: {:?}", keys.names);
        }
        for name in ["check", "help", "version", "buckets", "listen", "door"] {
            assert!(!has(name), "{name}");
        }
    }

    #[test]
    fn a_wrong_value_says_what_a_right_one_is() {
        for (name, value, part) in [
            (
                "queue-timeout",
                "5",
                "write a whole number and ms, s, m or h",
            ),
            ("head-limit", "16KB", "use B, KiB, MiB"),
            ("connections", "0", "the least is 1"),
            ("log", "pretty", "auto, human, json"),
            ("log-level", "loud", "off, error, warn, info, debug, trace"),
            ("log-level", "", "off, error, warn, info, debug, trace"),
            ("log-level", "3", "off, error, warn, info, debug, trace"),
            ("connections", "", "empty"),
        ] {
            let why = takes(name, value).expect_err(name);
            assert!(why.contains(part) && !why.contains('\n'), "{name}: {why:?}");
        }
        assert_eq!(takes("queue-timeout", "5s"), Ok(()));
    }
}
