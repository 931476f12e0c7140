//! A loop with several doors, run on a thread, with real connections. The doors are of this process, but
//! reached as those of other processes are: through the opener, and with replies that are not believed.

use super::*;
use crate::entrance::InstanceId;
use crate::signal::{NOT_A_CONNECTION, Signal};
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, Read, Write};
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;
use transom_arena::{Bound, Place, Region, RegionOptions, Term, pages};
use transom_doors::Bell;
use transom_doors::{
    AsyncClient, AttachOptions, Call, ChannelGeometry, ChannelMemory, Door, DoorBuilder, OpenError,
    OpenOptions, Status,
};
use transom_net::{self as net, ListenOptions};
use transom_wire::frame::{decode_request, encode_reply_head, interim, outcome, set_reply_body};

const PATIENCE: Duration = Duration::from_secs(20);

/// Settings of a test's front end beside doors and routes; the rest are the flags' defaults.
#[derive(Clone, Copy)]
struct Asked {
    connections: u32,
    requests_per_connection: u32,
    send_buffer: usize,
    queue_timeout: Duration,
}

impl Default for Asked {
    fn default() -> Self {
        Asked {
            connections: 32,
            requests_per_connection: 1_000_000,
            send_buffer: 64 << 10,
            queue_timeout: PATIENCE,
        }
    }
}

impl Asked {
    fn connections(connections: u32) -> Self {
        Asked {
            connections,
            ..Asked::default()
        }
    }

    /// The least that the kernel gives: an answer of some size does not fit.
    fn small_buffer() -> Self {
        Asked {
            send_buffer: 4 << 10,
            ..Asked::default()
        }
    }

    fn queue_timeout(queue_timeout: Duration) -> Self {
        Asked {
            queue_timeout,
            ..Asked::default()
        }
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            loops: 1,
            connections: self.connections,
            partial_heads: 256,
            head_limit: 16 << 10,
            sockets: ListenOptions {
                only_ipv6: false,
                backlog: 16,
                receive_buffer: 32 << 10,
                send_buffer: self.send_buffer,
            },
        }
    }

    fn allowance(&self) -> Allowance {
        Allowance {
            connections_per_address: None,
            requests_per_connection: self.requests_per_connection,
            body_limit: 1 << 30,
            timeouts: Timeouts {
                header: Duration::from_secs(10),
                body: Duration::from_secs(30),
                write: Duration::from_secs(30),
                idle: Duration::from_secs(75),
                queue: self.queue_timeout,
                deadline: Some(Duration::from_secs(60)),
            },
            rates: Rates {
                body: 1 << 10,
                write: 1 << 10,
            },
            proxying: Proxying {
                required: false,
                header_limit: 4 << 10,
                forwarded: None,
                trust: Arc::new([]),
            },
        }
    }
}

/// Holds handlers until it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.1).unwrap());
    }

    fn wait_for(&self, waiting: usize) {
        let state = self.state.lock().unwrap();
        let result = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.0 < waiting);
        assert!(!result.unwrap().1.timed_out(), "handlers wait: {waiting}");
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn shut(&self) {
        *self.state.lock().unwrap() = (0, false);
    }
}

/// A door whose handler names itself and answers as its path asks for.
struct Instance {
    door: Door,
    gate: Arc<Gate>,
    /// Where the slots of its channel lie, and how many bytes they have.
    memory: (usize, usize),
}

/// A door whose threads are std's.
fn door(builder: DoorBuilder, handler: impl Fn(&mut Call<'_>) + Send + Sync + 'static) -> Door {
    let this: Arc<OnceLock<Door>> = Arc::default();
    let handler = Arc::new(handler);
    let create = {
        let this = this.clone();
        move |thread| {
            let (door, handler) = (this.get().expect("set").clone(), handler.clone());
            std::thread::Builder::new().spawn(move || {
                door.serve(thread, &|_: u32, call: &mut Call<'_>| handler(call));
            })?;
            Ok(())
        }
    };
    let door = builder.threads_max(4).server_create(create).build();
    let door = door.expect("a door");
    assert!(this.set(door.clone()).is_ok());
    door
}

fn instance(name: &'static str, slots: u32) -> (Instance, AsyncClient) {
    instance_with(name, slots, 64 << 10)
}

fn instance_with(name: &'static str, slots: u32, request_size: usize) -> (Instance, AsyncClient) {
    let gate: Arc<Gate> = Arc::default();
    let door = door(Door::builder(), {
        let gate = gate.clone();
        move |call| handle(name, &gate, call)
    });
    let geometry = ChannelGeometry {
        slots,
        spares: 0,
        request_size,
        reply_size: 64 << 10,
    };
    let len = geometry.memory_len();
    let layout = std::alloc::Layout::from_size_align(len, 4096).expect("small");
    // SAFETY: not zero bytes; fresh, zeroed, page-aligned, never freed, known only to the test that spoils
    // it.
    let (base, memory) = unsafe {
        let base = NonNull::new(std::alloc::alloc_zeroed(layout)).expect("memory");
        (base, ChannelMemory::new(base, len))
    };
    let client = door.channel(geometry, memory).expect("a channel");
    door.start().expect("threads");
    let memory = (base.as_ptr() as usize, len);
    (Instance { door, gate, memory }, client)
}

fn handle(name: &str, gate: &Gate, call: &mut Call<'_>) {
    let request = decode_request(call.request()).expect("a request");
    let (path, body) = (request.path.to_owned(), request.body.to_owned());
    if request.early {
        let some_do_not = path.starts_with("/some/");
        let outcome = if some_do_not {
            outcome::BODY_FIRST
        } else {
            outcome::BODIES_FIRST
        };
        return call.complete(0, Status(outcome));
    }
    let reply = |call: &mut Call<'_>, fields: &[u8], body: &[u8]| {
        let slot = call.reply_mut();
        let at = encode_reply_head(slot, 200, None, &[fields]).expect("fits");
        slot[at..at + body.len()].copy_from_slice(body);
        set_reply_body(slot, body.len(), false);
        call.complete(at + body.len(), Status::OK);
    };
    let what = path.rsplit('/').next().expect("a segment");
    match what {
        "hold" => {
            gate.pass();
            reply(call, b"", name.as_bytes());
        }
        "status" => call.complete(0, Status(9)),
        "body-first" => call.complete(0, Status(outcome::BODY_FIRST)),
        "fault" => call.complete(0, Status::FAULT),
        "lose" => lose(call),
        "noise" => {
            call.reply_mut()[..64].fill(0xdb);
            call.complete(64, Status::OK);
        }
        number if number.parse::<u16>().is_ok() => {
            reply(call, format!("X-Number: {number}\r\n").as_bytes(), b"n");
        }
        "inject" => reply(call, b"A: b\r\n\r\nHTTP/1.1 200 OK\r\n", b""),
        "body" => reply(call, b"", &body),
        "fields" | "huge" => {
            let count = if what == "huge" { 400 } else { 250 };
            let fields: String = (0..count)
                .map(|n| format!("X-{n:04}: {n:050}\r\n"))
                .collect();
            reply(call, fields.as_bytes(), &vec![b'b'; 30_000]);
        }
        _ => reply(call, b"X-Door: yes\r\n", name.as_bytes()),
    }
}

/// Lends the room for its reply to a thread that writes there for ever. The call is lost.
fn lose(call: &mut Call<'_>) -> ! {
    let emergency = call.emergency();
    let room = call.reply_mut();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                std::hint::black_box(&mut *room).fill(0xEE);
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        // SAFETY: on the handler's thread, whose frames stay: the loop below never ends.
        unsafe { emergency.complete(Status(outcome::EXHAUSTED_ARENA)) };
        loop {
            std::thread::park();
        }
    })
}

