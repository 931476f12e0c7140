//! Values of the flags, and how numbers are written.

use std::time::Duration;

/// Reads `250us`, `20ms`, `1.5s`: a time that is more than nothing.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => f64::NAN,
    };
    let duration = number.parse::<f64>().map(|number| number * seconds);
    let duration = duration
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    duration.filter(|time| !time.is_zero()).ok_or_else(|| {
        format!("{text:?} is not a time: write a number above 0 and us, ms, s or m, as in 20ms")
    })
}

/// Reads requests a second.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    positive(text).filter(|rate| *rate <= 1e9).ok_or_else(|| {
        format!("{text:?} is not a rate: write a number of requests a second, above 0, as in 2000")
    })
}

/// Reads `3x` or `3`.
pub fn parse_factor(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix(['x', '×']).unwrap_or(text);
    positive(number)
        .filter(|factor| (1.0..=1e6).contains(factor))
        .ok_or_else(|| {
            format!(
                "{text:?} is not a factor: write how many times the rate it is, 1 or more, as in 3x"
            )
        })
}

/// Reads `1e-4` or `0.01%`.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => positive(percent).map(|percent| percent / 100.0),
        None => positive(text),
    };
    share
        .filter(|share| (1e-15..1.0).contains(share))
        .ok_or_else(|| {
            format!(
                "{text:?} is not a share of requests: write a number between 1e-15 and 1, as in 1e-4, or one of per cent, as in 0.01%"
            )
        })
}

fn positive(text: &str) -> Option<f64> {
    let number: f64 = text.trim().parse().ok()?;
    (number.is_finite() && number > 0.0).then_some(number)
}

/// A share of requests, to two digits.
pub fn share(share: f64) -> String {
    if share == 0.0 {
        "0".to_owned()
    } else if share < 1e-15 {
        "< 1e-15".to_owned()
    } else if share < 1e-3 {
        format!("{share:.1e}")
    } else {
        format!("{:.2} %", 100.0 * share)
    }
}

/// Bytes as a reader compares them. The equation has the exact number.
pub fn size(bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let bytes = bytes as f64;
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units
        .iter()
        .find(|(_, shift)| bytes >= f64::from(1 << shift))
    {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes / f64::from(1 << shift)),
        None => format!("{bytes} B"),
    }
}

/// A time, to three digits or so.
pub fn time(seconds: f64) -> String {
    let (number, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "us"),
    };
    if number >= 100.0 {
        format!("{number:.0} {unit}")
    } else {
        let text = format!("{number:.2}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        assert_eq!(parse_time("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_rate("2000"), Ok(2000.0));
        assert_eq!(parse_factor("3x"), Ok(3.0));
        assert_eq!(parse_factor("1.5"), Ok(1.5));
        assert_eq!(parse_share("1e-4"), Ok(1e-4));
        assert_eq!(parse_share("1%"), Ok(0.01));
    }

    #[test]
    fn what_is_no_value_is_refused_with_an_example() {
        for text in ["", "20", "ms", "0ms", "-1ms", "1d", "1e400s", "nans"] {
            let why = parse_time(text).expect_err(text);
            assert!(why.contains("as in 20ms"), "{why}");
        }
        for text in ["", "0", "-5", "nan", "inf", "2k"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for text in ["", "0.5x", "x", "nan", "0"] {
            assert!(parse_factor(text).is_err(), "{text}");
        }
        for text in ["", "0", "1", "100%", "-1e-4", "1e-99"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_written_short() {
        assert_eq!(share(0.0), "0");
        assert_eq!(share(1.234e-4), "1.2e-4");
        assert_eq!(share(0.1234), "12.34 %");
        assert_eq!(size(512 << 20), "512.0 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(time(0.02), "20 ms");
        assert_eq!(time(0.000_25), "250 us");
        assert_eq!(time(61.5), "61.5 s");
    }
}
