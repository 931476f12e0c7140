//! Validators of a file and the conditions that a request puts on them (RFC 9110 §8.8, §13).

use crate::ranges::trim;
use httpdate::{HttpDate, parse_http_date};
use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// How long after its last change a file's tag is weak. Two changes within one tick of the file system's
/// clock (10 ms here, a second elsewhere) leave the same times behind, and a strong tag must not stand for
/// two contents.
const SETTLING: Duration = Duration::from_secs(1);

/// The first second that has no HTTP date: that of the year 10000.
const DATES_END: i64 = 253_402_300_800;

/// What tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    tag: String,
    weak: bool,
    /// To the second, as the client sees it, and only a second that is over. `None` for a time that no HTTP
    /// date can express.
    modified: Option<SystemTime>,
    /// When the contents changed last, as far as can be known: the later of the two times of the file, to the
    /// second. A modification time can be set to any value (`touch -d`, `rsync -t`, archives, reproducible
    /// builds), also to that of the version before; the time of the last status change cannot. With
    /// [`Tags::Replicas`] the modification time alone.
    changed: Option<SystemTime>,
    /// `modified` is `changed`: no other version at the same place has this date (§8.8.2.2).
    modified_is_strong: bool,
}

/// What tags are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Size, inode and both times: one machine's, and of one version of a file only.
    OwnFile,
    /// Size and modification time, so that machines with copies of the same files agree, on dates too. Weak,
    /// because two versions may have the same ones.
    Replicas,
}

/// Modification times that mean nothing: reproducible builds and some package stores give 0 or 1 to every
/// file.
const EPOCH_TIMES: std::ops::RangeInclusive<i64> = 0..=1;

/// Conditions as they came, each the value of its field, or the values of several joined by commas.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'r> {
    /// `If-Match`.
    pub if_match: Option<&'r [u8]>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<&'r [u8]>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'r [u8]>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<&'r [u8]>,
    /// `If-Range`.
    pub if_range: Option<&'r [u8]>,
}

/// What the conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 412.
    Failed,
    /// 304.
    NotModified,
    /// The file is sent, and a `Range` is looked at if `ranges`.
    Send {
        /// `If-Range` is not there or holds.
        ranges: bool,
    },
}

impl Validators {
    /// The validators of a file at the time `now`.
    pub fn of(metadata: &Metadata, tags: Tags, now: SystemTime) -> Self {
        let (mtime, ctime) = (metadata.mtime(), metadata.ctime());
        let says_nothing = EPOCH_TIMES.contains(&mtime);
        let for_replicas = tags == Tags::Replicas && !says_nothing;
        // Only the whole second of the modification time, if copies are to agree: archives and `rsync` to an
        // older file system keep no more.
        let tag = if for_replicas {
            format!("{:x}-{mtime:x}", metadata.size())
        } else {
            format!(
                "{:x}-{:x}.{:x}-{:x}.{:x}-{:x}",
                metadata.size(),
                mtime,
                metadata.mtime_nsec(),
                ctime,
                metadata.ctime_nsec(),
                metadata.ino()
            )
        };
        let touched = time(ctime).map(|time| time + nanoseconds(metadata.ctime_nsec()));
        // A change in the future means that the clock was put back: it tells nothing.
        let settled = touched
            .is_some_and(|touched| now.duration_since(touched).is_ok_and(|age| age >= SETTLING));
        // Not later than the answer itself (§8.8.2.1), nor in a second that may see another version: a client
        // that was given the date of such a second would take that version for this one.
        let mtime = time(mtime).filter(|_| !says_nothing);
        let last = match for_replicas {
            true => mtime,
            false => mtime.map(|mtime| mtime.max(time(ctime).unwrap_or(mtime))),
        };
        let until = |end: SystemTime| last.map(|last| last.min(whole_second(end)));
        let modified = until(now - 2 * SETTLING);
        let changed = until(now).or(time(ctime));
        let modified_is_strong = !for_replicas && modified.is_some() && changed == modified;
        Self {
            tag,
            weak: for_replicas || !settled,
            modified,
            changed,
            modified_is_strong,
        }
    }