/// Clients that can be opened, by path. Where there is none the door is away.
type Shelf = Arc<Mutex<HashMap<PathBuf, VecDeque<AsyncClient>>>>;

/// The memory of one loop.
pub(crate) fn region_of(sizes: &Sizes, options: RegionOptions) -> Region {
    let term = |name, count, unit| Term {
        name,
        count,
        unit,
        guards: 0,
        holder: "a test",
        flags: "",
        place: Place::Region,
    };
    let bound = Bound::new(vec![
        term("connections", 1, pages(sizes.table()).expect("small")),
        term(
            "partial heads",
            usize::from(sizes.partial_heads),
            sizes.head_limit,
        ),
        term("scratch", 1, sizes.scratch()),
    ])
    .expect("small");
    Region::map(&bound, options).expect("maps")
}

struct Front {
    address: SocketAddr,
    shelf: Shelf,
    orders: Arc<Orders>,
    bell: Bell,
    stats: Arc<LoopStats>,
    thread: Option<JoinHandle<()>>,
    opener: Option<Opener>,
}

impl Front {
    /// Routes lead to doors by their numbers; the path of door 3 is `/3`.
    fn start(asked: Asked, doors: u16, routes: &[(Option<&str>, &str, u16)]) -> Self {
        let paths: Vec<_> = (0..doors).map(path).collect();
        Front::start_at(&paths, asked, routes)
    }

    fn start_at(paths: &[PathBuf], asked: Asked, routes: &[(Option<&str>, &str, u16)]) -> Self {
        let sizes = asked.sizes();
        let mut region = region_of(&sizes, RegionOptions::default());
        let bell = Bell::new().expect("a descriptor");
        let shelf = Shelf::default();
        let mut opener = OpenerBuilder::default();
        let options = OpenOptions {
            slots: Some(64),
            ..OpenOptions::default()
        };
        let doorways = paths
            .iter()
            .map(|path| DoorwayParts::Remote {
                mailbox: opener.mailbox(path.clone(), options, bell.clone()),
                slots_max: 64,
                client: None,
            })
            .collect();
        let opener = opener.start({
            let shelf = shelf.clone();
            Arc::new(move |path: &Path, options: &OpenOptions| open(&shelf, path, options))
        });
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = net::listen(anywhere, sizes.sockets).expect("a port");
        let address = net::local_address(&listener).expect("an address");
        let routes = routes
            .iter()
            .map(|&(method, prefix, doorway)| Route {
                method: method.map(str::to_owned),
                prefix: prefix.to_owned(),
                doorway,
            })
            .collect();
        let (stats, orders): (Arc<LoopStats>, Arc<Orders>) = Default::default();
        let parts = Parts {
            connections: region.take("connections").expect("there"),
            buffers: region.take("partial heads").expect("there"),
            scratch: region.take("scratch").expect("there"),
            bell: bell.clone(),
            doorways,
            forwards: vec![Forward {
                listeners: vec![Listener {
                    socket: Arc::new(listener),
                    shared: false,
                }],
                routes: Arc::new(RouteTable::new(routes)),
            }],
            addresses: None,
            limit: Arc::new(ConnectionLimit::new(sizes.connections, &[])),
            stats: stats.clone(),
            orders: orders.clone(),
        };
        let this: Loop = Loop::new(sizes, &asked.allowance(), parts).expect("epoll");
        Front {
            address,
            shelf,
            orders,
            bell,
            stats,
            thread: Some(std::thread::spawn(move || this.run())),
            opener: Some(opener.expect("a thread")),
        }
    }

    /// Puts an instance of a door where it can be opened.
    fn serve(&self, door: u16, name: &'static str, slots: u32) -> Instance {
        let (instance, client) = instance(name, slots);
        self.put(door, client);
        instance
    }

