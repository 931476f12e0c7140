//! Whether the results are where they must be.

use crate::measure::Row;
use crate::statistics::{Spread, ratio};
use crate::workloads::{Bar, Figure, Limit, Workload};
use std::fmt;

/// A bar, and how it went.
pub struct Verdict {
    /// Name of the workload.
    pub workload: &'static str,
    /// The bar.
    pub bar: Bar,
    /// What came out; `None` if it was not measured.
    pub figure: Option<Spread>,
}

impl Verdict {
    /// Whether the median is where it must be. Not if there is none.
    pub fn holds(&self) -> bool {
        self.figure
            .is_some_and(|figure| self.bar.limit.holds(figure.median))
    }
}

/// How the bars of a workload went.
pub fn judge(workload: &Workload, rows: &[Row]) -> Vec<Verdict> {
    let judged = workload.bars.iter().map(|bar| Verdict {
        workload: workload.name,
        bar: bar.clone(),
        figure: figure(bar, rows),
    });
    judged.collect()
}

fn figure(bar: &Bar, rows: &[Row]) -> Option<Spread> {
    let row = |name: &str| rows.iter().find(|row| row.name == name);
    let ours = row(bar.ours)?;
    let Some(theirs) = bar.theirs else {
        return match bar.figure {
            Figure::Connection => Spread::of([ours.idle.as_ref()?.planned?]),
            _ => Spread::of(figures(bar.figure, ours).into_iter().flatten()),
        };
    };
    ratio(
        &figures(bar.figure, ours),
        &figures(bar.figure, row(theirs)?),
    )
}

fn figures(figure: Figure, row: &Row) -> Vec<Option<f64>> {
    match figure {
        Figure::Cpu => row.figures(|sample| sample.cpu_us),
        Figure::Rate => row.figures(|sample| sample.counts.rate),
        Figure::P50 => row.figures(|sample| sample.counts.p50_us),
        Figure::Ready => row.ready_ms.clone(),
        Figure::Connection => Vec::new(),
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ours, figure, .. } = self;
        match self.theirs {
            Some(theirs) => write!(f, "{figure}, {ours} ÷ {theirs}"),
            None => write!(f, "{figure}, {ours}"),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "CPU per request",
            Self::Rate => "requests/s",
            Self::P50 => "p50",
            Self::Connection => "bytes of the memory equation for a connection",
            Self::Ready => "ms to the first answer",
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::Below(limit) => write!(f, "< {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::Within(limit) => write!(f, "1 ± {limit}"),
        }
    }
}
