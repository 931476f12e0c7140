//! Loops: threads that own connections and speak HTTP; with the doors that they lead to.

use super::{Needs, PER_CHANNEL, PER_LOOP, term};
use crate::admin::FrontView;
use crate::config::{self, Config, Target};
use crate::serve::error::StartError;
use crate::serve::listeners::Listeners;
use crate::serve::why::End;
use crate::settings::FrontSettings;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use transom_arena::{Part, Place, Region, Term, pages};
use transom_doors::{AsyncClient, Bell, ChannelGeometry, ChannelMemory, Door, start_thread};
use transom_front::{
    ConnectionLimit, DoorwayParts, Forward, INSTANCES, LOOP_STACK, Loop, LoopFigures, LoopStats,
    OPENER_STACK, Opener, OpenerBuilder, Order, Orders, Parts, QUEUE_ENTRY_SIZE,
    REMOTE_SLOTS_IN_ALL, Route, RouteTable, Rules, SLOT_TABLES_SIZE, open_options,
};
use transom_log::access::AccessLog;
use transom_net::addresses::Addresses;
use transom_wire::own_log::error;

/// Loops that each listen at so many addresses.
pub(crate) fn needs(settings: &FrontSettings, addresses: usize) -> Needs {
    let loops = settings.loops() as usize;
    Needs {
        terms: terms(settings).into(),
        threads: loops,
        descriptors: loops as u64 * (addresses as u64 + PER_LOOP),
    }
}

/// Tables, partial heads, scratch, stacks and queues.
pub(super) fn terms(settings: &FrontSettings) -> [Term; 5] {
    let loops = settings.loops() as usize;
    [
        term(
            "connections",
            Place::Region,
            loops,
            pages(settings.sizes().table()).unwrap_or(usize::MAX),
            "a loop's table: 300 bytes or so for an open connection",
            "--connections",
        ),
        term(
            "partial heads",
            Place::Region,
            loops * usize::from(settings.partial_heads.get()),
            settings.head_limit.get(),
            "a client each that has not finished its head",
            "--partial-heads, --head-limit",
        ),
        term(
            "scratch",
            Place::Region,
            loops,
            settings.sizes().scratch(),
            "a loop each: one read, one answer, and short answers that leave together",
            "--loops",
        ),
        term(
            "loop stacks",
            Place::Process,
            loops,
            LOOP_STACK,
            "a loop each",
            "--loops",
        ),
        term(
            "loop queues",
            Place::Process,
            loops * (settings.connections_per_loop() as usize + 1),
            QUEUE_ENTRY_SIZE,
            "a connection's places in what its loop has to do",
            "--connections",
        ),
    ]
}

/// Their connections.
pub(crate) fn connections(settings: &FrontSettings) -> Needs {
    Needs {
        terms: vec![socket_buffers(settings)],
        threads: 0,
        descriptors: u64::from(settings.connections.get()),
    }
}

pub(super) fn socket_buffers(settings: &FrontSettings) -> Term {
    term(
        "socket buffers",
        Place::Kernel,
        settings.connections_in_all(),
        buffers_of_a_socket(settings),
        "a connection each, at most",
        "--connections, --receive-buffer, --send-buffer",
    )
}

/// The kernel books twice what is asked for (socket(7), SO_RCVBUF).
pub(super) fn buffers_of_a_socket(settings: &FrontSettings) -> usize {
    2 * (settings.receive_buffer.get() + settings.send_buffer.get())
}

/// The table in which the addresses of so many connections are counted, if these have a limit.
pub(crate) fn addresses(settings: &FrontSettings, connections: usize) -> Needs {
    let limit = settings.connections_per_address.filter(|_| connections > 0);
    let table = limit.map(|_| {
        term(
            "addresses",
            Place::Process,
            1,
            Addresses::bytes(connections),
            "how many connections each address has: 32 bytes or more for a connection",
            "--connections-per-address, --connections",
        )
    });
    Vec::from_iter(table).into()
}

/// A channel for each loop, to the application of this process.
pub(crate) fn channels(settings: &FrontSettings, channel: &ChannelGeometry) -> Needs {
    let channels = term(
        "channels",
        Place::Region,
        settings.loops() as usize,
        channel.memory_len(),
        "a loop each: (slots + those that lost requests may keep) × (request + reply), and their headers",
        "--loops, --slots, --lost-limit, --request-size, --reply-size",
    );
    vec![channels].into()
}