    fn put(&self, door: u16, client: AsyncClient) {
        let mut shelf = self.shelf.lock().unwrap();
        shelf.entry(path(door)).or_default().push_back(client);
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    fn ask(&self, method: &str, target: &str) -> TcpStream {
        let mut stream = self.connect();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        stream
    }

    /// The present instance of door 0 says that it takes no body as it comes. Until then requests go there
    /// before their bodies.
    fn learn_that_bodies_come_first(&self) {
        let mut stream = self.connect();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        stream
            .read_exact(&mut [0; 25])
            .expect("it is asked for its body");
        stream.write_all(b"x").expect("sent");
        assert!(rest(stream).starts_with("HTTP/1.1 200 "));
    }

    fn get(&self, target: &str) -> String {
        rest(self.ask("GET", target))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.orders.give(Order::Stop);
        self.bell.ring();
        let ended = self.thread.take().expect("runs").join();
        drop(self.opener.take());
        if !std::thread::panicking() {
            ended.expect("the loop has not panicked");
        }
    }
}

fn path(door: u16) -> PathBuf {
    format!("/nowhere/{door}").into()
}

/// While this is locked, an attempt to open a door with such a path does not return.
static HANGS: Mutex<()> = Mutex::new(());

fn open(shelf: &Shelf, path: &Path, options: &OpenOptions) -> Result<AsyncClient, OpenError> {
    if path.ends_with("hangs") {
        drop(HANGS.lock());
    }
    let client = shelf
        .lock()
        .unwrap()
        .get_mut(path)
        .and_then(VecDeque::pop_front);
    client.map_or_else(|| AsyncClient::open(path, options), Ok)
}

/// The answer, which ends with the connection.
fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("an answer");
    String::from_utf8(text).expect("text")
}

#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::yield_now();
    }
}

#[track_caller]
fn assert_answer(text: &str, status: u16, body: &str) {
    assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
    assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{text}");
}

#[test]
fn tokens_say_what_an_event_is_for() {
    let at = InstanceId {
        doorway: u16::MAX,
        instance: 1,
    };
    for source in [
        Signal::Bell,
        Signal::Listener(u16::MAX),
        Signal::Client(at),
        Signal::Peer(at),
    ] {
        let token = source.token();
        assert_eq!((token >> 32) as u32, NOT_A_CONNECTION);
        assert_eq!(Signal::of(token as u32), source);
    }
}

#[test]
fn requests_go_where_their_path_and_method_say() {
    let routes = [
        (None, "/a", 0),
        (Some("GET"), "/b", 1),
        (Some("PUT"), "/b/c", 0),
    ];
    let front = Front::start(Asked::default(), 2, &routes);
    let _a = front.serve(0, "a", 4);
    let _b = front.serve(1, "b", 4);
    assert_answer(&front.get("/a/x"), 200, "a");
    assert_answer(&front.get("/%61"), 200, "a");
    assert_answer(&front.get("/x/../b?q"), 200, "b");
    assert_answer(&rest(front.ask("PUT", "/b/c")), 200, "a");
    assert_answer(&front.get("/ab"), 404, "There is nothing here.\n");
    let refused = rest(front.ask("DELETE", "/b/c"));
    assert!(
        refused.starts_with("HTTP/1.1 405 ") && refused.contains("Allow: GET, HEAD, PUT\r\n"),
        "{refused}"
    );
    assert!(front.get("/%zz").starts_with("HTTP/1.1 400 "));
    // On one connection, one after the other, with a request of no route in between.
    let mut stream = front.connect();
    let requests = "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n\
                    GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).expect("sent");
    let text = rest(stream);
    let statuses: Vec<_> = text
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &text[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "404", "200"], "{text}");
}

#[test]
fn a_door_whose_opening_does_not_return_holds_up_no_other_door() {
    let hangs = HANGS.lock().expect("nothing panics there");
    let paths = [PathBuf::from("/nowhere/hangs"), path(1)];
    let front = Front::start_at(
        &paths,
        Asked::default(),
        &[(None, "/a", 0), (None, "/b", 1)],
    );
    // Its thread is in its attempt, and the other door comes and goes meanwhile.
    let waiting = front.ask("GET", "/a");
    for name in ["first", "second"] {
        let instance = front.serve(1, name, 4);
        assert_answer(&front.get("/b"), 200, name);
        instance.door.revoke();
    }
    // Nor does the end wait for it.
    drop(front);
    drop((hangs, waiting));
}

/// A connection that already has its first request when it is accepted is watched later than others.
#[test]
fn a_client_whose_request_was_there_before_it_was_accepted_is_a_client_like_any_other() {
    let front = Front::start(
        Asked::connections(1),
        2,
        &[(None, "/a", 0), (None, "/b", 1)],
    );
    let a = front.serve(0, "a", 1);
    let b = front.serve(1, "b", 1);
    let first = front.ask("GET", "/a/hold");
    a.gate.wait_for(1);
    // The table is full, so this one stays with the kernel, and its request with it.
    let mut second = front.connect();
    let keep = |path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    second.write_all(keep("/b/hold").as_bytes()).expect("sent");
    a.gate.open();
    assert_answer(&rest(first), 200, "a");
    b.gate.wait_for(1);
    // Longer than it may go unwatched; bytes that come meanwhile are not lost.
    second.write_all(keep("/b").as_bytes()).expect("sent");
    std::thread::sleep(Duration::from_nanos(2 * unwatched::UNWATCHED_NS));
    b.gate.open();
    let mut answers = String::new();
    while answers.matches("\r\n\r\nb").count() < 2 {
        let mut bytes = [0; 1024];
        let len = second.read(&mut bytes).expect("two answers");
        assert_ne!(len, 0, "closed after {answers}");
        answers.push_str(std::str::from_utf8(&bytes[..len]).expect("text"));
    }
    // And the next, after a silence.
    second.write_all(keep("/a").as_bytes()).expect("sent");
    let len = second.read(&mut [0; 1024]).expect("an answer");
    assert_ne!(len, 0, "still open");

    // The same for one that goes away: it is noticed while its handler still runs.
    let front = Front::start(
        Asked::connections(1),
        2,
        &[(None, "/a", 0), (None, "/b", 1)],
    );
    let a = front.serve(0, "a", 1);
    let b = front.serve(1, "b", 1);
    let first = front.ask("GET", "/a/hold");
    a.gate.wait_for(1);
    let second = front.ask("GET", "/b/hold");
    a.gate.open();
    assert_answer(&rest(first), 200, "a");
    b.gate.wait_for(1);
    net::reset_at_close(second.as_raw_fd());
    drop(second);
    eventually("its place is free", || front.stats.connections.get() == 0);
    b.gate.open();
}

