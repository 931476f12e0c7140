//! Handlers of safe Rust (but for `/c`), as people write them. They test the promises of
//! `docs/exhaustion.md` about requests that outgrow their buckets.
//!
//! | request | does |
//! |---|---|
//! | `GET /` | answers |
//! | `GET /local/N` | adds to a thread-local vector, which is made at its first use |
//! | `GET /fill/KIB` | allocates and fills |
//! | `GET /bump/KIB` | allocates from `request.arena()` and fills |
//! | `GET /cache/N` | puts N in a static cache, which forgets the oldest of 100 entries |
//! | `GET /cut/KIB/PLACE` | allocates, and then keeps 64 bytes in a list: a `static` one, or a thread's own (`local`) |
//! | `DELETE /entries` | empties the static list |
//! | `POST /length` | says how long its body is |
//! | `POST /entry` | keeps 64 bytes in the static list |
//! | `GET /c/KIB` | allocates with `malloc`, fills, and frees; 507 if it gets nothing |
//! | `GET /names` | asks the C library for the addresses of localhost |
//! | `GET /receive` | waits on a channel for what another thread sends |
//! | `GET /mutex/KIB` | allocates while a static lock is held |
//! | `GET /println/KIB` | prints what allocates while it is shown |
//! | `GET /lazy/KIB` | reads a static that allocates so much when it is made, and keeps little of it |
//! | `/broken/{after}` | streams so many bytes, and then fails |
//! | `/c/leave/{kib}/{then}` | leaves a block of C's; `outgrow` then outgrows its bucket |
//! | `POST /json` | parses a document and says how many values it has |
//! | `POST /as/TYPE` | parses a document into that type |
//! | `/built/HOW/KIB` | answers with what cannot be sent, because it has so much text in its head; or fails with it |
//! | `/numbers/{n}` | answers with a list of `n` numbers as JSON, which needs no memory but the answer's own |
//! | `GET`, `POST /held/CALL/KIB` | allocates, then makes a call of the platform, all with a lock held and inside a lazy value |
//! | `GET /whole/CALL` | whether lock and lazy value of that call are as they should be |
//! | `GET /walk/PAD` | opens folders recursively until the stack is full, in frames of different size |
//! | `GET /deep/KIB` | uses so much stack |
//! | `GET /signals` | which signals a program blocks that it starts |
//! | `POST`, `GET`, `DELETE /items/…` | a map in a `Shared` cell that clients may fill |
//! | `GET /upper/TURNS`, `GET /lru/TURNS` | loops with little in use at any time; says the arena's high water |
//!
//! With `PROMISE_ESCAPE=1` it is served by the jump: for `/walk`, `/fill` and `/cut` only.

use serde::Deserialize;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::process::{Command, ExitCode};
use std::sync::{LazyLock, Mutex, OnceLock, mpsc};
use std::thread;
use transom::{App, Failure, Request, Response, Router, Shared, Status, defer, streaming};

fn kib(request: &Request) -> Result<usize, Failure> {
    Ok(request.param_as::<usize>("kib")?.min(1 << 20) << 10)
}

fn block(bytes: usize) -> usize {
    black_box(vec![7u8; bytes]).len()
}

fn fill(request: &Request) -> Result<String, Failure> {
    Ok(format!("{} bytes\n", block(kib(request)?)))
}

fn bump(request: &Request) -> Result<String, Failure> {
    let bytes = request.arena().alloc_slice_fill_copy(kib(request)?, 7u8);
    Ok(format!("{} bytes\n", black_box(bytes).len()))
}

fn length(request: &Request) -> String {
    let (body, high_water) = (request.body(), request.memory().high_water);
    let is_whole = body
        .iter()
        .zip((0..=250).cycle())
        .all(|(&is, was)| is == was);
    format!("{} {is_whole} {high_water}\n", body.len())
}

