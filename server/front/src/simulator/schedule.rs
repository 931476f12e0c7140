//! The plan that follows from one seed: the loop's size, the faults, the clients and their requests.

use super::clients::{Ending, Manner, Reading, Split};
use super::clock::{MS, SECOND, US, VirtualClock};
use super::kernel::Mishaps;
use super::requests::{App, Body, End, Request, Target, good_app, write};
use super::stage::{Patience, Planned};
use crate::options::{Allowance, Proxying, Rates, Sizes, Timeouts};
use crate::routes::{Route, RouteTable};
use crate::rules::{Limits, Rules};
use std::sync::Arc;
use std::time::Duration;
use transom_doors::ChannelGeometry;
use transom_net::ListenOptions;
use transom_net::addresses::Addresses;
use transom_wire::frame::outcome;

/// What goes wrong in a schedule.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traits {
    /// Clients that are slow, or stall.
    pub slow: bool,
    /// Clients that reset their connections.
    pub resets: bool,
    /// Processes that die.
    pub deaths: bool,
    /// Handlers that fail.
    pub failures: bool,
    /// Fewer places, buffers and slots than are wanted.
    pub crowded: bool,
    /// A kernel that lacks things.
    pub mishaps: bool,
    /// Timeouts that strike.
    pub short_times: bool,
    /// An end in the middle.
    pub early_end: bool,
    /// Other loops that want places.
    pub neighbours: bool,
}

impl Traits {
    fn new(clock: &mut VirtualClock) -> Self {
        let all = clock.rng.u32(0..4);
        let mut has = |one_in| match all {
            0 | 1 => false,
            2 => clock.once_in(6),
            _ => clock.once_in(one_in),
        };
        Traits {
            slow: has(3),
            resets: has(3),
            deaths: has(3),
            failures: has(3),
            crowded: has(3),
            mishaps: has(5),
            short_times: has(4),
            early_end: has(4),
            neighbours: has(6),
        }
    }

    /// Whether each good client gets what it asks for, sooner or later.
    pub(super) fn serves_all(&self) -> bool {
        !(self.deaths
            || self.failures
            || self.crowded
            || self.mishaps
            || self.short_times
            || self.early_end
            || self.neighbours)
    }

    /// Whether it does so at once.
    pub(super) fn is_fast(&self) -> bool {
        self.serves_all() && !self.slow
    }
}

/// A door and the processes that serve it, one after the other.
pub(super) struct DoorPlan {
    pub is_local: bool,
    pub slots_max: usize,
    /// One is there from the start.
    pub is_there: bool,
    pub processes: Vec<Planned>,
    pub opens_after: u64,
}

/// All of a schedule.
pub(super) struct Plan {
    pub traits: Traits,
    pub sizes: Sizes,
    pub allowance: Allowance,
    pub places: u32,
    pub doors: Vec<DoorPlan>,
    pub has_routes: bool,
    pub mishaps: Mishaps,
    pub interruptions: u32,
    pub has_new_rules: bool,
    pub patience: Patience,
    pub clients: Vec<(Manner, Vec<Request>)>,
    /// The longest time of all requests one after the other, without the reading of bodies.
    pub busy_ns: u64,
    /// When the loop is told to end, whatever goes on; and the number of the order.
    pub ends: Option<(u64, u32)>,
}

