//! What is measured: which servers, doing what, and the expected results.

use crate::machine::Cpus;
use crate::servers::{Application, FILE_BYTES, Kind, Setup};
use crate::wrk::Load;
use std::fs;
use std::io;
use std::path::Path;

/// Connections of most workloads.
const CONNECTIONS: u32 = 64;

/// Bytes that clients of the attack have a server allocate for each request, in KiB: 20 MB.
pub const ATTACK_KIB: u32 = 20_000;

/// Clients of the attack.
pub const ATTACKERS: u32 = 200;

/// Connections that are open and silent.
const IDLE: u32 = 10_000;

/// A group of servers that are measured in turn.
pub struct Workload {
    /// For `--only`.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What it is, in the page's words.
    pub about: &'static str,
    /// How it is measured.
    pub method: Method,
    /// The server to which the ratios of its table are.
    pub baseline: &'static str,
    /// The servers that are measured, in turn.
    pub contestants: Vec<Contestant>,
    /// What must come out.
    pub bars: Vec<Bar>,
}

/// How a workload is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// In rounds: each server in turn, for the same time.
    Rounds,
    /// From its start to its first answer, in rounds.
    Start,
    /// One server after the other, once: some take gigabytes.
    Attack,
}

/// A server, set up for a workload, and what is done to it.
#[derive(Clone)]
pub struct Contestant {
    /// What it is called in this workload.
    pub name: String,
    /// Which server it is.
    pub kind: Kind,
    /// What it is started with.
    pub setup: Setup,
    /// What clients do.
    pub load: Load,
    /// What its first answer must be; all must have that status.
    pub expected: Expected,
    /// The body that the first request has, like those of the load's script.
    pub body: Option<Vec<u8>>,
    /// Connections beside the load that are open and silent.
    pub idle: u32,
    /// The CPUs of the server and of the clients, if they are not those of the other workloads.
    pub cpus: Option<[Cpus; 2]>,
    /// Which other build of ours it is.
    pub build: Option<usize>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Body,
}

/// A body that is expected.
#[derive(Debug, Clone)]
pub enum Body {
    /// This one.
    Is(Vec<u8>),
    /// One that begins so.
    Begins(&'static str),
    /// One of so many bytes.
    Bytes(usize),
}

impl Body {
    /// Whether a body is the one that is expected.
    pub fn is(&self, body: &[u8]) -> bool {
        match self {
            Self::Is(expected) => body == expected,
            Self::Begins(start) => body.starts_with(start.as_bytes()),
            Self::Bytes(bytes) => body.len() == *bytes,
        }
    }
}

/// A bar: a figure of ours beside another's, or by itself, and where it must be.
#[derive(Debug, Clone)]
pub struct Bar {
    /// The server that must meet it.
    pub ours: &'static str,
    /// The server that it is compared with; `None` if the figure stands alone.
    pub theirs: Option<&'static str>,
    /// Which figure.
    pub figure: Figure,
    /// Where the median must be.
    pub limit: Limit,
}

/// Which figure a bar is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// CPU time per request.
    Cpu,
    /// Requests a second.
    Rate,
    /// The median time of an answer.
    P50,
    /// Bytes of ours that the memory equation has for a connection.
    Connection,
    /// Milliseconds from the start to the first answer.
    Ready,
}

/// Where a figure must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// At most so much.
    AtMost(f64),
    /// Less than that.
    Below(f64),
    /// At least so much.
    AtLeast(f64),
    /// No further from 1 than that.
    Within(f64),
}

impl Limit {
    /// Whether a figure is where it must be.
    pub fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(limit) => figure <= limit,
            Self::Below(limit) => figure < limit,
            Self::AtLeast(limit) => figure >= limit,
            Self::Within(limit) => (figure - 1.0).abs() <= limit,
        }
    }
}

impl Contestant {
    fn new(kind: Kind, path: &str, expected: Body) -> Self {
        Self {
            name: kind.name().into(),
            kind,
            setup: Setup::default(),
            load: Load {
                connections: CONNECTIONS,
                threads: 1,
                path: path.into(),
                field: None,
                script: None,
            },
            expected: Expected {
                status: 200,
                body: expected,
            },
            body: None,
            idle: 0,
            cpus: None,
            build: None,
        }
    }

    fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    fn connections(mut self, connections: u32) -> Self {
        self.load.connections = connections;
        self.setup.connections = self.setup.connections.max(connections + 64);
        self
    }

