//! What a reader of a plan should know besides its numbers.

use super::choice::{BUCKETS_LIMIT, Evaluation, Planner};
use super::metrics::Measurements;
use super::values::{share, size};
use transom_arena::Bytes;

/// All that is to be said of a configuration. `loops` is how many a server has here.
pub fn of(this: &Evaluation, planner: &Planner, loops: u32) -> Vec<String> {
    let mut notes = Vec::new();
    if loops > 0 && planner.base.front.loops.is_none() {
        notes.push(format!(
            "--loops is {loops}, because this machine has as many cores; for another one, say how many it has"
        ));
    }
    notes.extend(on_buckets(this, planner));
    notes.extend(on_memory(this, planner));
    notes.extend(on_this_machine(this));
    notes.extend(on_measurements(this, planner));
    notes.extend(on_keeping(this, planner));
    notes
}

/// Whether there could be more buckets, if there are too few.
fn on_buckets(this: &Evaluation, planner: &Planner) -> Option<String> {
    let (configuration, connections) = (&this.configuration, planner.base.front.connections.get());
    if this.meets {
        None
    } else if configuration.buckets == BUCKETS_LIMIT {
        Some(format!(
            "a process has {BUCKETS_LIMIT} buckets at most: serve with several"
        ))
    } else if planner.connections_given
        && configuration.buckets + configuration.queue.unwrap_or(0) >= connections
    {
        Some(format!(
            "{connections} connections (--connections, --front-connections) leave no room for more buckets or a longer queue"
        ))
    } else {
        None
    }
}

/// What takes the memory, if there is too little.
fn on_memory(this: &Evaluation, planner: &Planner) -> Option<String> {
    if this.fits {
        return None;
    }
    let terms = this.plan.bound.terms();
    let sockets = terms.iter().find(|term| term.name == "socket buffers")?;
    let bytes = sockets.bytes()?;
    (bytes > this.bytes() / 4 && planner.demand.front_connections.is_none()).then(|| {
        format!(
            "{} are socket buffers of {} connections: lower --connections, or say --front-connections if a proxy has fewer; or lower \
             --receive-buffer and --send-buffer",
            size(bytes),
            sockets.count
        )
    })
}

/// A plan may be for another machine; on this one it may be too much.
fn on_this_machine(this: &Evaluation) -> Option<String> {
    let error = this.plan.bound.check_here().err()?.to_string();
    let why = error.lines().next().unwrap_or_default();
    Some(format!("such a server does not start here: {why}"))
}

/// What the measurements do not show.
fn on_measurements(this: &Evaluation, planner: &Planner) -> Vec<String> {
    let mut notes = Vec::new();
    let (Some(measured), Some(above)) = (planner.measured, this.above) else {
        return notes;
    };
    if let Some((bytes, route)) = measured.largest() {
        notes.push(format!(
            "the largest measured request needed {} of its arena, on route {route}",
            size(bytes)
        ));
    }
    if let Some(arena) = measured.arena_size {
        let exhausted = measured.above(arena).at_least;
        if exhausted > 0 {
            notes.push(format!(
                "{exhausted} measured requests outgrew their arena of {}: what they would have needed in the end is not known, and \
                 counts as what they had and the allocation that did not fit",
                Bytes(arena)
            ));
        }
    }
    let target = planner.demand.target;
    if above.share() <= target && above.upper_limit() > target {
        notes.push(format!(
            "{} measured requests are too few to show that P(500) is at most {}: that takes {:.0} without one that outgrows its arena",
            above.samples,
            share(target),
            (3.0 / target).ceil()
        ));
    }
    notes
}

/// The measured program takes more than `--constant` says here.
pub fn on_constant(measured: &Measurements, is_given: bool) -> String {
    let why = if measured.outside > measured.process {
        format!(
            "has {} in memory outside of its region, where its sum says {}, and needs",
            size(measured.outside),
            size(measured.process)
        )
    } else {
        "has".to_owned()
    };
    let todo = if is_given {
        "give that, or this plan counts too little for the program itself"
    } else {
        "so does this plan"
    };
    format!(
        "the measured server {why} --constant {}: {todo}",
        measured.constant()
    )
}

/// Whether buckets may keep what they were seen to keep.
fn on_keeping(this: &Evaluation, planner: &Planner) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(measured) = planner.measured else {
        return notes;
    };
    let keep = Bytes(planner.base.application.keep(&this.plan.bucket));
    let least = measured.least_keep();
    if keep.get() < least.get() {
        notes.push(format!(
            "a bucket was seen to keep {}, and may keep {keep} here (--keep): give --keep {least}, and a --bucket-size that has room \
             for it. A thread whose bucket keeps more is ended and started again",
            size(measured.kept_max)
        ));
    }
    if measured.threads_replaced > 0 {
        notes.push(format!(
            "{} threads were ended and started again while this was measured, because their buckets kept more than --keep: they may \
             need to keep more than was seen. Measure again with a larger --keep",
            measured.threads_replaced
        ));
    }
    notes
}