impl Plan {
    pub(super) fn new(clock: &mut VirtualClock) -> Self {
        // A short life with a sudden end is cheap, and finds faults that only the last connection meets.
        let is_tiny = clock.once_in(5);
        let traits = match is_tiny {
            true => Traits {
                early_end: true,
                ..Traits::default()
            },
            false => Traits::new(clock),
        };
        let count = match clock.rng.u32(0..3) {
            _ if is_tiny => 1,
            0 => clock.rng.usize(1..3),
            1 => clock.rng.usize(1..8),
            _ => clock.rng.usize(1..16),
        };
        let sizes = sizes(traits, count, clock);
        let allowance = allowance(traits, clock);
        let is_light = is_tiny || clock.once_in(2);
        let doors: Vec<_> = (0..clock.rng.u32(1..3))
            .map(|_| door(traits, is_light, clock))
            .collect();
        let mut plan = Plan {
            traits,
            sizes,
            places: sizes.connections,
            has_routes: doors.len() > 1 || clock.once_in(2),
            mishaps: mishaps(traits, clock),
            has_new_rules: clock.once_in(5),
            interruptions: match is_tiny {
                true => 3,
                false => *clock.pick(&[0, 3, 20, 20]),
            },
            patience: patience(traits, &allowance, clock),
            allowance,
            busy_ns: 0,
            ends: traits.early_end.then(|| {
                let most = match is_tiny {
                    true => 400 * US,
                    false => *clock.pick(&[MS, 4 * MS, 40 * MS]),
                };
                (clock.rng.u64(0..most), clock.rng.u32(1..4))
            }),
            clients: Vec::new(),
            doors,
        };
        let reply_size = reply_size_of(&plan.doors);
        let mut number = 0;
        for _ in 0..count {
            let client = plan.client(&mut number, reply_size, is_light, clock);
            plan.clients.push(client);
        }
        plan.busy_ns += plan.doors.iter().map(|door| door.opens_after).sum::<u64>();
        plan
    }

    /// The rules that the loop is given later: those that it has already, but for the limits of connections.
    pub(super) fn rules(&self) -> Option<Rules> {
        let rules = Rules {
            routes: vec![Arc::new(self.routes())],
            limits: Limits::new(&self.allowance),
        };
        self.has_new_rules.then_some(rules)
    }

    /// The table of addresses, if they have a limit.
    pub(super) fn addresses(&self) -> Option<Arc<Addresses>> {
        let most = self.allowance.connections_per_address?;
        Some(Arc::new(Addresses::new(
            self.sizes.connections as usize,
            most,
        )))
    }

    /// Where requests go.
    pub(super) fn routes(&self) -> RouteTable {
        if !self.has_routes {
            return RouteTable::everything_to(0);
        }
        let route = |method: Option<&str>, prefix: String, doorway| Route {
            method: method.map(str::to_owned),
            prefix,
            doorway,
        };
        let doors = 0..self.doors.len() as u16;
        let mut routes: Vec<_> = doors
            .map(|door| route(None, format!("/d{door}"), door))
            .collect();
        routes.push(route(Some("GET"), "/get".to_owned(), 0));
        RouteTable::new(routes)
    }

    fn client(
        &mut self,
        number: &mut usize,
        reply_size: usize,
        is_light: bool,
        clock: &mut VirtualClock,
    ) -> (Manner, Vec<Request>) {
        let count = clock.rng.usize(1..if is_light { 5 } else { 9 });
        let mut requests = Vec::new();
        for n in 0..count {
            let mut request = self.request(*number, n + 1 == count, reply_size, is_light, clock);
            write(&mut request, clock);
            self.busy_ns += request.app.runs_ns
                + request.app.gap_ns * (request.app.pieces.len() as u64 + 4)
                + 500 * US;
            requests.push(request);
            *number += 1;
        }
        let manner = manner(self.traits, &requests, is_light, clock);
        // Bytes take turns with acknowledgements where a buffer is small.
        let bytes: usize = requests
            .iter()
            .map(|request| request.bytes.len() + request.app.len + 600)
            .sum();
        let turns = bytes / manner.rooms.iter().min().copied().unwrap_or(1).max(1);
        self.busy_ns += turns as u64 * MS;
        self.busy_ns +=
            manner.think_ns * count as u64 + 25 * MS * u64::from(manner.gap_ns > 0) * count as u64;
        (manner, requests)
    }

