//! From a router to a running server: flags, the sum, the region, threads, ready; and back again when told to
//! stop.

mod access;
mod admin;
mod application;
mod behind_door;
mod descriptors;
mod end;
mod forwards;
mod front;
mod handover;
mod in_process;
mod listeners;
mod notify;
mod predecessor;
mod recycle;
mod reload;
mod signals;
mod streams;
mod watch;

use crate::config::{ConfigError, Place};
use crate::plan::Plan;
use crate::settings::{FrontSettings, Settings};
use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser};
use descriptors::ForHandlers;
use listeners::Inherited;
use recycle::{Because, Sentence, Way};
use signals::Signals;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use transom_arena::{Policy, settle_process_heap};
use transom_log::{self as log, LogHandle, LogOptions};
use transom_net::ListenAddress;
use transom_platform::{
    ConnectionHandler, DatagramHandler, EachThread, Router, RouterError, Service,
};

pub use forwards::{check_file, serve_forwards};

/// Bytes kept at the top of the process heap for what the C library allocates when a thread starts. Counted
/// in the equation's constant.
const HEAP_HEADROOM: usize = 1 << 20;

/// Serves a router's handlers, or one handler: reads the command line, maps the region, listens, and returns
/// when it has drained.
///
/// A request that outgrows its bucket gets a 500. Through `&Bump` it unwinds. Through an ordinary allocation
/// it goes on with memory from the overdraft (`--overdraft`), and returns: that is sound for every handler.
/// Only a request that needs more than its share of the overdraft (`--overdraft-per-request`) is parked, and
/// its bucket lost until the process is replaced (`--lost-limit`). An author who keeps the [escape
/// contract](transom_platform::escape_contract) may use [`serve_escaping`], which needs no overdraft and ends
/// such a request at once.
#[must_use = "main should return it, so that the process ends with that status"]
pub fn serve(router: impl Into<Router>) -> ExitCode {
    App::new(router).serve()
}

/// Serves a router's handlers; one that outgrows its bucket is left by a jump, and its bucket is used again
/// at once.
///
/// # Safety
/// Every handler keeps the [escape contract](transom_platform::escape_contract): no lock, borrow or scope
/// held across an allocation; nothing outside the bucket points into it; resources other than memory owned by
/// [`Registered`](transom_platform::Registered); no half-updated shared state but in `Shared`.
#[must_use = "main should return it, so that the process ends with that status"]
pub unsafe fn serve_escaping(router: impl Into<Router>) -> ExitCode {
    // SAFETY: the caller's promise.
    unsafe { App::new(router).escaping() }.serve()
}

/// An application and how it wants to be served.
#[must_use = "an application does nothing until it is served"]
pub struct App {
    handlers: Written,
    promises_escape: bool,
    warm_up: Option<Box<dyn FnOnce()>>,
    each_thread: Vec<EachThread>,
    flags: Option<OwnFlags>,
    descriptors_per_request: u32,
    version: Option<&'static str>,
}

/// What `--version` says of an application that has not said its own.
const VERSION: &str = concat!("on Transom ", env!("CARGO_PKG_VERSION"));

/// Descriptors that a handler may have open, unless its application says another number.
const DESCRIPTORS_PER_REQUEST: u32 = 4;

/// An application's handlers as its author has written them.
enum Written {
    Requests(Box<Router>),
    Connections(Box<dyn ConnectionHandler>),
    Datagrams(Box<dyn DatagramHandler>),
}

impl Written {
    /// The scheme of the forward that leads to them, if that is not HTTP.
    fn scheme(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Written::Requests(_) => None,
            Written::Connections(_) => Some(("tcp", "connections")),
            Written::Datagrams(_) => Some(("udp", "datagrams")),
        }
    }

    fn build(self) -> Result<Service, RouterError> {
        Ok(match self {
            Written::Requests(router) => Service::Requests(router.build()?),
            Written::Connections(handler) => Service::Connections(handler),
            Written::Datagrams(handler) => Service::Datagrams(handler),
        })
    }
}