/// However an answer is made and however large it is, and whether its client takes it or not for a while.
#[test]
fn answers_to_requests_that_came_together_leave_in_their_order() {
    let kinds = [
        ("GET /a/x HTTP/1.1\r\nHost: a\r\n\r\n", &["200"][..]),
        ("GET /a/x HTTP/1.1\r\nHost: a\r\n\r\n", &["200"]),
        ("HEAD /a/fields HTTP/1.1\r\nHost: a\r\n\r\n", &["200"]),
        ("GET /x HTTP/1.1\r\nHost: a\r\n\r\n", &["404"]),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &["204"]),
        ("GET /a/inject HTTP/1.1\r\nHost: a\r\n\r\n", &["500"]),
        ("GET /a/fields HTTP/1.1\r\nHost: a\r\n\r\n", &["200"]),
        (
            "POST /a/body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
            &["200"],
        ),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let front = Front::start(Asked::small_buffer(), 1, &[(None, "/a", 0)]);
    let _a = front.serve(0, "a", 4);
    for round in 0..20 {
        // Mostly short ones in the first rounds, large ones as well in the others.
        let chosen: Vec<_> = (0..400)
            .map(|_| {
                if round < 10 && random.u8(..) > 8 {
                    kinds[0]
                } else {
                    kinds[random.usize(..kinds.len())]
                }
            })
            .collect();
        let mut text: String = chosen.iter().map(|kind| kind.0).collect();
        text.push_str("GET /a/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut expected: Vec<_> = chosen.iter().flat_map(|kind| kind.1).collect();
        expected.push(&"200");
        let stream = front.connect();
        let writer = std::thread::spawn({
            let mut stream = stream.try_clone().expect("a descriptor");
            move || stream.write_all(text.as_bytes()).expect("sent")
        });
        if round % 2 == 0 {
            // Until the server has nowhere to put its answers.
            std::thread::sleep(Duration::from_millis(20));
        }
        let answers = rest(stream);
        writer.join().expect("sends");
        let statuses: Vec<_> = answers
            .match_indices("HTTP/1.1 ")
            .map(|(at, _)| &answers[at + 9..at + 12])
            .collect();
        // Which requests got a 100 depends on chance.
        let statuses: Vec<_> = statuses.iter().filter(|&&status| status != "100").collect();
        assert_eq!(statuses, expected, "round {round}");
        assert!(answers.ends_with("\r\n\r\na"), "the last one is whole");
    }
}

/// Answers that have to wait for their client, with others made meanwhile, are still the ones that were
/// checked.
#[test]
fn answers_that_wait_are_not_mixed_up() {
    let front = Front::start(Asked::small_buffer(), 1, &[(None, "/a", 0)]);
    let _a = front.serve(0, "a", 32);
    let count = 2000;
    let streams: Vec<_> = (0..8)
        .map(|number| {
            let mut stream = front.connect();
            let ask = format!("GET /a/{} HTTP/1.1\r\nHost: a\r\n", 100 + number);
            let text = format!("{ask}\r\n").repeat(count) + &ask + "Connection: close\r\n\r\n";
            let writer = std::thread::spawn({
                let mut stream = stream.try_clone().expect("a descriptor");
                move || stream.write_all(text.as_bytes()).expect("sent")
            });
            // No answer is read before all buffers are full.
            stream.read_exact(&mut [0; 1]).expect("an answer");
            (number, stream, writer)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    for (number, stream, writer) in streams {
        let answers = rest(stream);
        writer.join().expect("sends");
        let own = format!("X-Number: {}\r\n", 100 + number);
        assert_eq!(answers.matches("X-Number: ").count(), count + 1);
        assert_eq!(answers.matches(&own).count(), count + 1, "only {own}");
    }
}

/// Answers that were put aside find no room in the socket when their turn comes, and find room while the
/// next handler still runs.
#[test]
fn answers_that_were_put_aside_do_not_wait_for_a_handler_that_takes_long() {
    let front = Front::start(Asked::small_buffer(), 1, &[(None, "/a", 0)]);
    let a = front.serve(0, "a", 4);
    let ask = |path| format!("GET /a/{path} HTTP/1.1\r\nHost: a\r\n\r\n");
    // What the two sockets have room for is not known, so one number of answers or another fills them just
    // so.
    for count in (0..1500).step_by(20) {
        let mut stream = front.connect();
        let text = ask("x").repeat(count) + &ask("hold");
        stream.write_all(text.as_bytes()).expect("sent");
        std::thread::sleep(Duration::from_millis(3));
        let mut answers = Vec::new();
        while answers.windows(4).filter(|end| end == b"\r\n\r\n").count() < count {
            let mut bytes = [0; 16 << 10];
            let len = stream
                .read(&mut bytes)
                .expect("the answers before the last");
            assert_ne!(len, 0, "closed");
            answers.extend_from_slice(&bytes[..len]);
        }
        a.gate.wait_for(1);
        a.gate.open();
        assert_ne!(stream.read(&mut [0; 1024]).expect("the last answer"), 0);
        a.gate.shut();
    }
}

/// The same, when the bytes that follow are no request yet, or never will be one.
#[test]
fn answers_that_were_put_aside_survive_what_follows_them() {
    let front = Front::start(Asked::small_buffer(), 1, &[(None, "/a", 0)]);
    let _a = front.serve(0, "a", 4);
    for count in (0..1500).step_by(20) {
        let many = "GET /a/x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(count);
        let end = "Content-Length: 1\r\nX-Door: yes\r\n\r\na";
        let whole = |answers: &str| answers.matches(end).count();

        let mut stream = front.connect();
        let post = "POST /a/body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\
                    Content-Length: 3\r\nConnection: close\r\n\r\n";
        stream
            .write_all((many.clone() + post).as_bytes())
            .expect("sent");
        std::thread::sleep(Duration::from_millis(3));
        let mut answers = String::new();
        while !answers.contains("HTTP/1.1 100 ") {
            let mut bytes = [0; 16 << 10];
            let len = stream.read(&mut bytes).expect("to be asked for the body");
            assert_ne!(len, 0, "closed after {count}");
            answers.push_str(std::str::from_utf8(&bytes[..len]).expect("text"));
        }
        stream.write_all(b"abc").expect("sent");
        answers.push_str(&rest(stream));
        assert_eq!(whole(&answers), count);
        assert!(answers.ends_with("\r\n\r\nabc"), "after {count}");

        let mut stream = front.connect();
        stream.write_all((many + "\r\n").as_bytes()).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("open");
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(whole(&rest(stream)), count);
    }
}

#[test]
fn a_full_door_holds_up_nobody_who_asks_for_another() {
    let front = Front::start(Asked::default(), 2, &[(None, "/a", 0), (None, "/b", 1)]);
    let a = front.serve(0, "a", 1);
    let _b = front.serve(1, "b", 1);
    let held: Vec<_> = (0..3).map(|_| front.ask("GET", "/a/hold")).collect();
    a.gate.wait_for(1);
    for _ in 0..3 {
        assert_answer(&front.get("/b"), 200, "b");
    }
    a.gate.open();
    for stream in held {
        assert_answer(&rest(stream), 200, "a");
    }
}

#[test]
fn requests_for_a_door_that_is_away_wait_for_it() {
    for routes in [
        &[(None, "/", 0)][..],
        &[(None, "/", 0), (Some("PUT"), "/x", 1)],
    ] {
        let front = Front::start(Asked::default(), 2, routes);
        let waiting: Vec<_> = (0..5).map(|_| front.ask("GET", "/a")).collect();
        eventually("all are accepted", || front.stats.accepted.get() == 5);
        let _a = front.serve(0, "a", 2);
        for stream in waiting {
            assert_answer(&rest(stream), 200, "a");
        }
    }
}

#[test]
fn requests_for_a_door_that_stays_away_get_503_after_the_queue_timeout() {
    for routes in [
        &[(None, "/", 0)][..],
        &[(None, "/", 0), (Some("PUT"), "/x", 1)],
    ] {
        let front = Front::start(Asked::queue_timeout(Duration::from_millis(50)), 2, routes);
        let began = Instant::now();
        let answer = front.get("/a");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 1\r\n"));
        assert!(began.elapsed() >= Duration::from_millis(50));
        assert_eq!(front.stats.rejected.get(), 1);
    }
}

#[test]
fn calls_that_a_revoked_instance_does_not_accept_are_sent_to_the_next() {
    let front = Front::start(Asked::default(), 1, &[(None, "/", 0)]);
    let mut last = front.serve(0, "0", 4);
    assert_answer(&front.get("/"), 200, "0");
    // More turns than there is room for instances.
    for (name, resent) in [("1", 1), ("2", 2), ("3", 3), ("4", 4)] {
        let held = front.ask("GET", "/hold");
        last.gate.wait_for(1);
        last.door.revoke();
        let mut stream = front.connect();
        let body = "x".repeat(20_000);
        let head = format!(
            "POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let next = front.serve(0, name, 4);
        assert_answer(&rest(stream), 200, &body);
        assert_answer(&front.get("/"), 200, name);
        assert_eq!(front.stats.unaccepted_resent.get(), resent);
        // The request that was under way ends as if nothing had happened.
        last.gate.open();
        let answer = rest(held);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        last = next;
    }
    assert_eq!(front.stats.server_errors.get(), 0);
}

#[test]
fn a_call_that_one_instance_after_the_other_does_not_accept_is_sent_to_each() {
    let front = Front::start(Asked::default(), 1, &[(None, "/", 0)]);
    let first = front.serve(0, "a", 4);
    assert_answer(&front.get("/"), 200, "a");
    first.door.revoke();
    let (second, client) = instance("b", 4);
    second.door.revoke();
    front.put(0, client);
    let asked = front.ask("GET", "/");
    eventually("the second has refused it", || {
        front.stats.unaccepted_resent.get() == 1
    });
    let _third = front.serve(0, "c", 4);
    assert_answer(&rest(asked), 200, "c");
    assert_eq!(front.stats.unaccepted_resent.get(), 2);
}

#[test]
fn a_call_that_no_instance_comes_for_gets_503_and_one_whose_client_leaves_is_forgotten() {
    let front = Front::start(
        Asked::queue_timeout(Duration::from_millis(50)),
        1,
        &[(None, "/", 0)],
    );
    let first = front.serve(0, "a", 4);
    assert_answer(&front.get("/"), 200, "a");
    first.door.revoke();
    drop(front.ask("GET", "/"));
    assert!(front.get("/").starts_with("HTTP/1.1 503 "));
    let _next = front.serve(0, "b", 4);
    eventually("the door is open again", || front.get("/").ends_with("b"));
}

/// Unread bytes behind a request are another request, and say nothing of the first.
#[test]
fn an_answer_to_a_head_that_waits_in_vain_has_no_body_whatever_is_behind_it() {
    for (first, second) in [("HEAD", "GET"), ("GET", "HEAD")] {
        let front = Front::start(
            Asked::queue_timeout(Duration::from_millis(300)),
            1,
            &[(None, "/", 0)],
        );
        let instance = front.serve(0, "a", 4);
        assert_answer(&front.get("/"), 200, "a");
        instance.door.revoke();
        let mut stream = front.connect();
        let request = |method| format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request(first).as_bytes()).expect("sent");
        let waits = || front.stats.waiting.get() == 1;
        eventually("the first waits for an instance", waits);
        stream.write_all(request(second).as_bytes()).expect("sent");
        let answer = rest(stream);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(body.is_empty(), first == "HEAD", "{first}: {answer}");
    }
}

#[test]
fn a_request_that_does_not_fit_the_next_instances_slots_gets_503() {
    let front = Front::start(Asked::default(), 1, &[(None, "/", 0)]);
    let first = front.serve(0, "a", 4);
    front.learn_that_bodies_come_first();
    first.door.revoke();
    let (_second, client) = instance_with("b", 4, 8 << 10);
    front.put(0, client);
    let mut stream = front.connect();
    let head =
        "POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 20000\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&[b'x'; 20_000]).expect("sent");
    assert!(rest(stream).starts_with("HTTP/1.1 503 "));
    assert_eq!(front.stats.unaccepted_resent.get(), 0);
    assert_answer(&front.get("/"), 200, "b");
}

#[test]
fn what_is_no_reply_of_ours_is_a_502() {
    let front = Front::start(Asked::default(), 1, &[(None, "/", 0)]);
    let _a = front.serve(0, "a", 4);
    for (target, status) in [
        ("/status", 502),
        ("/body-first", 502),
        ("/fault", 502),
        ("/noise", 502),
        ("/huge", 502),
        ("/inject", 500),
        ("/fine", 200),
    ] {
        let answer = front.get(target);
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&start), "{target}: {answer}");
    }
    assert_eq!(front.stats.bad_gateway.get(), 5);
}

/// A door that is asked before the body is there may have it first, and once only.
#[test]
fn a_request_that_is_to_come_with_its_body_comes_again_with_it() {
    let front = Front::start(Asked::default(), 1, &[(None, "/", 0)]);
    let _a = front.serve(0, "a", 4);
    for (framing, first, rest) in [
        ("Content-Length: 10", "hello", "world"),
        ("Content-Length: 10", "", "helloworld"),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n",
            "5\r\nworld\r\n0\r\n\r\n",
        ),
    ] {
        for (path, answer) in [("some/body", "helloworld"), ("some/body-first", "")] {
            let mut stream = front.connect();
            let head = format!(
                "POST /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framing}\r\n\r\n"
            );
            stream.write_all((head + first).as_bytes()).expect("sent");
            std::thread::sleep(Duration::from_millis(20)); // sent together, it would be whole at once
            stream.write_all(rest.as_bytes()).expect("sent");
            let got = self::rest(stream);
            match answer {
                "" => assert!(got.starts_with("HTTP/1.1 502 "), "{got}"),
                body => assert!(
                    got.ends_with(body) && got.starts_with("HTTP/1.1 200 "),
                    "{got}"
                ),
            }
        }
    }
}

