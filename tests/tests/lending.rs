//! Loans of a handler to a thread of its own when its request is lost (`lender`): a loan lasts as long as
//! the process, so the lent memory is lost too. Other clients' requests never come there, and their answers
//! and connections are their own. In one process and through doors.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;
use transom_tests::doors::{Folder, before};
use transom_tests::echo::Echo;
use transom_tests::{Launch, PATIENCE, Server, eventually};

/// Half of these may be lost before the process is replaced.
const FLAGS: &str = "--buckets 16 --request-size 64KiB --reply-size 64KiB";
/// One loop, so that all requests go through one channel, whose slots are used last in, first out.
const FRONT: &str = "--loops 1 --deadline 0";

fn lender(lends: &str, flags: &str) -> Server {
    Launch::of_file(env!("CARGO_BIN_EXE_lender"))
        .env("LENDS", lends)
        .flags(flags)
        .start()
}

/// The application `lender`, and what is before it.
struct Served {
    front: Server,
    _application: Option<Server>,
    _folder: Folder,
}

impl Served {
    /// HTTP in one process, and through a door.
    fn both(name: &str, flags: &str) -> [Served; 2] {
        let alone = Served {
            front: lender("requests", &format!("{FLAGS} {FRONT} {flags}")),
            _application: None,
            _folder: Folder::new(&format!("{name}-alone")),
        };
        let folder = Folder::new(&format!("{name}-door"));
        let door = folder.path("lender.door");
        let application = lender(
            "requests",
            &format!("--door {} {FLAGS} {flags}", door.display()),
        );
        let split = Served {
            front: before(&door, FRONT),
            _application: Some(application),
            _folder: folder,
        };
        [alone, split]
    }

    /// Has a loan made; the client is told at once that its request has failed.
    fn lend(&self, request: &str, body: &[u8]) {
        let mut client = self.front.connect();
        client.send(format!(
            "{request} HTTP/1.1\r\nHost: test\r\nSecret: of the first\r\n"
        ));
        client.send(format!("Content-Length: {}\r\n\r\n", body.len()));
        client.try_send(body);
        let answer = client.try_answer();
        match request {
            // Its answer had begun, so it can only break off.
            "GET /piece" => assert!(answer.is_err(), "{answer:?}"),
            _ => {
                let answer = answer.expect("an answer");
                assert_eq!(
                    (answer.status, answer.field("transom-diagnostic")),
                    (500, Some("bucket-exhausted"))
                );
            }
        }
    }

    /// Requests of other clients, each of which must get its own answer.
    fn ask_for_others(&self) {
        let mut client = self.front.connect();
        for number in 0..200_usize {
            let secret = format!("secret-{number}-").repeat(10 + number * 7 % 900);
            let answer = client.post(&format!("/echo/{number}"), &secret);
            assert_eq!(answer.status, 200, "{}", answer.head);
            assert!(
                answer.body == format!("{number} {secret}").into_bytes(),
                "request {number} has got another answer than its own"
            );
        }
    }

    fn report(&self) -> String {
        self.front.get("/report").text().to_owned()
    }
}

/// Makes a loan, then other requests: no byte of theirs may come into the lent memory.
fn check(name: &str, request: &str, body: &[u8]) {
    for served in Served::both(name, "") {
        for loans in 1..=2 {
            served.lend(request, body);
            served.ask_for_others();
            assert_eq!(
                served.report(),
                format!("borrowers={loans} changes=0 waiting=0\n")
            );
        }
    }
}

#[test]
fn a_body_that_was_lent_never_becomes_another_clients() {
    check("body", "POST /body", &[b'b'; 30_000]);
}

#[test]
fn a_head_whose_body_came_in_pieces_never_becomes_another_clients() {
    check("upload", "POST /upload", &[b'u'; 1_000_000]);
}

#[test]
fn room_for_an_answer_that_was_lent_never_carries_another_answer() {
    check("space", "GET /space", b"");
}

#[test]
fn room_for_a_piece_of_an_answer_that_was_lent_never_carries_another_answer() {
    check("piece", "GET /piece", b"");
}

/// As many are lost as may be before the process is replaced, but one, through a channel of two slots.
#[test]
fn two_requests_are_served_at_once_however_many_slots_were_lost() {
    for served in Served::both("slots", "--slots 2") {
        for _ in 0..7 {
            served.lend("POST /body", b"body");
        }
        let mut waiting = served.front.connect();
        waiting.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(eventually(|| served.report().contains("waiting=1")));
        served.ask_for_others();
        assert_eq!(served.report(), "borrowers=7 changes=0 waiting=1\n");
        let _ = served.front.post("/go", "");
        assert_eq!(waiting.answer().status, 200);
    }
}

/// A front end that leaves takes its half of the channel with it, and the application's half stays as long as
/// the loan.
#[test]
fn room_that_was_lent_stays_when_the_front_end_leaves() {
    let folder = Folder::new("lending-leaves");
    let door = folder.path("lender.door");
    let application = lender("requests", &format!("--door {} {FLAGS}", door.display()));
    for loans in 1..=3 {
        let served = Served {
            front: before(&door, FRONT),
            _application: None,
            _folder: Folder::new("lending-unused"),
        };
        served.lend("GET /space", b"");
        served.ask_for_others();
        assert_eq!(
            served.report(),
            format!("borrowers={loans} changes=0 waiting=0\n")
        );
        let left = |lines: Vec<String>| {
            let news = lines
                .iter()
                .filter(|line| line.contains("a client has left"));
            news.count()
        };
        assert_eq!(served.front.stop().code(), 0);
        assert!(eventually(|| left(application.lines()) == loans));
    }
    assert_eq!(application.stop().code(), 0);
}