    fn request(
        &self,
        id: usize,
        is_last: bool,
        reply_size: usize,
        is_light: bool,
        clock: &mut VirtualClock,
    ) -> Request {
        let door = clock.rng.u16(0..self.doors.len() as u16);
        let mut target = Target::Door(if self.has_routes { door } else { 0 });
        let mut method = *clock.pick(&["GET", "GET", "GET", "HEAD", "POST", "PUT", "BREW"]);
        match clock.rng.u32(0..24) {
            0 => (target, method) = (Target::Server, "OPTIONS"),
            1 if self.has_routes => target = Target::Nothing,
            2 if self.has_routes => (target, method) = (Target::OtherMethod, "POST"),
            3 if is_last => {
                target = Target::Refused(*clock.pick(&[400, 505, 417, 501, 431]));
            }
            _ => {}
        }
        let minor = u8::from(target == Target::Refused(501) || !clock.once_in(6));
        let len = match clock.rng.u32(0..6) {
            0 => clock.rng.usize(1..8),
            1..=3 => clock.rng.usize(1..600),
            4 => clock.rng.usize(1..6_000),
            _ if is_light => 1,
            _ => clock.rng.usize(1..40_000),
        };
        let body = match clock.rng.u32(0..4) {
            0 | 1 if matches!(method, "GET" | "HEAD" | "OPTIONS") => Body::None,
            _ if target == Target::Refused(501) => Body::None,
            0 | 1 => Body::Length(len),
            2 if minor == 1 => Body::Chunked(len - usize::from(clock.once_in(9))),
            _ => Body::None,
        };
        let expects =
            minor == 1 && body.len() > 0 && target != Target::Refused(417) && clock.once_in(3);
        let connection = match clock.rng.u32(0..12) {
            0 => Some("close"),
            1..=3 => Some("keep-alive"),
            _ if is_last && clock.once_in(2) => Some("close"),
            _ => None,
        };
        let mut app = good_app(clock, reply_size);
        if is_light {
            app.runs_ns = app.runs_ns.min(100 * US);
        }
        if clock.once_in(12) {
            app.reads = clock.rng.usize(0..3);
        }
        if self.traits.failures && clock.once_in(3) {
            fail(&mut app, clock);
        }
        Request {
            id,
            method,
            minor,
            target,
            body,
            expects,
            connection,
            app,
            bytes: Vec::new(),
            head_len: 0,
        }
    }
}

/// The smallest room for a reply: an application does not know which process it will be in.
fn reply_size_of(doors: &[DoorPlan]) -> usize {
    let processes = doors.iter().flat_map(|door| &door.processes);
    let sizes = processes.map(|planned| planned.geometry.reply_size);
    sizes.min().expect("a process")
}

fn fail(app: &mut App, clock: &mut VirtualClock) {
    app.end = *clock.pick(&[
        End::Outcome(1),
        End::Outcome(3),
        End::Outcome(9),
        End::Outcome(outcome::EXHAUSTED_ARENA),
        End::Outcome(outcome::PANICKED),
        End::Outcome(outcome::STREAM_BROKEN),
        End::Noise,
        End::BadField,
        End::Lost,
        End::Never,
        End::Meddles,
        End::Meddles,
    ]);
}

fn sizes(traits: Traits, clients: usize, clock: &mut VirtualClock) -> Sizes {
    let (connections, partial_heads) = match traits.crowded {
        true => (clock.rng.u32(1..8), clock.rng.u16(1..4)),
        // A fourth of them may linger.
        false => (4 * clients as u32 + 4, clients as u16 + 1),
    };
    Sizes {
        loops: if traits.neighbours { 2 } else { 1 },
        connections,
        partial_heads,
        head_limit: *clock.pick(&[1024, 2048, 4096, 16 << 10]),
        sockets: ListenOptions {
            only_ipv6: false,
            backlog: 16,
            receive_buffer: 32 << 10,
            send_buffer: 32 << 10,
        },
    }
}