/// The flags of an application, beside those that all have.
struct OwnFlags {
    add: fn(clap::Command) -> clap::Command,
    take: TakeFlags,
}

type TakeFlags = Box<dyn FnOnce(&ArgMatches) -> Result<(), StartError>>;

#[derive(Parser)]
#[command(
    about = "An HTTP server whose memory is decided before it starts",
    after_help = "SIZE is a number of bytes, or one with KiB, MiB, GiB. TIME is a number with ms, s, m, h.\n\
                  Every flag is also an environment variable, TRANSOM_ and its name.\n\
                  --check prints the memory equation, one line an addend."
)]
struct Command {
    #[command(flatten)]
    settings: Settings,
}

/// Why the server could not start. Each is a sentence for whoever started it.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    #[error("{0}")]
    Flags(String),
    #[error(transparent)]
    Router(#[from] transom_platform::RouterError),
    #[error(
        "--on-exhaustion escape: the author of this application has not promised that its handlers may be left by a jump (serve_escaping): leave the flag out"
    )]
    NoPromise,
    #[error(
        "this application serves {what}, and has no front end of its own: give it a path with --door PATH, and lead {what} there with `transom serve --forward {scheme}://ADDRESS:PORT=PATH`"
    )]
    NeedsDoor {
        scheme: &'static str,
        what: &'static str,
    },
    #[error(transparent)]
    Region(#[from] transom_arena::RegionError),
    #[error(transparent)]
    Buckets(#[from] transom_arena::BucketsError),
    #[error(transparent)]
    SharedHeap(#[from] transom_arena::SharedHeapError),
    #[error(transparent)]
    Overdraft(#[from] transom_arena::OverdraftError),
    #[cfg(feature = "c-heap")]
    #[error(transparent)]
    CHeap(#[from] transom_arena::CHeapError),
    #[error(transparent)]
    Application(#[from] transom_platform::ApplicationError),
    #[error("a channel cannot be made: {0}")]
    Channel(#[from] transom_doors::ChannelError),
    #[error("{flag} {address}: {}", explain(.source, .address))]
    Listen {
        flag: &'static str,
        address: ListenAddress,
        source: io::Error,
    },
    #[error("{0}")]
    Inherited(String),
    #[error(
        "--recycle handover is not possible here: {0}. Use --recycle exit, and a supervisor that starts the process anew when it ends with status 75"
    )]
    Recycle(Because),
    #[error("--config {}: {source}", .path.display())]
    ReadConfig { path: PathBuf, source: io::Error },
    #[error(
        "--config {}: it has {len} bytes, and at most {most} are read again while the server runs: SIGUSR2 starts a new instance, \
         which reads all of it", .path.display()
    )]
    LargeFile { path: PathBuf, len: u64, most: u64 },
    #[error(
        "what the file changes does not go with what stays as it is until SIGUSR2, which starts a new instance: {0}"
    )]
    Mixed(#[source] Box<StartError>),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{place}: {source}")]
    Setting {
        place: Place,
        source: Box<crate::plan::PlanError>,
    },
    #[error("{}", .0.to_string().trim_start_matches("error: ").trim_end())]
    CommandLine(#[from] clap::Error),
    #[error("{place}: {forward}: {}", explain(.source, .address))]
    Forward {
        place: Place,
        forward: String,
        address: ListenAddress,
        source: io::Error,
    },
    #[error("cannot start a loop: {0}; check `ulimit -n` and `ulimit -u`")]
    Loop(io::Error),
    #[error(
        "`ulimit -n` is {limit}, but {needed} descriptors are needed for {flag} {count} and what goes with it{handlers}. Lower {flag}, or raise the limit"
    )]
    Descriptors {
        limit: u64,
        needed: u64,
        flag: &'static str,
        count: u32,
        handlers: ForHandlers,
    },
    #[error(
        "cannot start the first door server thread: {0}; check `ulimit -u` and the cgroup's pids.max"
    )]
    FirstThreadStart(io::Error),
    #[error(transparent)]
    FirstThread(#[from] transom_platform::NotReady),
    #[error("--door: {0}")]
    Attach(#[from] transom_doors::AttachError),
    #[error(transparent)]
    Log(#[from] log::LogError),
    #[error("--access-log-file {}: {}", .path.display(), explain_file(.source, .path))]
    AccessLog { path: PathBuf, source: io::Error },
    #[error(
        "--access-log: standard output cannot be written to: {0}; name a file with --access-log-file"
    )]
    AccessOutput(io::Error),
    #[error(
        "cannot start the thread that writes the access log: {0}; check `ulimit -u` and the cgroup's pids.max"
    )]
    AccessThread(io::Error),
    #[error("standard output cannot be written to: {0}")]
    Output(io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

fn explain(error: &io::Error, address: &ListenAddress) -> String {
    let low = matches!(address, ListenAddress::Inet(address) if address.port() < 1024);
    match error.kind() {
        io::ErrorKind::AddrInUse if address.path().is_some() => {
            format!("{error}; another process listens there: stop it, or choose another path")
        }
        io::ErrorKind::AddrInUse => {
            format!("{error}; another process listens there: stop it, or choose another port")
        }
        io::ErrorKind::PermissionDenied if low => {
            format!(
                "{error}; ports below 1024 need CAP_NET_BIND_SERVICE: use a port above, or grant it"
            )
        }
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            format!("{error}; this machine has no IPv6: listen on an address of IPv4, as 0.0.0.0")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{error}; this machine does not have that address")
        }
        io::ErrorKind::NotFound if address.path().is_some() => {
            format!("{error}; there is no such folder")
        }
        _ => error.to_string(),
    }
}