/// The entries are of different sizes, and made in whatever bucket it happens to be.
fn cache(request: &Request) -> Result<String, Failure> {
    static CACHE: Mutex<(u64, BTreeMap<u64, String>)> = Mutex::new((0, BTreeMap::new()));
    let n: usize = request.param_as("n")?;
    let mut guard = CACHE.lock()?;
    let (turn, entries) = &mut *guard;
    *turn += 1;
    let size = (n * 31 + usize::try_from(*turn)? * 17) % 500;
    entries.insert(*turn, "x".repeat(size));
    if entries.len() > 100 {
        entries.pop_first();
    }
    Ok(format!("{} entries\n", entries.len()))
}

/// In whatever bucket it happens to be.
static ENTRIES: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn keep_in(entries: &mut Vec<Vec<u8>>) -> String {
    if entries.len() >= 200 {
        entries.remove(0);
    }
    entries.push(vec![1; 64]);
    format!("{} entries\n", entries.len())
}

fn cut(request: &Request) -> Result<String, Failure> {
    thread_local! {
        static OWN: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }
    let temporary = black_box(vec![7u8; kib(request)?]);
    let said = match request.param("place") {
        Some("local") => OWN.with_borrow_mut(keep_in),
        _ => keep_in(&mut *ENTRIES.lock()?),
    };
    drop(temporary);
    Ok(said)
}

fn forget_entries(_: &Request) -> Result<&'static str, Failure> {
    let entries = std::mem::take(&mut *ENTRIES.lock()?);
    drop(entries);
    Ok("no entries\n")
}

fn entry(request: &Request) -> Result<String, Failure> {
    let bytes = request.body().len();
    keep_in(&mut *ENTRIES.lock()?);
    Ok(format!("{bytes} bytes\n"))
}

fn c(request: &Request) -> Result<Response<'_>, Failure> {
    let bytes = kib(request)?;
    // SAFETY: malloc takes any size; what it gives has so many bytes, is ours, and is freed once.
    let got = unsafe {
        let block = libc::malloc(bytes);
        if !block.is_null() {
            libc::memset(black_box(block), 7, bytes);
        }
        libc::free(block);
        !block.is_null()
    };
    Ok(match got {
        true => Response::text("filled\n"),
        false => Response::text("no memory\n").with_status(507),
    })
}

/// Leaves a block of C's, and then outgrows its bucket if it is to.
fn c_leave(request: &Request) -> Result<Response<'_>, Failure> {
    let bytes = kib(request)?;
    // SAFETY: malloc takes any size. The block is never freed.
    let block = black_box(unsafe { libc::malloc(bytes) });
    if request.param("then") == Some("outgrow") {
        black_box(vec![7u8; 100 << 20]);
    }
    Ok(match block.is_null() {
        false => Response::text("left\n"),
        true => Response::text("no memory\n").with_status(507),
    })
}

fn broken(request: &Request) -> Result<Response<'_>, Failure> {
    let after: usize = request.param_as("after")?;
    Ok(Response::stream(move |out| {
        out.write_all(&vec![b'x'; after])?;
        Err(io::Error::other("the well has run dry"))
    }))
}

fn names(_: &Request) -> Result<String, Failure> {
    let addresses = ("localhost", 80).to_socket_addrs()?;
    Ok(addresses.map(|address| format!("{address}\n")).collect())
}

fn local(request: &Request) -> Result<String, Failure> {
    thread_local! {
        static SEEN: RefCell<Vec<u64>> = RefCell::new(Vec::with_capacity(1000));
    }
    let n = request.param_as("n")?;
    Ok(SEEN.with_borrow_mut(|seen| {
        if seen.len() == 1000 {
            seen.clear();
        }
        seen.push(n);
        format!("{}\n", seen[seen.len() - 1])
    }))
}

fn receive(_: &Request) -> Result<String, Failure> {
    let (send, receive) = mpsc::channel();
    let other = thread::spawn(move || send.send("sent\n".to_owned()));
    let text = receive.recv()?;
    let sent = other.join();
    sent.map_err(|_| Failure::internal("the sender panicked"))??;
    Ok(text)
}

