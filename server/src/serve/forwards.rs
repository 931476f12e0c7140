//! `transom serve`: a front end on its own, which forwards to doors of other processes; and `transom check`.

use super::admin::{AdminHalf, AdminMemory};
use super::application::HEAP_HEADROOM;
use super::asked::{plan, read, read_asked, route_table};
use super::beginning::Beginning;
use super::error::{ForHandlers, StartError};
use super::front::{FrontHalf, LoopMemory, LoopOptions, Loops, addresses};
use super::handover::{Handover, What};
use super::listeners::{Inherited, Kind, Listeners};
use super::reload::Reload;
use super::report::{print, report, with_logs};
use super::signals::Signals;
use super::watch::{delay_drain, until_told};
use super::{access, descriptors, end, streams};
use crate::admin::Told;
use crate::config::{Config, Forward, Target};
use crate::plan::{FrontPlan, PlanError};
use crate::settings::{ForwardSettings, FrontSettings};
use clap::ArgMatches;
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use transom_arena::{Buckets, Region, RegionOptions, Wipe, seal, settle_process_heap};
use transom_doors::{AsyncClient, Credentials, DoorOwner, OpenError, OpenOptions};
use transom_front::forward::{self, Forwards};
use transom_front::{
    self as front, DoorwayParts, INSTANCES, Opener, OpenerBuilder, Order, REMOTE_SLOTS_IN_ALL,
    open_options,
};
use transom_log::LogHandle;
use transom_log::access::AccessLog;
use transom_net::ListenAddress;
use transom_net::addresses::Addresses;
use transom_wire::own_log::info;

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
        descriptors_needed(&front, &config, &plan),
        "--connections",
        front.connections.get(),
        ForHandlers::default(),
    )?;
    // Before anything is opened: what was passed is known by its numbers only.
    let inherited = Inherited::take().map_err(StartError::Inherited)?;
    let signals = Signals::block().map_err(StartError::Signals)?;
    with_logs(&front, |logs, pending| {
        pending.claim();
        let reload = Reload::new(settings, line, &config, (front.clone(), words));
        let beginning = Beginning {
            inherited,
            logs,
            signals: &signals,
            started,
        };
        FrontEnd::start(&plan, &front, config, beginning)
            .map(|server| server.until_the_end(reload, &signals, logs))
    })
}

/// Descriptors of loops, and of forwards that are not served by loops.
fn descriptors_needed(front: &FrontSettings, config: &Config, plan: &FrontPlan) -> u64 {
    let http = config.http_only();
    let doors = http.doors().len() as u64;
    let per_loop = http.forwards.len() as u64
        + descriptors::PER_LOOP
        + doors * INSTANCES as u64 * descriptors::PER_CHANNEL;
    let of_loops = match plan.loops {
        0 => 0,
        loops => descriptors::of_connections(front) + u64::from(loops) * per_loop,
    };
    let of_forwards = config.forwards.iter().map(|forward| {
        let connections = match forward.target {
            Target::Http(_) => return 0,
            Target::Tcp(_) => forward::CONNECTIONS_MAX as u64,
            Target::Udp(_) => 0,
        };
        connections + forward::DESCRIPTORS + forward::CHANNELS as u64 * descriptors::PER_CHANNEL
    });
    of_loops + of_forwards.sum::<u64>() + descriptors::of_admin(front)
}

/// What a file means, for whoever wrote it.
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
        owner: DoorOwner::User(u32::MAX), // nobody has this number, so nothing is said to who serves it
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

/// A front end that is running.
struct FrontEnd {
    front: FrontHalf,
    /// None without loops.
    opener: Option<Opener>,
    listeners: Listeners,
    /// That of `--admin`, if there is one; it stays until the end.
    admin_listeners: Listeners,
    handover: Handover,
    /// None if it is off, or without loops.
    access: Option<AccessLog>,
    streams: Forwards,
    admin: Option<AdminHalf>,
}

