//! Lines and areas over two scales.

use crate::{LETTER, begin, escape};
use std::fmt::Write;

const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 44.0;
const FIRST_ROW: f64 = 20.0;
const ROW: f64 = 19.0;

/// A scale: what is shown, and where the lines of the grid are.
#[derive(Debug, Clone)]
pub struct Axis {
    /// Where it begins.
    pub least: f64,
    /// Where it ends.
    pub most: f64,
    /// Lines of the grid, with what is said at them.
    pub ticks: Vec<(f64, String)>,
    /// What the figures are. Said of the scale from left to right only.
    pub name: &'static str,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// As most are.
    Plain,
    /// A limit, or the second of two in one colour.
    Dashed,
    /// What the reader looks for.
    Strong,
}

/// A line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// Below [`COLOURS`](crate::COLOURS), or [`FAINT`](crate::FAINT).
    pub colour: usize,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Place and height.
    pub points: Vec<(f64, f64)>,
}

/// An area between two lines over the same places.
#[derive(Debug, Clone)]
pub struct Area {
    /// What the legend calls it.
    pub name: String,
    /// As of a [`Line`].
    pub colour: usize,
    /// Place, lower and upper edge.
    pub points: Vec<(f64, f64, f64)>,
}

/// A plot of lines and areas, with a legend.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What it shows.
    pub label: String,
    /// Whether that is written above it.
    pub is_titled: bool,
    /// Width and height of the view box, in which text is 13 high.
    pub size: (f64, f64),
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// Places from and to which the background is shaded, and why.
    pub bands: Vec<(f64, f64, String)>,
    /// Areas, below the lines.
    pub areas: Vec<Area>,
    /// Lines.
    pub lines: Vec<Line>,
}

impl Axis {
    /// A scale from nothing, with three to six lines.
    #[must_use]
    pub fn from_zero(most: f64, unit: &str) -> Self {
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
        Self {
            least: 0.0,
            most,
            ticks: ticks
                .map(|at| (at, format!("{at:.digits$} {unit}").trim_end().to_owned()))
                .collect(),
            name: "",
        }
    }

    /// A scale of logarithms to the base 10, with a line for each decade.
    #[must_use]
    pub fn decades(least: f64, most: f64, name_of: impl Fn(i32) -> String) -> Self {
        let decades = (least.ceil() as i32)..=(most.floor() as i32);
        Self {
            least,
            most,
            ticks: decades.map(|n| (f64::from(n), name_of(n))).collect(),
            name: "",
        }
    }
}

/// Where a plot's places are in its view box.
#[derive(Debug, Clone, Copy)]
struct Frame<'p> {
    x: &'p Axis,
    y: &'p Axis,
    /// Below the legend.
    top: f64,
    floor: f64,
    width: f64,
}

