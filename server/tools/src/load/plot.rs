//! Plots as SVG: readable on a telephone, in light and dark, without a script.
//!
//! `plotters` writes SVG too, but with its colours fixed and its size in pixels. Here colours are classes,
//! which a style sheet sets for either scheme, and the size is a view box.

use super::report::{Curve, LoadReport};
use super::units;
use super::watch::{Buckets, Look};
use std::fmt::Write;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 44.0;
const FIRST_ROW: f64 = 20.0;
const ROW: f64 = 19.0;

/// About the width of a letter.
const LETTER: f64 = 7.0;

/// The style of every plot; readers that do not see red and green can tell the colours apart, too.
pub const STYLE: &str = "\
svg.plot{--ink:#1c2430;--soft:#667085;--grid:#e4e7ec;--paper:#fff;--band:#f2f4f7;\
--c0:#1769aa;--c1:#d1495b;--c2:#7a5cc0;--c3:#b7791f;--c4:#2f855a;\
font:13px system-ui,sans-serif;background:var(--paper)}\
@media(prefers-color-scheme:dark){svg.plot{--ink:#e6e9ef;--soft:#9aa4b2;--grid:#2c3440;--paper:#12161c;--band:#1b212a;\
--c0:#63b3ed;--c1:#fc8181;--c2:#b794f4;--c3:#f6c667;--c4:#68d391}}\
svg.plot text{fill:var(--soft)}svg.plot .name{fill:var(--ink)}svg.plot .grid{stroke:var(--grid);fill:none}\
svg.plot .band{fill:var(--band)}svg.plot .line{fill:none;stroke-width:2;stroke-linejoin:round}\
svg.plot .dashed{stroke-dasharray:7 4}svg.plot .area{opacity:.8;stroke:none}\
svg.plot .s0{stroke:var(--c0)}svg.plot .s1{stroke:var(--c1)}svg.plot .s2{stroke:var(--c2)}\
svg.plot .s3{stroke:var(--c3)}svg.plot .s4{stroke:var(--c4)}\
svg.plot .f0{fill:var(--c0)}svg.plot .f1{fill:var(--c1)}svg.plot .f2{fill:var(--c2)}\
svg.plot .f3{fill:var(--c3)}svg.plot .f4{fill:var(--c4)}svg.plot .f5{fill:var(--grid)}";

/// A scale: what is shown, and where the lines of the grid are.
#[derive(Debug)]
struct Axis {
    least: f64,
    most: f64,
    ticks: Vec<(f64, String)>,
    name: &'static str,
}

