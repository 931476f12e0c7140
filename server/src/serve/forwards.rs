//! `transom serve`: a front end on its own, which forwards to doors of other processes; and `transom check`.

use super::admin::{AdminHalf, AdminMemory};
use super::application::HEAP_HEADROOM;
use super::error::{ForHandlers, StartError};
use super::front::{FrontHalf, Loops, addresses, bells};
use super::handover::{Handover, What};
use super::listeners::{Inherited, Kind, Listeners};
use super::reload::Reload;
use super::report::{print, report, with_logs};
use super::signals::Signals;
use super::watch::{delay_drain, until_told};
use super::{access, descriptors, end, streams};
use crate::admin::{Admin, FrontView};
use crate::config::{Config, Forward, Source, Target};
use crate::plan::{FrontPlan, PlanError};
use crate::settings::{ForwardSettings, FrontSettings, file};
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
use transom_arena::{Buckets, Part, Region, RegionOptions, Wipe, seal, settle_process_heap};
use transom_doors::{AsyncClient, Credentials, DoorOwner, OpenError, OpenOptions};
use transom_front::forward::{self, Forwards};
use transom_front::{
    self as front, ConnectionLimit, DoorwayParts, INSTANCES, Loop, LoopStats, Opener,
    OpenerBuilder, Order, Parts, REMOTE_SLOTS_IN_ALL, RouteTable, open_options,
};
use transom_log::LogHandle;
use transom_log::access::AccessLog;
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
        FrontEnd::start(&plan, &front, config, inherited, logs, &signals, started)
            .map(|server| server.until_the_end(reload, &signals, logs))
    })
}

