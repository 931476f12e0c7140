//! Opening doors for loops, which must not block: one ordinary thread for the whole front end.
//!
//! A loop whose doorway has lost its instance asks; the thread tries the door's path at once and then every
//! [`RETRY`], until there is a client, and puts that into the doorway's mailbox. It also frees the clients that loops have
//! done with, because unmapping a channel takes its time.

use super::doorway::{REMOTE_SLOTS_MAX, REMOTE_SPARES_MAX};
use crate::settings::FrontSettings;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use transom_doors::{AsyncClient, Bell, OpenError, OpenOptions};
use transom_platform::own_log::{info, warn};

/// Between two attempts to open a door that is away.
const RETRY: Duration = Duration::from_millis(10);

/// How long a door may take to let us in. One that hangs holds up the others for as long, once in [`HANGS`].
const OPEN_TIMEOUT: Duration = Duration::from_millis(100);

/// Before a door that did not answer in time is tried again.
pub(crate) const HANGS: Duration = Duration::from_millis(500);

/// How a front end opens a door.
pub(crate) fn open_options(settings: &FrontSettings) -> OpenOptions {
    OpenOptions {
        channel_bytes_max: settings.channel_limit.get(),
        timeout: OPEN_TIMEOUT,
        slots: Some(REMOTE_SLOTS_MAX),
        spares: Some(REMOTE_SPARES_MAX),
        take_descriptors: false,
    }
}

/// The stack of the thread.
pub(crate) const OPENER_STACK: usize = 128 << 10;

/// How a door is opened.
pub(crate) type Open =
    dyn FnMut(&std::path::Path, &OpenOptions) -> Result<AsyncClient, OpenError> + Send;

/// Between one doorway of one loop and the thread. All of it is there from the start.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    letters: Arc<Mutex<Letters>>,
    alarm: Arc<Alarm>,
}

#[derive(Debug, Default)]
struct Letters {
    asked: bool,
    fresh: Option<AsyncClient>,
    spent: Option<AsyncClient>,
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
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is done under these locks that could panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alarm {
    fn raise(&self) {
        lock(&self.state).raised = true;
        self.raised.notify_one();
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
}

impl Mailbox {
    /// Asks for a client. The loop's doorbell rings when there is one.
    pub(super) fn ask(&self) {
        lock(&self.letters).asked = true;
        self.alarm.raise();
    }

    /// The client that was asked for, if it is there.
    pub(super) fn take(&self) -> Option<AsyncClient> {
        lock(&self.letters).fresh.take()
    }

    /// Has a client freed.
    pub(super) fn free(&self, client: AsyncClient) {
        let unseen = lock(&self.letters).spent.replace(client);
        self.alarm.raise();
        drop(unseen); // rarely there: it would take two within one turn of the thread
    }
}

/// What is to be done for one mailbox.
struct Errand {
    /// Its door, by its place in the list.
    door: usize,
    options: OpenOptions,
    bell: Bell,
    mailbox: Mailbox,
}

/// A door's path, and since when nobody has served there.
struct Path {
    path: PathBuf,
    away_since: Option<Instant>,
    /// It is not tried again before, for whichever loop.
    not_before: Option<Instant>,
}

/// Collects the mailboxes, before the thread starts.
#[derive(Default)]
pub(crate) struct OpenerBuilder {
    paths: Vec<Path>,
    errands: Vec<Errand>,
    alarm: Arc<Alarm>,
}

impl OpenerBuilder {
    /// A mailbox for one doorway of the loop that `bell` wakes.
    pub(crate) fn mailbox(&mut self, path: PathBuf, options: OpenOptions, bell: Bell) -> Mailbox {
        let known = self.paths.iter().position(|known| known.path == path);
        let door = known.unwrap_or_else(|| {
            self.paths.push(Path {
                path,
                away_since: None,
                not_before: None,
            });
            self.paths.len() - 1
        });
        let mailbox = Mailbox {
            letters: Arc::default(),
            alarm: self.alarm.clone(),
        };
        self.errands.push(Errand {
            door,
            options,
            bell,
            mailbox: mailbox.clone(),
        });
        mailbox
    }

    /// Starts the thread; `open` is [`AsyncClient::open`], but in tests.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub(crate) fn start(self, mut open: Box<Open>) -> io::Result<Opener> {
        let OpenerBuilder {
            mut paths,
            mut errands,
            alarm,
        } = self;
        let thread = std::thread::Builder::new()
            .name("opener".to_owned())
            .stack_size(OPENER_STACK)
            .spawn({
                let alarm = alarm.clone();
                move || {
                    loop {
                        let mut next = None;
                        for errand in &mut errands {
                            if alarm.stopped() {
                                return;
                            }
                            let due = errand.run(&mut paths, &mut *open);
                            next = [next, due].into_iter().flatten().min();
                        }
                        if !alarm.wait(next) {
                            return;
                        }
                    }
                }
            })?;
        Ok(Opener {
            alarm,
            thread: Some(thread),
        })
    }
}

impl Errand {
    /// Does what the mailbox asks for; says when to come again, if that is not done.
    fn run(&mut self, paths: &mut [Path], open: &mut Open) -> Option<Instant> {
        let (asked, spent) = {
            let mut letters = lock(&self.mailbox.letters);
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
        let Path {
            path,
            away_since,
            not_before,
        } = &mut paths[self.door];
        if let Some(due) = not_before.filter(|&due| due > now) {
            return Some(due);
        }
        match open(path, &self.options) {
            Ok(client) => {
                if let Some(since) = away_since.take() {
                    let away_ms = since.elapsed().as_millis() as u64;
                    info!(door = %path.display(), away_ms, "a door is there again");
                }
                let mut letters = lock(&self.mailbox.letters);
                letters.asked = false;
                letters.fresh = Some(client);
                drop(letters);
                self.bell.ring();
                None
            }
            Err(error) => {
                if away_since.is_none() {
                    *away_since = Some(now);
                    warn!(door = %path.display(), %error, "a door is away: requests for it wait");
                }
                let pause = match error {
                    OpenError::TimedOut { .. } => HANGS,
                    _ => RETRY,
                };
                *not_before = Some(Instant::now() + pause);
                *not_before
            }
        }
    }
}

/// The thread. It ends when this is dropped, after the attempt that it is making.
#[derive(Debug)]
pub(crate) struct Opener {
    alarm: Arc<Alarm>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Opener {
    fn drop(&mut self) {
        lock(&self.alarm.state).stop = true;
        self.alarm.raised.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has been reported by its hook
        }
    }
}
