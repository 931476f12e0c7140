//! How an application starts: its door, and the threads in its buckets.

use super::Application;
use super::call::Server;
use super::counters::Counters;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use transom_arena::{Bucket, BucketState, Failed, Tenant};
use transom_doors::{BuildError, Door, DoorBuilder, now_ns};
use transom_wire::own_log::{is_time_to_say, warn};

/// How long a refused thread is remembered, and how often it is said.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// Why an application cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApplicationError {
    /// The door could not be made.
    #[error("the application's door cannot be made: {0}")]
    Door(#[from] BuildError),
    /// Its first thread could not be started.
    #[error(
        "the first door server thread cannot be started: {0}; check `ulimit -u` and the cgroup's pids.max"
    )]
    Thread(#[from] io::Error),
}

/// Why no thread takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// What is to run before a thread's first call has left more than a bucket may keep.
    #[error(
        "what is to run once on each thread (App::each_thread, Router::warm) keeps {kept} bytes in the bucket of each, which is more than --keep, {limit} bytes: raise it, or have less made there"
    )]
    KeepsTooMuch {
        /// Bytes.
        kept: usize,
        /// `--keep`, in bytes.
        limit: usize,
    },
    /// It takes too long.
    #[error("the first door server thread did not start within {} s", .0.as_secs())]
    Late(Duration),
}

impl Application {
    /// Makes the door whose server threads are this application's: at most one for each bucket. Threads start
    /// only once [`Door::start`] is called, and then one by one, at a new high water of concurrency.
    ///
    /// # Errors
    /// [`ApplicationError::Door`].
    pub fn door(&'static self) -> Result<Door, ApplicationError> {
        self.door_with(|builder| builder)
    }

    /// The same; `customize` says what else the door shall be, above all for callers in other processes.
    ///
    /// # Errors
    /// [`ApplicationError::Door`].
    pub fn door_with(
        &'static self,
        customize: impl FnOnce(DoorBuilder) -> DoorBuilder,
    ) -> Result<Door, ApplicationError> {
        let builder = Door::builder()
            .threads_max(self.buckets.len())
            .descriptors_max(self.service.descriptors())
            .server_create(move |thread| self.start_first_thread(thread));
        let door = customize(builder).build()?;
        Ok(self.door.get_or_init(|| door).clone())
    }

    /// Blocks until the door's first thread waits for calls: by then a thread's start has made its
    /// allocations.
    ///
    /// # Errors
    /// [`NotReady`]: what is to run first keeps too much, or takes longer than `patience`.
    pub fn wait_until_ready(&self, patience: Duration) -> Result<(), NotReady> {
        let deadline = Instant::now() + patience;
        let idle = || {
            self.door
                .get()
                .is_some_and(|door| door.info().threads.idle > 0)
        };
        while !idle() {
            let resting = |bucket: &&Bucket| bucket.state() == BucketState::Resting;
            if let Some(bucket) = self.buckets().iter().find(resting) {
                return Err(NotReady::KeepsTooMuch {
                    kept: bucket.kept(),
                    limit: self.keep_limit(),
                });
            }
            if Instant::now() >= deadline {
                return Err(NotReady::Late(patience));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Starts a thread in a bucket that has never had one. The door asks for one at a time, so that while one
    /// does not come to serve, the buckets after it get none.
    fn start_first_thread(&'static self, thread: u32) -> io::Result<()> {
        self.keeping().begins_to_start(thread);
        let started = self.start_thread(thread);
        if started.is_err() {
            self.keeping().serves(thread); // as little as before, but it is not being started
        }
        started
    }

    /// Starts a thread in a bucket that has none.
    pub(crate) fn start_thread(&'static self, thread: u32) -> io::Result<()> {
        let bucket = self
            .buckets
            .get(thread)
            .ok_or_else(|| io::Error::other("there is no bucket for another thread"))?;
        let started = bucket.start_thread(door_server_thread, std::ptr::from_ref(self).addr());
        match &started {
            Ok(()) => self.counters.refused_ns.store(0, Ordering::Relaxed),
            Err(error) => self.note_refused(error),
        }
        started
    }

    /// Whether the system has refused a thread within the last 10 s, and given none since: then fewer
    /// requests are served at once than there are buckets. A thread is only tried for a request that wants
    /// one, so the refusal is forgotten after that.
    #[must_use]
    pub fn is_refused_threads(&self) -> bool {
        match self.counters.refused_ns.load(Ordering::Relaxed) {
            0 => false,
            at_ns => now_ns().saturating_sub(at_ns) < REFUSED_FOR.as_nanos() as u64,
        }
    }

    /// Counts a thread that was refused, and says so now and then. A loop may run this: it allocates nothing,
    /// so the line has the number of the error and not its sentence.
    #[cold]
    fn note_refused(&self, error: &io::Error) {
        let Counters {
            threads_refused,
            refused_ns,
            said_ns,
            ..
        } = &self.counters;
        let now_ns = now_ns().max(1);
        let refused = threads_refused.fetch_add(1, Ordering::Relaxed) + 1;
        refused_ns.store(now_ns, Ordering::Relaxed);
        if is_time_to_say(said_ns, now_ns, REFUSED_FOR.as_nanos() as u64) {
            warn!(
                os_error = error.raw_os_error(),
                refused,
                buckets = self.buckets.len(),
                "cannot start another door server thread: check `ulimit -u` and the cgroup's pids.max (TasksMax=). Requests \
                 wait for the threads that there are"
            );
        }
    }
}

/// The body of a door server thread.
fn door_server_thread(mut tenant: Tenant, argument: usize) {
    // SAFETY: `start_thread` passes an application, which was leaked.
    let application: &'static Application = unsafe { &*(argument as *const Application) };
    let place = application.buckets.place_of(tenant.bucket());
    let thread = place.expect("threads are started in the application's own buckets");
    // Touches pages that a first request would otherwise pay for: of the formatting code, and this stack's
    // upper ones.
    tenant.enter(&|_: Failed<'_>| {}, |_| format!("{:.3}", 1.5_f64).len());
    if let Some(door) = application.door.get()
        && application.prepare(thread, &mut tenant)
    {
        door.serve(thread, &Server::new(application, thread, tenant));
    }
}
