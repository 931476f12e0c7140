//! One run: a loop is made as the seed has it, runs on the stage until its end, and is judged.

use super::caller::SimCaller;
use super::clients::Client;
use super::clock::{Event, VirtualClock};
use super::kernel::Kernel;
use super::oracle::judge;
use super::process::Ground;
use super::requests::{Entry, Facts};
use super::schedule::{DoorPlan, Plan};
use super::stage::{Gate, Stage, Watch, set};
use super::world::Simulated;
use crate::doorway::DoorwayParts;
use crate::limit::ConnectionLimit;
use crate::opener::Mailbox;
use crate::parts::{Forward, Listener, Parts};
use crate::stats::LoopStats;
use crate::tests::region_of;
use crate::turn::Loop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use transom_arena::{Region, RegionOptions};
use transom_doors::Bell;

/// What became of a run.
pub(super) struct Played {
    pub wrong: Option<String>,
    pub trace: Vec<String>,
    pub turns: u64,
    pub requests: usize,
    pub figures: Arc<LoopStats>,
}

/// A descriptor whose number stands for the listener. Nothing is asked of it.
fn placeholder() -> OwnedFd {
    std::fs::File::open("/dev/null").expect("/dev/null").into()
}

/// Runs what a seed means.
pub(super) fn run(seed: u64, traced: bool) -> Played {
    let mut clock = VirtualClock::new(seed, traced);
    let plan = Plan::new(&mut clock);
    let (listener, bell) = (placeholder(), Bell::new().expect("a descriptor"));
    let mut stage = new_stage(&plan, clock, listener.as_raw_fd(), bell.as_raw_fd());
    let requests = stage.ground.book.len();
    let doorways = doorways(&plan, &mut stage);
    plan_events(&plan, &mut stage);
    let (orders, limit) = (stage.orders.clone(), stage.limit.clone());
    let addresses = stage.addresses.clone();
    let stats: Arc<LoopStats> = Arc::default();
    set(Some(stage));
    let options = RegionOptions {
        lazy: true,
        ..RegionOptions::default()
    };
    let mut region = region_of(&plan.sizes, options);
    let mut part = |name| region.take(name).expect("there");
    let parts = Parts {
        connections: part("connections"),
        buffers: part("partial heads"),
        scratch: part("scratch"),
        bell,
        doorways,
        forwards: vec![Forward {
            listeners: vec![Listener {
                socket: Arc::new(listener),
                shared: false,
            }],
            routes: Arc::new(plan.routes()),
        }],
        addresses,
        limit,
        stats: stats.clone(),
        orders,
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        let this: Loop<Simulated> =
            Loop::new(plan.sizes, &plan.allowance, parts).expect("nothing fails");
        this.run();
    }));
    unmap(region);
    let mut stage = set(None).expect("it was set");
    let trace = stage.ground.clock.take_trace();
    let wrong = match result {
        Ok(()) => judge(&plan, &stage, &stats).err(),
        Err(panic) => Some(words_of(&*panic)),
    };
    Played {
        wrong: wrong.map(|wrong| format!("{wrong}\n{:?}", plan.traits)),
        trace,
        turns: stage.watch.turns_in_all,
        requests,
        figures: stats,
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}

fn new_stage(plan: &Plan, clock: VirtualClock, listener: i32, bell: i32) -> Stage {
    let mut book = Vec::new();
    let mut clients = Vec::new();
    for (number, (manner, requests)) in plan.clients.iter().enumerate() {
        let ids = requests.iter().map(|request| request.id).collect();
        clients.push(Client::new(number, manner.clone(), ids));
        book.extend(requests.iter().map(|request| Entry {
            request: request.clone(),
            facts: Facts::default(),
        }));
    }
    Stage {
        ground: Ground {
            clock,
            kernel: Kernel::new(listener, plan.mishaps),
            book,
        },
        processes: Vec::new(),
        clients,
        gates: Vec::new(),
        bell,
        orders: Arc::default(),
        rules: plan.rules(),
        limit: Arc::new(ConnectionLimit::new(plan.places, &[])),
        addresses: plan.addresses(),
        watch: Watch::default(),
        patience: plan.patience,
        interruptions: plan.interruptions,
        complaints: Vec::new(),
    }
}

/// The doors, with the processes that are there from the start.
fn doorways(plan: &Plan, stage: &mut Stage) -> Vec<DoorwayParts<SimCaller>> {
    let mut doorways = Vec::new();
    for (number, door) in (0..).zip(&plan.doors) {
        doorways.push(doorway(number, door, stage));
    }
    doorways
}

fn doorway(number: u16, door: &DoorPlan, stage: &mut Stage) -> DoorwayParts<SimCaller> {
    if door.is_local {
        stage.gates.push(None);
        return DoorwayParts::InProcess(stage.start_process(number, &door.processes[0]));
    }
    let mut planned = door.processes.iter().cloned();
    let first = if door.is_there { planned.next() } else { None };
    let client = first.map(|first| stage.start_process(number, &first));
    let mailbox = Mailbox::alone();
    stage.gates.push(Some(Gate {
        mailbox: mailbox.clone(),
        planned: planned.collect(),
        is_opening: false,
        opens_after: door.opens_after,
    }));
    DoorwayParts::Remote {
        mailbox,
        slots_max: door.slots_max,
        client,
    }
}

fn plan_events(plan: &Plan, stage: &mut Stage) {
    let clock = &mut stage.ground.clock;
    for (number, (manner, _)) in plan.clients.iter().enumerate() {
        clock.after(manner.connects_after, Event::Client(number));
    }
    clock.after(0, Event::AreDone);
    if let Some((after, order)) = plan.ends {
        clock.after(after, Event::Order(order));
    }
    if plan.has_new_rules {
        let after = clock.short();
        clock.after(after, Event::Rules);
    }
    if plan.traits.neighbours {
        clock.after(0, Event::Neighbour);
    }
}

/// Gives a region back that is never given back elsewhere: its only holder, the loop, has been dropped.
fn unmap(region: Region) {
    let addresses = region.addresses();
    drop(region);
    let len = addresses.end - addresses.start;
    // SAFETY: all of it was mapped for this run, and nothing refers to it any more.
    let result = unsafe { libc::munmap(addresses.start as *mut libc::c_void, len) };
    assert_eq!(result, 0, "unmaps");
}
