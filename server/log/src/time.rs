//! RFC 3339 timestamps in UTC with milliseconds, written into an array.
//!
//! This is our own code, because `httpdate` has no milliseconds and other crates bring a whole calendar.

use std::time::{SystemTime, UNIX_EPOCH};

/// 9999-12-31T23:59:59.999Z: RFC 3339 has no more than four digits for the year.
const LAST_MS: u64 = 253_402_300_799_999;

/// Milliseconds since 1970; 0 on a machine whose clock has not been set. Reads the clock without a lock or an
/// allocation.
#[inline]
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// `2026-11-21T10:25:00.123Z`
pub(crate) fn rfc3339(unix_ms: u64) -> [u8; 24] {
    let unix_ms = unix_ms.min(LAST_MS);
    let (days, ms_of_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil_from_days(days);

    let mut out = *b"0000-00-00T00:00:00.000Z";
    put(&mut out[0..4], year);
    put(&mut out[5..7], month);
    put(&mut out[8..10], day);
    put(&mut out[11..13], ms_of_day / 3_600_000);
    put(&mut out[14..16], ms_of_day / 60_000 % 60);
    put(&mut out[17..19], ms_of_day / 1_000 % 60);
    put(&mut out[20..23], ms_of_day % 1_000);
    out
}

/// `21/Nov/2026:10:25:00 +0000`, as in the Common Log Format.
pub(crate) fn common(unix_ms: u64) -> [u8; 26] {
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

    let unix_ms = unix_ms.min(LAST_MS);
    let (days, ms_of_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil_from_days(days);
    let name = (month as usize - 1) * 3;

    let mut out = *b"00/Jan/0000:00:00:00 +0000";
    put(&mut out[0..2], day);
    out[3..6].copy_from_slice(&MONTHS[name..name + 3]);
    put(&mut out[7..11], year);
    put(&mut out[12..14], ms_of_day / 3_600_000);
    put(&mut out[15..17], ms_of_day / 60_000 % 60);
    put(&mut out[18..20], ms_of_day / 1_000 % 60);
    out
}

/// Year, month and day of the day that many days after 1970-01-01.
///
/// Howard Hinnant's algorithm (<https://howardhinnant.github.io/date_algorithms.html#civil_from_days>),
/// without the years before 1970. Its year starts in March, so that the leap day is the last one.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_MARCH_OF_YEAR_0_TO_1970: u64 = 719_468;
    const DAYS_IN_400_YEARS: u64 = 146_097;

    let days = days + DAYS_FROM_MARCH_OF_YEAR_0_TO_1970;
    let era = days / DAYS_IN_400_YEARS;
    let day_of_era = days % DAYS_IN_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Fills `digits` with `number`, from the right.
fn put(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(unix_ms: u64) -> String {
        String::from_utf8(rfc3339(unix_ms).to_vec()).unwrap()
    }

    #[test]
    fn known_moments_are_written_as_they_are_known() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(text(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(1_795_256_700_123), "2026-11-21T10:25:00.123Z");
        assert_eq!(text(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(text(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn the_common_log_format_names_its_months() {
        let text = |unix_ms| String::from_utf8(common(unix_ms).to_vec()).unwrap();
        assert_eq!(text(0), "01/Jan/1970:00:00:00 +0000");
        assert_eq!(text(951_782_400_000), "29/Feb/2000:00:00:00 +0000");
        assert_eq!(text(1_795_256_700_123), "21/Nov/2026:10:25:00 +0000");
        assert_eq!(text(u64::MAX), "31/Dec/9999:23:59:59 +0000");
    }

    #[test]
    fn every_day_until_2400_is_the_day_after_the_day_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..157_000 {
            assert_eq!(
                civil_from_days(days),
                (year, month, day),
                "{days} days after 1970-01-01"
            );
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
