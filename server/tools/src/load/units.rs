//! Figures in a readable form.

/// `21.7 MiB`.
pub fn bytes(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..10_240 => format!("{kib:.1} KiB"),
        10_240..1_048_576 => format!("{kib:.0} KiB"),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", kib / 1024.0),
        _ => format!("{:.2} GiB", kib / 1_048_576.0),
    }
}

/// Microseconds as `85 µs`, `1.20 ms`, `2.50 s`.
pub fn time(microseconds: f64) -> String {
    match microseconds {
        us if us < 999.5 => format!("{us:.0} µs"),
        us if us < 9_995.0 => format!("{:.2} ms", us / 1e3),
        us if us < 999_500.0 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// From one figure to another, in per cent of the first: `+0.02 %`, and `35.9×` from its double on.
pub fn change(from: u64, to: u64) -> String {
    match from {
        0 => "from nothing".to_owned(),
        from if to / 2 >= from => format!("{:.1}×", to as f64 / from as f64),
        from => format!("{:+.2} %", (to as f64 / from as f64 - 1.0) * 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units() {
        assert_eq!(bytes(1000), "1000 B");
        assert_eq!(bytes(348_096), "340 KiB");
        assert_eq!(bytes(22_768_640), "21.7 MiB");
        assert_eq!(time(84.6), "85 µs");
        assert_eq!(time(1234.0), "1.23 ms");
        assert_eq!(time(12_345.0), "12.3 ms");
        assert_eq!(time(2_500_000.0), "2.50 s");
        assert_eq!(change(10_000, 10_002), "+0.02 %");
        assert_eq!(change(10_000, 9_000), "-10.00 %");
        assert_eq!(change(10, 359), "35.9×");
    }
}
