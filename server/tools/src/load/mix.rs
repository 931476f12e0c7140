//! The requests to send: `GET /10 95%`, and `GET /{100..2000} 5%` with a new random size for each request.

use super::random::Random;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// How far from 100 % the shares may add up to.
const SHARES_TOLERANCE: f64 = 0.05;

/// The most kinds of requests in a mix: each has histograms of its own.
pub const ENTRIES_MAX: usize = 16;

/// One kind of request, and its share of all.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The method.
    pub method: String,
    /// The path before the size; all of it if there is no range.
    pub before: String,
    /// The sizes, in the application's own unit, and the path after the size.
    pub range: Option<(RangeInclusive<u64>, String)>,
    /// Of all requests, from 0 to 1.
    pub share: f64,
    /// Whether it is expected to need more memory than there may be: then its failures do not count against
    /// the server.
    pub hungry: bool,
}

impl Entry {
    /// A size of the range; 0 if there is none.
    pub fn draw(&self, random: &mut Random) -> u64 {
        self.range
            .as_ref()
            .map_or(0, |(range, _)| random.within(range.clone()))
    }

    /// Writes a request for a size.
    pub fn write_request(&self, host: &str, size: u64, out: &mut Vec<u8>) {
        let mut push = |text: &str| out.extend_from_slice(text.as_bytes());
        push(&self.method);
        push(" ");
        push(&self.before);
        if let Some((_, after)) = &self.range {
            push(&size.to_string());
            push(after);
        }
        push(" HTTP/1.1\r\nHost: ");
        push(host);
        push("\r\n");
        if matches!(self.method.as_str(), "POST" | "PUT" | "PATCH") {
            push("Content-Length: 0\r\n");
        }
        push("\r\n");
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.before)?;
        if let Some((range, after)) = &self.range {
            write!(f, "{{{}..{}}}{after}", range.start(), range.end())?;
        }
        Ok(())
    }
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (method, path, share, word) = match words[..] {
            [method, path, share] => (method, path, share, None),
            [method, path, share, word] => (method, path, share, Some(word)),
            _ => {
                return Err(format!(
                    "{text:?} is not a kind of request: write METHOD PATH SHARE, as in 'GET /10 95%'"
                ));
            }
        };
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(format!(
                "{method:?} is not a method: write it in capitals, as in 'GET /10 95%'"
            ));
        }
        if method == "CONNECT" {
            return Err("CONNECT is not a request that is answered and done".to_owned());
        }
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "{path:?} is not a path: it begins with / and is ASCII (%C3%A4 for ä)"
            ));
        }
        let (before, range) = parse_path(path)?;
        let percent = share
            .strip_suffix('%')
            .and_then(|number| number.parse::<f64>().ok())
            .filter(|percent| *percent > 0.0 && *percent <= 100.0)
            .ok_or_else(|| {
                format!("{share:?} is not a share: write more than 0% and at most 100%, as in 2.5%")
            })?;
        let hungry = match word {
            None => range.is_some(),
            Some("hungry") => true,
            Some("ordinary") => false,
            Some(word) => {
                return Err(format!(
                    "{word:?} after the share is neither hungry nor ordinary"
                ));
            }
        };
        Ok(Entry {
            method: method.to_owned(),
            before,
            range,
            share: percent / 100.0,
            hungry,
        })
    }
}

type Range = Option<(RangeInclusive<u64>, String)>;

/// The text before a range in braces, the range, and the text after it.
fn parse_path(path: &str) -> Result<(String, Range), String> {
    let wrong = |why: &str| {
        format!("{path:?} {why}: write sizes as a range in braces, as in /{{100..2000}}")
    };
    let Some((before, rest)) = path.split_once('{') else {
        return match path.contains('}') {
            true => Err(wrong("has a } without a {")),
            false => Ok((path.to_owned(), None)),
        };
    };
    let (inner, after) = rest
        .split_once('}')
        .ok_or_else(|| wrong("has a { without a }"))?;
    if after.contains(['{', '}']) {
        return Err(wrong("has more braces than one range"));
    }
    let (low, high) = inner
        .split_once("..")
        .ok_or_else(|| wrong("has braces without a range"))?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (Some(low), Some(high)) = (number(low), number(high)) else {
        return Err(wrong("has a range that is not two whole numbers"));
    };
    if low > high || high == u64::MAX {
        return Err(wrong("has a range that ends before it begins"));
    }
    Ok((before.to_owned(), Some((low..=high, after.to_owned()))))
}

