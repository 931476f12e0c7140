//! Other servers for the same load, beside the one that was planned.

use super::choice::{Configuration, Evaluation, Planner, Waiting};
use transom::PlanError;
use transom_arena::Bytes;

/// One of them.
#[derive(Debug, Clone)]
pub struct Alternative {
    /// What is different, in a few words.
    pub what: String,
    pub evaluation: Evaluation,
}

/// Configurations that differ from `this` in one respect and may be of use, each once.
///
/// # Errors
/// [`PlanError`], if one of them cannot be served with.
pub fn alternatives(
    planner: &Planner,
    this: &Evaluation,
    measured_size: Option<Bytes>,
) -> Result<Vec<Alternative>, PlanError> {
    let mut found: Vec<Alternative> = Vec::new();
    let mut add = |what: &str, configuration: Option<Configuration>| -> Result<(), PlanError> {
        // A queue without places is none.
        let Some(configuration) = configuration.filter(|one| one.queue != Some(0)) else {
            return Ok(());
        };
        let known = configuration == this.configuration
            || found
                .iter()
                .any(|one| one.evaluation.configuration == configuration);
        if !known {
            found.push(Alternative {
                what: what.to_owned(),
                evaluation: planner.evaluate(configuration)?,
            });
        }
        Ok(())
    };
    let target = planner.demand.target;
    let size = this.configuration.bucket_size;
    let waiting = this
        .configuration
        .queue
        .map_or(Waiting::None, Waiting::Places);
    let fewest = |size, slots, waiting, target| planner.fewest(size, slots, waiting, target);

    add(
        "buckets for the target",
        fewest(size, false, waiting, target)?,
    )?;
    if let Some(measured) = measured_size {
        add(
            "buckets as measured",
            fewest(measured, false, waiting, target)?,
        )?;
    }
    if !this.meets {
        add(
            "the same, and a queue",
            planner.smallest_queue(this.configuration.buckets, size)?,
        )?;
    }
    match waiting {
        Waiting::None => add(
            "fewer, and a queue",
            fewest(size, false, Waiting::Connections, target)?,
        )?,
        Waiting::Places(_) | Waiting::Connections => {
            add("no queue", fewest(size, false, Waiting::None, target)?)?;
        }
    }
    if !planner.slots_given {
        add(
            "as many slots as buckets",
            fewest(size, true, waiting, target)?,
        )?;
    }
    add(
        "a tenth of the target",
        fewest(size, false, waiting, target / 10.0)?,
    )?;
    add("all of the memory", planner.most(size, waiting)?)?;
    Ok(found)
}

/// The one that takes the least memory of those that meet the target within the memory there is. It is worth
/// reporting if `this` does not, or takes more.
///
/// If there are too few buckets, even fewer with a long queue are not proposed; if there is too little
/// memory, they may be.
#[must_use]
pub fn cheapest<'a>(this: &Evaluation, alternatives: &'a [Alternative]) -> Option<&'a Alternative> {
    let enough = |one: &&Alternative| {
        !this.fits
            || this.meets
            || one.evaluation.configuration.buckets >= this.configuration.buckets
    };
    let passing = alternatives.iter().filter(|one| one.evaluation.passes());
    passing
        .filter(enough)
        .min_by_key(|one| one.evaluation.bytes())
        .filter(|one| !this.passes() || one.evaluation.bytes() < this.bytes())
}

/// The one that would take the least memory, if there were more of it.
#[must_use]
pub fn least_memory<'a>(
    this: &'a Evaluation,
    alternatives: &'a [Alternative],
) -> Option<&'a Evaluation> {
    let all = alternatives.iter().map(|one| &one.evaluation).chain([this]);
    all.filter(|one| one.meets).min_by_key(|one| one.bytes())
}