/// A client whose socket takes little, so that an answer's head reaches it in parts.
fn narrow(front: &Front, target: &str) -> TcpStream {
    let SocketAddr::V4(address) = front.address else {
        panic!("it listens on 127.0.0.1");
    };
    let bytes: libc::c_int = 2048;
    // SAFETY: the option's value is an int, the address one of IPv4; the new descriptor has no other owner.
    let mut stream = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        let len = size_of_val(&bytes) as libc::socklen_t;
        let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVBUF);
        assert_eq!(
            libc::setsockopt(fd, level, name, (&raw const bytes).cast(), len),
            0
        );
        let mut to: libc::sockaddr_in = std::mem::zeroed();
        to.sin_family = libc::AF_INET as libc::sa_family_t;
        to.sin_port = address.port().to_be();
        to.sin_addr.s_addr = u32::from(*address.ip()).to_be();
        let len = size_of_val(&to) as libc::socklen_t;
        assert_eq!(libc::connect(fd, (&raw const to).cast(), len), 0);
        TcpStream::from_raw_fd(fd)
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

#[test]
fn a_head_that_is_sent_in_parts_arrives_as_it_was_checked() {
    let front = Front::start(Asked::small_buffer(), 1, &[(None, "/", 0)]);
    let _a = front.serve(0, "a", 4);
    let without_date = |text: String| -> Vec<String> {
        let lines = text.split("\r\n").map(str::to_owned);
        lines.filter(|line| !line.starts_with("Date: ")).collect()
    };
    let whole = without_date(front.get("/fields"));
    assert_eq!(
        whole.len(),
        250 + 5,
        "status, length, close, an empty line, the body"
    );
    assert_eq!(without_date(rest(narrow(&front, "/fields"))), whole);
}