    fn idle(mut self, idle: u32) -> Self {
        self.idle = idle;
        self.setup.connections = idle + CONNECTIONS + 64;
        self
    }

    fn epoll(mut self, mode: &'static str) -> Self {
        self.setup.epoll = mode;
        self
    }

    fn flags(mut self, flags: &[&str]) -> Self {
        self.setup.flags = flags.iter().map(ToString::to_string).collect();
        self
    }

    fn application(mut self, application: Application, path: &str) -> Self {
        if self.kind.is_ours() {
            self.setup.application = application;
            self.load.path = path.into();
        }
        self
    }

    fn status(mut self, status: u16) -> Self {
        self.expected.status = status;
        self
    }
}

const PLAINTEXT: &[u8] = b"hello, world\n";

fn plaintext(kind: Kind) -> Contestant {
    Contestant::new(kind, "/", Body::Is(PLAINTEXT.into()))
}

fn bar(ours: &'static str, theirs: &'static str, figure: Figure, limit: Limit) -> Bar {
    Bar {
        ours,
        theirs: Some(theirs),
        figure,
        limit,
    }
}

fn alone(ours: &'static str, figure: Figure, limit: Limit) -> Bar {
    Bar {
        ours,
        theirs: None,
        figure,
        limit,
    }
}

/// Every workload, on a machine with so many CPUs. Scripts for wrk are written to `folder`.
pub fn all(folder: &Path, cpus: u32) -> io::Result<Vec<Workload>> {
    use Figure::{Connection, Cpu, P50, Rate, Ready};
    use Kind::{
        Actix, Axum, Door, Epoll, Go, Hyper, May, Nginx, NginxUnix, Node, Php, Transom, Uring,
        Varnish,
    };
    use Limit::{AtLeast, AtMost, Below, Within};

    let script = |name: &str, text: &str| {
        let path = folder.join(format!("{name}.lua"));
        fs::write(&path, text).map(|()| path)
    };
    let pipeline = script(
        "pipelined",
        "init = function()\n  requests = string.rep(wrk.format(), 16)\nend\nrequest = function() return requests end\n",
    )?;
    let post = |name: &str, body: &[u8]| {
        let path = folder.join(format!("{name}.body"));
        fs::write(&path, body)?;
        script(
            name,
            &format!(
                "wrk.method = \"POST\"\nlocal file = io.open(\"{}\", \"rb\")\nwrk.body = file:read(\"*a\")\nfile:close()\n",
                path.display()
            ),
        )
    };

    let small_answers = || {
        vec![
            bar("transom", "epoll", Cpu, AtMost(1.10)),
            bar("transom", "hyper", Cpu, Below(1.0)),
            bar("transom", "nginx", Cpu, Below(0.9)),
            bar("door", "epoll", Cpu, AtMost(1.25)),
            bar("door", "nginx-unix", Cpu, AtMost(0.4)),
        ]
    };
    let mut workloads = vec![
        Workload {
            name: "plaintext",
            title: "Plaintext",
            about: "`GET /`, 13 bytes, 64 keep-alive connections.",
            method: Method::Rounds,
            baseline: "epoll",
            contestants: Kind::ALL.map(plaintext).into(),
            bars: small_answers(),
        },
        Workload {
            name: "json",
            title: "JSON",
            about: "`GET /json`, 27 bytes, serialised for each request except by epoll and nginx; 64 keep-alive connections.",
            method: Method::Rounds,
            baseline: "epoll",
            contestants: Kind::ALL
                .into_iter()
                .filter(|kind| ![Uring, Php, Varnish].contains(kind))
                .map(|kind| {
                    let message = br#"{"message":"Hello, World!"}"#;
                    Contestant::new(kind, "/json", Body::Is(message.into())).epoll("json")
                })
                .collect(),
            bars: small_answers(),
        },
        Workload {
            name: "one",
            title: "One connection",
            about: "`GET /`, one keep-alive connection: what a request takes when the server has nothing else to do.",
            method: Method::Rounds,
            baseline: "nginx",
            contestants: [
                Transom, Door, Epoll, Uring, Nginx, NginxUnix, Hyper, Actix, May,
            ]
            .map(|kind| plaintext(kind).connections(1))
            .into(),
            bars: vec![bar("transom", "nginx", P50, AtMost(1.25))],
        },
        Workload {
            name: "pipelined",
            title: "Pipelined × 16",
            about: "`GET /`, 64 keep-alive connections, 16 requests written at once. What wrk tells of times is then about whole \
                    batches.",
            method: Method::Rounds,
            baseline: "epoll",
            contestants: [Transom, Door, Epoll, Nginx, Hyper, Axum, Actix, May]
                .map(|kind| {
                    let mut contestant = plaintext(kind).epoll("pipelined");
                    contestant.load.script = Some(pipeline.clone());
                    contestant
                })
                .into(),
            bars: vec![bar("transom", "hyper", Cpu, AtMost(1.0))],
        },
        Workload {
            name: "close",
            title: "One request per connection",
            about: "`GET /` with `Connection: close`, 64 connections at a time. wrk opens them, and is the bottleneck.",
            method: Method::Rounds,
            baseline: "epoll",
            contestants: [Transom, Door, Epoll, Nginx, Hyper, Axum, Actix, Go]
                .map(|kind| {
                    let mut contestant = plaintext(kind).epoll("close");
                    contestant.load.field = Some("Connection: close");
                    contestant
                })
                .into(),
            bars: vec![bar("transom", "epoll", Cpu, AtMost(1.1))],
        },
        Workload {
            name: "idle",
            title: "10,000 idle connections, then 64 active ones",
            about: "10,000 connections have each had an answer and stay open, silent; then `GET /` on 64 others. The bytes are what the \
                    server's own memory grew by; ours does not grow, because a connection's memory is there before it is: `--check` \
                    says how much.",
            method: Method::Rounds,
            baseline: "nginx",
            contestants: [Transom, Door, Epoll, Nginx, Hyper, Actix, May, Go]
                .map(|kind| plaintext(kind).idle(IDLE))
                .into(),
            bars: vec![alone("transom", Connection, AtMost(512.0))],
        },
        Workload {
            name: "active",
            title: "4,096 active connections",
            about: "`GET /` on 4,096 keep-alive connections, beside the same server with 64.",
            method: Method::Rounds,
            baseline: "transom-64",
            contestants: [
                (Transom, 64, "transom-64"),
                (Transom, 4096, "transom-4096"),
                (Door, 64, "door-64"),
                (Door, 4096, "door-4096"),
                (Epoll, 4096, "epoll-4096"),
                (Nginx, 64, "nginx-64"),
                (Nginx, 4096, "nginx-4096"),
                (Hyper, 64, "hyper-64"),
                (Hyper, 4096, "hyper-4096"),
            ]
            .map(|(kind, connections, name)| {
                let mut contestant = plaintext(kind).connections(connections).named(name);
                contestant.setup.connections = 4200;
                contestant
            })
            .into(),
            bars: vec![
                bar("transom-4096", "transom-64", Cpu, AtMost(1.15)),
                bar("door-4096", "door-64", Cpu, AtMost(1.15)),
            ],
        },
    ];

    // Told beside hyper, and without a bar.
    let beside_hyper = |name, title, about, contestants| Workload {
        name,
        title,
        about,
        method: Method::Rounds,
        baseline: "hyper",
        contestants,
        bars: Vec::new(),
    };
    for (name, title, about, bytes) in [
        (
            "echo1",
            "Echo of 1 KiB",
            "`POST /echo` of 1 KiB, 64 keep-alive connections.",
            1 << 10,
        ),
        (
            "echo16",
            "Echo of 16 KiB",
            "`POST /echo` of 16 KiB, 64 keep-alive connections.",
            16 << 10,
        ),
    ] {
        let body = vec![b'x'; bytes];
        let script = post(name, &body)?;
        let contestants = [Transom, Door, Hyper, Axum, Actix, May, Go, Node]
            .map(|kind| {
                let mut contestant = Contestant::new(kind, "/echo", Body::Is(body.clone()));
                contestant.load.script = Some(script.clone());
                contestant.body = Some(body.clone());
                contestant
            })
            .into();
        workloads.push(beside_hyper(name, title, about, contestants));
    }

    for (name, title, about, bytes) in [
        (
            "size64",
            "Answers of 64 KiB",
            "`GET /size/65536`, 64 keep-alive connections; made for each request, except by nginx, which sends a file.",
            64 << 10,
        ),
        (
            "size1024",
            "Answers of 1 MiB",
            "`GET /size/1048576`, 64 keep-alive connections; made for each request, except by nginx, which sends a file. Ours streams it \
             through a slot, at the memory of one slot.",
            1 << 20,
        ),
    ] {
        let contestants = [Transom, Door, Nginx, Hyper, Axum, Actix, May, Go]
            .map(|kind| Contestant::new(kind, &format!("/size/{bytes}"), Body::Bytes(bytes)))
            .into();
        workloads.push(beside_hyper(name, title, about, contestants));
    }

    workloads.push(Workload {
        name: "file",
        title: "Static file (Nea's send-static-file)",
        about: "A file of 16 KiB, 64 keep-alive connections: `apps/send-static-file`, nginx with `sendfile` and an open-file cache, hyper with \
                `tokio::fs::read`.",
        method: Method::Rounds,
        baseline: "nginx",
        contestants: [Transom, Door, Nginx, Hyper]
            .map(|kind| {
                Contestant::new(kind, "/file/page.txt", Body::Bytes(FILE_BYTES))
                    .application(Application::StaticFile, "/page.txt")
            })
            .into(),
        bars: Vec::new(),
    });
    for (name, title, about, kib) in [
        (
            "alloc1",
            "1 KiB allocated (Nea's varying-allocations)",
            "1 KiB allocated and its page written, 64 keep-alive connections.",
            1,
        ),
        (
            "alloc10",
            "10 KiB allocated",
            "10 KiB allocated and a byte of each page written, 64 keep-alive connections.",
            10,
        ),
        (
            "alloc50",
            "50 KiB allocated",
            "50 KiB allocated and a byte of each page written, 64 keep-alive connections.",
            50,
        ),
    ] {
        let contestants = [Transom, Hyper, Actix, May, Go]
            .map(|kind| {
                Contestant::new(kind, &format!("/alloc/{kib}"), Body::Begins(""))
                    .application(Application::VaryingAllocations, &format!("/{kib}"))
            })
            .into();
        workloads.push(beside_hyper(name, title, about, contestants));
    }
    let csv: String = (0..100)
        .map(|x| format!("{x}, {}.5\n", (x * 37) % 100))
        .collect();
    let script = post("csv", csv.as_bytes())?;
    let contestants = [Transom, Door, Hyper, Axum, Actix, May]
        .map(|kind| {
            let mut contestant = Contestant::new(kind, "/csv", Body::Begins("<svg"))
                .application(Application::CsvSvgPath, "/");
            contestant.load.script = Some(script.clone());
            contestant.body = Some(csv.clone().into_bytes());
            contestant
        })
        .into();
    workloads.push(beside_hyper(
        "csv",
        "CSV to SVG path (Nea's csv-svg-path)",
        "`POST` of 100 lines `x, y`, answered with an SVG path through the points, 64 keep-alive connections.",
        contestants,
    ));

    workloads.push(Workload {
        name: "buckets",
        title: "16 buckets, 16,384 buckets",
        about: "`GET /`, 16 keep-alive connections, so that as many requests are in handlers whatever the number of buckets; buckets of \
                176 KiB, 2.75 GiB of them in the second case, all of it touched before the first request.",
        method: Method::Rounds,
        baseline: "16 buckets",
        contestants: ["16", "16384"]
            .map(|buckets| {
                let flags = ["--buckets", buckets, "--bucket-size", "176KiB", "--stack-size", "64KiB", "--slots", "32"];
                let name = if buckets == "16" { "16 buckets" } else { "16,384 buckets" };
                plaintext(Transom).connections(16).flags(&flags).named(name)
            })
            .into(),
        bars: vec![bar("16,384 buckets", "16 buckets", Rate, Within(0.05))],
    });
    workloads.push(Workload {
        name: "exhausted",
        title: "Exhausted requests",
        about: "`GET /alloc/1` succeeds; `GET /alloc/1000000`, the same handler, asks for 1 GB and gets a 500 by escape. 64 keep-alive \
                connections.",
        method: Method::Rounds,
        baseline: "succeeds",
        contestants: vec![
            Contestant::new(Transom, "/alloc/1", Body::Begins("1 KiB")).named("succeeds"),
            Contestant::new(Transom, "/alloc/1000000", Body::Begins("")).status(500).named("exhausted"),
        ],
        bars: vec![bar("exhausted", "succeeds", Rate, AtLeast(0.9))],
    });
    // With enough CPUs, two are for the server and the others for clients; else both use all of them.
    let apart = cpus >= 4;
    let loops = |loops: u32, name: &str| {
        let mut contestant = plaintext(Transom).connections(2 * CONNECTIONS).named(name);
        contestant.setup.loops = loops;
        contestant.load.threads = 2;
        contestant.cpus = Some(if apart {
            [Cpus((0..loops).collect()), Cpus((2..cpus).collect())]
        } else {
            [0, 0].map(|first| Cpus((first..cpus).collect()))
        });
        contestant
    };
    workloads.push(Workload {
        name: "loops",
        title: "Two loops on two CPUs",
        about: if apart {
            "`GET /` on 128 connections: one loop on one CPU, two loops on two; wrk has the other CPUs."
        } else {
            "`GET /` on 128 connections. This machine has no CPUs for two loops and for clients that could keep them busy, so server and \
             clients share all of them, with one loop and with two, and CPU time per request shows whether the loops share anything on the \
             path of a request: 1.7 times as fast on twice the CPUs is 1.18 times the CPU time per request."
        },
        method: Method::Rounds,
        baseline: "one loop",
        contestants: vec![loops(1, "one loop"), loops(2, "two loops")],
        bars: vec![if apart {
            bar("two loops", "one loop", Rate, AtLeast(1.7))
        } else {
            bar("two loops", "one loop", Cpu, AtMost(1.18))
        }],
    });
    workloads.push(Workload {
        name: "start",
        title: "Start",
        about: "From the start of the process to its first answer; the memory of ours is mapped and touched by then.",
        method: Method::Start,
        baseline: "64 MiB",
        contestants: vec![
            plaintext(Transom).flags(&["--buckets", "128", "--bucket-size", "512KiB"]).named("64 MiB"),
            plaintext(Transom).flags(&["--buckets", "2048", "--bucket-size", "512KiB"]).named("1 GiB"),
            plaintext(Nginx),
            plaintext(Hyper),
            plaintext(Go),
            plaintext(Node),
        ],
        bars: vec![
            alone("64 MiB", Ready, AtMost(50.0)),
            alone("1 GiB", Ready, AtMost(400.0)),
        ],
    });
    workloads.push(Workload {
        name: "attack",
        title: "Memory attack, with an ordinary client beside it",
        about: "200 clients ask, all the time, for something that takes 20 MB, filled and held for 50 ms (`GET /attack/20000`); one \
                other asks for `GET /`. Each server once, one after the other. Ours, with its default of 64 buckets of 512 KiB, says 500 to those \
                that ask too much. Memory is looked at every 20 ms; what a server's processes share is counted for each here.",
        method: Method::Attack,
        baseline: "transom",
        contestants: [Transom, Door, Hyper, Axum, Actix, May, Go, Node, Php]
            .map(|kind| {
                let status = if kind.is_ours() || kind == Php { 500 } else { 200 };
                let path = format!("/attack/{ATTACK_KIB}");
                Contestant::new(kind, &path, Body::Begins("")).status(status).connections(ATTACKERS)
            })
            .into(),
        bars: Vec::new(),
    });
    Ok(workloads)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `test` is whose: tests run at once.
    fn every(test: &str) -> Vec<Workload> {
        let name = format!("transom-peers-test-{}-{test}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let workloads = all(&folder, 2).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        workloads
    }

    #[test]
    fn bars_and_baselines_name_who_is_measured() {
        for workload in every("bars") {
            let measured = |name: &str| {
                workload
                    .contestants
                    .iter()
                    .any(|contestant| contestant.name == name)
            };
            assert!(measured(workload.baseline), "{}", workload.name);
            for bar in &workload.bars {
                assert!(measured(bar.ours), "{}: {}", workload.name, bar.ours);
                assert!(
                    bar.theirs.is_none_or(measured),
                    "{}: {:?}",
                    workload.name,
                    bar.theirs
                );
            }
        }
    }

    #[test]
    fn no_name_is_there_twice() {
        let workloads = every("names");
        for (at, workload) in workloads.iter().enumerate() {
            assert!(
                workloads[at + 1..]
                    .iter()
                    .all(|other| other.name != workload.name)
            );
            for (at, contestant) in workload.contestants.iter().enumerate() {
                let others = &workload.contestants[at + 1..];
                assert!(
                    others.iter().all(|other| other.name != contestant.name),
                    "{}",
                    contestant.name
                );
            }
        }
    }

    #[test]
    fn limits() {
        assert!(Limit::AtMost(1.1).holds(1.1) && !Limit::AtMost(1.1).holds(1.11));
        assert!(Limit::Below(1.0).holds(0.99) && !Limit::Below(1.0).holds(1.0));
        assert!(Limit::AtLeast(0.9).holds(0.9) && !Limit::AtLeast(0.9).holds(0.89));
        assert!(Limit::Within(0.05).holds(0.96) && Limit::Within(0.05).holds(1.04));
        assert!(!Limit::Within(0.05).holds(0.94) && !Limit::Within(0.05).holds(1.06));
    }
}