fn allowance(traits: Traits, clock: &mut VirtualClock) -> Allowance {
    let mut time = |short_ms: std::ops::Range<u64>, long_s: u64| match traits.short_times {
        true => Duration::from_millis(clock.rng.u64(short_ms)),
        false => Duration::from_secs(long_s),
    };
    let timeouts = Timeouts {
        header: time(2..40, 20),
        body: time(5..60, 20),
        write: time(5..60, 20),
        idle: time(2..60, 75),
        queue: time(1..30, 20),
        deadline: Some(time(4..60, 60)),
    };
    Allowance {
        connections_per_address: match traits.crowded && clock.once_in(3) {
            true => Some(clock.rng.u32(1..4)),
            false => None,
        },
        requests_per_connection: match clock.once_in(6) {
            true => clock.rng.u32(1..5),
            false => 1_000_000,
        },
        body_limit: *clock.pick(&[1 << 20, 1 << 20, 1 << 20, 400]),
        timeouts: Timeouts {
            deadline: timeouts.deadline.filter(|_| !clock.once_in(3)),
            ..timeouts
        },
        rates: Rates {
            body: *clock.pick(&[1 << 10, 0]),
            write: *clock.pick(&[1 << 10, 0]),
        },
        proxying: Proxying {
            required: false,
            header_limit: 4 << 10,
            forwarded: None,
            trust: Arc::new([]),
        },
    }
}

fn mishaps(traits: Traits, clock: &mut VirtualClock) -> Mishaps {
    let interrupted = if clock.once_in(3) { 50 } else { 0 };
    match traits.mishaps {
        true => Mishaps {
            shortage: 4,
            interrupted,
            unwatched: 30,
        },
        false => Mishaps {
            interrupted,
            ..Mishaps::default()
        },
    }
}

fn patience(traits: Traits, allowance: &Allowance, clock: &mut VirtualClock) -> Patience {
    let is_strict = traits.serves_all();
    let longest = allowance.timeouts.idle.max(allowance.timeouts.write);
    Patience {
        // A strict one ends when it is slow: long before a timeout.
        run_ns: match (is_strict, traits.slow) {
            (true, false) => 15 * SECOND,
            (true, true) => 100 * SECOND,
            (false, _) => (longest.as_nanos() as u64).min(100 * SECOND),
        },
        is_strict,
        drain_ns: match clock.once_in(2) && !is_strict {
            true => clock.rng.u64(0..5 * SECOND),
            false => 200 * SECOND,
        },
    }
}

fn door(traits: Traits, is_light: bool, clock: &mut VirtualClock) -> DoorPlan {
    let is_local = clock.once_in(4);
    let mut slots_max = 0;
    let mut processes = Vec::new();
    let count = match (is_local, traits.deaths) {
        (true, _) => 1,
        (false, true) => clock.rng.usize(1..8),
        (false, false) => clock.rng.usize(1..3),
    };
    let request_size = *clock.pick(&[2048, 4096, 8192]);
    for n in 0..count {
        let slots = match traits.crowded || clock.once_in(3) {
            true => clock.rng.u32(1..4),
            false => clock.rng.u32(2..20),
        };
        let geometry = ChannelGeometry {
            slots,
            spares: clock.rng.u32(0..3),
            // Requests that wait for the next process may not fit there if it has other slots.
            request_size: match traits.deaths {
                true => *clock.pick(&[2048, 4096, 8192]),
                false => request_size,
            },
            reply_size: *clock.pick(&[1024, 2048, 16 << 10]),
        };
        slots_max = slots_max.max(geometry.slots_in_all() as usize);
        let is_last = n + 1 == count;
        let some_time = match clock.rng.u32(0..3) {
            0 => clock.short(),
            1 => clock.rng.u64(0..10 * MS),
            _ => clock.rng.u64(0..100 * MS),
        };
        processes.push(Planned {
            geometry,
            threads: clock.rng.usize(1..5),
            is_local,
            revoked_after: (!is_last && (!traits.deaths || clock.once_in(2))).then_some(some_time),
            dies_after: (!is_last && traits.deaths && !clock.once_in(3)).then_some(some_time),
            // A process that leaves in peace finishes the calls that it has begun.
            ends_well: !traits.deaths,
            bodies_first: clock.once_in(3),
        });
    }
    DoorPlan {
        is_local,
        slots_max,
        is_there: is_local || !clock.once_in(3),
        processes,
        opens_after: match clock.once_in(2) || is_light {
            true => clock.rng.u64(0..100 * US),
            false => clock.rng.u64(0..15 * MS),
        },
    }
}