impl Frame<'_> {
    fn across(&self, at: f64) -> f64 {
        LEFT + (at - self.x.least) / (self.x.most - self.x.least) * (self.width - LEFT - RIGHT)
    }

    fn up(&self, at: f64) -> f64 {
        let part = (at - self.y.least) / (self.y.most - self.y.least);
        self.floor - part.clamp(0.0, 1.0) * (self.floor - self.top)
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
    /// One `svg` element, without a style.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut out = begin(&self.label, self.is_titled, self.size);
        let last_row = self.legend(&mut out);
        let frame = Frame {
            x: &self.x,
            y: &self.y,
            top: last_row + 14.0,
            floor: self.size.1 - BOTTOM,
            width: self.size.0,
        };
        self.bands(frame, &mut out);
        self.grid(frame, &mut out);
        for area in &self.areas {
            let upper = area.points.iter().map(|(at, _, high)| (*at, *high));
            let lower = area.points.iter().rev().map(|(at, low, _)| (*at, *low));
            let path = frame.path(upper.chain(lower));
            let _ = write!(out, "<path class=\"area c{}\" d=\"{path}Z\"/>", area.colour);
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
        let title = if self.is_titled { ROW + 5.0 } else { 0.0 };
        let (mut x, mut row) = (LEFT, FIRST_ROW + title);
        let mut entry = |name: &str, swatch: &dyn Fn(f64, f64) -> String| {
            let width = 38.0 + name.chars().count() as f64 * LETTER;
            if x + width > self.size.0 && x > LEFT {
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
                    "<rect class=\"area c{colour}\" x=\"{x}\" y=\"{y}\" width=\"18\" height=\"11\"/>"
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
            let (top, width, height) = (frame.top, to - from, frame.floor - frame.top);
            let _ = write!(
                out,
                "<rect class=\"band\" x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{height}\">\
                 <title>{name}</title></rect>"
            );
            if width > name_width + 4.0 {
                let (x, y) = (f64::midpoint(from, to), frame.floor - 7.0);
                let _ = write!(
                    out,
                    "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{name}</text>"
                );
            }
        }
    }

    fn grid(&self, frame: Frame, out: &mut String) {
        for (at, name) in &self.y.ticks {
            let (y, right, name) = (frame.up(*at), frame.width - RIGHT, escape(name));
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
            let (text_x, anchor) = match x + half > frame.width {
                true => (frame.width - 2.0, "end"),
                false => (x, "middle"),
            };
            let (top, foot, text_y) = (frame.top, frame.floor + 4.0, frame.floor + 19.0);
            let name = escape(name);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{x:.1} {top}V{foot}\"/>\
                 <text x=\"{text_x:.1}\" y=\"{text_y}\" text-anchor=\"{anchor}\">{name}</text>"
            );
        }
        let (x, y, name) = (frame.width - RIGHT, self.size.1 - 8.0, self.x.name);
        let _ = write!(
            out,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{name}</text>"
        );
    }
}

impl Line {
    fn class(&self) -> String {
        let stroke = match self.stroke {
            Stroke::Plain => "",
            Stroke::Dashed => " dashed",
            Stroke::Strong => " strong",
        };
        format!("line c{}{stroke}", self.colour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_a_few_round_lines() {
        let names = |axis: Axis| {
            let names = axis.ticks.into_iter().map(|(_, name)| name);
            names.collect::<Vec<_>>().join(" ")
        };
        for (most, expected) in [
            (1.0, "0.0 0.2 0.4 0.6 0.8 1.0"),
            (54.4, "0 10 20 30 40 50"),
            (8.0, "0 2 4 6 8"),
        ] {
            assert_eq!(names(Axis::from_zero(most, "")), expected);
        }
        for n in 1..3000 {
            let ticks = Axis::from_zero(f64::from(n) * 0.37, "").ticks.len();
            assert!((3..=7).contains(&ticks), "{n}: {ticks}");
        }
        let decades = Axis::decades(0.0, 3.4, |n| format!("1e{n}"));
        assert_eq!(names(decades), "1e0 1e1 1e2 1e3");
    }

    #[test]
    fn what_is_shown_has_its_name_and_its_colour() {
        let plot = Plot {
            label: "a < b".to_owned(),
            is_titled: true,
            size: (480.0, 300.0),
            x: Axis::from_zero(10.0, ""),
            y: Axis::from_zero(1.0, "MiB"),
            bands: vec![(2.0, 8.0, "shaded".to_owned())],
            areas: vec![Area {
                name: "below".to_owned(),
                colour: 4,
                points: vec![(0.0, 0.0, 0.5), (10.0, 0.0, 1.0)],
            }],
            lines: vec![Line {
                name: "limit".to_owned(),
                colour: 1,
                stroke: Stroke::Dashed,
                points: vec![(0.0, 1.0), (10.0, 1.0)],
            }],
        };
        let svg = plot.svg();
        for part in [
            ">a &lt; b</text>",
            ">below</text>",
            ">limit</text>",
            ">shaded</text>",
            ">0.4 MiB</text>",
            "class=\"area c4\" d=\"M",
            "class=\"line c1 dashed\" d=\"M",
        ] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
    }
}