    /// The value of `ETag`.
    pub fn etag(&self) -> impl fmt::Display + '_ {
        let weak = if self.weak { "W/" } else { "" };
        fmt::from_fn(move |f| write!(f, "{weak}\"{}\"", self.tag))
    }

    /// The value of `Last-Modified`.
    pub fn last_modified(&self) -> Option<HttpDate> {
        self.modified.map(HttpDate::from)
    }

    /// Weighs a GET's or HEAD's conditions in the order of RFC 9110 §13.2.2. `was_here(then)` says whether
    /// the name has stood for this file since `then`.
    pub fn judge(
        &self,
        conditions: &Conditions<'_>,
        was_here: impl FnOnce(SystemTime) -> bool,
    ) -> Verdict {
        if let Some(tags) = conditions.if_match {
            if !self.is_among(tags, Comparison::Strong) {
                return Verdict::Failed;
            }
        } else if let (Some(since), Some(changed)) =
            (conditions.if_unmodified_since.and_then(date), self.changed)
            && changed > since
        {
            return Verdict::Failed;
        }
        if let Some(tags) = conditions.if_none_match {
            if self.is_among(tags, Comparison::Weak) {
                return Verdict::NotModified;
            }
        } else if let (Some(since), Some(changed)) =
            (conditions.if_modified_since.and_then(date), self.changed)
            && changed <= since
        {
            return Verdict::NotModified;
        }
        let ranges = conditions
            .if_range
            .is_none_or(|value| self.is_exactly(value, was_here));
        Verdict::Send { ranges }
    }

    /// Whether `If-Range` holds: one strong tag that is ours, or the very date of a strong `Last-Modified`,
    /// if the file has not come to its name since then.
    fn is_exactly(&self, value: &[u8], was_here: impl FnOnce(SystemTime) -> bool) -> bool {
        match tag(trim(value)) {
            Some((tag, b"")) => self.equals(tag, Comparison::Strong),
            Some(_) => false,
            None => {
                self.modified_is_strong
                    && date(value).is_some_and(|date| self.modified == Some(date) && was_here(date))
            }
        }
    }

    /// Whether a list of tags has ours, or is `*`. A list that is malformed has none.
    fn is_among(&self, list: &[u8], comparison: Comparison) -> bool {
        let mut rest = trim(list);
        if rest == b"*" {
            return true;
        }
        let mut found = false;
        loop {
            while let [b' ' | b'\t' | b',', after @ ..] = rest {
                rest = after;
            }
            if rest.is_empty() {
                return found;
            }
            let Some((tag, after)) = tag(rest) else {
                return false;
            };
            found |= self.equals(tag, comparison);
            rest = trim(after);
            if !matches!(rest, [] | [b',', ..]) {
                return false;
            }
        }
    }

    fn equals(&self, tag: Tag<'_>, comparison: Comparison) -> bool {
        let strong_enough = comparison == Comparison::Weak || !(tag.weak || self.weak);
        strong_enough && tag.opaque == self.tag.as_bytes()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

#[derive(Clone, Copy)]
struct Tag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// The tag that `bytes` begins with, and what follows it.
fn tag(bytes: &[u8]) -> Option<(Tag<'_>, &[u8])> {
    // The W is case-sensitive.
    let (weak, quoted) = match bytes.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, bytes),
    };
    let quoted = quoted.strip_prefix(b"\"")?;
    let end = quoted.iter().position(|&byte| byte == b'"')?;
    let opaque = &quoted[..end];
    let allowed = |&byte: &u8| byte > b' ' && byte != 0x7f;
    let tag = Tag { weak, opaque };
    opaque
        .iter()
        .all(allowed)
        .then_some((tag, &quoted[end + 1..]))
}

/// An HTTP date, in any of its three forms. One that is malformed is to be ignored.
fn date(value: &[u8]) -> Option<SystemTime> {
    parse_http_date(std::str::from_utf8(trim(value)).ok()?).ok()
}