/// Channels of all loops to so many doors of other processes, and a thread for each door, which opens it.
pub(crate) fn doors(settings: &FrontSettings, doors: usize) -> Needs {
    let channels = (settings.loops() as usize).saturating_mul(doors) * INSTANCES;
    let terms = vec![
        term(
            "channels",
            Place::Process,
            channels,
            settings.channel_limit.get(),
            "a loop's to a door, at most; twice while an application is replaced",
            "--loops, --forward, --channel-limit",
        ),
        term(
            "slot tables",
            Place::Process,
            channels,
            REMOTE_SLOTS_IN_ALL * SLOT_TABLES_SIZE,
            "what a loop knows of the calls in a channel, and of its spare slots",
            "--loops, --forward",
        ),
        term(
            "opener stacks",
            Place::Process,
            doors,
            OPENER_STACK,
            "a door's thread that opens it",
            "--forward",
        ),
    ];
    Needs {
        terms,
        threads: doors,
        descriptors: channels as u64 * PER_CHANNEL,
    }
}

/// What all loops, and forwards of connections, count the addresses of so many connections in, if these have
/// a limit.
pub(crate) fn count_addresses(
    settings: &FrontSettings,
    connections: usize,
) -> Option<Arc<Addresses>> {
    let most = settings
        .connections_per_address
        .filter(|_| connections > 0)?;
    Some(Arc::new(Addresses::new(connections, most.get())))
}

/// What each of some loops is made with, beside its doorways and what it listens on.
pub(crate) struct LoopOptions<'s> {
    pub settings: &'s FrontSettings,
    pub addresses: Option<Arc<Addresses>>,
    pub access: Option<&'s AccessLog>,
}

/// Loops before they are threads, and what is kept of them.
#[derive(Default)]
pub(crate) struct Loops {
    loops: Vec<Loop>,
    stats: Vec<Arc<LoopStats>>,
    orders: Arc<Orders>,
}

impl Loops {
    /// What can be told of them. `slots_lost` counts those of forwards that are not served by loops.
    pub(crate) fn view(&self, settings: &FrontSettings, slots_lost: Arc<AtomicU64>) -> FrontView {
        FrontView {
            stats: self.stats.clone(),
            connections_max: settings.connections_in_all(),
            slots_lost,
        }
    }

    /// Makes them in parts of the region for connections, partial heads and scratch. `serve` gives each loop,
    /// by its number and its doorbell, its doorways and what it listens on.
    pub(super) fn build(
        options: LoopOptions<'_>,
        memory: [Part; 3],
        mut serve: impl FnMut(usize, &Bell) -> Result<(Vec<DoorwayParts>, Vec<Forward>), StartError>,
    ) -> Result<Self, StartError> {
        let LoopOptions {
            settings,
            addresses,
            access,
        } = options;
        let [mut connections, mut heads, mut scratch] = memory;
        let count = settings.loops() as usize;
        let bells = (0..count).map(|_| Bell::new());
        let bells: Vec<_> = bells.collect::<Result<_, _>>().map_err(StartError::Loop)?;
        let limit = Arc::new(ConnectionLimit::new(settings.connections.get(), &bells));
        let mut built = Loops::default();
        for (n, bell) in bells.into_iter().enumerate() {
            let share = |part: &mut Part| part.share(count - n);
            let (doorways, forwards) = serve(n, &bell)?;
            let parts = Parts {
                connections: share(&mut connections),
                buffers: share(&mut heads),
                scratch: share(&mut scratch),
                bell,
                doorways,
                forwards,
                addresses: addresses.clone(),
                limit: limit.clone(),
                stats: Arc::new(LoopStats::default()),
                orders: built.orders.clone(),
            };
            built.stats.push(parts.stats.clone());
            let mut this = Loop::new(settings.sizes(), &settings.allowance(), parts)
                .map_err(StartError::Loop)?;
            if let Some(log) = access {
                this.log_access(log.clone(), settings.connections_per_loop());
            }
            built.loops.push(this);
        }
        Ok(built)
    }

    /// Loops that each have a channel to the door of this process, and accept from all these listeners.
    pub(crate) fn to_our_door(
        options: LoopOptions<'_>,
        region: &mut Region,
        (door, geometry): (&Door, ChannelGeometry),
        listeners: &Listeners,
    ) -> Result<(Self, Option<Opener>), StartError> {
        let count = options.settings.loops() as usize;
        let mut channels = region.take("channels").expect("the plan has this term");
        let routes = Arc::new(RouteTable::everything_to(0));
        let loops = Loops::build(options, memory(region), |n, _| {
            let channel = channels.share(count - n);
            // SAFETY: the part is page-aligned, zeroed, valid for ever, and this was its only handle.
            let memory = unsafe { ChannelMemory::new(channel.base(), channel.len()) };
            let doorway = DoorwayParts::InProcess(door.channel(geometry, memory)?);
            let forward = Forward {
                listeners: listeners.of_loop(n, count).concat(),
                routes: routes.clone(),
            };
            Ok((vec![doorway], vec![forward]))
        })?;
        Ok((loops, None))
    }