fn mutex(request: &Request) -> Result<String, Failure> {
    static TURNS: Mutex<u64> = Mutex::new(0);
    let mut turns = TURNS.lock()?;
    let len = block(kib(request)?);
    *turns += 1;
    Ok(format!("{len} bytes\n"))
}

/// Allocates when it is shown.
struct Shown(usize);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", block(self.0))
    }
}

fn print(request: &Request) -> Result<String, Failure> {
    let shown = Shown(kib(request)?);
    println!("printed: {shown}");
    Ok("printed\n".to_owned())
}

fn lazy(request: &Request) -> Result<String, Failure> {
    static SMALL: LazyLock<usize> = LazyLock::new(|| block(4 << 10));
    static LARGE: LazyLock<usize> = LazyLock::new(|| block(1400 << 10));
    let len = match kib(request)? {
        0..=4096 => *SMALL,
        _ => *LARGE,
    };
    Ok(format!("{len} bytes once\n"))
}

fn count(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(values) => values.iter().map(count).sum::<usize>() + 1,
        serde_json::Value::Object(values) => values.values().map(count).sum::<usize>() + 1,
        _ => 1,
    }
}

/// A list of as many zeros, which nowhere lie in memory.
struct Zeros(usize);

impl serde::Serialize for Zeros {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(std::iter::repeat_n(0, self.0))
    }
}

fn numbers(request: &Request) -> Result<Response<'_>, Failure> {
    Ok(Response::json(&Zeros(request.param_as("n")?)))
}

fn json(request: &Request) -> Result<String, Failure> {
    let value: serde_json::Value = request.json()?;
    Ok(format!("{} values\n", count(&value)))
}

/// A large struct, all of whose fields may be left out.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    texts: [Option<String>; 8],
    numbers: [Option<u64>; 3],
}

#[derive(Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only read into")]
enum Untagged {
    Many(Vec<Item>),
    One(Box<Item>),
}

#[derive(Deserialize)]
#[serde(tag = "type")]
#[expect(dead_code, reason = "it is only read into")]
enum Internally {
    A { items: Vec<Item> },
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "items")]
#[expect(dead_code, reason = "it is only read into")]
enum Adjacently {
    A(Vec<Item>),
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "it is only read into")]
struct Flat {
    #[serde(flatten)]
    rest: HashMap<String, Item>,
}

#[derive(Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only read into")]
enum Tree {
    Leaf(f64),
    Text(String),
    Many(Vec<Tree>),
    Map(HashMap<String, Tree>),
}

#[derive(Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only read into")]
enum NumberOrText {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "it is only read into")]
struct Record {
    id: u64,
    tags: Option<Vec<String>>,
}

fn read_as<'r, T: Deserialize<'r>>(request: &'r Request) -> Result<(), Failure> {
    black_box(request.json::<T>()?);
    Ok(())
}

fn json_as(request: &Request) -> Result<&str, Failure> {
    let name = request.param("type").unwrap_or_default();
    match name {
        "numbers" => read_as::<Vec<u64>>(request),
        "floats" => read_as::<Vec<f32>>(request),
        "pairs" => read_as::<(bool, u8)>(request),
        "map" => read_as::<BTreeMap<u64, bool>>(request),
        "records" => read_as::<Vec<Record>>(request),
        "tree" => read_as::<Tree>(request),
        "untagged" => read_as::<Untagged>(request),
        "internally" => read_as::<Internally>(request),
        "adjacently" => read_as::<Adjacently>(request),
        "flat" => read_as::<Flat>(request),
        "each" => read_as::<Vec<NumberOrText>>(request),
        _ => Err(Failure::not_found("no such type")),
    }?;
    Ok(name)
}

/// Writes so many bytes when it is shown.
#[derive(Debug)]
struct Long(usize);