fn time(seconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok()?;
    (seconds < DATES_END.cast_unsigned())
        .then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn nanoseconds(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

fn whole_second(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &[u8] = b"Sun, 06 Nov 1994 08:49:36 GMT";
    const THEN: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &[u8] = b"Sun, 06 Nov 1994 08:49:38 GMT";
    const SEND: Verdict = Verdict::Send { ranges: true };
    const ALWAYS: fn(SystemTime) -> bool = |_| true;

    fn strong() -> Validators {
        Validators {
            tag: "a-b".into(),
            weak: false,
            modified: date(THEN),
            changed: date(THEN),
            modified_is_strong: true,
        }
    }

    /// Of a file whose modification time was set back, as it may have been for the version before too.
    fn set_back() -> Validators {
        Validators {
            changed: date(AFTER),
            modified_is_strong: false,
            ..strong()
        }
    }

    fn weak() -> Validators {
        Validators {
            weak: true,
            modified_is_strong: false,
            ..strong()
        }
    }

    fn none_match(value: &[u8]) -> Conditions<'_> {
        Conditions {
            if_none_match: Some(value),
            ..Conditions::default()
        }
    }

    fn matches(value: &[u8]) -> Conditions<'_> {
        Conditions {
            if_match: Some(value),
            ..Conditions::default()
        }
    }

    #[test]
    fn without_conditions_the_file_is_sent() {
        assert_eq!(strong().judge(&Conditions::default(), ALWAYS), SEND);
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for list in [
            &b"\"a-b\""[..],
            b"W/\"a-b\"",
            b"*",
            b" * ",
            b"\"x\", \"a-b\"",
            b"\"x,\" ,,\t\"a-b\" ,",
            b"\"\xff\",\"a-b\"",
        ] {
            for validators in [strong(), weak()] {
                assert_eq!(
                    validators.judge(&none_match(list), ALWAYS),
                    Verdict::NotModified,
                    "{}",
                    list.escape_ascii()
                );
            }
        }
        for list in [
            &b""[..],
            b"\"x\"",
            b"a-b",
            b"\"a-b",
            b"w/\"a-b\"",
            b"W/ \"a-b\"",
            b"\"a-b\" \"x\"",
            b"\"a-b\", x",
            b"*, \"x\"",
            b"\"a b\", \"a-b\"",
            b"\"a-b\";",
        ] {
            assert_eq!(
                strong().judge(&none_match(list), ALWAYS),
                SEND,
                "{}",
                list.escape_ascii()
            );
        }
    }

    #[test]
    fn if_match_compares_strongly() {
        for list in [&b"\"a-b\""[..], b"*", b"\"x\",\"a-b\""] {
            assert_eq!(
                strong().judge(&matches(list), ALWAYS),
                SEND,
                "{}",
                list.escape_ascii()
            );
        }
        for list in [&b"W/\"a-b\""[..], b"\"x\"", b"", b"a-b"] {
            assert_eq!(
                strong().judge(&matches(list), ALWAYS),
                Verdict::Failed,
                "{}",
                list.escape_ascii()
            );
        }
        assert_eq!(weak().judge(&matches(b"\"a-b\""), ALWAYS), Verdict::Failed);
        assert_eq!(weak().judge(&matches(b"*"), ALWAYS), SEND);
    }

    #[test]
    fn dates_are_compared_to_the_second_and_ignored_when_malformed() {
        let since = |value| Conditions {
            if_modified_since: Some(value),
            ..Conditions::default()
        };
        let unmodified = |value| Conditions {
            if_unmodified_since: Some(value),
            ..Conditions::default()
        };
        for (value, since_verdict, unmodified_verdict) in [
            (BEFORE, SEND, Verdict::Failed),
            (THEN, Verdict::NotModified, SEND),
            (AFTER, Verdict::NotModified, SEND),
            (
                b"Sunday, 06-Nov-94 08:49:37 GMT",
                Verdict::NotModified,
                SEND,
            ),
            (b"Sun Nov  6 08:49:37 1994", Verdict::NotModified, SEND),
            (b"yesterday", SEND, SEND),
            (b"", SEND, SEND),
            (b"\xff", SEND, SEND),
            (
                b"Sun, 06 Nov 1994 08:49:38 GMT, Sun, 06 Nov 1994 08:49:38 GMT",
                SEND,
                SEND,
            ),
        ] {
            let shown = value.escape_ascii();
            assert_eq!(
                strong().judge(&since(value), ALWAYS),
                since_verdict,
                "{shown}"
            );
            assert_eq!(
                strong().judge(&unmodified(value), ALWAYS),
                unmodified_verdict,
                "{shown}"
            );
        }
    }

    #[test]
    fn a_date_before_the_last_change_says_nothing_of_the_contents() {
        for (value, since, unmodified) in [
            (BEFORE, SEND, Verdict::Failed),
            (THEN, SEND, Verdict::Failed),
            (AFTER, Verdict::NotModified, SEND),
        ] {
            let shown = value.escape_ascii();
            let conditions = Conditions {
                if_modified_since: Some(value),
                ..Conditions::default()
            };
            assert_eq!(set_back().judge(&conditions, ALWAYS), since, "{shown}");
            let conditions = Conditions {
                if_unmodified_since: Some(value),
                ..Conditions::default()
            };
            assert_eq!(set_back().judge(&conditions, ALWAYS), unmodified, "{shown}");
            let conditions = Conditions {
                if_range: Some(value),
                ..Conditions::default()
            };
            let whole = Verdict::Send { ranges: false };
            assert_eq!(set_back().judge(&conditions, ALWAYS), whole, "{shown}");
        }
    }

    #[test]
    fn the_order_is_that_of_rfc_9110_section_13_2_2() {
        // If-Match goes before If-Unmodified-Since, which is then not looked at.
        let both = Conditions {
            if_match: Some(b"\"a-b\""),
            if_unmodified_since: Some(BEFORE),
            ..Conditions::default()
        };
        assert_eq!(strong().judge(&both, ALWAYS), SEND);
        // If-None-Match goes before If-Modified-Since, which is then not looked at.
        let both = Conditions {
            if_none_match: Some(b"\"x\""),
            if_modified_since: Some(AFTER),
            ..Conditions::default()
        };
        assert_eq!(strong().judge(&both, ALWAYS), SEND);
        // 412 goes before 304.
        let both = Conditions {
            if_match: Some(b"\"x\""),
            if_none_match: Some(b"\"a-b\""),
            ..Conditions::default()
        };
        assert_eq!(strong().judge(&both, ALWAYS), Verdict::Failed);
        let both = Conditions {
            if_unmodified_since: Some(BEFORE),
            if_none_match: Some(b"\"a-b\""),
            ..Conditions::default()
        };
        assert_eq!(strong().judge(&both, ALWAYS), Verdict::Failed);
    }

    #[test]
    fn if_range_holds_only_for_the_very_same_bytes() {
        let judge = |validators: Validators, value| {
            let conditions = Conditions {
                if_range: Some(value),
                ..Conditions::default()
            };
            validators.judge(&conditions, ALWAYS)
        };
        for value in [&b"\"a-b\""[..], b" \"a-b\" ", THEN] {
            assert_eq!(judge(strong(), value), SEND, "{}", value.escape_ascii());
            assert_eq!(judge(weak(), value), Verdict::Send { ranges: false });
        }
        let dated = Conditions {
            if_range: Some(THEN),
            ..Conditions::default()
        };
        let came_since = |then| {
            assert_eq!(Some(then), date(THEN));
            false
        };
        let whole = Verdict::Send { ranges: false };
        assert_eq!(strong().judge(&dated, came_since), whole);
        for value in [
            &b"W/\"a-b\""[..],
            b"\"x\"",
            b"*",
            b"",
            b"\"a-b\",\"a-b\"",
            BEFORE,
            AFTER,
        ] {
            assert_eq!(
                judge(strong(), value),
                Verdict::Send { ranges: false },
                "{}",
                value.escape_ascii()
            );
        }
    }

    #[test]
    fn a_tag_is_weak_until_its_file_has_settled() {
        let path = std::env::temp_dir().join(format!("transom-tag-{}", std::process::id()));
        std::fs::write(&path, "a").expect("writable");
        let metadata = std::fs::metadata(&path).expect("it is there");
        std::fs::remove_file(&path).expect("writable");
        let changed = time(metadata.ctime()).expect("a date") + nanoseconds(metadata.ctime_nsec());
        let tag = |now| {
            let validators = Validators::of(&metadata, Tags::OwnFile, now);
            validators.etag().to_string()
        };
        for young in [
            changed - Duration::from_secs(9),
            changed,
            changed + SETTLING - Duration::from_nanos(1),
        ] {
            assert!(tag(young).starts_with("W/\""), "{young:?}");
        }
        let old = tag(changed + SETTLING);
        assert!(old.starts_with('"') && old.ends_with('"'), "{old}");
        assert_eq!(
            tag(changed),
            format!("W/{old}"),
            "the same but for its weakness"
        );
    }

    #[test]
    fn last_modified_is_of_a_second_that_is_over() {
        let path = std::env::temp_dir().join(format!("transom-future-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("writable");
        let now = SystemTime::now();
        let over = now - 2 * SETTLING;
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(2);
        for (modified, shown) in [
            (now + Duration::from_secs(1000), Some(whole_second(over))),
            (now, Some(whole_second(over))),
            (over, Some(whole_second(over))),
            // It has been set back, and the file was changed just now.
            (then, Some(whole_second(over))),
            (SystemTime::UNIX_EPOCH, None),
            (SystemTime::UNIX_EPOCH + Duration::from_secs(1), None),
            (SystemTime::UNIX_EPOCH - Duration::from_secs(1), None),
        ] {
            file.set_modified(modified).expect("ours");
            let metadata = file.metadata().expect("it is there");
            let validators = Validators::of(&metadata, Tags::OwnFile, now);
            assert!(!validators.modified_is_strong, "{modified:?}");
            assert_eq!(validators.last_modified().map(SystemTime::from), shown);
            let validators = Validators::of(&metadata, Tags::Replicas, now);
            let of_replicas = shown.map(|shown| shown.min(modified));
            let whole = of_replicas.map(whole_second);
            assert_eq!(validators.last_modified().map(SystemTime::from), whole);
        }
        std::fs::remove_file(&path).expect("writable");
    }
}