fn explain_file(error: &io::Error, path: &Path) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => format!("{error}; make its folder first"),
        Some(libc::EACCES | libc::EROFS) => {
            format!("{error}; let this user write there, or name another file")
        }
        Some(libc::EISDIR) => format!("{error}; name a file in it"),
        Some(libc::ENXIO) if is_socket(path) => format!(
            "{error}; that is a socket, which cannot be opened: name a file, or leave the flag out, and the lines go to \
             standard output"
        ),
        Some(libc::ENXIO) => format!("{error}; nobody reads that pipe: start its reader first"),
        _ => format!("{error}; name a file that can be appended to"),
    }
}

/// A backtrace that is made in a request reads the program's symbol tables there, and keeps them.
fn say_backtraces() {
    let set = |name| std::env::var_os(name).map(|value| value != "0");
    if set("RUST_LIB_BACKTRACE").or_else(|| set("RUST_BACKTRACE")) == Some(true) {
        transom_wire::own_log::info!(
            "backtraces are on: the first that a handler prints (an error of anyhow by {{:?}}) needs the symbol tables of the program, which fit no bucket: print one in App::warm_up, or set RUST_LIB_BACKTRACE=0"
        );
    }
}

fn is_socket(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.file_type().is_socket())
}

impl StartError {
    /// The status of the process: 2 if flags, variables or the file are wrong whatever the machine has, so
    /// that another start would end the same way.
    fn status(&self) -> u8 {
        let is_wrong = match self {
            StartError::Plan(plan) => !plan.is_of_the_machine(),
            StartError::Setting { source, .. } => !source.is_of_the_machine(),
            StartError::NoPromise
            | StartError::NeedsDoor { .. }
            | StartError::Config(_)
            | StartError::CommandLine(_) => true,
            _ => false,
        };
        if is_wrong { 2 } else { 1 }
    }
}

impl App {
    /// An application with these routes, or with one handler for everything.
    pub fn new(router: impl Into<Router>) -> Self {
        Self::of(Written::Requests(Box::new(router.into())))
    }