fn manner(
    traits: Traits,
    requests: &[Request],
    is_light: bool,
    clock: &mut VirtualClock,
) -> Manner {
    let bytes: usize = requests
        .iter()
        .map(|request| request.bytes.len())
        .max()
        .unwrap_or(1);
    let split = match clock.rng.u32(0..6) {
        0 | 1 => Split::Whole,
        2 => Split::Random(3),
        3 => Split::Random(1),
        _ => Split::Random(1500),
    };
    // A client of good will sends a request within 20 ms.
    let parts = match split {
        Split::Whole => 1,
        Split::Random(most) => bytes * 2 / most + 1,
    };
    let gap_ns = match clock.rng.u32(0..3) {
        0 if !is_light => 20 * MS / parts as u64,
        _ => 0,
    };
    let mut manner = Manner {
        connects_after: if clock.once_in(2) { 0 } else { clock.short() },
        depth: *clock.pick(&[1, 1, 2, 1000]),
        split,
        gap_ns,
        think_ns: if is_light || clock.once_in(2) {
            0
        } else {
            2 * MS
        },
        reading: Reading::Eager,
        ending: *clock.pick(&[
            Ending::Waits,
            Ending::Closes,
            Ending::Closes,
            Ending::HalfCloses,
        ]),
        stalls_at: None,
        resets_after: None,
        patience_ns: 14 * SECOND,
        hesitates: clock.once_in(4),
        goes_on: clock.once_in(3),
        rooms: [16 << 10, 16 << 10, 16 << 10],
    };
    for room in &mut manner.rooms {
        *room = match clock.rng.u32(0..8) {
            0 if !is_light => clock.rng.usize(16..200),
            1 => clock.rng.usize(200..4000),
            _ => clock.rng.usize(4_000..100_000),
        };
    }
    if traits.resets && clock.once_in(3) {
        manner.resets_after = Some(clock.short() + clock.short());
    }
    if traits.slow && clock.once_in(3) {
        slow_down(&mut manner, requests, clock);
    }
    take_in_parts(&mut manner, requests, clock);
    if !traits.serves_all() {
        manner.patience_ns = clock.rng.u64(0..30 * MS);
    }
    manner
}

/// A reply that changes while it is sent has to be sent in parts.
fn take_in_parts(manner: &mut Manner, requests: &[Request], clock: &mut VirtualClock) {
    let meddles = |request: &Request| request.app.end == End::Meddles;
    if requests.iter().any(meddles) && clock.once_in(2) {
        manner.rooms = [300, 300, 300].map(|most| clock.rng.usize(16..=most));
        manner.reading = Reading::Slow(clock.rng.usize(1..100), clock.rng.u64(MS..5 * MS));
    }
}

fn slow_down(manner: &mut Manner, requests: &[Request], clock: &mut VirtualClock) {
    match clock.rng.u32(0..5) {
        0 => manner.reading = Reading::Never,
        1 => manner.reading = Reading::Slow(clock.rng.usize(1..500), clock.rng.u64(MS..50 * MS)),
        2 => {
            let bytes: usize = requests.iter().map(|request| request.bytes.len()).sum();
            manner.stalls_at = Some(clock.rng.usize(0..bytes));
        }
        3 => {
            manner.split = Split::Random(200);
            manner.gap_ns = clock.rng.u64(MS..400 * MS);
        }
        _ => {
            manner.reading = Reading::Never;
            manner.rooms = [64, 64, 64].map(|most| clock.rng.usize(16..=most));
        }
    }
}
