//! `transom serve`: a front end on its own, which forwards to doors of other processes; and `transom check`.

use super::asked::{plan, read, read_asked};
use super::descriptors;
use super::error::{ForHandlers, StartError};
use super::parts::application::HEAP_HEADROOM;
use super::reload::Reload;
use super::report::{print, report};
use super::server::Asked;
use crate::config::Config;
use crate::plan::PlanError;
use crate::settings::{ForwardSettings, FrontSettings};
use clap::ArgMatches;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use transom_arena::settle_process_heap;
use transom_doors::{AsyncClient, Credentials, DoorOwner, OpenError, OpenOptions};

/// Serves what a file and flags say until a signal ends it; `line` is what the flags were parsed from.
///
/// The status is that of [`App::serve`](super::App::serve).
#[must_use = "main should return it, so that the process ends with that status"]
pub fn serve_forwards(settings: &ForwardSettings, line: &ArgMatches) -> ExitCode {
    settle_process_heap(HEAP_HEADROOM);
    report(run(settings, line))
}

/// Says what a file means, and whether its doors are there; or everything that is wrong with it. Binds
/// nothing, and connects to doors only to see who serves them.
#[must_use = "main should return it, so that the process ends with that status"]
pub fn check_file(path: &Path) -> ExitCode {
    let table = read(Some(path), &[]).and_then(|config| {
        let front = FrontSettings::from_file(&config.settings, None)?;
        match plan(&front, &config) {
            // What the machine has that it will run on is not the file's matter.
            Ok(_) | Err(StartError::Plan(PlanError::Bound(_))) => Ok(table(path, &config)),
            Err(error) => Err(error),
        }
    });
    report(table.and_then(|table| print(format_args!("{table}"))))
}

fn run(settings: &ForwardSettings, line: &ArgMatches) -> Result<ExitCode, StartError> {
    let started = Instant::now();
    let config = read_asked(settings)?;
    let (front, words) = FrontSettings::with_words(&config.settings, Some(line))?;
    let plan = plan(&front, &config)?;
    if front.check {
        return print(format_args!("{}\n", plan.bound));
    }
    descriptors::check(
        plan.descriptors,
        "--connections",
        front.connections.get(),
        ForHandlers::default(),
    )?;
    let reload = Reload::new(settings, line, &config, (front.clone(), words));
    Asked {
        plan: &plan,
        front: &front,
        application: None,
        config,
    }
    .serve(Some(reload), started)
}

/// What a file means, for its author.
fn table(path: &Path, config: &Config) -> String {
    let rows = config.rows();
    let doors = config.doors().len();
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let forwards = config.forwards.len();
    let mut text = format!(
        "{}: {forwards} forward{}, {doors} door{}: valid\n",
        path.display(),
        plural(forwards),
        plural(doors),
    );
    for set in &config.settings {
        let _ = writeln!(text, "--{} {}", set.name, set.value);
    }
    let width = |of: fn(&crate::config::Row<'_>) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let listen = width(|row| row.listen.len());
    let method = width(|row| row.method.len());
    let what = width(|row| row.path.chars().count());
    let door = width(|row| row.door.to_string_lossy().chars().count());
    for row in &rows {
        let _ = writeln!(
            text,
            "{:listen$}  {:method$}  {:what$}  {:door$}  {}",
            row.listen,
            row.method,
            row.path,
            row.door.to_string_lossy(),
            presence(row.door, config.owner_of(row.door)),
        );
    }
    text
}

/// Whether there is a door at a path now, and whether it is served by who may.
fn presence(door: &Path, owner: DoorOwner) -> String {
    match std::fs::metadata(door) {
        Ok(found) if found.file_type().is_socket() => {
            let stranger = server_of(door).filter(|server| !owner.admits(server.uid));
            stranger.map_or("there now".to_owned(), |server| refused(server, owner))
        }
        Ok(_) => "there is something else now".to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => "not there now".to_owned(),
        Err(error) => format!("cannot be looked at: {error}"),
    }
}

/// Who serves a door, if that can be seen.
fn server_of(door: &Path) -> Option<Credentials> {
    let options = OpenOptions {
        owner: DoorOwner::User(u32::MAX), // no user has this number, so no server is accepted
        ..OpenOptions::default()
    };
    match AsyncClient::open(door, &options) {
        Err(OpenError::Stranger { server, .. }) => Some(server),
        _ => None,
    }
}

/// What a front end will do with a door that `server` serves, and what to write.
fn refused(server: Credentials, owner: DoorOwner) -> String {
    let Credentials { pid, uid, .. } = server;
    match owner {
        DoorOwner::UsOrRoot => format!(
            "there now, but a front end of user {} refuses it: process {pid} of user {uid} serves it; write owner = \"{uid}\" beside \
             `door`, or give --door-owner {uid}",
            Credentials::ours().uid
        ),
        owner => format!(
            "there now, but the front end refuses it: process {pid} of user {uid} serves it, and only {owner} may; write \
             owner = \"{uid}\" beside `door`"
        ),
    }
}
