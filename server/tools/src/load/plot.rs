//! The plots of a report.

use super::report::{Curve, LoadReport};
use super::units;
use super::watch::{Buckets, Look};
use transom_plot::{Area, Axis, FAINT, Line, Plot, Stroke};

/// Width and height: two of them beside each other on a large screen, one on a telephone.
const SIZE: (f64, f64) = (480.0, 300.0);

/// A plot with the name of its file.
#[derive(Debug)]
pub struct Figure {
    /// `memory`, `latency` or `buckets`.
    pub name: &'static str,
    /// What it shows, in a few words.
    pub title: &'static str,
    /// One `svg` element, without a style.
    pub svg: String,
}

/// Those plots for which there are figures.
pub fn figures(report: &LoadReport) -> Vec<Figure> {
    let plots = [
        ("memory", "Memory over time", memory(report)),
        ("latency", "Latency by class", latency(&report.curves)),
        ("buckets", "Buckets over time", buckets(report)),
    ];
    let shown = plots.into_iter().filter_map(|(name, title, plot)| {
        let svg = plot?.svg();
        Some(Figure { name, title, svg })
    });
    shown.collect()
}

fn memory(report: &LoadReport) -> Option<Plot> {
    let points = |of: fn(&super::watch::ResourceUsage) -> u64| {
        let at = |look: &Look| {
            look.memory
                .as_ref()
                .map(|memory| (look.seconds, mib(of(memory))))
        };
        report.looks.iter().filter_map(at).collect::<Vec<_>>()
    };
    let rss = points(|memory| memory.rss_bytes);
    let (last, _) = *rss.last()?;
    let bound = report.memory.as_ref()?.bound_bytes;
    let most = rss
        .iter()
        .map(|(_, rss)| *rss)
        .fold(bound.map_or(0.0, mib), f64::max);
    let line = |name: String, colour, stroke, points| Line {
        name,
        colour,
        stroke,
        points,
    };
    let mut lines = vec![
        line("RSS".to_owned(), 0, Stroke::Plain, rss),
        line(
            "PSS".to_owned(),
            2,
            Stroke::Plain,
            points(|memory| memory.pss_bytes),
        ),
    ];
    if let Some(bound) = bound {
        let name = format!("bound {}", units::bytes(bound));
        lines.push(line(
            name,
            1,
            Stroke::Dashed,
            vec![(0.0, mib(bound)), (last, mib(bound))],
        ));
    }
    Some(Plot {
        label: "Memory of the server over time, against its bound".to_owned(),
        is_titled: false,
        size: SIZE,
        x: seconds(last),
        y: Axis::from_zero(most * 1.08, "MiB"),
        bands: bands(report),
        areas: Vec::new(),
        lines,
    })
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// Phases with hungry requests are shaded.
fn bands(report: &LoadReport) -> Vec<(f64, f64, String)> {
    let hungry = report.phases.iter().filter(|phase| phase.name == "hungry");
    hungry
        .map(|phase| (phase.from, phase.to, "hungry".to_owned()))
        .collect()
}

fn latency(curves: &[Curve]) -> Option<Plot> {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let least = all().map(|(_, us)| *us).reduce(f64::min)?.max(1.0);
    let most = all().map(|(_, us)| *us).reduce(f64::max)?.max(least * 10.0);
    let tail = |part: f64| -(1.0 - part).max(1e-9).log10();
    let furthest = all().map(|(part, _)| tail(*part)).fold(1.0, f64::max);
    let parts = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
    // A curve ends a little before the last part for which there are enough requests.
    let shown = parts.iter().filter(|part| tail(**part) < furthest + 0.01);
    let ticks = shown.map(|part| (tail(*part), format!("{} %", (part * 1e8).round() / 1e6)));
    let (low, high) = (least.log10().floor(), most.log10().ceil());
    let lines = curves.iter().enumerate().map(|(n, curve)| Line {
        name: curve.name.to_owned(),
        colour: [0, 1, 3][n.min(2)],
        stroke: Stroke::Plain,
        points: curve
            .points
            .iter()
            .filter(|(part, _)| *part >= 0.5)
            .map(|(part, us)| (tail(*part), us.max(1.0).log10()))
            .collect(),
    });
    Some(Plot {
        label: "Latency by class, as percentile curves".to_owned(),
        is_titled: false,
        size: SIZE,
        x: Axis {
            least: tail(0.5),
            most: furthest,
            ticks: ticks.collect(),
            name: "of the requests were no slower",
        },
        y: Axis::decades(low, high, decade),
        bands: Vec::new(),
        areas: Vec::new(),
        lines: lines.collect(),
    })
}

fn decade(n: i32) -> String {
    let (power, unit) = match n {
        ..3 => (n, "µs"),
        3..6 => (n - 3, "ms"),
        _ => (n - 6, "s"),
    };
    format!("{} {unit}", 10f64.powi(power))
}

fn buckets(report: &LoadReport) -> Option<Plot> {
    let looks: Vec<(f64, Buckets)> = report
        .looks
        .iter()
        .filter_map(|look| Some((look.seconds, look.buckets?)))
        .collect();
    let (last, _) = *looks.last()?;
    let total = looks
        .iter()
        .map(|(_, buckets)| buckets.total())
        .fold(1.0, f64::max);
    type State = (&'static str, usize, fn(&Buckets) -> f64);
    let states: [State; 5] = [
        ("busy", 0, |buckets| buckets.busy),
        ("resting", 3, |buckets| buckets.resting),
        ("parked", 1, |buckets| buckets.parked),
        ("idle", 4, |buckets| buckets.idle),
        ("no thread yet", FAINT, |buckets| buckets.unbound),
    ];
    let mut below = vec![0.0; looks.len()];
    let areas = states.map(|(name, colour, of)| {
        let stacked = looks.iter().zip(&mut below).map(|((at, buckets), below)| {
            let low = *below;
            *below += of(buckets);
            (*at, low, *below)
        });
        Area {
            name: name.to_owned(),
            colour,
            points: stacked.collect(),
        }
    });
    // What never happened needs no place in the legend.
    let seen = areas
        .into_iter()
        .filter(|area| area.points.iter().any(|(_, low, high)| high > low));
    Some(Plot {
        label: "What the buckets did over time".to_owned(),
        is_titled: false,
        size: SIZE,
        x: seconds(last),
        y: Axis::from_zero(total, ""),
        bands: Vec::new(),
        areas: seen.collect(),
        lines: Vec::new(),
    })
}

fn seconds(last: f64) -> Axis {
    Axis {
        name: "seconds",
        ..Axis::from_zero(last, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_have_units() {
        assert_eq!(
            [0, 2, 3, 5, 6].map(decade),
            ["1 µs", "100 µs", "1 ms", "100 ms", "1 s"]
        );
    }

    #[test]
    fn a_curve_becomes_a_line() {
        let curves = [Curve {
            name: "a & b",
            points: vec![(0.0, 50.0), (0.5, 80.0), (0.999, 9000.0)],
        }];
        let svg = latency(&curves).expect("there are points").svg();
        assert!(
            svg.contains("a &amp; b") && svg.contains("99.9 %") && svg.contains("10 ms"),
            "{svg}"
        );
        assert!(latency(&[]).is_none());
    }
}