    /// An application that serves TCP connections, each lent to the handler for as long as it runs. It needs
    /// `--door`, and a front end with a `tcp://` forward before it. A connection occupies a bucket until it
    /// ends.
    pub fn connections(handler: impl ConnectionHandler) -> Self {
        Self::of(Written::Connections(Box::new(handler)))
    }

    /// An application that answers UDP datagrams, each with one or with none. It needs `--door`, and a front
    /// end with a `udp://` forward before it.
    pub fn datagrams(handler: impl DatagramHandler) -> Self {
        Self::of(Written::Datagrams(Box::new(handler)))
    }

    fn of(handlers: Written) -> Self {
        App {
            handlers,
            promises_escape: false,
            warm_up: None,
            each_thread: Vec::new(),
            flags: None,
            descriptors_per_request: DESCRIPTORS_PER_REQUEST,
            version: None,
        }
    }

    /// Says what `--version` prints behind the program's name, by custom `env!("CARGO_PKG_VERSION")`
    /// [default: that of Transom].
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = Some(version);
        self
    }

    /// Says how many descriptors a request may have open at once: files, sockets, pipes [default: 4]. So many
    /// for each bucket are in the number that `ulimit -n` must allow; the server raises its soft limit to
    /// that number, and does not start if the hard limit is lower. A handler that finds none left gives a
    /// 503.
    pub fn descriptors_per_request(mut self, most: u32) -> Self {
        self.descriptors_per_request = most;
        self
    }

    /// Has requests that outgrow their bucket left by a jump.
    ///
    /// # Safety
    /// As for [`serve_escaping`].
    pub unsafe fn escaping(mut self) -> Self {
        self.promises_escape = true;
        self
    }

    /// Runs once before the first request, with allocations on the process heap: load tables here, make lazy
    /// values that are one for all threads, fill caches. What is first touched in a request instead lives in
    /// that request's bucket.
    pub fn warm_up(mut self, f: impl FnOnce() + 'static) -> Self {
        self.warm_up = Some(Box::new(f));
        self
    }

    /// Runs once on each door server thread before its first call, in its bucket: what a library makes for
    /// each thread (`rand`'s generator, `chrono`'s time zone) is made here, and costs what it needs. See also
    /// [`Router::warm`](transom_platform::Router::warm).
    pub fn each_thread(mut self, f: impl Fn() + Send + Sync + 'static) -> Self {
        self.each_thread.push(Box::new(f));
        self
    }

    /// Adds flags of the application's own, a [`clap::Args`], to the command line. `take` gets them before
    /// anything is mapped, with allocations on the process heap; an `Err` is printed, and the process ends
    /// with status 1. By custom each is also an environment variable (`env = "TRANSOM_…"`), and an error
    /// names its flag.
    pub fn flags<A: Args + 'static>(
        mut self,
        take: impl FnOnce(A) -> Result<(), String> + 'static,
    ) -> Self {
        self.flags = Some(OwnFlags {
            add: A::augment_args,
            take: Box::new(|matches| {
                take(A::from_arg_matches(matches)?).map_err(StartError::Flags)
            }),
        });
        self
    }

    /// Reads the command line and serves until a signal ends it.
    ///
    /// The status is 0 after a clean drain, 1 if the server could not start or requests were cut at the end
    /// of the drain, 2 for flags, variables or a file that are wrong, 75 when lost buckets reached
    /// `--lost-limit` and no new instance has taken over (`--recycle`).
    #[must_use = "main should return it, so that the process ends with that status"]
    pub fn serve(mut self) -> ExitCode {
        settle_process_heap(HEAP_HEADROOM);
        let own = self.flags.take();
        let command = Command::command().version(VERSION);
        let command = match &own {
            Some(own) => (own.add)(command),
            None => command,
        };
        let command = match self.version {
            Some(version) => command.version(version),
            None => command,
        };
        let described = command.clone();
        let parsed = command.try_get_matches().and_then(|matches| {
            Command::from_arg_matches(&matches).map(|command| (command.settings, matches))
        });
        let (settings, matches) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return refuse_line(&error, &described),
        };
        let taken = own.map_or(Ok(()), |own| (own.take)(&matches));
        drop(matches);
        report(taken.and_then(|()| self.run(&settings)))
    }

    fn run(self, settings: &Settings) -> Result<ExitCode, StartError> {
        let started = Instant::now();
        if let (Some((scheme, what)), None) = (self.handlers.scheme(), &settings.door.door) {
            return Err(StartError::NeedsDoor { scheme, what });
        }
        let plan = Plan::new(settings)?;
        let mut handlers = Handlers {
            policy: self.policy(settings)?,
            service: self.handlers.build()?,
            warm_up: self.warm_up,
            each_thread: self.each_thread,
        };
        if settings.front.check {
            let program = std::env::current_exe();
            let way = Way::choose(&settings.application, &plan, program.as_ref().err())?;
            let sentence = Sentence {
                way: &way,
                settings: &settings.application,
            };
            return print(format_args!("{}\n\n{sentence}\n", plan.bound));
        }
        let door = settings.door.door.as_deref();
        let handlers_open = ForHandlers {
            buckets: settings.application.buckets,
            each: self.descriptors_per_request,
        };
        match door {
            Some(_) => {
                let front = &settings.front;
                let channels = settings.door.channels();
                let of_one = u64::from(handlers.service.descriptors());
                // Those of calls that wait count too: they are there before a thread takes them up. And those
                // of lost ones, which stay open.
                let of_calls = u64::from(plan.channel.slots) * of_one;
                let of_lost_calls = u64::from(settings.spare_slots()) * of_one;
                let needed = u64::from(channels) * (descriptors::PER_CHANNEL + of_calls)
                    + of_lost_calls
                    + descriptors::of_admin(front);
                descriptors::check(needed, "--door-channels", channels, handlers_open)?;
            }
            None => {
                let front = &settings.front;
                let per_loop = settings.listen.len() as u64 + descriptors::PER_LOOP;
                let needed = descriptors::of_connections(front)
                    + u64::from(front.loops()) * per_loop
                    + descriptors::of_admin(front);
                let connections = front.connections.get();
                descriptors::check(needed, "--connections", connections, handlers_open)?;
            }
        }
        // Before anything is opened: what was passed is known by its numbers only.
        let inherited = match (door, &settings.front.admin) {
            (Some(_), None) => Inherited::take_handed(),
            _ => Inherited::take(),
        }
        .map_err(StartError::Inherited)?;
        let signals = Signals::block().map_err(StartError::Signals)?;
        with_logs(&settings.front, |logs, pending| {
            let warm_up = handlers.warm_up.take();
            handlers.warm_up = Some(Box::new(move || {
                if let Some(warm_up) = warm_up {
                    warm_up();
                }
                pending.claim();
            }));
            say_backtraces();
            match door {
                Some(_) => behind_door::BehindDoor::start(
                    &plan, settings, inherited, handlers, logs, &signals, started,
                )
                .map(|server| server.until_the_end(settings, &signals, logs)),
                None => in_process::InProcess::start(
                    &plan, settings, inherited, handlers, logs, &signals, started,
                )
                .map(|server| server.until_the_end(settings, &signals, logs)),
            }
        })
    }

    fn policy(&self, settings: &Settings) -> Result<Policy, StartError> {
        let promised = if self.promises_escape {
            Policy::Escape
        } else {
            Policy::Overdraft
        };
        match settings.application.on_exhaustion.map(Policy::from) {
            Some(Policy::Escape) if !self.promises_escape => Err(StartError::NoPromise),
            Some(chosen) => Ok(chosen),
            None => Ok(promised),
        }
    }
}

