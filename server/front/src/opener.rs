//! Opening doors for loops, which must not block: one ordinary thread for each door.
//!
//! A loop whose doorway has lost its instance asks; the thread tries the door's path at once and then every
//! [`RETRY`], until there is a client, and puts that into the doorway's mailbox. It also frees the clients
//! that loops have done with, because unmapping a channel takes its time. A door that does not answer, or
//! whose path lies in a file system that does not, holds up its own thread and no other door.

use crate::entrance::Source;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use transom_arena::count_attaching_apart;
use transom_doors::{
    AsyncClient, Bell, DoorOwner, OpenError, OpenOptions, Refusal, Words, start_closers,
    start_thread,
};
use transom_wire::own_log::{error, info, warn};

/// Slots that a loop asks another process's door for, at most: more calls than that wait in the loop.
pub(crate) const REMOTE_SLOTS_MAX: u32 = 256;

/// Spare slots that it has room for beside these. A door offers as many as requests may be lost before its
/// process is replaced: half of its buckets, unless it was set up otherwise. Of one with more than 512
/// buckets that loses them all through one channel, that channel's slots get fewer.
pub(crate) const REMOTE_SPARES_MAX: u32 = 256;

/// Both together: what a loop keeps a place for.
pub const REMOTE_SLOTS_IN_ALL: usize = (REMOTE_SLOTS_MAX + REMOTE_SPARES_MAX) as usize;

/// Between two attempts to open a door that is away.
const RETRY: Duration = Duration::from_millis(10);

/// How long a door may take to let us in.
const OPEN_TIMEOUT: Duration = Duration::from_millis(100);

/// Before a door that did not answer in time is tried again.
pub(crate) const HANGS: Duration = Duration::from_millis(500);

/// Before a door that has no channel left is asked again.
const FULL_AGAIN: Duration = Duration::from_millis(100);

/// How long it is not said again that a door has too few channels.
const SAY_FULL_AGAIN: Duration = Duration::from_secs(10);

/// How a front end opens a door.
#[must_use]
pub fn open_options(channel_bytes_max: usize, owner: DoorOwner) -> OpenOptions {
    OpenOptions {
        channel_bytes_max,
        timeout: OPEN_TIMEOUT,
        slots: Some(REMOTE_SLOTS_MAX),
        spares: Some(REMOTE_SPARES_MAX),
        take_descriptors: false,
        owner,
    }
}

/// How long the end of the process waits for an attempt to open a door.
const LAST_ATTEMPT: Duration = Duration::from_secs(1);

/// The stack of a thread.
pub const OPENER_STACK: usize = 128 << 10;

/// How a door is opened.
pub type Open = dyn Fn(&Path, &OpenOptions) -> Result<AsyncClient, OpenError> + Send + Sync;

/// Between one doorway of one loop and the door's thread. All of it is there from the start.
#[derive(Debug)]
pub struct Mailbox<C = AsyncClient> {
    letters: Arc<Mutex<Letters<C>>>,
    alarm: Arc<Alarm>,
}

#[derive(Debug)]
struct Letters<C> {
    asked: bool,
    fresh: Option<C>,
    spent: Option<C>,
}

#[derive(Debug, Default)]
struct Alarm {
    state: Mutex<AlarmState>,
    raised: Condvar,
}