/// Builds the loops, if there are some, and starts what opens their doors. The forwards have the ports that
/// the kernel chose.
fn build_loops(
    options: LoopOptions<'_>,
    mut region: Region,
    config: &Config,
    listeners: &Listeners,
) -> Result<(Loops, Option<Opener>), StartError> {
    if options.count == 0 {
        region.commit()?;
        return Ok((Loops::default(), None));
    }
    let memory = LoopMemory::take(&mut region, ["connections", "partial heads", "scratch"]);
    region.commit()?;
    let (count, settings) = (options.count, options.settings);
    // Each once: the doorways of every loop. Routes and targets name them by their paths.
    let doors = config.doors();
    let tables = config
        .forwards
        .iter()
        .map(|forward| Arc::new(route_table(forward, &doors)));
    let tables: Vec<_> = tables.collect();
    let mut opener = OpenerBuilder::default();
    let loops = Loops::build(options, memory, |n, bell| {
        let doorways = doors.iter().map(|door| DoorwayParts::Remote {
            mailbox: opener.mailbox(
                door.to_path_buf(),
                open_options(settings.channel_limit.get(), config.owner_of(door)),
                bell.clone(),
            ),
            slots_max: REMOTE_SLOTS_IN_ALL,
            client: None,
        });
        let forwards = listeners.of_loop(n, count).into_iter().zip(&tables);
        let forwards = forwards.map(|(listeners, routes)| front::Forward {
            listeners,
            routes: routes.clone(),
        });
        Ok((doorways.collect(), forwards.collect()))
    })?;
    let opener = opener.start(Arc::new(AsyncClient::open));
    Ok((loops, Some(opener.map_err(StartError::Loop)?)))
}

/// The access log of the loops, if there are some.
fn log_access(
    settings: &FrontSettings,
    plan: &FrontPlan,
    config: &Config,
    signals: &Signals,
) -> Result<Option<AccessLog>, StartError> {
    if plan.loops == 0 {
        return Ok(None);
    }
    let forwards = config.forwards.iter().map(ToString::to_string);
    let doors = config.doors().into_iter();
    let doors = doors.map(|door| door.to_string_lossy().into_owned());
    access::start(settings, forwards.collect(), doors.collect(), signals)
}

/// What the addresses of all connections are counted in, if these have a limit.
fn addresses_of(
    settings: &FrontSettings,
    plan: &FrontPlan,
    streams: &[Forward],
) -> Option<Arc<Addresses>> {
    let is_tcp = |forward: &&Forward| matches!(forward.target, Target::Tcp(_));
    let of_streams = streams.iter().filter(is_tcp).count() * forward::CONNECTIONS_MAX;
    let of_loops = match plan.loops {
        0 => 0,
        _ => settings.connections_in_all(),
    };
    addresses(settings, of_loops + of_streams)
}

fn say_ready(plan: &FrontPlan, config: &Config, admin: Option<&ListenAddress>, started: Instant) {
    end::say_bound(&plan.bound);
    let listen: Vec<_> = config.forwards.iter().map(ToString::to_string).collect();
    info!(
        listen = %listen.join(","),
        doors = config.doors().len(),
        loops = plan.loops,
        admin = admin.map(tracing::field::display),
        ready_ms = started.elapsed().as_millis() as u64,
        "ready"
    );
}

impl FrontEnd {
    fn start(
        plan: &FrontPlan,
        settings: &FrontSettings,
        mut config: Config,
        mut beginning: Beginning<'_>,
    ) -> Result<Self, StartError> {
        let (logs, signals) = (beginning.logs, beginning.signals);
        let http = config.http_forwards().cloned().collect();
        let all = std::mem::replace(&mut config.forwards, http);
        let mut streams: Vec<_> = all.into_iter().filter(|one| !one.is_http()).collect();
        // Before the region is mapped, so that a port in use is said at once.
        let mut listeners = listen(
            [&mut config.forwards, &mut streams],
            &mut beginning.inherited,
            settings,
            plan.loops,
        )?;
        let sockets = sockets_of(&streams, &listeners, config.forwards.len())?;
        let addresses = addresses_of(settings, plan, &streams);
        let access = log_access(settings, plan, &config, signals)?;
        let mut region = Region::map(&plan.bound, RegionOptions::default())?;
        let admin_memory = AdminMemory::take(&mut region, settings);
        let buckets = plan.bucket.map(|geometry| {
            let part = region.take("buckets").expect("the plan has this term");
            Buckets::install(&mut region, &part, geometry, Wipe::None)
        });
        let buckets = buckets.transpose()?;
        let options = LoopOptions {
            settings,
            count: plan.loops as usize,
            addresses: addresses.clone(),
            access: access.as_ref(),
        };
        let (loops, opener) = build_loops(options, region, &config, &listeners)?;
        let handover = Handover::prepare(What::Listeners, Some(&listeners), settings, signals);
        let slots_lost = Arc::<AtomicU64>::default();
        let told = Told {
            application: None,
            recycle: None,
            front: Some(loops.view(settings, slots_lost.clone())),
            bound: &plan.bound,
            logs,
            access: access.as_ref(),
        };
        let of_admin = listeners.of_loop(0, 1).pop().unwrap_or_default();
        let admin = AdminHalf::start(told, (admin_memory, buckets), of_admin, settings)?;
        let front = FrontHalf::start(loops, "loop")?;
        let running = streams::start(&streams, sockets, settings, &config, addresses, slots_lost)
            .map_err(StartError::Loop)?;
        listeners.are_ours();
        config.forwards.extend(streams);
        let admin_address = listeners.addresses().last().filter(|_| admin.is_some());
        say_ready(plan, &config, admin_address, beginning.started);
        beginning.end();
        let admin_listeners = listeners.split_off(config.forwards.len());
        drop(config);
        seal();
        Ok(FrontEnd {
            front,
            opener,
            listeners,
            admin_listeners,
            handover,
            access,
            streams: running,
            admin,
        })
    }