/// What an application's author has written, and how it is to be run.
struct Handlers {
    service: Service,
    policy: Policy,
    warm_up: Option<Box<dyn FnOnce()>>,
    each_thread: Vec<EachThread>,
}

/// Runs a server with logs, and writes the last lines of them.
fn with_logs(
    settings: &FrontSettings,
    serve: impl FnOnce(&LogHandle, log::Pending) -> Result<ExitCode, StartError>,
) -> Result<ExitCode, StartError> {
    let (logs, pending) = log::install(LogOptions {
        format: settings.log.into(),
        level: settings.log_level,
        queue: usize::from(settings.log_queue.get()),
    })?;
    let result = serve(&logs, pending);
    logs.shutdown(Instant::now() + Duration::from_secs(1));
    result
}

/// Writes to standard output what was asked for, or says why not. The status of the process.
pub fn print_asked(text: fmt::Arguments<'_>) -> ExitCode {
    report(print(text))
}

/// Says why a memory equation cannot be printed. The status of the process.
pub fn refuse_plan(error: crate::plan::PlanError) -> ExitCode {
    report(Err(error.into()))
}

/// Writes to standard output what was asked for.
fn print(text: fmt::Arguments<'_>) -> Result<ExitCode, StartError> {
    let mut out = io::stdout().lock();
    let written = out.write_fmt(text).and_then(|()| out.flush());
    written.map_err(StartError::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints why a command line is not taken, or what it has asked for (`--help`, `--version`). The status of
/// the process.
pub fn refuse_line(error: &clap::Error, command: &clap::Command) -> ExitCode {
    let printed = error.print().and_then(|()| io::stdout().flush());
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some(word) = std::env::args_os().find(|word| word.to_str().is_none())
    {
        let _ = writeln!(io::stderr(), "\nThat is {word:?} on the command line");
    }
    if let Some((flag, variable)) = from_environment(error, command) {
        let value = std::env::var_os(variable).unwrap_or_default();
        let _ = writeln!(
            io::stderr(),
            "\n{flag} is set by the environment: {variable}={value:?}. Unset the variable, or give it a value"
        );
    }
    match (error.exit_code(), printed) {
        (0, Err(error)) => report(Err(StartError::Output(error))),
        (code, _) => ExitCode::from(u8::try_from(code).unwrap_or(2)),
    }
}

/// The flag that an error is about, and the variable that has set it, if the command line has not.
fn from_environment<'c>(
    error: &clap::Error,
    command: &'c clap::Command,
) -> Option<(String, &'c str)> {
    let commands = std::iter::once(command).chain(command.get_subcommands());
    let mut arguments = commands.flat_map(clap::Command::get_arguments);
    if error.kind() == ErrorKind::InvalidUtf8 {
        let argument = arguments.find(|one| {
            let value = one.get_env().and_then(std::env::var_os);
            value.is_some_and(|value| value.to_str().is_none()) && !is_path(one)
        })?;
        let flag = format!("--{}", argument.get_long()?);
        return Some((flag, argument.get_env()?.to_str()?));
    }
    let Some(ContextValue::String(about)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = about.split([' ', '=']).next()?;
    let argument = arguments.find(|one| {
        one.get_long()
            .is_some_and(|long| flag.strip_prefix("--") == Some(long))
    })?;
    let variable = argument.get_env()?.to_str()?;
    let is_on_line = std::env::args_os().any(|word| {
        let word = word.to_string_lossy();
        word.strip_prefix(flag)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    (std::env::var_os(variable).is_some() && !is_on_line).then(|| (flag.to_owned(), variable))
}

/// Whether an argument takes bytes that are no text.
fn is_path(argument: &clap::Arg) -> bool {
    argument.get_value_parser().type_id() == ValueParser::path_buf().type_id()
}

/// The status of a server that ran, or the sentence why it did not.
fn report(result: Result<ExitCode, StartError>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(error.status())
        }
    }
}
