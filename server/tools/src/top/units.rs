//! Numbers as the screen shows them.

use transom_plot::grouped;

/// Three digits or so: `512B`, `10.1KiB`, `340KiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Three digits or so: `45µs`, `1.45ms`, `12s`.
#[must_use]
pub fn time(us: u64) -> String {
    scaled(us, 1000.0, &["µs", "ms", "s"])
}

fn scaled(value: u64, base: f64, units: &[&str]) -> String {
    let mut value = value as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let digits = match value {
        _ if value >= 100.0 => 0,
        _ if value >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let text = match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.'),
        None => &text,
    };
    format!("{text}{}", units[unit])
}

/// Nothing rounded: `16404KiB`.
#[must_use]
pub fn exact(bytes: u64) -> String {
    match bytes {
        _ if bytes > 0 && bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes > 0 && bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

/// `18,231`, below a hundred `4.2`, and `-` where it is not known yet.
#[must_use]
pub fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 99.95 => format!("{rate:.1}"),
        Some(rate) => grouped(rate.round() as u64),
    }
}

/// `17 %`.
#[must_use]
pub fn percent(part: u64, of: u64) -> String {
    if of == 0 {
        return "-".to_owned();
    }
    format!("{:.0} %", part as f64 * 100.0 / of as f64)
}

/// `59 s`, `2 min 5 s`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let all = [0, 512, 10_240, 348_096, 1_245_184, 1 << 40].map(size);
        assert_eq!(all, ["0B", "512B", "10KiB", "340KiB", "1.19MiB", "1TiB"]);
        let all = [45, 1448, 64_000_000].map(time);
        assert_eq!(all, ["45µs", "1.45ms", "64s"]);
        let all = [0, 300, 524_288, 16_797_696, 1 << 21].map(exact);
        assert_eq!(all, ["0B", "300B", "512KiB", "16404KiB", "2MiB"]);
        let all = [None, Some(0.0), Some(99.9), Some(99.99), Some(18231.4)].map(rate);
        assert_eq!(all, ["-", "0.0", "99.9", "100", "18,231"]);
        let all = [5, 65, 7512, 273_600].map(duration);
        assert_eq!(all, ["5 s", "1 min 5 s", "2 h 5 min", "3 d 4 h"]);
        assert_eq!(
            [percent(1, 0), percent(1, 3)],
            ["-".to_owned(), "33 %".to_owned()]
        );
    }
}