fn forward(scheme: &str, door: &Path) -> Server {
    let forward = format!("serve --forward {scheme}://127.0.0.1:0={}", door.display());
    Launch::of("transom").flags(&forward).start()
}

/// What comes back for a line, to the end of the connection.
fn exchange(address: SocketAddr, line: &str) -> String {
    let answer = try_exchange(address, line);
    String::from_utf8(answer).expect("text, and no error")
}

/// The same; a connection that breaks ends with bytes that are no text.
fn try_exchange(address: SocketAddr, line: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = Vec::new();
    let whole = stream
        .write_all(line.as_bytes())
        .and_then(|()| stream.read_to_end(&mut answer));
    if whole.is_err() {
        answer.push(0xFF);
    }
    answer
}

#[test]
fn a_connection_that_was_lent_never_becomes_another_clients() {
    let folder = Folder::new("lending-tcp");
    let door = folder.path("lender.door");
    let _application = lender("connections", &format!("--door {} {FLAGS}", door.display()));
    let front = forward("tcp", &door);
    let first: i32 = exchange(front.address(), "number\n")
        .trim()
        .parse()
        .expect("a number");
    for (loans, line) in (1..).zip(["read\n", "write\n", "read\n"]) {
        // It ends at once, with what its borrower has written until then.
        let written = try_exchange(front.address(), line);
        assert!(written.iter().all(|&byte| byte == 0xEE), "{written:?}");
        for number in 0..100 {
            let secret = format!("secret {number}");
            assert_eq!(exchange(front.address(), &secret), secret);
            let report = exchange(front.address(), "report\n");
            assert_eq!(report, format!("borrowers={loans} changes=0 waiting=0\n"));
        }
        // The lowest number that is free is given to the next connection: one more is in use for each loan.
        let now: i32 = exchange(front.address(), "number\n")
            .trim()
            .parse()
            .expect("a number");
        assert!(
            now >= first + loans,
            "{now}, and {first} before {loans} loans"
        );
    }
}

/// Later connections and datagrams do not wait for a slot that is never free.
#[test]
fn a_forward_whose_slots_are_all_lost_closes_what_comes_until_its_application_is_replaced() {
    let folder = Folder::new("lending-all");
    for (scheme, descriptors, news) in [
        ("tcp", "descriptors=1", " forwarded connections forward="),
        ("udp", "descriptors=0", " forwarded datagrams forward="),
    ] {
        let door = folder.path(scheme);
        let options = ["slots=2", "spares=1", descriptors, "loses=all"];
        let loses = Echo::start(env!("CARGO_BIN_EXE_door-echo"), &door, 8, &options);
        let front = forward(scheme, &door);
        let again = |bytes: &str| match scheme {
            "tcp" => try_exchange(front.address(), bytes) == bytes.as_bytes(),
            _ => is_echoed(front.address(), bytes.as_bytes()),
        };
        // Three are lost, and the others find no slot.
        for number in 0..20 {
            assert!(!again(&format!("call {number}")));
        }
        drop(loses);
        let lends = match scheme {
            "tcp" => "connections",
            _ => "datagrams",
        };
        let flags = format!("--door {} {FLAGS} --door-wait 10s", door.display());
        let _next = lender(lends, &flags);
        assert!(eventually(|| again("again")));
        let ended = front.stop();
        let line = ended.lines.iter().find(|line| line.contains(news));
        let line = line.expect("it says what it has done");
        assert!(
            line.contains(" failed=3 ") && line.contains(" refused=17 "),
            "{line}"
        );
    }
}

/// Whether a datagram comes back soon.
fn is_echoed(address: SocketAddr, bytes: &[u8]) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let soon = Some(Duration::from_millis(50));
    socket.set_read_timeout(soon).expect("a timeout");
    socket.send_to(bytes, address).expect("it is sent");
    let mut room = [0; 64];
    matches!(socket.recv(&mut room), Ok(len) if room[..len] == *bytes)
}

#[test]
fn a_datagram_and_the_room_for_its_answer_that_were_lent_never_become_another_clients() {
    let folder = Folder::new("lending-udp");
    let door = folder.path("lender.door");
    let _application = lender("datagrams", &format!("--door {} {FLAGS}", door.display()));
    let front = forward("udp", &door);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.connect(front.address()).expect("an address");
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a timeout");
    let mut room = vec![0; 70_000];
    let mut ask = |bytes: &[u8]| {
        socket.send(bytes).expect("it is sent");
        let len = socket.recv(&mut room).expect("an answer");
        room[..len].to_vec()
    };
    for (loans, what) in (1..).zip(["read", "write", "read", "write"]) {
        socket.send(what.as_bytes()).expect("it is sent");
        let expected = format!("borrowers={loans} changes=0 waiting=0\n").into_bytes();
        assert!(eventually(|| ask(b"report") == expected));
        for number in 0..200_usize {
            let secret = format!("secret-{number}-").repeat(10 + number * 7 % 500);
            assert!(
                ask(secret.as_bytes()) == secret.as_bytes(),
                "answer {number}"
            );
        }
        assert_eq!(ask(b"report"), expected);
    }
}