#[test]
fn fields_that_are_changed_while_they_are_sent_are_not_sent() {
    let front = Front::start(Asked::small_buffer(), 1, &[(None, "/", 0)]);
    let a = front.serve(0, "a", 1);
    let mut stream = narrow(&front, "/fields");
    stream.read_exact(&mut [0; 1]).expect("the first byte");
    // The sockets hold less than the fields, so the last of them cannot have been sent yet.
    let (base, len) = a.memory;
    // SAFETY: memory of this test that nothing else writes now. The loop may copy it meanwhile: this test
    // checks that.
    let changed = unsafe {
        let bytes = std::slice::from_raw_parts(base as *const u8, len);
        let last = bytes.windows(6).position(|window| window == b"X-0249");
        let value = base as *mut u8;
        value
            .add(last.expect("a reply in the slot") + 10)
            .write_volatile(b'\n');
        last.is_some()
    };
    assert!(changed);
    // The connection is cut, by a reset if its client has not taken all by then.
    let mut text = Vec::new();
    if let Err(error) = stream.read_to_end(&mut text) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let text = String::from_utf8(text).expect("text");
    assert!(!text.contains("X-0249"), "{text}");
    eventually("the slot is free again", || front.get("/").ends_with('a'));
}

/// Another process with a door: this test binary, run again for one test, which sees by the environment that
/// it is that process. It says on its standard output when it takes up a call.
struct Process {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

const DOOR: &str = "TRANSOM_TEST_DOOR";
const NAME: &str = "TRANSOM_TEST_NAME";

impl Process {
    fn start(test: &str, door: &Path, name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(DOOR, door)
            .env(NAME, name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // SAFETY: prctl is a plain system call, and safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Nothing is left running, even if this process is killed.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().expect("a process");
        let lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut process = Process { child, lines };
        process.wait_for("attached");
        process
    }

    /// Waits for a line that it says.
    fn wait_for(&mut self, said: &str) {
        let mut lines = self.lines.by_ref().map(|line| line.expect("text"));
        assert!(
            lines.any(|line| line.ends_with(said)),
            "it ended before it said {said}"
        );
    }

    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the other process: serves until it is killed.
fn serve_if_told_to() {
    let Some(path) = std::env::var_os(DOOR) else {
        return;
    };
    let name = std::env::var(NAME).expect("given with the path");
    let builder = Door::builder().channel_geometry(ChannelGeometry {
        slots: 16,
        spares: 0,
        request_size: 64 << 10,
        reply_size: 64 << 10,
    });
    let door = door(builder, move |call| {
        let path = decode_request(call.request())
            .expect("a request")
            .path
            .to_owned();
        println!("takes {path}");
        match path.as_str() {
            "/begin" => {
                let slot = call.reply_mut();
                let at = encode_reply_head(slot, 200, None, &[]).expect("fits");
                slot[at..at + 5].copy_from_slice(b"begun");
                set_reply_body(slot, 5, true);
                call.interim(at + 5, interim::REPLY)
                    .expect("the caller is there");
                println!("has sent the beginning");
                Gate::default().pass();
            }
            "/upload" => {
                while call.interim(0, interim::WANT_BODY).is_ok() {
                    println!("has a piece");
                }
            }
            _ => handle(&name, &Gate::default(), call),
        }
    });
    door.start().expect("threads");
    let _attachment = door
        .attach(Path::new(&path), &AttachOptions::default())
        .expect("the path is free");
    println!("attached");
    loop {
        std::thread::park();
    }
}

/// A directory of the test's own, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("transom-front-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn when_an_instance_dies_what_it_had_begun_is_a_502_and_the_rest_goes_to_the_next() {
    serve_if_told_to();
    let test =
        "tests::when_an_instance_dies_what_it_had_begun_is_a_502_and_the_rest_goes_to_the_next";
    let directory = Directory::new("dies");
    let door = directory.0.join("a.door");
    let front = Front::start_at(
        std::slice::from_ref(&door),
        Asked::default(),
        &[(None, "/", 0)],
    );
    let mut first = Process::start(test, &door, "first");
    assert_answer(&front.get("/"), 200, "first");

    let mut begun = front.ask("GET", "/begin");
    first.wait_for("has sent the beginning");
    let mut upload = front.connect();
    let head = "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    upload.write_all(head.as_bytes()).expect("sent");
    upload.write_all(&[b'x'; 100_000]).expect("sent");
    first.wait_for("has a piece");
    let held: Vec<_> = (0..2).map(|_| front.ask("GET", "/hold")).collect();
    first.wait_for("takes /hold");
    first.wait_for("takes /hold");
    // All threads are busy, so none takes these up.
    let mut slow = front.connect();
    slow.write_all(
        b"POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 40000\r\n\r\n",
    )
    .expect("sent");
    slow.write_all(&[b'y'; 20_000]).expect("sent");
    let unseen: Vec<_> = (0..3).map(|_| front.ask("GET", "/")).collect();
    eventually("all are submitted", || {
        front.stats.requests.get() == 1 + 1 + 1 + 2 + 3
    });
    first.kill();

    for stream in held {
        assert_answer(
            &rest(stream),
            502,
            "The application went away during the request.\n",
        );
    }
    assert!(rest(upload).starts_with("HTTP/1.1 502 "));
    let mut text = Vec::new();
    begun.read_to_end(&mut text).expect("an end");
    let text = String::from_utf8(text).expect("text");
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.ends_with("begun\r\n"),
        "{text}"
    );
    assert_eq!(front.stats.bad_gateway.get(), 4);