    /// Loops for the HTTP forwards of a configuration, which come first in it, and what opens their doors.
    pub(crate) fn to_doors(
        options: LoopOptions<'_>,
        region: &mut Region,
        config: &Config,
        listeners: &Listeners,
    ) -> Result<(Self, Option<Opener>), StartError> {
        let settings = options.settings;
        let count = settings.loops() as usize;
        let http = config.http_only();
        // Each once: the doorways of every loop. Routes and targets name them by their paths.
        let doors = http.doors();
        let tables = http.forwards.iter();
        let tables = tables.map(|forward| Arc::new(route_table(forward, &doors)));
        let tables: Vec<_> = tables.collect();
        let mut opener = OpenerBuilder::default();
        let loops = Loops::build(options, memory(region), |n, bell| {
            let doorways = doors.iter().map(|door| DoorwayParts::Remote {
                mailbox: opener.mailbox(
                    door.to_path_buf(),
                    open_options(settings.channel_limit.get(), http.owner_of(door)),
                    bell.clone(),
                ),
                slots_max: REMOTE_SLOTS_IN_ALL,
                client: None,
            });
            let forwards = listeners.of_loop(n, count).into_iter().zip(&tables);
            let forwards = forwards.map(|(listeners, routes)| Forward {
                listeners,
                routes: routes.clone(),
            });
            Ok((doorways.collect(), forwards.collect()))
        })?;
        let opener = opener.start(Arc::new(AsyncClient::open));
        Ok((loops, Some(opener.map_err(StartError::Loop)?)))
    }

    /// Starts a thread for each, named after what they serve, and returns when all have begun.
    pub(crate) fn start(self, name: &str) -> Result<RunningLoops, StartError> {
        let bells = self.loops.iter().map(Loop::bell).collect();
        let mut threads = Vec::new();
        for (n, this) in self.loops.into_iter().enumerate() {
            let body = move || {
                let _watch = EndIfPanicking;
                this.run();
            };
            let thread = start_thread(format!("{name}-{n}"), LOOP_STACK, body);
            threads.push(thread.map_err(StartError::Loop)?);
        }
        Ok(RunningLoops {
            threads,
            bells,
            stats: self.stats,
            orders: self.orders,
        })
    }
}

/// Where the requests of a forward go; a doorway's number is its door's place in `doors`.
pub(crate) fn route_table(forward: &config::Forward, doors: &[impl AsRef<Path>]) -> RouteTable {
    let doorway = |door: &Path| doors.iter().position(|known| known.as_ref() == door);
    match &forward.target {
        Target::Http(routes) => {
            let routes = routes.iter().map(|route| Route {
                method: route.method_name().map(str::to_owned),
                prefix: route.path.clone(),
                doorway: doorway(&route.door).expect("`doors` has every door") as u16,
            });
            RouteTable::new(routes.collect())
        }
        Target::Tcp(_) | Target::Udp(_) => unreachable!("loops serve HTTP"),
    }
}

/// The parts of the region that loops are made in.
fn memory(region: &mut Region) -> [Part; 3] {
    ["connections", "partial heads", "scratch"]
        .map(|name| region.take(name).expect("the plan has this term"))
}

/// Loops that run.
pub(crate) struct RunningLoops {
    threads: Vec<JoinHandle<()>>,
    bells: Vec<Bell>,
    stats: Vec<Arc<LoopStats>>,
    orders: Arc<Orders>,
}

impl RunningLoops {
    /// Accepts nothing more and ends what has begun, as the reason asks.
    pub(crate) fn drain(&self, why: End) {
        self.tell(match why {
            End::HandedOver => Order::HandOver,
            End::Told | End::Recycle => Order::Drain,
        });
    }

    /// Whether all have ended.
    pub(crate) fn have_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Cuts what has not ended.
    pub(crate) fn stop(&self) {
        self.tell(Order::Stop);
    }

    /// What the loops have done, once they have ended, and whether none panicked.
    pub(crate) fn join(self) -> (LoopFigures, bool) {
        let mut sound = true;
        for thread in self.threads {
            if thread.join().is_err() {
                error!("a loop panicked, and took its connections with it: please report this");
                sound = false;
            }
        }
        let mut figures = LoopFigures::default();
        for stats in &self.stats {
            figures.add(stats);
        }
        (figures, sound)
    }

    /// Has all loops go by new rules.
    pub(crate) fn change_rules(&self, rules: Rules) {
        self.orders.change_rules(rules);
        self.ring();
    }

    fn tell(&self, order: Order) {
        self.orders.give(order);
        self.ring();
    }

    fn ring(&self) {
        for bell in &self.bells {
            bell.ring();
        }
    }
}

/// A loop (or a forward) that panics cannot go on, and the process not without it: the others drain, and it
/// ends with status 1.
pub(super) struct EndIfPanicking;

impl Drop for EndIfPanicking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // SAFETY: a signal to ourselves, which the main thread waits for.
            unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
        }
    }
}
