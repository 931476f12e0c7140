//! A server whose instances replace each other, and clients that come anew for each request.

use crate::client::{Client, get};
use crate::{Ended, Launch, PATIENCE, Server, eventually};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the log says of each new instance.
const HANDING: [&str; 2] = [
    "handing the listeners to a new instance",
    "handing the door to a new instance",
];
const TAKEN: [&str; 2] = [
    "the new instance has the listeners",
    "the new instance waits for the path of the door",
];

/// A server and the instances that replace it. All of them write to the first one's standard error, and all
/// are killed when this is dropped.
#[derive(Debug)]
pub struct Succession {
    /// None only while this is being dropped.
    first: Option<Server>,
    waited_for: RefCell<Vec<i32>>,
}

impl Succession {
    /// Starts the first one.
    #[must_use]
    pub fn start(launch: Launch) -> Self {
        // SAFETY: a plain system call. A process that loses its parent becomes a child of this one, and can
        // be waited for.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        Succession {
            first: Some(launch.start()),
            waited_for: RefCell::default(),
        }
    }

    /// The first one.
    #[must_use]
    pub fn first(&self) -> &Server {
        self.first.as_ref().expect("it is there")
    }

    /// The instances that were started to replace others, in order.
    #[must_use]
    pub fn started(&self) -> Vec<i32> {
        pids(&self.first().lines(), &HANDING)
    }

    /// Waits until the instance number `n`, from 1, has taken over, and returns its process id.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn heir(&self, n: usize) -> u32 {
        self.heir_within(n, PATIENCE)
    }

    /// The same with another patience: the turn of later ones comes later.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn heir_within(&self, n: usize, patience: Duration) -> u32 {
        let deadline = Instant::now() + patience;
        let taken = || pids(&self.first().lines(), &TAKEN);
        while taken().len() < n && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let found = taken().get(n - 1).map(|pid| pid.cast_unsigned());
        found.unwrap_or_else(|| {
            panic!(
                "no instance takes over:\n{}",
                self.first().lines().join("\n")
            )
        })
    }

    /// Sends a signal to an instance that has not been waited for.
    pub fn signal(&self, pid: u32, signal: libc::c_int) {
        // SAFETY: a plain system call; the process has not been waited for, so the number is still its own.
        unsafe { libc::kill(pid.cast_signed(), signal) };
    }

    /// The exit status of an instance that has replaced another, once that has ended.
    ///
    /// # Panics
    /// If it does not end, or is ended by a signal.
    #[must_use]
    pub fn status_of(&self, pid: u32) -> i32 {
        let mut status = 0;
        let ended = || {
            // SAFETY: there is room for the status.
            let waited =
                unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, libc::WNOHANG) };
            waited == pid.cast_signed()
        };
        assert!(
            eventually(ended),
            "process {pid} does not end:\n{}",
            self.first().lines().join("\n")
        );
        self.waited_for.borrow_mut().push(pid.cast_signed());
        assert!(libc::WIFEXITED(status), "status {status:x}");
        libc::WEXITSTATUS(status)
    }

    /// Whether the first instance has ended.
    pub fn first_has_ended(&mut self) -> bool {
        self.first.as_mut().expect("it is there").has_exited()
    }

    /// Ends the newest instance by a signal, and expects that it drains well. Then the first one's end, with
    /// the lines of all.
    #[must_use]
    pub fn stop(self, newest: u32) -> Ended {
        self.signal(newest, libc::SIGTERM);
        assert_eq!(self.status_of(newest), 0);
        self.end()
    }

    /// The first one's end, with the lines of all. The others must have ended, because all have one standard
    /// error.
    #[must_use]
    pub fn end(mut self) -> Ended {
        self.kill_the_others();
        let ended = self.first.take().expect("it is there").wait();
        self.wait_for_the_killed(&ended.lines);
        ended
    }

    /// They are children of this process once their parents have ended.
    fn wait_for_the_killed(&self, lines: &[String]) {
        for pid in pids(lines, &HANDING) {
            // SAFETY: a plain system call; what is no child of ours is left alone.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
        }
    }

    fn kill_the_others(&self) {
        // SAFETY: plain system calls.
        let is_ours = |pid: i32| unsafe { libc::getpgid(pid) == libc::getpgid(0) };
        let waited_for = self.waited_for.borrow();
        for pid in self.started() {
            if !waited_for.contains(&pid) && is_ours(pid) {
                self.signal(pid.cast_unsigned(), libc::SIGKILL);
            }
        }
    }
}

impl Drop for Succession {
    fn drop(&mut self) {
        if self.first.is_some() {
            self.kill_the_others();
        }
        if let Some(first) = self.first.take() {
            let lines = first.lines();
            drop(first);
            self.wait_for_the_killed(&lines);
        }
    }
}

/// The processes that lines with one of these texts name.
fn pids(lines: &[String], says: &[&str]) -> Vec<i32> {
    let told = lines
        .iter()
        .filter(|line| says.iter().any(|words| line.contains(words)));
    told.filter_map(|line| {
        let (_, pid) = line.split_once("pid=")?;
        pid.split(' ').next()?.parse().ok()
    })
    .collect()
}

/// Clients, each of which connects, asks for one path, and comes again. Like those of a site that is open to
/// the world, they notice when a connection is refused.
#[derive(Debug)]
pub struct Visitors {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<BTreeMap<String, u64>>>,
}

impl Visitors {
    /// So many at a time.
    #[must_use]
    pub fn start(address: SocketAddr, path: &str, count: usize) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let answered: Arc<AtomicU64> = Arc::default();
        let threads = (0..count)
            .map(|_| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                let path = path.to_owned();
                std::thread::spawn(move || {
                    let mut tally = BTreeMap::new();
                    while !stop.load(Ordering::Relaxed) {
                        *tally.entry(visit(address, &path)).or_default() += 1;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    tally
                })
            })
            .collect();
        Visitors {
            stop,
            answered,
            threads,
        }
    }

    /// Waits until so many more have been answered.
    ///
    /// # Panics
    /// If they are not.
    pub fn wait_for(&self, more: u64) {
        let enough = self.answered.load(Ordering::Relaxed) + more;
        assert!(
            eventually(|| self.answered.load(Ordering::Relaxed) >= enough),
            "the visitors get no answers"
        );
    }

    /// How many have been answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Sends no more, and says how often each thing happened: `200`, `503`, `refused`, `Closed`.
    ///
    /// # Panics
    /// If one has panicked.
    #[must_use]
    pub fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = BTreeMap::new();
        for thread in self.threads {
            for (what, count) in thread.join().expect("a visitor does not panic") {
                *sum.entry(what).or_default() += count;
            }
        }
        sum
    }
}

fn visit(address: SocketAddr, path: &str) -> String {
    let Ok(mut client) = Client::try_connect(address) else {
        return "refused".to_owned();
    };
    if !client.try_send(get(path)) {
        return "unsent".to_owned();
    }
    match client.try_answer() {
        Ok(answer) => answer.status.to_string(),
        Err(trouble) => format!("{trouble:?}"),
    }
}