#[derive(Debug)]
struct Line {
    name: String,
    colour: usize,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

/// An area between two lines over the same places.
#[derive(Debug)]
struct Area {
    name: String,
    colour: usize,
    /// Place, lower and upper edge.
    points: Vec<(f64, f64, f64)>,
}

#[derive(Debug)]
struct Plot {
    label: String,
    x: Axis,
    y: Axis,
    bands: Vec<(f64, f64, String)>,
    areas: Vec<Area>,
    lines: Vec<Line>,
}

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

impl Figure {
    /// As a file of its own.
    pub fn file(&self) -> String {
        self.svg
            .replacen('>', &format!("><style>{STYLE}</style>"), 1)
    }
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
    let line = |name: String, colour, dashed, points| Line {
        name,
        colour,
        dashed,
        points,
    };
    let mut lines = vec![
        line("RSS".to_owned(), 0, false, rss),
        line(
            "PSS".to_owned(),
            2,
            false,
            points(|memory| memory.pss_bytes),
        ),
    ];
    if let Some(bound) = bound {
        let name = format!("bound {}", units::bytes(bound));
        lines.push(line(
            name,
            1,
            true,
            vec![(0.0, mib(bound)), (last, mib(bound))],
        ));
    }
    Some(Plot {
        label: "Memory of the server over time, against its bound".to_owned(),
        x: seconds(last),
        y: from_zero(most * 1.08, "MiB"),
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
    let decades = (low as i32)..=(high as i32);
    let lines = curves.iter().enumerate().map(|(n, curve)| Line {
        name: curve.name.to_owned(),
        colour: [0, 1, 3][n.min(2)],
        dashed: false,
        points: curve
            .points
            .iter()
            .filter(|(part, _)| *part >= 0.5)
            .map(|(part, us)| (tail(*part), us.max(1.0).log10()))
            .collect(),
    });
    Some(Plot {
        label: "Latency by class, as percentile curves".to_owned(),
        x: Axis {
            least: tail(0.5),
            most: furthest,
            ticks: ticks.collect(),
            name: "of the requests were no slower",
        },
        y: Axis {
            least: low,
            most: high,
            ticks: decades.map(|n| (f64::from(n), decade(n))).collect(),
            name: "",
        },
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
        ("no thread yet", 5, |buckets| buckets.unbound),
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
        x: seconds(last),
        y: from_zero(total, ""),
        bands: Vec::new(),
        areas: seen.collect(),
        lines: Vec::new(),
    })
}

fn seconds(last: f64) -> Axis {
    Axis {
        name: "seconds",
        ..from_zero(last, "")
    }
}

/// A scale from nothing, with three to six lines.
fn from_zero(most: f64, unit: &str) -> Axis {
    let most = if most > 0.0 { most } else { 1.0 };
    let power = 10f64.powf((most / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = steps
        .into_iter()
        .find(|step| most / step <= 6.0)
        .unwrap_or(most);
    let ticks = (0..=6)
        .map(|n| f64::from(n) * step)
        .filter(|at| *at <= most * 1.001);
    // Fractions need a digit, and only they.
    let digits = if step < 1.0 {
        (-step.log10()).ceil() as usize
    } else {
        0
    };
    Axis {
        least: 0.0,
        most,
        ticks: ticks
            .map(|at| (at, format!("{at:.digits$} {unit}").trim_end().to_owned()))
            .collect(),
        name: "",
    }
}

/// Where a plot's places are in its view box.
#[derive(Debug, Clone, Copy)]
struct Frame<'p> {
    x: &'p Axis,
    y: &'p Axis,
    /// Below the legend.
    top: f64,
}

impl Frame<'_> {
    const FLOOR: f64 = HEIGHT - BOTTOM;

    fn across(&self, at: f64) -> f64 {
        LEFT + (at - self.x.least) / (self.x.most - self.x.least) * (WIDTH - LEFT - RIGHT)
    }

    fn up(&self, at: f64) -> f64 {
        let part = (at - self.y.least) / (self.y.most - self.y.least);
        Self::FLOOR - part.clamp(0.0, 1.0) * (Self::FLOOR - self.top)
    }

    /// What a path's `d` says for these points.
    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (n, (x, y)) in points.enumerate() {
            let step = if n == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{step}{:.1} {:.1}", self.across(x), self.up(y));
        }
        path
    }
}

impl Plot {
    fn svg(&self) -> String {
        let mut out = format!(
            "<svg class=\"plot\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\">",
            escape(&self.label)
        );
        let last_row = self.legend(&mut out);
        let frame = Frame {
            x: &self.x,
            y: &self.y,
            top: last_row + 14.0,
        };
        self.bands(frame, &mut out);
        self.grid(frame, &mut out);
        for area in &self.areas {
            let upper = area.points.iter().map(|(at, _, high)| (*at, *high));
            let lower = area.points.iter().rev().map(|(at, low, _)| (*at, *low));
            let path = frame.path(upper.chain(lower));
            let _ = write!(out, "<path class=\"area f{}\" d=\"{path}Z\"/>", area.colour);
        }
        for line in &self.lines {
            let path = frame.path(line.points.iter().copied());
            let _ = write!(out, "<path class=\"{}\" d=\"{path}\"/>", line.class());
        }
        out.push_str("</svg>");
        out
    }

