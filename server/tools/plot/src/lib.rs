//! Plots as SVG: readable on a telephone, in light and dark, without a script.
//!
//! Colours are classes, which a style sheet ([`STYLE`]) sets for either scheme, and the size is a view box.

mod bars;
mod plot;

pub use bars::{Bar, Bars};
pub use plot::{Area, Axis, Line, Plot, Stroke};

/// Colours for lines, areas and bars that follow each other.
pub const COLOURS: usize = 9;

/// The colour of what hardly matters.
pub const FAINT: usize = COLOURS;

/// About the width of a letter.
const LETTER: f64 = 7.0;

/// The style of every plot; readers that do not see red and green can tell the colours apart, too.
pub const STYLE: &str = "\
svg.plot{--ink:#1c2430;--soft:#667085;--grid:#e4e7ec;--paper:#fff;--band:#f2f4f7;\
font:13px system-ui,sans-serif;background:var(--paper)}\
svg.plot .c0{--c:#1769aa}svg.plot .c1{--c:#d1495b}svg.plot .c2{--c:#7a5cc0}svg.plot .c3{--c:#b7791f}\
svg.plot .c4{--c:#2f855a}svg.plot .c5{--c:#0e9aa7}svg.plot .c6{--c:#c2569e}svg.plot .c7{--c:#8492a6}\
svg.plot .c8{--c:#8a5a44}svg.plot .c9{--c:var(--grid)}\
@media(prefers-color-scheme:dark){svg.plot{--ink:#e6e9ef;--soft:#9aa4b2;--grid:#2c3440;--paper:#12161c;--band:#1b212a}\
svg.plot .c0{--c:#63b3ed}svg.plot .c1{--c:#fc8181}svg.plot .c2{--c:#b794f4}svg.plot .c3{--c:#f6c667}\
svg.plot .c4{--c:#68d391}svg.plot .c5{--c:#4fd1c5}svg.plot .c6{--c:#f687b3}svg.plot .c7{--c:#718096}\
svg.plot .c8{--c:#d6a98f}}\
svg.plot text{fill:var(--soft)}svg.plot .name{fill:var(--ink)}svg.plot .title{fill:var(--ink);font-size:15px}\
svg.plot .grid{stroke:var(--grid);fill:none}svg.plot .band{fill:var(--band)}\
svg.plot .line{stroke:var(--c);fill:none;stroke-width:2;stroke-linejoin:round}\
svg.plot .dashed{stroke-dasharray:7 4}svg.plot .strong{stroke-width:3.5}\
svg.plot .area{fill:var(--c);opacity:.8;stroke:none}svg.plot .dot{fill:var(--ink);opacity:.6}";

/// A plot as a file of its own, with its style.
#[must_use]
pub fn file(svg: &str) -> String {
    svg.replacen('>', &format!("><style>{STYLE}</style>"), 1)
}

/// The start of a plot, and its title if that is shown.
fn begin(label: &str, is_titled: bool, (width, height): (f64, f64)) -> String {
    let label = escape(label);
    let title = match is_titled {
        true => format!("<text class=\"title\" x=\"10\" y=\"22\">{label}</text>"),
        false => String::new(),
    };
    format!(
        "<svg class=\"plot\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-label=\"{label}\">{title}"
    )
}

/// Text as it may stand in an element or an attribute.
#[must_use]
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

/// `1,234,567`.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_three_digits_have_a_comma() {
        let all = [0, 1, 999, 1000, 123_456, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "1", "999", "1,000", "123,456", "1,234,567"]);
    }

    #[test]
    fn every_colour_has_its_class_in_both_schemes() {
        for colour in 0..COLOURS {
            let class = format!("svg.plot .c{colour}{{--c:");
            assert_eq!(STYLE.matches(&class).count(), 2, "{class}");
        }
        assert!(STYLE.contains(&format!(".c{FAINT}{{--c:var(--grid)}}")));
    }
}