/// Checks what entries mean together.
///
/// # Errors
/// What is wrong, with the flag's name.
pub fn check(entries: &[Entry]) -> Result<(), String> {
    if entries.len() > ENTRIES_MAX {
        return Err(format!(
            "--mix: {} kinds of requests are more than {ENTRIES_MAX}",
            entries.len()
        ));
    }
    let percent: f64 = entries.iter().map(|entry| entry.share * 100.0).sum();
    if (percent - 100.0).abs() > SHARES_TOLERANCE {
        return Err(format!(
            "--mix: the shares add up to {percent:.2}%, not to 100%"
        ));
    }
    if entries.iter().all(|entry| entry.hungry) {
        return Err(
            "--mix: every kind of request is hungry; without an ordinary one there is none to suffer \
             (add one such as 'GET /10 95%', or the word ordinary after a share)"
                .to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        text.parse().expect("it is a kind of request")
    }

    fn request(entry: &Entry, size: u64) -> String {
        let mut out = Vec::new();
        entry.write_request("h:1", size, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn a_path_may_have_one_range() {
        let plain = entry("GET /10 95%");
        assert!(!plain.hungry && plain.range.is_none());
        assert_eq!(request(&plain, 7), "GET /10 HTTP/1.1\r\nHost: h:1\r\n\r\n");
        let ranged = entry("POST /hold/{100..2000}/5 2.5%");
        assert!(ranged.hungry);
        assert!((ranged.share - 0.025).abs() < 1e-12);
        assert_eq!(ranged.to_string(), "POST /hold/{100..2000}/5");
        assert_eq!(
            request(&ranged, 340),
            "POST /hold/340/5 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 0\r\n\r\n"
        );
        let mut random = Random::new(1);
        for _ in 0..1000 {
            assert!((100..=2000).contains(&ranged.draw(&mut random)));
        }
        assert!(entry("GET /panic 1% hungry").hungry);
        assert!(!entry("GET /{1..20} 99% ordinary").hungry);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "METHOD PATH SHARE"),
            ("GET /10", "METHOD PATH SHARE"),
            ("get /10 5%", "\"get\" is not a method"),
            ("CONNECT /10 5%", "CONNECT"),
            ("GET 10 5%", "\"10\" is not a path"),
            ("GET /ä 5%", "is not a path"),
            ("GET /10 5", "\"5\" is not a share"),
            ("GET /10 0%", "\"0%\" is not a share"),
            ("GET /10 101%", "is not a share"),
            ("GET /10 NaN%", "is not a share"),
            ("GET /10 5% greedy", "\"greedy\""),
            ("GET /{1..2 5%", "without a }"),
            ("GET /1..2} 5%", "without a {"),
            ("GET /{1-2} 5%", "without a range"),
            ("GET /{..2} 5%", "two whole numbers"),
            ("GET /{1..99999999999999999999} 5%", "two whole numbers"),
            ("GET /{5..2} 5%", "ends before it begins"),
            ("GET /{1..2}/{3..4} 5%", "more braces"),
        ] {
            let error = text.parse::<Entry>().expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn shares_add_up() {
        let mix = |texts: &[&str]| check(&texts.iter().map(|text| entry(text)).collect::<Vec<_>>());
        assert_eq!(mix(&["GET /1 95%", "GET /{1..2} 5%"]), Ok(()));
        assert_eq!(
            mix(&["GET /1 33.33%", "GET /2 33.33%", "GET /3 33.33%"]),
            Ok(())
        );
        let error = mix(&["GET /1 95%", "GET /2 6%"]).expect_err("101 %");
        assert!(
            error.contains("--mix") && error.contains("101.00%"),
            "{error}"
        );
        assert!(
            mix(&["GET /{1..2} 100%"])
                .expect_err("hungry")
                .contains("--mix")
        );
        assert!(
            mix(&["GET /1 5%"; 20])
                .expect_err("too many")
                .contains("--mix")
        );
    }
}