/// Descriptors of loops, and of forwards that are not served by loops.
fn descriptors_needed(front: &FrontSettings, config: &Config, plan: &FrontPlan) -> u64 {
    let http = config.http_forwards().count() as u64;
    let doors = config.doors().len() as u64;
    let per_loop =
        http + descriptors::PER_LOOP + doors * INSTANCES as u64 * descriptors::PER_CHANNEL;
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

/// What the file and the flags say, with the owners of all doors.
pub(super) fn read_asked(asked: &ForwardSettings) -> Result<Config, StartError> {
    let mut config = read(asked.config.as_deref(), &asked.forward)?;
    config.own_the_rest(asked.door_owner.unwrap_or(DoorOwner::UsOrRoot));
    Ok(config)
}

fn read(path: Option<&Path>, flags: &[String]) -> Result<Config, StartError> {
    let Some(path) = path else {
        return Ok(Config::read(None, flags, &file::keys())?);
    };
    let bytes = std::fs::read(path).map_err(|source| StartError::ReadConfig {
        path: path.to_owned(),
        source,
    })?;
    let source = Source {
        name: &path.to_string_lossy(),
        bytes: &bytes,
    };
    Ok(Config::read(Some(source), flags, &file::keys())?)
}

/// The sum; a flag that cannot hold is told with the place in the file, if that is where it was set.
pub(super) fn plan(front: &FrontSettings, config: &Config) -> Result<FrontPlan, StartError> {
    FrontPlan::new(front, config).map_err(|source| {
        let (PlanError::TooSmall { flag, .. }
        | PlanError::TooLarge { flag, .. }
        | PlanError::Together { flag, .. }
        | PlanError::Alone { flag, .. }) = &source
        else {
            return StartError::Plan(source);
        };
        let name = flag.trim_start_matches('-');
        let name = name.split(' ').next().unwrap_or(name);
        match config.settings.iter().find(|set| set.name == name) {
            Some(set) => StartError::Setting {
                place: set.place.clone(),
                source: Box::new(source),
            },
            None => StartError::Plan(source),
        }
    })
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

/// What the loops of a front end are built of.
struct ForwardParts<'c> {
    settings: &'c FrontSettings,
    /// With the ports that the kernel chose.
    forwards: &'c [Forward],
    /// Each door once: the doorways of every loop. Routes and targets name them by their paths.
    doors: Vec<&'c Path>,
    /// Who may serve each.
    owners: &'c dyn Fn(&Path) -> DoorOwner,
    /// With the sockets of each forward.
    listeners: &'c Listeners,
    loops: usize,
    /// To be shared by the loops, as `Part::share` does.
    connections: Part,
    heads: Part,
    scratch: Part,
    access: Option<&'c AccessLog>,
    addresses: Option<&'c Arc<Addresses>>,
}

/// Where the requests of a forward go; a doorway's number is its door's place in `doors`.
pub(super) fn route_table(forward: &Forward, doors: &[impl AsRef<Path>]) -> RouteTable {
    let doorway = |door: &Path| doors.iter().position(|known| known.as_ref() == door);
    match &forward.target {
        Target::Http(routes) => {
            let routes = routes.iter().map(|route| front::Route {
                method: route.method_name().map(str::to_owned),
                prefix: route.path.clone(),
                doorway: doorway(&route.door).expect("`doors` has every door") as u16,
            });
            RouteTable::new(routes.collect())
        }
        Target::Tcp(_) | Target::Udp(_) => unreachable!("loops serve HTTP"),
    }
}

/// Builds the loops, and starts what opens their doors.
fn build_loops(parts: ForwardParts<'_>) -> Result<(Loops, Opener), StartError> {
    let ForwardParts {
        settings,
        forwards,
        doors,
        owners,
        listeners,
        loops: count,
        mut connections,
        mut heads,
        mut scratch,
        access,
        addresses,
    } = parts;
    let tables = forwards
        .iter()
        .map(|forward| Arc::new(route_table(forward, &doors)));
    let tables: Vec<_> = tables.collect();
    let mut opener = OpenerBuilder::default();
    let mut loops = Loops::default();
    let bells = bells(count)?;
    let limit = Arc::new(ConnectionLimit::new(settings.connections.get(), &bells));
    for (n, bell) in bells.into_iter().enumerate() {
        let share = |part: &mut Part| part.share(count - n);
        let doorways = doors.iter().map(|door| DoorwayParts::Remote {
            mailbox: opener.mailbox(
                door.to_path_buf(),
                open_options(settings.channel_limit.get(), owners(door)),
                bell.clone(),
            ),
            slots_max: REMOTE_SLOTS_IN_ALL,
            client: None,
        });
        let forwards = listeners.of_loop(n, count).into_iter().zip(&tables);
        let parts = Parts {
            connections: share(&mut connections),
            buffers: share(&mut heads),
            scratch: share(&mut scratch),
            doorways: doorways.collect(),
            bell,
            forwards: forwards
                .map(|(listeners, routes)| front::Forward {
                    listeners,
                    routes: routes.clone(),
                })
                .collect(),
            addresses: addresses.cloned(),
            limit: limit.clone(),
            stats: Arc::new(LoopStats::default()),
            orders: loops.orders.clone(),
        };
        loops.stats.push(parts.stats.clone());
        let mut this =
            Loop::new(settings.sizes(), &settings.allowance(), parts).map_err(StartError::Loop)?;
        if let Some(log) = access {
            this.log_access(log.clone(), settings.connections_per_loop());
        }
        loops.loops.push(this);
    }
    let opener = opener.start(Arc::new(AsyncClient::open));
    Ok((loops, opener.map_err(StartError::Loop)?))
}

impl FrontEnd {
    fn start(
        plan: &FrontPlan,
        settings: &FrontSettings,
        mut config: Config,
        mut inherited: Inherited,
        logs: &LogHandle,
        signals: &Signals,
        started: Instant,
    ) -> Result<Self, StartError> {
        let http = config.http_forwards().cloned().collect();
        let all = std::mem::replace(&mut config.forwards, http);
        let mut streams: Vec<_> = all.into_iter().filter(|one| !one.is_http()).collect();
        // Before the region is mapped, so that a port in use is said at once.
        let mut listeners = listen(
            [&mut config.forwards, &mut streams],
            &mut inherited,
            settings,
            plan.loops,
        )?;
        let sockets = sockets_of(&streams, &listeners, config.forwards.len())?;
        let is_tcp = |forward: &&Forward| matches!(forward.target, Target::Tcp(_));
        let of_streams = streams.iter().filter(is_tcp).count() * forward::CONNECTIONS_MAX;
        let of_loops = match plan.loops {
            0 => 0,
            _ => settings.connections_in_all(),
        };
        let addresses = addresses(settings, of_loops + of_streams);
        let access = match plan.loops {
            0 => None,
            _ => {
                let forwards = config.forwards.iter().map(ToString::to_string);
                let doors = config.doors().into_iter();
                let doors = doors.map(|door| door.to_string_lossy().into_owned());
                access::start(settings, forwards.collect(), doors.collect(), signals)?
            }
        };
        let mut region = Region::map(&plan.bound, RegionOptions::default())?;
        let admin_memory = AdminMemory::take(&mut region, settings);
        let buckets = match plan.bucket {
            Some(geometry) => {
                let part = region.take("buckets").expect("the plan has this term");
                Some(Buckets::install(&mut region, &part, geometry, Wipe::None)?)
            }
            None => None,
        };
        let (loops, opener) = match plan.loops {
            0 => {
                region.commit()?;
                (Loops::default(), None)
            }
            _ => {
                let mut take = |name| region.take(name).expect("the plan has this term");
                let (connections, heads, scratch) =
                    (take("connections"), take("partial heads"), take("scratch"));
                region.commit()?;
                let (loops, opener) = build_loops(ForwardParts {
                    settings,
                    forwards: &config.forwards,
                    doors: config.doors(),
                    owners: &|door| config.owner_of(door),
                    listeners: &listeners,
                    loops: plan.loops as usize,
                    connections,
                    heads,
                    scratch,
                    access: access.as_ref(),
                    addresses: addresses.as_ref(),
                })?;
                (loops, Some(opener))
            }
        };
        let timeout = settings.handover_timeout;
        let handover = Handover::prepare(What::Listeners, Some(&listeners), timeout, signals);
        let slots_lost = Arc::<AtomicU64>::default();
        let admin = match (admin_memory, buckets) {
            (Some(memory), Some(buckets)) => {
                let view = FrontView {
                    stats: loops.stats.clone(),
                    connections_max: settings.connections_in_all(),
                    slots_lost: slots_lost.clone(),
                };
                let told = Admin::new(
                    None,
                    None,
                    Some(view),
                    &plan.bound,
                    logs,
                    access.as_ref(),
                    &settings.admin_host,
                );
                let sockets = listeners.of_loop(0, 1).pop().unwrap_or_default();
                Some(AdminHalf::start(told, memory, buckets, sockets, settings)?)
            }
            _ => None,
        };
        let front = FrontHalf::start(loops, "loop")?;
        let running = streams::start(&streams, sockets, settings, &config, addresses, slots_lost)
            .map_err(StartError::Loop)?;
        listeners.are_ours();
        config.forwards.extend(streams);
        end::say_bound(&plan.bound);
        let listen: Vec<_> = config.forwards.iter().map(ToString::to_string).collect();
        let admin_address = listeners.addresses().last().filter(|_| admin.is_some());
        info!(
            listen = %listen.join(","),
            doors = config.doors().len(),
            loops = plan.loops,
            admin = admin_address.map(tracing::field::display),
            ready_ms = started.elapsed().as_millis() as u64,
            "ready"
        );
        inherited.handed.say_ready();
        signals.notify().ready();
        let admin_listeners = listeners.split_off(config.forwards.len());
        drop((listen, config, inherited));
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
