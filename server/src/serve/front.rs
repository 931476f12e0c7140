//! The front half of a server: threads that are loops, and how they end.

use super::error::StartError;
use super::signals::Signals;
use super::why::End;
use crate::admin::FrontView;
use crate::settings::FrontSettings;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use transom_arena::{Part, Region};
use transom_doors::{Bell, start_thread};
use transom_front::{
    ConnectionLimit, DoorwayParts, Forward, LOOP_STACK, Loop, LoopFigures, LoopStats, Order,
    Orders, Parts, Rules,
};
use transom_log::access::AccessLog;
use transom_net::addresses::Addresses;
use transom_wire::own_log::error;

/// What all loops, and forwards of connections, count the addresses of so many connections in, if these have
/// a limit.
pub(super) fn addresses(settings: &FrontSettings, connections: usize) -> Option<Arc<Addresses>> {
    let most = settings.connections_per_address?;
    let table = Addresses::new(connections, most.get());
    Some(Arc::new(table))
}

/// The parts of the region that loops are made in.
pub(super) struct LoopMemory {
    connections: Part,
    heads: Part,
    scratch: Part,
}

impl LoopMemory {
    /// Takes them, by the names that the plan has for them: connections, partial heads, scratch.
    pub(super) fn take(region: &mut Region, names: [&str; 3]) -> Self {
        let [connections, heads, scratch] =
            names.map(|name| region.take(name).expect("the plan has this term"));
        LoopMemory {
            connections,
            heads,
            scratch,
        }
    }
}

/// What each of some loops is made with, beside its doorways and what it listens on.
pub(super) struct LoopOptions<'s> {
    pub settings: &'s FrontSettings,
    pub count: usize,
    pub addresses: Option<Arc<Addresses>>,
    pub access: Option<&'s AccessLog>,
}

/// Loops before they are threads, and what is kept of them.
#[derive(Default)]
pub(super) struct Loops {
    loops: Vec<Loop>,
    stats: Vec<Arc<LoopStats>>,
    orders: Arc<Orders>,
}

impl Loops {
    /// What can be told of them. `slots_lost` counts those of forwards that are not served by loops.
    pub(super) fn view(&self, settings: &FrontSettings, slots_lost: Arc<AtomicU64>) -> FrontView {
        FrontView {
            stats: self.stats.clone(),
            connections_max: settings.connections_in_all(),
            slots_lost,
        }
    }

    /// Makes them. `serve` gives each, by its number and its doorbell, its doorways and what it listens on.
    pub(super) fn build(
        options: LoopOptions<'_>,
        mut memory: LoopMemory,
        mut serve: impl FnMut(usize, &Bell) -> Result<(Vec<DoorwayParts>, Vec<Forward>), StartError>,
    ) -> Result<Self, StartError> {
        let LoopOptions {
            settings,
            count,
            addresses,
            access,
        } = options;
        let bells = (0..count).map(|_| Bell::new());
        let bells: Vec<_> = bells.collect::<Result<_, _>>().map_err(StartError::Loop)?;
        let limit = Arc::new(ConnectionLimit::new(settings.connections.get(), &bells));
        let mut built = Loops::default();
        for (n, bell) in bells.into_iter().enumerate() {
            let share = |part: &mut Part| part.share(count - n);
            let (doorways, forwards) = serve(n, &bell)?;
            let parts = Parts {
                connections: share(&mut memory.connections),
                buffers: share(&mut memory.heads),
                scratch: share(&mut memory.scratch),
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
}

/// Loops that run.
pub(super) struct FrontHalf {
    threads: Vec<JoinHandle<()>>,
    bells: Vec<Bell>,
    stats: Vec<Arc<LoopStats>>,
    orders: Arc<Orders>,
}

impl FrontHalf {
    /// Starts a thread for each loop, named after what they serve, and returns when all have begun.
    pub(super) fn start(built: Loops, name: &str) -> Result<Self, StartError> {
        let bells = built.loops.iter().map(Loop::bell).collect();
        let mut threads = Vec::new();
        for (n, this) in built.loops.into_iter().enumerate() {
            let body = move || {
                let _watch = EndIfPanicking;
                this.run();
            };
            let thread = start_thread(format!("{name}-{n}"), LOOP_STACK, body);
            threads.push(thread.map_err(StartError::Loop)?);
        }
        Ok(FrontHalf {
            threads,
            bells,
            stats: built.stats,
            orders: built.orders,
        })
    }

    /// Accepts nothing more and ends what has begun, as the reason asks; at the deadline, or at a second
    /// signal, cuts it. Whether nothing was cut. It also waits for what is beside the loops, until that says
    /// that it has ended.
    pub(super) fn drain(
        &self,
        why: End,
        deadline: Instant,
        signals: &Signals,
        rest_has_ended: impl Fn() -> bool,
    ) -> bool {
        self.tell(match why {
            End::HandedOver => Order::HandOver,
            End::Told | End::Recycle => Order::Drain,
        });
        let mut in_time = self.wait(deadline, signals, &rest_has_ended);
        if !in_time && why == End::HandedOver && Instant::now() < deadline {
            // The first signal to end asks for an ordinary drain.
            self.tell(Order::Drain);
            in_time = self.wait(deadline, signals, &rest_has_ended);
        }
        if !in_time {
            self.tell(Order::Stop);
        }
        in_time
    }

    /// What the loops have done, once they have ended, and whether none panicked.
    pub(super) fn join(self) -> (LoopFigures, bool) {
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
    pub(super) fn change_rules(&self, rules: Rules) {
        self.orders.change_rules(rules);
        self.ring();
    }

    /// Gives all loops an order.
    pub(super) fn tell(&self, order: Order) {
        self.orders.give(order);
        self.ring();
    }

    fn ring(&self) {
        for bell in &self.bells {
            bell.ring();
        }
    }

    /// Whether all loops, and the rest, have ended before the deadline and before a second signal.
    fn wait(
        &self,
        deadline: Instant,
        signals: &Signals,
        rest_has_ended: impl Fn() -> bool,
    ) -> bool {
        while !self.threads.iter().all(JoinHandle::is_finished) || !rest_has_ended() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if signals.wait_while_ending(left.min(Duration::from_millis(20))) {
                return false;
            }
        }
        true
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