impl fmt::Display for Long {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..self.0 / 16).try_for_each(|_| f.write_str("sixteen letters."))
    }
}

impl std::error::Error for Long {}

fn built(request: &Request) -> Result<Response<'_>, Failure> {
    let bytes = kib(request)?;
    match request.param("how").unwrap_or_default() {
        "header" => Ok(Response::text("x").header("X-Y", Long(bytes))),
        "type" => Ok(Response::text("x").header("Content-Type", Long(bytes))),
        "redirect" => Ok(Response::redirect(Long(bytes))),
        "headers" => Ok((0..bytes / 16).fold(Response::text("x"), |response, _| {
            response.header("X-Y", "sixteen letters.")
        })),
        "name" => Ok(Response::text("x").header(&"\u{7f}".repeat(bytes), "z")),
        "question" => Err(Long(bytes))?,
        "internal" => Err(Failure::internal(Long(bytes).to_string())),
        "conflict" => Err(Failure::conflict("x".repeat(bytes))),
        "unavailable" => Err(Failure::unavailable("x".repeat(bytes))),
        _ => Err(Failure::not_found("no such answer")),
    }
}

static CELL: Shared<Vec<u64>> = Shared::new(Vec::new());

fn ignore<T>(value: T) {
    drop(black_box(value));
}

/// A function that is called with a lock held and inside a lazy value. It ignores what it gets.
type Call = fn(&Request);

const CALLS: [(&str, Call); 29] = [
    ("param", |r| ignore(r.param("call"))),
    ("param_as", |r| ignore(r.param_as::<String>("call"))),
    ("query", |r| {
        assert_eq!(r.query("q"), Some("A".repeat(200).as_str()));
    }),
    ("query_as", |r| ignore(r.query_as::<String>("q"))),
    ("queries", |r| {
        for _ in 0..1000 {
            assert!(r.queries().eq([("q", "A".repeat(200).as_str())]));
        }
    }),
    ("header", |r| ignore(r.header("host"))),
    ("headers", |r| ignore(r.headers().count())),
    ("host", |r| ignore(r.host())),
    ("body", |r| ignore(r.body())),
    ("body_str", |r| ignore(r.body_str())),
    ("json", |r| ignore(r.json::<serde_json::Value>())),
    ("reader", |r| {
        ignore(r.reader().read_to_end(&mut Vec::new()));
    }),
    ("memory", |r| ignore(r.memory())),
    ("try_reserve", |r| {
        ignore(r.try_reserve(&mut Vec::<u64>::new(), 100));
    }),
    ("time_left", |r| ignore(r.time_left())),
    ("client_is_gone", |r| ignore(r.client_is_gone())),
    ("with", |_| ignore(CELL.with(|cell| cell.push(1)))),
    ("with_once", |_| {
        let text = "text".to_owned();
        ignore(CELL.with_once(|cell| cell.push(text.len() as u64)));
    }),
    ("with_room", |_| {
        ignore(CELL.with_room(100, |cell| cell.push(1)));
    }),
    ("read", |_| ignore(CELL.read(Vec::len))),
    ("response", |_| {
        let response = Response::json(&["a", "b"]).header("X-Y", "z");
        ignore(response.with_diagnostic("d".to_owned()));
    }),
    ("header_of_any_length", |_| {
        ignore(Response::text("x").header("X-Y", Long(100 << 20)));
    }),
    ("redirect", |_| ignore(Response::redirect(Long(100 << 20)))),
    ("error_of_any_length", |_| {
        ignore(Failure::from(Long(100 << 20)));
    }),
    ("json_untagged", |r| ignore(r.json::<Untagged>())),
    ("json_numbers", |r| ignore(r.json::<Vec<u64>>())),
    ("failure", |_| {
        ignore(Failure::from("text".to_owned()));
    }),
    ("defer", |_| {
        defer(|_| ignore(vec![1u8; 100]));
    }),
    ("nothing", |_| {}),
];

