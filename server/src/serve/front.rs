//! The front half of a server: threads that are loops, and how they end.

use super::error::StartError;
use super::signals::Signals;
use super::why::End;
use crate::settings::FrontSettings;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use transom_doors::{Bell, start_thread};
use transom_front::{LOOP_STACK, Loop, LoopFigures, LoopStats, Order, Orders, Rules};
use transom_net::addresses::Addresses;
use transom_wire::own_log::error;

/// What all loops, and forwards of connections, count the addresses of so many connections in, if these have
/// a limit.
pub(super) fn addresses(settings: &FrontSettings, connections: usize) -> Option<Arc<Addresses>> {
    let most = settings.connections_per_address?;
    let table = Addresses::new(connections, most.get());
    Some(Arc::new(table))
}

/// A doorbell for each of so many loops.
pub(super) fn bells(loops: usize) -> Result<Vec<Bell>, StartError> {
    let bells = (0..loops).map(|_| Bell::new());
    bells.collect::<Result<_, _>>().map_err(StartError::Loop)
}

/// Loops before they are threads, and what is kept of them.
#[derive(Default)]
pub(super) struct Loops {
    pub loops: Vec<Loop>,
    pub stats: Vec<Arc<LoopStats>>,
    pub orders: Arc<Orders>,
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
