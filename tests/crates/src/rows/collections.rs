//! The standard library's collections: in a request, in statics, in thread-locals.

use crate::listing::{Rows, matches, number, text};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use transom::{Failure, Request};

/// The most entries of a collection that outlives its request.
const ENTRIES: u64 = 100;

pub fn add(rows: &mut Rows) {
    rows.get(
        "/std/thread_local",
        "`thread_local!`: a buffer and a cache",
        thread_local,
    )
    .answers(|| text("text {n} of at most 16"));
    rows.get("/std/once_lock", "`OnceLock<String>`", once_lock)
        .answers(|| text("made once"));
    rows.get(
        "/std/lru",
        "an LRU of 16 by `BTreeMap`, in the request",
        lru,
    )
    .answers(|| text("16 left, the oldest is key 84, {n}"));
    rows.get(
        "/std/lru/static",
        "an LRU of 16 by `BTreeMap`, in a static",
        static_lru,
    )
    .answers(|| matches(r"^\d{1,2} of at most 16$"));
    rows.get(
        "/std/mutex",
        "a static `Mutex<HashMap>` of 100 entries",
        mutex,
    )
    .answers(|| matches(r"^user \d{1,2}: visit \d+$"));
    rows.get(
        "/std/hash_map",
        "`HashMap` with `RandomState`, in the request",
        hash_map,
    )
    .answers(|| text("1000 keys, {n} and 999"));
    rows.get(
        "/std/vec",
        "a `Vec` of 1 MB, in a bucket that holds it",
        vec,
    )
    .answers(|| text("1000000 bytes, {n}"));
    rows.get(
        "/std/vec/too-large",
        "a `Vec` of 1 MB, in a bucket that does not hold it: 500",
        vec,
    )
    .flags("--bucket-size 512KiB")
    .status(500)
    .answers(|| matches("(?s)^.+$"));
}

thread_local! {
    static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
    static TEXTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn thread_local(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let text = BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        write!(buffer, "text {n}").map(|()| buffer.clone())
    })?;
    TEXTS.with_borrow_mut(|texts| {
        if texts.len() == 16 {
            texts.remove(0);
        }
        texts.push(text.clone());
        assert!(
            texts.iter().all(|text| text.starts_with("text ")),
            "a text was written over"
        );
    });
    Ok(format!("{text} of at most 16"))
}

fn once_lock(_: &Request) -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| format!("made {}", "once"))
}

/// Of each key the time of its last use, and the other way round.
#[derive(Default)]
struct Lru {
    ages: BTreeMap<String, u64>,
    keys: BTreeMap<u64, String>,
    clock: u64,
}

impl Lru {
    fn touch(&mut self, key: &str) {
        self.clock += 1;
        if let Some(age) = self.ages.insert(key.to_owned(), self.clock) {
            self.keys.remove(&age);
        }
        self.keys.insert(self.clock, key.to_owned());
        if self.keys.len() > 16
            && let Some((_, oldest)) = self.keys.pop_first()
        {
            self.ages.remove(&oldest);
        }
    }
}

fn lru(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let mut lru = Lru::default();
    for key in 0..100 {
        lru.touch(&format!("key {key}"));
    }
    let oldest = lru.keys.values().next().map_or("", String::as_str);
    Ok(format!(
        "{} left, the oldest is {oldest}, {n}",
        lru.ages.len()
    ))
}

fn static_lru(request: &Request) -> Result<String, Failure> {
    static LRU: LazyLock<Mutex<Lru>> = LazyLock::new(Mutex::default);
    let n = number(request)?;
    let mut lru = LRU.lock().unwrap_or_else(PoisonError::into_inner);
    lru.touch(&format!("key {}", n % 32));
    Ok(format!("{} of at most 16", lru.ages.len()))
}

fn mutex(request: &Request) -> Result<String, Failure> {
    static VISITS: LazyLock<Mutex<HashMap<String, u64>>> = LazyLock::new(Mutex::default);
    let user = format!("user {}", number(request)? % ENTRIES);
    let mut visits = VISITS.lock().unwrap_or_else(PoisonError::into_inner);
    let count = visits.entry(user.clone()).or_default();
    *count += 1;
    Ok(format!("{user}: visit {count}"))
}

fn hash_map(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let squares: HashMap<String, u64> = (0..1000).map(|key| (key.to_string(), key * key)).collect();
    let root = squares.get("999").map_or(0, |square| square.isqrt());
    Ok(format!("{} keys, {n} and {root}", squares.len()))
}

fn vec(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let bytes = vec![7u8; 1_000_000];
    Ok(format!("{} bytes, {n}", std::hint::black_box(&bytes).len()))
}