/// One lock and one lazy value for each call, so that no call hides another's effect.
static LOCKS: [Mutex<u64>; CALLS.len()] = [const { Mutex::new(0) }; CALLS.len()];
static ONCES: [OnceLock<u64>; CALLS.len()] = [const { OnceLock::new() }; CALLS.len()];
static STREAM_LOCK: Mutex<u64> = Mutex::new(0);

fn number_of(request: &Request) -> Result<usize, Failure> {
    let name = request.param("call").unwrap_or_default();
    let found = CALLS.iter().position(|(call, _)| *call == name);
    found.ok_or_else(|| Failure::not_found("no such call"))
}

fn held(request: &Request) -> Result<String, Failure> {
    let number = number_of(request)?;
    let bytes = kib(request)?;
    let mut lock = LOCKS[number].lock()?;
    ONCES[number].get_or_init(|| {
        let len = block(bytes);
        (CALLS[number].1)(request);
        len as u64
    });
    block(bytes);
    // Where one does not fit, the call finds the arena full.
    let full = match transom::Memory::now() {
        Some(memory) if bytes > memory.size() => memory.free.saturating_sub(100),
        _ => 0,
    };
    let full = black_box(vec![7u8; full]);
    (CALLS[number].1)(request);
    drop(full);
    *lock += 1;
    Ok("done\n".to_owned())
}

fn held_stream(request: &Request) -> Result<Response<'_>, Failure> {
    let bytes = kib(request)?;
    Ok(Response::stream(move |out| {
        let mut lock = STREAM_LOCK.lock().map_err(|_| std::io::ErrorKind::Other)?;
        block(bytes);
        out.write_all(b"some")?;
        out.flush()?;
        ignore(out.is_closed());
        out.space()?[0] = b'x';
        out.advance(1);
        *lock += 1;
        Ok(())
    }))
}

fn whole(request: &Request) -> Result<String, Failure> {
    if request.param("call") == Some("stream") {
        return Ok(format!("{}\n", STREAM_LOCK.lock()?));
    }
    let number = number_of(request)?;
    let lock = LOCKS[number].lock()?;
    let once = ONCES[number].get().ok_or("it was never made")?;
    Ok(format!("{lock} {once}\n"))
}

/// Opens a folder at each level, so that most of the time something of the C library is the deepest frame.
fn walk<const PAD: usize>(depth: u64) -> u64 {
    let frame = black_box([depth as u8; PAD]);
    let open = fs::read_dir("/").map_or(0, |mut entries| u64::from(entries.next().is_some()));
    if depth == u64::MAX {
        return open;
    }
    walk::<PAD>(depth + open) + u64::from(frame[0])
}

fn walk_in(request: &Request) -> Result<String, Failure> {
    const WALKS: [fn(u64) -> u64; 20] = [
        walk::<16>,
        walk::<32>,
        walk::<48>,
        walk::<64>,
        walk::<80>,
        walk::<96>,
        walk::<112>,
        walk::<128>,
        walk::<144>,
        walk::<160>,
        walk::<208>,
        walk::<272>,
        walk::<352>,
        walk::<464>,
        walk::<608>,
        walk::<800>,
        walk::<1040>,
        walk::<1376>,
        walk::<1808>,
        walk::<2400>,
    ];
    let pad: usize = request.param_as("pad")?;
    let walk = WALKS.get(pad).ok_or(Failure::not_found("no such walk"))?;
    Ok(format!("{}\n", walk(1)))
}

