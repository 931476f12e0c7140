//! From a router to a running server: flags, the sum, the region, threads, ready; and back again when told to
//! stop.

mod asked;
mod care;
mod descriptors;
mod end;
mod error;
mod forwards;
mod handed;
mod handover;
mod listeners;
mod notify;
pub(crate) mod parts;
mod predecessor;
mod recycle;
mod reload;
mod report;
mod server;
mod signals;
mod watch;
mod why;

use crate::config::Config;
use crate::plan::Plan;
use crate::settings::Settings;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser};
use error::{ForHandlers, StartError};
use parts::application::{HEAP_HEADROOM, Handlers};
use parts::door;
use recycle::{Sentence, Way};
use report::{print, report};
use server::Asked;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use transom_arena::{Policy, settle_process_heap};
use transom_platform::{
    ConnectionHandler, DatagramHandler, EachThread, Router, RouterError, Service,
};

pub use forwards::{check_file, serve_forwards};
pub use report::{print_asked, refuse_line, refuse_plan};

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
/// [`Registered`](transom_platform::Registered); no half-updated shared state but in `Shared`. Where it says
/// "an allocation", in a handler that can overflow its stack it means any call: not even `println!` is called
/// there.
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

/// What this program is called, for `--version`.
fn program() -> String {
    let path = std::env::args_os().next().map(PathBuf::from);
    let name = path.as_deref().and_then(Path::file_name);
    name.map_or_else(
        || "application".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

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
        let command = Command::command().display_name(program()).version(VERSION);
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
        let handlers = Handlers {
            policy: self.policy(settings)?,
            service: self.handlers.build()?,
            warm_up: self.warm_up,
            each_thread: self.each_thread,
        };
        if settings.front.check {
            let program = std::env::current_exe();
            let way = Way::choose(&settings.application, &plan.bound, program.as_ref().err())?;
            let sentence = Sentence {
                way: &way,
                settings: &settings.application,
            };
            return print(format_args!("{}\n\n{sentence}\n", plan.bound));
        }
        let handlers_open = ForHandlers {
            buckets: settings.application.buckets,
            each: self.descriptors_per_request,
        };
        let (of_calls, flag, count) = match settings.door.door {
            None => (0, "--connections", settings.front.connections.get()),
            Some(_) => (
                door::descriptors_of_calls(settings, handlers.service.descriptors()),
                "--door-channels",
                settings.door.channels(),
            ),
        };
        descriptors::check(plan.descriptors + of_calls, flag, count, handlers_open)?;
        Asked {
            plan: &plan,
            front: &settings.front,
            application: Some((settings, handlers)),
            config: Config::default(),
        }
        .serve(None, started)
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
