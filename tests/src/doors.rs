//! An application behind a door and the front end before it, and clients that keep count of what they are
//! told.

use crate::client::get;
use crate::{Client, Launch, Server, eventually};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A folder of a test's own, removed at its end.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new one.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("transom-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        Folder(folder)
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts an application behind a door.
#[must_use]
pub fn behind(door: &Path, app: &str, flags: &str) -> Server {
    Launch::of(app)
        .flags(&format!("--door {} {flags}", door.display()))
        .start()
}

/// Starts a front end that forwards everything to one door.
#[must_use]
pub fn before(door: &Path, flags: &str) -> Server {
    let forward = format!("serve --forward http://127.0.0.1:0={}", door.display());
    Launch::of("transom")
        .flags(&format!("{forward} {flags}"))
        .start()
}

/// How often each answer came; 0 is a connection that ended without one.
pub type Tally = BTreeMap<u16, u64>;

/// Clients that ask for one path again and again, each on its own connection.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Crowd {
    /// Starts them.
    #[must_use]
    pub fn start(address: SocketAddr, path: &str, clients: usize) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let answered: Arc<AtomicU64> = Arc::default();
        let clients = (0..clients)
            .map(|_| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                let request = get(path);
                std::thread::spawn(move || {
                    let mut tally = Tally::new();
                    let mut connection = None;
                    while !stop.load(Ordering::Relaxed) {
                        let status = ask(&mut connection, address, &request);
                        *tally.entry(status).or_default() += 1;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    tally
                })
            })
            .collect();
        Crowd {
            stop,
            answered,
            clients,
        }
    }

    /// Waits until so many more answers have come.
    ///
    /// # Panics
    /// If they do not.
    pub fn wait_for(&self, more: u64) {
        let enough = self.answered.load(Ordering::Relaxed) + more;
        assert!(
            eventually(|| self.answered.load(Ordering::Relaxed) >= enough),
            "the clients get no answers"
        );
    }

    /// Ends them, and says what they were told.
    ///
    /// # Panics
    /// If one has panicked.
    #[must_use]
    pub fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::new();
        for client in self.clients {
            for (status, count) in client.join().expect("a client does not panic") {
                *sum.entry(status).or_default() += count;
            }
        }
        sum
    }
}

/// One request; the connection is kept if it can be.
fn ask(connection: &mut Option<Client>, address: SocketAddr, request: &str) -> u16 {
    let kept = connection.take();
    let Some(mut client) = kept.or_else(|| Client::try_connect(address).ok()) else {
        return 0;
    };
    if !client.try_send(request) {
        return 0;
    }
    match client.try_answer() {
        Ok(answer) if answer.count("content-length") == 1 => {
            *connection = (!answer.closes()).then_some(client);
            answer.status
        }
        _ => 0,
    }
}

/// What killing an application again and again has shown.
#[derive(Debug)]
pub struct Kills {
    /// What the clients were told.
    pub tally: Tally,
    /// From the moment at which a new instance was ready to the next good answer.
    pub back: Vec<Duration>,
    /// Descriptors of the front end before and after.
    pub descriptors: (usize, usize),
    /// Mappings of the front end before and after.
    pub mappings: (usize, usize),
    /// Threads of the front end before and after.
    pub threads: (usize, usize),
}

/// Kills the application behind a front end `times` times, at random moments of a load, and starts it anew
/// each time.
///
/// # Panics
/// If it does not come back.
#[must_use]
pub fn kill_again_and_again(app: &str, path: &str, times: usize, seed: u64) -> Kills {
    let folder = Folder::new("kills");
    let door = folder.path("app.door");
    let mut application = Some(behind(&door, app, "--buckets 8"));
    let front = before(&door, "--loops 2");
    let _first = front.get(path);
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{}/{what}", front.pid()))
            .map_or(0, std::iter::Iterator::count)
    };
    let maps = || {
        std::fs::read_to_string(format!("/proc/{}/maps", front.pid()))
            .map_or(0, |maps| maps.lines().count())
    };
    let crowd = Crowd::start(front.address(), path, 16);
    crowd.wait_for(200);
    let settled = || (count("fd"), maps(), count("task"));
    let mut first = None;
    let mut random = seed | 1;
    let mut back = Vec::new();
    for _ in 0..times {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        crowd.wait_for(20 + random % 200);
        let killed = application.take().expect("it runs");
        killed.signal(libc::SIGKILL);
        drop(killed);
        application = Some(behind(&door, app, "--buckets 8"));
        let ready = Instant::now();
        // A connection of its own, so that it says when the front end has noticed.
        let mut client = None;
        let request = get(path);
        while ask(&mut client, front.address(), &request) != 200 {
            assert!(
                ready.elapsed() < crate::PATIENCE,
                "the front end does not come back"
            );
        }
        back.push(ready.elapsed());
        drop(client);
        first.get_or_insert_with(settled);
    }
    crowd.wait_for(200);
    let first = first.unwrap_or_else(settled);
    let mut last = settled();
    // Another thread unmaps the memory that a loop has done with.
    let _ = eventually(|| {
        last = settled();
        last.0 <= first.0 && last.1 <= first.1
    });
    let tally = crowd.end();
    Kills {
        tally,
        back,
        descriptors: (first.0, last.0),
        mappings: (first.1, last.1),
        threads: (first.2, last.2),
    }
}