fn signals(_: &Request) -> Result<String, Failure> {
    let mut command = Command::new("grep");
    let output = command.args(["SigBlk", "/proc/self/status"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn deep(kib: usize) -> usize {
    let frame = black_box([1u8; 1 << 10]);
    match kib {
        0 => 0,
        more => deep(more - 1) + usize::from(frame[0]),
    }
}

fn deep_in(request: &Request) -> Result<String, Failure> {
    Ok(format!("{} deep\n", deep(request.param_as("kib")?)))
}

static ITEMS: Shared<BTreeMap<u64, String>> = Shared::new(BTreeMap::new());

fn put_item(request: &Request) -> Result<String, Failure> {
    let n: u64 = request.param_as("n")?;
    let len = ITEMS.with(|items| {
        items.insert(n, "x".repeat(1 << 10));
        items.len()
    })?;
    Ok(format!("{len}\n"))
}

fn items(_: &Request) -> Result<String, Failure> {
    let len = ITEMS.read(|items| items.values().map(String::len).sum::<usize>())?;
    Ok(format!("{len}\n"))
}

fn clear_items(_: &Request) -> Result<Status, Failure> {
    ITEMS.with_room(0, BTreeMap::clear)?; // also when the heap is full
    Ok(Status::NO_CONTENT)
}

fn upper(request: &Request) -> Result<String, Failure> {
    let mut last = "a text of 20 letters".to_owned();
    for turn in 0..request.param_as::<u32>("turns")? {
        let next = match turn % 2 {
            0 => last.to_uppercase(),
            _ => last.to_lowercase(),
        };
        last = next;
    }
    Ok(format!("{}\n", request.memory().high_water))
}

fn lru(request: &Request) -> Result<String, Failure> {
    let mut texts: std::collections::VecDeque<String> = std::collections::VecDeque::new();
    for turn in 0..request.param_as::<usize>("turns")? {
        if texts.len() == 16 {
            texts.pop_front();
        }
        texts.push_back("x".repeat(20 + turn % 100));
    }
    Ok(format!("{}\n", request.memory().high_water))
}

thread_local! {
    static MADE_BEFORE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn main() -> ExitCode {
    let router = Router::new()
        .get("/", |_: &Request| "here\n")
        .get("/fill/{kib}", fill)
        .get("/deep/{kib}", deep_in)
        .get("/signals", signals)
        .get("/cache/{n}", cache)
        .get("/cut/{kib}/{place}", cut)
        .get("/bump/{kib}", bump)
        .post("/length", length)
        .post("/entry", entry)
        .delete("/entries", forget_entries)
        .get("/c/{kib}", c)
        .get("/broken/{after}", broken)
        .get("/c/leave/{kib}/{then}", c_leave)
        .get("/names", names)
        .get("/local/{n}", local)
        .get("/receive", receive)
        .get("/mutex/{kib}", mutex)
        .get("/println/{kib}", print)
        .get("/lazy/{kib}", lazy)
        .post("/json", json)
        .post("/as/{type}", json_as)
        .get("/built/{how}/{kib}", built)
        .get("/numbers/{n}", numbers)
        .get("/held/stream/{kib}", held_stream)
        .post("/held/{call}/{kib}", streaming(held))
        .get("/held/{call}/{kib}", held)
        .get("/whole/{call}", whole)
        .get("/walk/{pad}", walk_in)
        .post("/items/{n}", put_item)
        .get("/items", items)
        .delete("/items", clear_items)
        .get("/upper/{turns}", upper)
        .get("/lru/{turns}", lru);
    let mut app = App::new(router);
    if let Some(kib) = std::env::var_os("PROMISE_EACH_THREAD") {
        let bytes = 1024 * kib.to_str().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        app = app.each_thread(move || MADE_BEFORE.set(vec![1; bytes]));
    }
    if std::env::var_os("PROMISE_ESCAPE").is_none() {
        return app.serve();
    }
    // SAFETY: of the handlers that the tests ask for then, `/walk` and `/fill` hold no lock and no scope and
    // keep nothing beyond their requests. The folders that `/walk` has open stay open. `/cut` is asked for
    // sizes that fit, so no jump leaves it; it keeps blocks above the mark, where a later jump frees nothing.
    unsafe { app.escaping() }.serve()
}
