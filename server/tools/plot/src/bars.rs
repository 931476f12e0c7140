//! Bars from left to right.

use crate::{LETTER, begin, escape};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const ROW: f64 = 26.0;
const TITLE: f64 = 36.0;
const MARGIN: f64 = 10.0;

/// A bar for several measurements of one thing.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What is measured.
    pub name: String,
    /// As of a [`Line`](crate::Line).
    pub colour: usize,
    /// Where it ends.
    pub length: f64,
    /// What is written behind it.
    pub figure: String,
    /// Measurements, a dot for each.
    pub dots: Vec<f64>,
}

/// A plot of bars, one below the other.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What it shows; written above it.
    pub title: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

impl Bars {
    /// One `svg` element, without a style.
    #[must_use]
    pub fn svg(&self) -> String {
        let width_of = |text: fn(&Bar) -> &str| {
            let letters = self.bars.iter().map(|bar| text(bar).chars().count());
            letters.max().unwrap_or(0) as f64 * LETTER + 2.0 * MARGIN
        };
        let left = width_of(|bar| &bar.name);
        let room = WIDTH - left - width_of(|bar| &bar.figure);
        let furthest = |bar: &Bar| bar.dots.iter().copied().fold(bar.length, f64::max);
        let most = self
            .bars
            .iter()
            .map(furthest)
            .fold(f64::MIN_POSITIVE, f64::max);
        let at = |figure: f64| left + figure / most * room;
        let height = TITLE + ROW * self.bars.len() as f64 + MARGIN;
        let mut out = begin(&self.title, true, (WIDTH, height));
        for (number, bar) in self.bars.iter().enumerate() {
            let top = TITLE + ROW * number as f64 + 4.0;
            let (middle, text_y) = (top + ROW / 2.0 - 4.0, top + ROW / 2.0 + 0.5);
            let (name, figure) = (escape(&bar.name), escape(&bar.figure));
            let (width, height) = (at(bar.length) - left, ROW - 8.0);
            let _ = write!(
                out,
                "<text class=\"name\" x=\"{MARGIN}\" y=\"{text_y}\">{name}</text>\
                 <rect class=\"area c{}\" x=\"{left}\" y=\"{top}\" width=\"{width:.1}\" height=\"{height}\"/>",
                bar.colour
            );
            for dot in &bar.dots {
                let x = at(*dot);
                let _ = write!(
                    out,
                    "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{middle}\" r=\"3\"/>"
                );
            }
            let x = at(furthest(bar)) + 8.0;
            let _ = write!(
                out,
                "<text class=\"name\" x=\"{x:.1}\" y=\"{text_y}\">{figure}</text>"
            );
        }
        out.push_str("</svg>");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_its_name_its_figure_and_a_dot_for_each_measurement() {
        let bar = |name: &str, length, dots: &[f64]| Bar {
            name: name.to_owned(),
            colour: 3,
            length,
            figure: format!("{length} ms"),
            dots: dots.to_vec(),
        };
        let bars = Bars {
            title: "a & b".to_owned(),
            bars: vec![bar("long", 8.0, &[7.0, 8.0, 10.0]), bar("none", 0.0, &[])],
        };
        let svg = bars.svg();
        for part in [
            ">a &amp; b</text>",
            ">long</text>",
            ">8 ms</text>",
            ">0 ms</text>",
        ] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
        let counts = ["<circle", "area c3", "NaN"].map(|part| svg.matches(part).count());
        assert_eq!(counts, [3, 2, 0]);
    }
}
