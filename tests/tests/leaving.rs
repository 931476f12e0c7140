//! Clients that leave while a handler works for them: what the handler is told, and when. Each in one process
//! and through a door.

use std::time::{Duration, Instant};
use transom_tests::doors::{Folder, before};
use transom_tests::{Launch, Server, eventually};

fn odd(flags: &str) -> Server {
    Launch::of_file(env!("CARGO_BIN_EXE_odd"))
        .flags(flags)
        .start()
}

/// The application `odd`, and what is before it.
struct Served {
    front: Server,
    application: Option<Server>,
    folder: Folder,
}

impl Served {
    /// In one process, and through a door.
    fn both(name: &str, flags: &str) -> [Served; 2] {
        let alone = Served {
            front: odd(&format!("--buckets 4 {flags}")),
            application: None,
            folder: Folder::new(&format!("{name}-alone")),
        };
        let folder = Folder::new(&format!("{name}-door"));
        let door = folder.path("odd.door");
        let application = odd(&format!("--buckets 4 --door {}", door.display()));
        let split = Served {
            front: before(&door, flags),
            application: Some(application),
            folder,
        };
        [alone, split]
    }

    fn attended(&self) -> String {
        self.front.get("/attended").text().to_owned()
    }

    /// Clients whose handlers wait for them to leave.
    fn attend(&self, path: &str) -> Vec<transom_tests::Client> {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                let mut client = self.front.connect();
                client.send(transom_tests::client::get(path));
                client
            })
            .collect();
        assert!(eventually(|| self.attended().starts_with("attending=2 ")));
        clients
    }
}

const PATHS: [&str; 2] = ["/attend", "/attend?piece"];

#[test]
fn a_handler_is_told_of_a_client_that_resets_its_connection() {
    for served in Served::both("resets", "--deadline 0") {
        for (path, gone) in PATHS.into_iter().zip([2, 4]) {
            let clients = served.attend(path);
            let left = Instant::now();
            for client in clients {
                client.reset();
            }
            let told = format!("attending=0 gone={gone}\n");
            assert!(eventually(|| served.attended() == told));
            let after = left.elapsed();
            assert!(after < Duration::from_secs(1), "{path}: {after:?}");
        }
    }
}

#[test]
fn a_handler_is_told_when_its_client_has_been_sent_away() {
    for served in Served::both("late", "--deadline 300ms") {
        for (path, gone) in PATHS.into_iter().zip([2, 4]) {
            for mut client in served.attend(path) {
                match path {
                    "/attend" => assert_eq!(client.answer().status, 504),
                    _ => assert!(client.try_answer().is_err(), "its answer had begun"),
                }
            }
            let told = format!("attending=0 gone={gone}\n");
            assert!(eventually(|| served.attended() == told));
        }
    }
}

/// It is still answered (RFC 9112 §9.6), so it is not gone.
#[test]
fn a_client_that_closes_its_sending_side_only_is_not_gone() {
    for served in Served::both("half", "--deadline 0 --loops 1") {
        for path in PATHS {
            let clients = served.attend(path);
            for client in &clients {
                client.half_close();
            }
            // The one loop learns of that before it forwards these.
            for _ in 0..100 {
                assert_eq!(served.attended(), "attending=2 gone=0\n");
            }
            assert_eq!(served.front.post("/release", "").status, 200);
            for mut client in clients {
                assert!(client.answer().text().ends_with("released\n"));
            }
        }
    }
}

#[test]
fn a_handler_is_told_when_its_front_end_dies() {
    for served in Served::both("dies", "--deadline 0") {
        let Some(_application) = &served.application else {
            continue; // then the handler dies with it
        };
        let clients = PATHS.map(|path| {
            let mut client = served.front.connect();
            client.send(transom_tests::client::get(path));
            client
        });
        assert!(eventually(|| served.attended().starts_with("attending=2 ")));
        served.front.signal(libc::SIGKILL);
        drop(clients);
        let next = before(&served.folder.path("odd.door"), "");
        assert!(eventually(|| {
            next.get("/attended").text() == "attending=0 gone=2\n"
        }));
    }
}