    let late = front.ask("GET", "/");
    slow.write_all(&[b'y'; 20_000]).expect("sent");
    let second = Process::start(test, &door, "second");
    for stream in unseen {
        assert_answer(&rest(stream), 200, "second");
    }
    assert_answer(&rest(late), 200, "second");
    assert_answer(&rest(slow), 200, &"y".repeat(40_000));
    assert_eq!(front.stats.unaccepted_resent.get(), 3 + 1);
    assert_eq!(front.stats.bad_gateway.get(), 4);
    second.kill();
    let _third = Process::start(test, &door, "third");
    assert_answer(&front.get("/"), 200, "third");
}

#[test]
fn instances_that_take_turns_on_a_path_fail_no_request() {
    let directory = Directory::new("turns");
    let path = directory.0.join("a.door");
    let front = Front::start_at(
        std::slice::from_ref(&path),
        Asked {
            requests_per_connection: 1_000_000_000,
            ..Asked::default()
        },
        &[(None, "/", 0)],
    );
    let attached = || {
        let builder = Door::builder().channel_geometry(ChannelGeometry {
            slots: 4,
            spares: 0,
            request_size: 64 << 10,
            reply_size: 64 << 10,
        });
        let door = door(builder, |call| handle("a", &Gate::default(), call));
        door.start().expect("threads");
        let attachment = door.attach(&path, &AttachOptions::default());
        (door, attachment.expect("the path is free"))
    };
    let (mut old, attachment) = attached();
    // By reference into the scope: the last one stays until all requests have ended.
    let mut attachment = Some(attachment);
    let stop = AtomicU32::new(0);
    let answered = AtomicU32::new(0);
    std::thread::scope(|scope| {
        // Twice as many as there are slots.
        for _ in 0..8 {
            scope.spawn(|| {
                let mut stream = front.connect();
                while stop.load(Ordering::Relaxed) == 0 {
                    let body = "z".repeat(3000);
                    let request = format!(
                        "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(request.as_bytes()).expect("sent");
                    let mut text = Vec::new();
                    while !text.ends_with(body.as_bytes()) {
                        let mut bytes = [0; 8192];
                        let len = stream.read(&mut bytes).expect("an answer");
                        text.extend_from_slice(&bytes[..len]);
                        let so_far = String::from_utf8_lossy(&text);
                        assert!(len > 0 && so_far.starts_with("HTTP/1.1 200 "), "{so_far}");
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..30 {
            let before = answered.load(Ordering::Relaxed);
            eventually("the instance has served", || {
                answered.load(Ordering::Relaxed) > before + 20
            });
            drop(attachment.take());
            let (new, next) = attached();
            attachment = Some(next);
            std::mem::replace(&mut old, new).revoke();
        }
        stop.store(1, Ordering::Relaxed);
    });
    assert_eq!(front.stats.server_errors.get(), 0);
    drop(attachment);
    old.revoke();
}

#[test]
fn calls_of_instances_that_left_keep_the_next_one_out_for_a_while_only() {
    let asked = Asked {
        queue_timeout: Duration::from_secs(2),
        ..Asked::small_buffer()
    };
    let front = Front::start(asked, 1, &[(None, "/", 0)]);
    let first = front.serve(0, "a", 4);
    front.learn_that_bodies_come_first();
    let mut slow = narrow(&front, "/fields");
    slow.read_exact(&mut [0; 1]).expect("the first byte");
    // A body that has begun and does not end has a slot too.
    let mut upload = front.connect();
    let head = "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n";
    upload.write_all(head.as_bytes()).expect("sent");
    upload.write_all(&[b'x'; 20_000]).expect("sent");
    first.door.revoke();
    let second = front.serve(0, "b", 4);
    eventually("the second one serves", || front.get("/").ends_with('b'));
    let held = front.ask("GET", "/hold");
    second.gate.wait_for(1);
    second.door.revoke();
    let _third = front.serve(0, "c", 4);
    assert_answer(&front.get("/"), 200, "c");
    assert!(!rest(slow).contains("X-0249"), "its answer was cut");
    assert!(rest(upload).starts_with("HTTP/1.1 503 "));
    assert_eq!(front.stats.cut.get(), 2);
    second.gate.open();
    assert_answer(&rest(held), 200, "b");
}

/// Of three slots two are in use at once. When all three are lost there is none until the application is
/// replaced.
#[test]
fn a_loop_whose_slots_are_all_lost_says_so_and_begins_anew_with_the_next_instance() {
    let directory = Directory::new("lost");
    let path = directory.0.join("a.door");
    let front = Front::start_at(
        std::slice::from_ref(&path),
        Asked::queue_timeout(Duration::from_millis(50)),
        &[(None, "/", 0)],
    );
    let attached = |name: &'static str| {
        let builder = Door::builder().channel_geometry(ChannelGeometry {
            slots: 2,
            spares: 1,
            request_size: 64 << 10,
            reply_size: 64 << 10,
        });
        let gate: Arc<Gate> = Arc::default();
        let door = door(builder, {
            let gate = gate.clone();
            move |call| handle(name, &gate, call)
        });
        door.start().expect("threads");
        let attachment = door.attach(&path, &AttachOptions::default());
        (door, gate, attachment.expect("the path is free"))
    };
    let (old, _, attachment) = attached("old");
    eventually("the door is open", || front.get("/").ends_with("old"));
    for usable in [2, 2, 1] {
        eventually("the slots are counted", || {
            front.stats.slots.get() == usable
        });
        let lost = front.get("/lose");
        assert!(
            lost.starts_with("HTTP/1.1 500 ") && lost.contains("bucket-exhausted"),
            "{lost}"
        );
        if usable > 1 {
            assert_answer(&front.get("/"), 200, "old");
        }
    }
    eventually("they are counted", || {
        (front.stats.slots.get(), front.stats.slots_lost.get()) == (0, 3)
    });
    let waiting: Vec<_> = (0..4).map(|_| front.ask("GET", "/")).collect();
    for stream in waiting {
        assert!(rest(stream).starts_with("HTTP/1.1 503 "));
    }
    drop(attachment);
    let (new, gate, attachment) = attached("new");
    old.revoke();
    eventually("the next one serves", || front.get("/").ends_with("new"));
    let held: Vec<_> = (0..2).map(|_| front.ask("GET", "/hold")).collect();
    gate.wait_for(2);
    gate.open();
    for stream in held {
        assert_answer(&rest(stream), 200, "new");
    }
    eventually("they are counted", || {
        (front.stats.slots.get(), front.stats.slots_lost.get()) == (2, 0)
    });
    drop(attachment);
    new.revoke();
}
