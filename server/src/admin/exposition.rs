//! The text format of Prometheus: families, labels, amounts and histograms.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::time::Duration;
use transom_wire::histogram::Histogram;

pub(super) const COUNTER: &str = "counter";
pub(super) const GAUGE: &str = "gauge";
pub(super) const HISTOGRAM: &str = "histogram";

/// Where lines go.
pub(super) struct Exposition<'w>(pub(super) &'w mut dyn Write);

impl Exposition<'_> {
    /// The lines before the samples of a name.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) -> io::Result<()> {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    /// A name with one sample.
    pub(super) fn one(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        value: impl Display,
    ) -> io::Result<()> {
        self.family(name, kind, help)?;
        writeln!(self.0, "{name} {value}")
    }

    /// A sample with one label.
    pub(super) fn labelled(
        &mut self,
        name: &str,
        label: Label<'_>,
        value: impl Display,
    ) -> io::Result<()> {
        writeln!(self.0, "{name}{{{label}}} {value}")
    }

    /// A sample for each value of a label.
    pub(super) fn each<V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label: &str,
        samples: impl IntoIterator<Item = (&'static str, V)>,
    ) -> io::Result<()> {
        self.family(name, kind, help)?;
        for (of, value) in samples {
            self.labelled(name, Label(label, of), value)?;
        }
        Ok(())
    }

    /// The samples of a histogram. `label` is put into each.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        label: Option<Label<'_>>,
        histogram: &Histogram,
        unit: Unit,
    ) -> io::Result<()> {
        let mut cumulative = 0;
        for (bound, count) in histogram.buckets() {
            cumulative += count;
            let le = Amount(bound, unit);
            match label {
                Some(label) => {
                    writeln!(self.0, "{name}_bucket{{{label},le=\"{le}\"}} {cumulative}")
                }
                None => writeln!(self.0, "{name}_bucket{{le=\"{le}\"}} {cumulative}"),
            }?;
        }
        let sum = Amount(Some(histogram.sum()), unit);
        match label {
            Some(label) => {
                writeln!(self.0, "{name}_sum{{{label}}} {sum}")?;
                writeln!(self.0, "{name}_count{{{label}}} {cumulative}")
            }
            None => {
                writeln!(self.0, "{name}_sum {sum}")?;
                writeln!(self.0, "{name}_count {cumulative}")
            }
        }
    }
}

/// A label: its name, and its value as it is.
#[derive(Clone, Copy)]
pub(super) struct Label<'l>(pub(super) &'l str, pub(super) &'l str);

impl Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=\"", self.0)?;
        let special = |c| matches!(c, '"' | '\\' | '\n');
        for part in self.1.split_inclusive(special) {
            let mut rest = part.chars();
            match rest.next_back() {
                Some('\n') => write!(f, "{}\\n", rest.as_str())?,
                Some(last) if special(last) => write!(f, "{}\\{last}", rest.as_str())?,
                _ => f.write_str(part)?,
            }
        }
        f.write_str("\"")
    }
}

/// What a histogram counts.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Bytes,
    /// Written in seconds.
    Nanoseconds,
}

/// A number of a unit; `None` is above all.
pub(super) struct Amount(pub(super) Option<u64>, pub(super) Unit);

impl Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Amount(None, _) => f.write_str("+Inf"),
            Amount(Some(bytes), Unit::Bytes) => write!(f, "{bytes}"),
            Amount(Some(ns), Unit::Nanoseconds) => {
                write!(f, "{}", Duration::from_nanos(ns).as_secs_f64())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_escaped() {
        let label = Label("route", "/a\"b\\c\nd").to_string();
        assert_eq!(label, r#"route="/a\"b\\c\nd""#);
        assert_eq!(Label("a", "").to_string(), "a=\"\"");
        assert_eq!(Label("a", "plain").to_string(), "a=\"plain\"");
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_infinity() {
        use transom_wire::histogram::Scale;
        let histogram = Histogram::new(Scale::BYTES, 300);
        for value in [1, 256, 290, 10_000] {
            histogram.observe(value);
        }
        let mut bytes = Vec::new();
        let label = Some(Label("route", "/"));
        Exposition(&mut bytes)
            .histogram("x", label, &histogram, Unit::Bytes)
            .expect("a Vec takes everything");
        let text = String::from_utf8(bytes).expect("text");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                r#"x_bucket{route="/",le="256"} 2"#,
                r#"x_bucket{route="/",le="288"} 2"#,
                r#"x_bucket{route="/",le="320"} 3"#,
                r#"x_bucket{route="/",le="+Inf"} 4"#,
                r#"x_sum{route="/"} 10547"#,
                r#"x_count{route="/"} 4"#,
            ]
        );
        let time = Amount(Some(24_576), Unit::Nanoseconds).to_string();
        assert_eq!(time, "0.000024576");
    }
}
