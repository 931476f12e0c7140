//! Plots of the results, as SVG.

use crate::measure::Row;
use crate::statistics::Spread;
use std::{fs, io, path::Path};
use transom_plot::{Axis, Bar, Bars, COLOURS, Line, Plot, Stroke, grouped};

const OURS: usize = 0;
const OTHERS: usize = 7;

/// A bar for each server, as long as the median of its runs, and a dot for each run: the further the dots lie
/// apart, the less the bar says.
pub fn bars(path: &Path, title: &str, rows: &[(String, bool, Vec<f64>)]) -> io::Result<()> {
    let bar = |(name, ours, runs): &(String, bool, Vec<f64>)| {
        let median = Spread::of(runs.iter().copied())?.median;
        Some(Bar {
            name: name.clone(),
            colour: if *ours { OURS } else { OTHERS },
            length: median,
            figure: rounded(median),
            dots: runs.clone(),
        })
    };
    let bars = Bars {
        title: title.to_owned(),
        bars: rows.iter().filter_map(bar).collect(),
    };
    fs::write(path, transom_plot::file(&bars.svg()))
}

/// Memory over time, a line for each server.
pub fn attack(path: &Path, rows: &[Row]) -> io::Result<()> {
    let lines = rows.iter().filter_map(|row| {
        let memory = row.attack.as_ref()?.memory.iter();
        Some((
            row.name.clone(),
            memory
                .map(|(at, bytes)| (*at, *bytes as f64 / (1 << 20) as f64))
                .collect(),
        ))
    });
    fs::write(path, transom_plot::file(&memory(lines.collect()).svg()))
}

/// Mebibytes by seconds; ours are the first two.
fn memory(servers: Vec<(String, Vec<(f64, f64)>)>) -> Plot {
    let points = || servers.iter().flat_map(|(_, points)| points);
    let first = points().fold(0.0, |first: f64, (at, _)| first.min(*at));
    let last = points().fold(1.0, |last: f64, (at, _)| last.max(*at));
    let most = points().fold(10.0, |most: f64, (_, mib)| most.max(*mib));
    let lines = servers
        .into_iter()
        .enumerate()
        .map(|(number, (name, points))| Line {
            name,
            colour: number % COLOURS,
            stroke: match number {
                0..2 => Stroke::Strong,
                2..COLOURS => Stroke::Plain,
                _ => Stroke::Dashed,
            },
            points: points
                .into_iter()
                .map(|(at, mib)| (at, mib.max(1.0).log10()))
                .collect(),
        });
    Plot {
        label: "Resident memory while 200 clients ask for 20 MB each, MiB".to_owned(),
        is_titled: true,
        size: (860.0, 420.0),
        x: Axis {
            least: first,
            name: "seconds since the attack began",
            ..Axis::from_zero(last, "")
        },
        y: Axis::decades(0.0, (most * 1.5).log10(), |n| grouped(10_u64.pow(n as u32))),
        bands: Vec::new(),
        areas: Vec::new(),
        lines: lines.collect(),
    }
}

/// With as many places as tell something.
pub fn rounded(figure: f64) -> String {
    let sign = if figure < 0.0 { "-" } else { "" };
    match figure {
        figure if figure.abs() >= 1000.0 => {
            format!("{sign}{}", grouped(figure.abs().round() as u64))
        }
        figure if figure.abs() >= 100.0 => format!("{figure:.0}"),
        figure if figure.abs() >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_as_many_places_as_tell_something() {
        let texts = [0.123, 5.678, 56.78, 567.8, 5678.0, 1_364_915.2, -12_345.0].map(rounded);
        assert_eq!(
            texts,
            [
                "0.12",
                "5.68",
                "56.8",
                "568",
                "5,678",
                "1,364,915",
                "-12,345"
            ]
        );
    }

    #[test]
    fn memory_is_told_apart_over_three_decades() {
        let flat = |name: &str, mib| (name.to_owned(), vec![(0.0, mib), (9.5, mib)]);
        let svg = memory(vec![flat("small", 3.0), flat("large", 3000.0)]).svg();
        for part in [
            ">small</text>",
            ">large</text>",
            ">1</text>",
            ">1,000</text>",
        ] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
    }
}