    /// Writes the names of what is shown; where their last row is.
    fn legend(&self, out: &mut String) -> f64 {
        let (mut x, mut row) = (LEFT, FIRST_ROW);
        let mut entry = |name: &str, swatch: &dyn Fn(f64, f64) -> String| {
            let width = 38.0 + name.chars().count() as f64 * LETTER;
            if x + width > WIDTH && x > LEFT {
                (x, row) = (LEFT, row + ROW);
            }
            let (swatch, text) = (swatch(x, row), x + 24.0);
            let name = escape(name);
            let _ = write!(
                out,
                "{swatch}<text class=\"name\" x=\"{text}\" y=\"{row}\">{name}</text>"
            );
            x += width;
        };
        for area in &self.areas {
            entry(&area.name, &|x, y| {
                let (colour, y) = (area.colour, y - 10.0);
                format!(
                    "<rect class=\"area f{colour}\" x=\"{x}\" y=\"{y}\" width=\"18\" height=\"11\"/>"
                )
            });
        }
        for line in &self.lines {
            entry(&line.name, &|x, y| {
                format!(
                    "<path class=\"{}\" d=\"M{x} {}h18\"/>",
                    line.class(),
                    y - 4.0
                )
            });
        }
        row
    }

    fn bands(&self, frame: Frame, out: &mut String) {
        for (from, to, name) in &self.bands {
            let (from, to) = (frame.across(*from), frame.across(*to));
            let (name_width, name) = (name.chars().count() as f64 * LETTER, escape(name));
            let (top, width, height) = (frame.top, to - from, Frame::FLOOR - frame.top);
            let _ = write!(
                out,
                "<rect class=\"band\" x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{height}\">\
                 <title>{name}</title></rect>"
            );
            if width > name_width + 4.0 {
                let (x, y) = (f64::midpoint(from, to), Frame::FLOOR - 7.0);
                let _ = write!(
                    out,
                    "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{name}</text>"
                );
            }
        }
    }

    fn grid(&self, frame: Frame, out: &mut String) {
        for (at, name) in &self.y.ticks {
            let (y, right, name) = (frame.up(*at), WIDTH - RIGHT, escape(name));
            let (text_x, text_y) = (LEFT - 6.0, y + 4.5);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
                 <text x=\"{text_x}\" y=\"{text_y:.1}\" text-anchor=\"end\">{name}</text>"
            );
        }
        let mut free_from = f64::NEG_INFINITY;
        for (at, name) in &self.x.ticks {
            let x = frame.across(*at);
            let half = name.chars().count() as f64 * LETTER / 2.0;
            // A name that would overlap the one before it is left out.
            if x - half < free_from {
                continue;
            }
            free_from = x + half + 4.0;
            let (text_x, anchor) = match x + half > WIDTH {
                true => (WIDTH - 2.0, "end"),
                false => (x, "middle"),
            };
            let (top, foot, text_y) = (frame.top, Frame::FLOOR + 4.0, Frame::FLOOR + 19.0);
            let name = escape(name);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{x:.1} {top}V{foot}\"/>\
                 <text x=\"{text_x:.1}\" y=\"{text_y}\" text-anchor=\"{anchor}\">{name}</text>"
            );
        }
        let (x, y, name) = (WIDTH - RIGHT, HEIGHT - 8.0, self.x.name);
        let _ = write!(
            out,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{name}</text>"
        );
    }
}

impl Line {
    fn class(&self) -> String {
        let dashed = if self.dashed { " dashed" } else { "" };
        format!("line s{}{dashed}", self.colour)
    }
}

/// Text as it may stand in an element or an attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_a_few_round_lines() {
        for (most, expected) in [
            (1.0, "0.0 0.2 0.4 0.6 0.8 1.0"),
            (54.4, "0 10 20 30 40 50"),
            (8.0, "0 2 4 6 8"),
        ] {
            let names: Vec<_> = from_zero(most, "")
                .ticks
                .into_iter()
                .map(|(_, name)| name)
                .collect();
            assert_eq!(names.join(" "), expected);
        }
        for n in 1..3000 {
            let ticks = from_zero(f64::from(n) * 0.37, "").ticks.len();
            assert!((3..=7).contains(&ticks), "{n}: {ticks}");
        }
    }

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