#[derive(Debug, Default)]
struct AlarmState {
    raised: bool,
    stop: bool,
    ended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is done under these locks that could panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alarm {
    fn raise(&self) {
        lock(&self.state).raised = true;
        self.raised.notify_all();
    }

    /// Waits until it is raised, or until then; false if the thread is to end.
    fn wait(&self, until: Option<Instant>) -> bool {
        let mut state = lock(&self.state);
        while !state.raised && !state.stop {
            let Some(until) = until else {
                state = self
                    .raised
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .raised
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.raised = false;
        !state.stop
    }

    fn stopped(&self) -> bool {
        lock(&self.state).stop
    }

    /// Tells the thread to end, once it is about to wait.
    fn stop(&self) {
        lock(&self.state).stop = true;
        self.raised.notify_all();
    }

    /// The thread ends.
    fn end(&self) {
        lock(&self.state).ended = true;
        self.raised.notify_all();
    }

    /// Waits until the thread ends; false if it does not in time.
    fn wait_for_end(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let running = |state: &mut AlarmState| !state.ended;
        let waited = (self.raised).wait_timeout_while(lock(&self.state), left, running);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

impl<C> Clone for Mailbox<C> {
    fn clone(&self) -> Self {
        Mailbox {
            letters: self.letters.clone(),
            alarm: self.alarm.clone(),
        }
    }
}

impl<C> Mailbox<C> {
    fn new(alarm: Arc<Alarm>) -> Self {
        let letters = Letters {
            asked: false,
            fresh: None,
            spent: None,
        };
        Mailbox {
            letters: Arc::new(Mutex::new(letters)),
            alarm,
        }
    }
}

impl<C> Source<C> for Mailbox<C> {
    /// The client that was asked for, or a promise: the loop's doorbell rings when there is one.
    fn ask(&mut self, _: u64) -> Result<C, u64> {
        let mut letters = lock(&self.letters);
        if let Some(client) = letters.fresh.take() {
            return Ok(client);
        }
        letters.asked = true;
        self.alarm.raise();
        Err(u64::MAX)
    }

    fn is_unwatched(&mut self, error: &io::Error) -> u64 {
        error!(error = %Words(error), "cannot wait for a door: raise `ulimit -n`, or lower --connections");
        0
    }

    fn free(&mut self, client: C) {
        let unseen = lock(&self.letters).spent.replace(client);
        self.alarm.raise();
        drop(unseen); // rarely there: it would take two within one turn of the thread
    }
}

#[cfg(test)]
impl<C> Mailbox<C> {
    /// One that no opener looks after: the simulator does.
    pub(crate) fn alone() -> Self {
        Mailbox::new(Arc::default())
    }

    /// Whether a client was asked for that was not brought yet.
    pub(crate) fn is_asked(&self) -> bool {
        let letters = lock(&self.letters);
        letters.asked && letters.fresh.is_none()
    }

    /// Brings the client that was asked for. Ring the loop's bell then.
    pub(crate) fn bring(&self, client: C) {
        let mut letters = lock(&self.letters);
        letters.asked = false;
        letters.fresh = Some(client);
    }

    /// The client that is to be freed, and a fresh one that was not taken, if `all`.
    pub(crate) fn clear(&self, all: bool) -> [Option<C>; 2] {
        let mut letters = lock(&self.letters);
        let fresh = if all { letters.fresh.take() } else { None };
        [letters.spent.take(), fresh]
    }
}

/// What is to be done for one mailbox.
struct Errand {
    options: OpenOptions,
    bell: Bell,
    mailbox: Mailbox,
}

/// A door's path, what is to be done there, and how it last was.
struct Door {
    path: PathBuf,
    alarm: Arc<Alarm>,
    errands: Vec<Errand>,
    away_since: Option<Instant>,
    /// When it was last said that it has too few channels.
    said_full: Option<Instant>,
    /// It is not tried again before, for whichever loop.
    not_before: Option<Instant>,
    /// The door that was last opened there.
    id: Option<u128>,
}

/// Collects the mailboxes, before the threads start.
#[derive(Default)]
pub struct OpenerBuilder {
    doors: Vec<Door>,
}

impl OpenerBuilder {
    /// A mailbox for one doorway of the loop that `bell` wakes.
    pub fn mailbox(&mut self, path: PathBuf, options: OpenOptions, bell: Bell) -> Mailbox {
        let known = self.doors.iter().position(|known| known.path == path);
        let index = known.unwrap_or_else(|| {
            self.doors.push(Door {
                path,
                alarm: Arc::default(),
                errands: Vec::new(),
                away_since: None,
                said_full: None,
                not_before: None,
                id: None,
            });
            self.doors.len() - 1
        });
        let door = &mut self.doors[index];
        let mailbox = Mailbox::new(door.alarm.clone());
        door.errands.push(Errand {
            options,
            bell,
            mailbox: mailbox.clone(),
        });
        mailbox
    }

    /// Starts the threads; `open` is [`AsyncClient::open`], but in tests.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub fn start(self, open: Arc<Open>) -> io::Result<Opener> {
        start_closers()?;
        let mut opener = Opener {
            threads: Vec::new(),
        };
        for (n, mut door) in self.doors.into_iter().enumerate() {
            let alarm = door.alarm.clone();
            let open = open.clone();
            let thread = start_thread(format!("opener-{n}"), OPENER_STACK, move || {
                count_attaching_apart();
                door.run(&*open);
                door.alarm.end();
            })?;
            opener.threads.push((alarm, thread));
        }
        Ok(opener)
    }
}

impl Door {
    fn run(&mut self, open: &Open) {
        loop {
            let mut next = None;
            for n in 0..self.errands.len() {
                if self.alarm.stopped() {
                    return;
                }
                let due = self.go(n, open);
                next = [next, due].into_iter().flatten().min();
            }
            if !self.alarm.wait(next) {
                return;
            }
        }
    }

    /// Does what a mailbox asks for; says when to come again, if that is not done.
    fn go(&mut self, errand: usize, open: &Open) -> Option<Instant> {
        let errand = &self.errands[errand];
        let (asked, spent) = {
            let mut letters = lock(&errand.mailbox.letters);
            (
                letters.asked && letters.fresh.is_none(),
                letters.spent.take(),
            )
        };
        drop(spent);
        if !asked {
            return None;
        }
        let now = Instant::now();
        if let Some(due) = self.not_before.filter(|&due| due > now) {
            return Some(due);
        }
        match open(&self.path, &errand.options) {
            Ok(client) => {
                say_open(&self.path, &client, &mut self.id, self.away_since.take());
                let mut letters = lock(&errand.mailbox.letters);
                letters.asked = false;
                letters.fresh = Some(client);
                drop(letters);
                errand.bell.ring();
                None
            }
            Err(error) => {
                let pause = self.note_failure(&error, now);
                self.not_before = Some(Instant::now() + pause);
                self.not_before
            }
        }
    }

    /// Says what is wrong, unless that was said; how long to wait before the next attempt.
    fn note_failure(&mut self, error: &OpenError, now: Instant) -> Duration {
        if let OpenError::Refused { why, .. } = error
            && let Some((flag, max)) = too_few(why)
        {
            let quiet = |said| now.duration_since(said) < SAY_FULL_AGAIN;
            if !self.said_full.is_some_and(quiet) {
                self.said_full = Some(now);
                say_full(&self.path, self.errands.len(), flag, max);
            }
            return FULL_AGAIN;
        }
        if self.away_since.is_none() {
            self.away_since = Some(now);
            say_away(&self.path, error);
        }
        match error {
            OpenError::TimedOut { .. } => HANGS,
            _ => RETRY,
        }
    }
}

/// The flag of the application that gives a door more channels, and how many there are, if it refuses for
/// want of them.
fn too_few(why: &Refusal) -> Option<(&'static str, u64)> {
    match *why {
        Refusal::Channels { max } => Some(("--door-channels", max)),
        Refusal::ChannelsPerUser { max, .. } => Some(("--door-channels-per-user", max)),
        _ => None,
    }
}

/// Says that there are loops without a channel.
fn say_full(path: &Path, loops: usize, flag: &str, channels: u64) {
    warn!(
        door = %path.display(), loops, channels,
        "a door has no channel for some loops, and these answer 503: start its application with {flag} {} or more (two for each loop, \
         because there are two front ends during a hand-over, and one for each tcp or udp forward), or this front end with fewer --loops",
        2 * loops
    );
}

/// Says of a door that was opened who serves it, unless that was said of this very door. `id` is of the one
/// before.
fn say_open(path: &Path, client: &AsyncClient, id: &mut Option<u128>, away_since: Option<Instant>) {
    let Some(door) = client.door() else {
        return; // of this process
    };
    let (pid, uid) = (door.server.pid, door.server.uid);
    let known = id.replace(door.id) == Some(door.id);
    let door = path.display();
    if let Some(since) = away_since {
        let away_ms = since.elapsed().as_millis() as u64;
        info!(%door, pid, uid, away_ms, "a door is there again");
    } else if !known {
        info!(%door, pid, uid, "a door is open");
    }
}

/// Says that a door cannot be opened.
fn say_away(path: &Path, error: &OpenError) {
    let door = path.display();
    match error {
        OpenError::Stranger { .. } => warn!(
            %door, %error,
            "a door gets no requests: end the process that serves it, or name its user with --door-owner, or `owner` in the file"
        ),
        _ => warn!(%door, %error, "a door is away: requests for it wait"),
    }
}

/// The threads. They end when this is dropped, after the attempts that they are making; one whose attempt
/// does not end is left to the end of the process.
#[derive(Debug)]
pub struct Opener {
    threads: Vec<(Arc<Alarm>, JoinHandle<()>)>,
}

impl Drop for Opener {
    fn drop(&mut self) {
        for (alarm, _) in &self.threads {
            alarm.stop();
        }
        let until = Instant::now() + LAST_ATTEMPT;
        for (alarm, thread) in self.threads.drain(..) {
            if alarm.wait_for_end(until) {
                let _ = thread.join(); // a panic there has been reported by its hook
            }
        }
    }
}