    fn until_the_end(
        mut self,
        mut reload: Reload<'_>,
        signals: &Signals,
        logs: &LogHandle,
    ) -> ExitCode {
        let loops = &self.front;
        let why = until_told(signals, &mut self.handover, None, |handover| {
            reload.run(loops, handover, logs);
        });
        if let Some(admin) = &self.admin {
            admin.drains(why);
        }
        delay_drain(signals, why, reload.front().drain_delay);
        let began = Instant::now();
        let timeout = reload.front().drain_timeout;
        info!(timeout_ms = timeout.as_millis() as u64, "draining");
        // The streams end what has begun whatever the reason is: a connection of theirs belongs to one call.
        self.streams.tell(Order::Drain);
        self.listeners.give_up(why);
        let streams = &self.streams;
        let deadline = began + timeout;
        let in_time = (self.front).drain(why, deadline, signals, || streams.have_ended());
        self.streams.tell(Order::Stop);
        let (front, loops_sound) = self.front.join();
        let (cut, streams_sound) = self.streams.join();
        let sound = loops_sound && streams_sound;
        drop(self.opener); // nobody asks it any more
        self.admin_listeners.give_up(why);
        if let Some(admin) = self.admin {
            admin.end(signals);
        }
        let access = self.access.as_ref();
        end::summarise(Some(&front), None, access, logs, began.elapsed());
        end::Ending {
            recycle: false,
            sound,
            in_time,
            cut: end::Cut::of_front(&front).and_calls(cut),
        }
        .status()
    }
}

/// The socket of each forward that is not served by loops; their listeners come after those of so many
/// others.
fn sockets_of(
    streams: &[Forward],
    listeners: &Listeners,
    others: usize,
) -> Result<Vec<Arc<OwnedFd>>, StartError> {
    let all = listeners.of_loop(0, 1).into_iter().skip(others);
    let one = |(forward, sockets): (&Forward, Vec<front::Listener>)| {
        let count = sockets.len();
        match <[_; 1]>::try_from(sockets) {
            Ok([only]) => Ok(only.socket),
            Err(_) => Err(StartError::Forward {
                place: forward.place.clone(),
                forward: forward.to_string(),
                address: forward.address.clone(),
                source: io::Error::other(format!(
                    "{count} sockets have been passed for it, and it takes one: write a forward for each, and tell them \
                     apart by FileDescriptorName= in their socket units"
                )),
            }),
        }
    };
    streams.iter().zip(all).map(one).collect()
}

/// Opens the sockets of every forward, first those that loops serve, then the others, then that of `--admin`,
/// and notes the ports that the kernel chose. All at once: what has been passed and is not listened on is
/// closed.
fn listen(
    forwards: [&mut [Forward]; 2],
    inherited: &mut Inherited,
    settings: &FrontSettings,
    loops: u32,
) -> Result<Listeners, StartError> {
    let mut forwards: Vec<_> = forwards.into_iter().flatten().collect();
    let address = |forward: &&mut Forward| {
        let (kind, sockets) = match forward.target {
            Target::Http(_) => (Kind::Stream, loops),
            Target::Tcp(_) => (Kind::Stream, 1),
            Target::Udp(_) => (Kind::Datagram, 1),
        };
        (kind, forward.address.clone(), sockets)
    };
    let admin = settings.admin.iter();
    let addresses = forwards.iter().map(address);
    let addresses: Vec<_> = addresses
        .chain(admin.map(|address| (Kind::Stream, address.clone(), 1)))
        .collect();
    let listeners = Listeners::open(&addresses, inherited, settings).map_err(|(n, source)| {
        match forwards.get(n) {
            Some(forward) => StartError::Forward {
                place: forward.place.clone(),
                forward: forward.to_string(),
                address: forward.address.clone(),
                source,
            },
            None => StartError::Listen {
                flag: "--admin",
                address: addresses[n].1.clone(),
                source,
            },
        }
    })?;
    for (forward, address) in forwards.iter_mut().zip(listeners.addresses()) {
        forward.address = address.clone();
    }
    Ok(listeners)
}
