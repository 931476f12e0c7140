//! Logs: what `tracing`'s macros say, as lines on stderr, written by one thread.
//!
//! Why not `tracing-subscriber`: it formats into fresh memory, and takes a lock to write. Here a thread that
//! logs may be a loop, which must not wait; a door server thread, whose allocator is a bucket that is full;
//! or one that stands on its signal stack after a stack overflow. So an event is written into a record of 1
//! KiB on the stack, pushed into a bounded queue, and forgotten; a full queue drops it and counts. All memory
//! is there from the start: [`memory_bytes`] says how much.
//!
//! Applications use `tracing::info!(route = %route, bytes, "a request was served")` or the macros of the
//! crate `log`, and know nothing of this. Spans are accepted and ignored. An application that has installed a
//! subscriber for `tracing` or a logger for `log` before it serves, or in its warm-up, keeps it for its own
//! lines; the server's lines always come here.
//!
//! It knows nothing of requests, buckets or metrics.

pub mod access;
mod batch;
mod human;
mod json;
mod line;
mod queue;
mod record;
mod style;
mod text;
mod time;
mod writer;

use record::Record;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;
use style::Style;
use tracing::dispatcher::{self, DefaultGuard};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, span};
use transom_wire::own_log;

pub(crate) use batch::{BATCH_BYTES, Batch, newlines};
pub(crate) use queue::Queue;
pub use queue::Queued;
pub use time::now_ms;
pub(crate) use time::{common, rfc3339};
pub(crate) use writer::{STACK_BYTES, block_signals};

/// Records that the queue holds unless told otherwise: 1 MiB, and as many lines as a burst may have within a
/// millisecond.
pub const QUEUE_DEFAULT: usize = 1024;

/// The longest queue: 1 GiB of records would be a mistake.
pub const QUEUE_MAX: usize = 1 << 20;

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human if stderr is a terminal, else JSON.
    #[default]
    Auto,
    /// `2026-11-21T10:25:00.123Z  INFO message field=value`, with the level coloured on a terminal (unless
    /// `NO_COLOR` is set).
    Human,
    /// One JSON object per line: `time`, `level`, `target`, `message`, and the event's fields.
    Json,
}

/// How to log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// What a line looks like.
    pub format: LogFormat,
    /// The least severe level that is logged. A level that is not logged costs one load and a branch.
    pub level: LevelFilter,
    /// Records that may wait for the writer thread, of 1 KiB each: 1 to [`QUEUE_MAX`].
    pub queue: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            level: LevelFilter::INFO,
            queue: QUEUE_DEFAULT,
        }
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The queue has no place, or too many.
    #[error("the log's queue cannot hold {0} records: choose 1 to {QUEUE_MAX}")]
    Queue(usize),
    /// There is no descriptor left for the log.
    #[error("cannot duplicate the descriptor of stderr for the log: {0}; check `ulimit -n`")]
    Stderr(io::Error),
    /// There is no thread left for the log.
    #[error(
        "cannot start the thread that writes the log: {0}; check `ulimit -u` and the cgroup's pids.max"
    )]
    Thread(io::Error),
}

/// Bytes that a log with a queue of `queue` records takes for good: the queue, the writer's buffer and its
/// stack.
pub const fn memory_bytes(queue: usize) -> usize {
    /// The queue's own fields, the handle, and the thread's guard page.
    const FIXED_BYTES: usize = 8 * 1024;

    Queue::<Record>::memory_bytes(queue) // waiting for the writer
        + batch::BATCH_BYTES    // on their way to stderr
        + writer::STACK_BYTES   // the writer thread
        + FIXED_BYTES
}

/// Makes the server's own events lines on stderr, from now until [`LogHandle::shutdown`], and those of this
/// thread until [`Pending::claim`].
///
/// Call it once, before the first request and before anything is sealed: it allocates, and starts a thread,
/// which blocks all signals for itself. It writes to a duplicate of descriptor 2 without the standard
/// library's lock, so that a thread which is parked for ever inside `eprintln!` cannot silence the log.
///
/// # Errors
/// See [`LogError`]. If there is one, nothing was installed.
pub fn install(options: LogOptions) -> Result<(LogHandle, Pending), LogError> {
    let stderr = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .map_err(LogError::Stderr)?;
    let (subscriber, handle) = start(options, File::from(stderr))?;
    let bridge = LogBridge {
        queue: Arc::clone(&handle.queue),
        level: Arc::clone(&handle.level),
        style: subscriber.style,
    };
    let dispatch = Dispatch::new(subscriber);
    own_log::log_to(dispatch.clone());
    let pending = Pending {
        of_this_thread: dispatcher::set_default(&dispatch),
        dispatch,
        bridge,
        takes_all: Arc::clone(&handle.takes_all),
    };
    Ok((handle, pending))
}

/// A log that takes the server's own lines. Whether it also takes the application's is decided once the
/// application has had the time to install something of its own.
pub struct Pending {
    of_this_thread: DefaultGuard,
    dispatch: Dispatch,
    bridge: LogBridge,
    takes_all: Arc<AtomicBool>,
}

impl Pending {
    /// Takes the application's lines too, unless it has a subscriber or a logger for them.
    pub fn claim(self) {
        let Pending {
            of_this_thread,
            dispatch,
            bridge,
            takes_all,
        } = self;
        drop(of_this_thread);
        // An error says that the application has its own.
        let _ = dispatcher::set_global_default(dispatch);
        let level = bridge.level.get();
        if ::log::set_boxed_logger(Box::new(bridge)).is_ok() {
            ::log::set_max_level(filter_of(level));
            takes_all.store(true, Ordering::Relaxed);
        }
    }
}

/// The least severe level that is logged, which may change.
struct Chosen(AtomicU8);

impl Chosen {
    const ALL: [LevelFilter; 6] = [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];

    fn new(level: LevelFilter) -> Self {
        let chosen = Chosen(AtomicU8::new(0));
        chosen.set(level);
        chosen
    }

    fn set(&self, level: LevelFilter) {
        let place = Self::ALL.iter().position(|one| *one == level);
        let place = place.expect("`ALL` has every level") as u8;
        self.0.store(place, Ordering::Relaxed);
    }

    fn get(&self) -> LevelFilter {
        Self::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }
}

/// What a level of `tracing` is called by the crate `log`.
fn filter_of(level: LevelFilter) -> ::log::LevelFilter {
    match level.into_level() {
        None => ::log::LevelFilter::Off,
        Some(Level::ERROR) => ::log::LevelFilter::Error,
        Some(Level::WARN) => ::log::LevelFilter::Warn,
        Some(Level::INFO) => ::log::LevelFilter::Info,
        Some(Level::DEBUG) => ::log::LevelFilter::Debug,
        Some(Level::TRACE) => ::log::LevelFilter::Trace,
    }
}

/// Takes the lines of the crate `log` to the writer thread, as [`LogSubscriber`] takes `tracing` events.
struct LogBridge {
    queue: Arc<Queue<Record>>,
    level: Arc<Chosen>,
    style: Style,
}

impl ::log::Log for LogBridge {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        record::level_of(metadata.level()) <= self.level.get()
    }

    fn log(&self, line: &::log::Record<'_>) {
        if self.enabled(line.metadata()) {
            let mut record = Record::blank();
            record.fill_from_log(line, self.style);
            self.queue.submit(&record);
        }
    }

    fn flush(&self) {}
}

/// Starts a log that writes to `sink`, and leaves it to the caller to install the subscriber.
///
/// # Errors
/// See [`LogError`].
pub fn start(options: LogOptions, sink: File) -> Result<(LogSubscriber, LogHandle), LogError> {
    if !(1..=QUEUE_MAX).contains(&options.queue) {
        return Err(LogError::Queue(options.queue));
    }
    let style = style(options.format, sink.is_terminal());
    let queue = Arc::new(Queue::new(options.queue));
    let writer = writer::spawn(Arc::clone(&queue), sink, style).map_err(LogError::Thread)?;
    queue.set_writer(writer);
    let subscriber = LogSubscriber {
        queue: Arc::clone(&queue),
        level: Arc::new(Chosen::new(options.level)),
        style,
    };
    let level = Arc::clone(&subscriber.level);
    Ok((
        subscriber,
        LogHandle {
            queue,
            level,
            takes_all: Arc::default(),
            bytes: memory_bytes(options.queue),
        },
    ))
}

fn style(format: LogFormat, terminal: bool) -> Style {
    match format {
        LogFormat::Auto if !terminal => Style::Json,
        LogFormat::Json => Style::Json,
        LogFormat::Auto | LogFormat::Human => {
            // https://no-color.org: set to anything but nothing.
            let colour_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            Style::Human {
                coloured: terminal && colour_wanted,
            }
        }
    }
}

/// A running log. Clones are handles of the same log; dropping them all does not end it.
#[derive(Clone)]
pub struct LogHandle {
    queue: Arc<Queue<Record>>,
    level: Arc<Chosen>,
    /// Lines of the crate `log` come here too.
    takes_all: Arc<AtomicBool>,
    bytes: usize,
}

impl LogHandle {
    /// Lines that were never written, because the queue was full, the sink failed, or the log was shut down.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Waits until every line logged before this call has been written, or counted as dropped; false if
    /// `deadline` came first. Not for signal handlers: it takes a lock.
    pub fn flush(&self, deadline: Instant) -> bool {
        self.queue.flush(deadline)
    }

    /// Writes what was logged, and ends the log: lines after that are dropped. False if `deadline` came
    /// first, because no process reads stderr, for example.
    pub fn shutdown(&self, deadline: Instant) -> bool {
        self.queue.close();
        self.queue.wait_finished(deadline)
    }

    /// Logs from now on what is at least as severe as that, and nothing less. It allocates.
    pub fn set_level(&self, level: LevelFilter) {
        self.level.set(level);
        tracing::callsite::rebuild_interest_cache();
        if self.takes_all.load(Ordering::Relaxed) {
            ::log::set_max_level(filter_of(level));
        }
    }

    /// [`memory_bytes`] of this log.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

/// Takes `tracing` events to the writer thread: without allocating, waiting, or locking, on any thread, and
/// in signal handlers. Needs 5 KiB of stack, and what the fields' own `Display` and `Debug` need.
pub struct LogSubscriber {
    queue: Arc<Queue<Record>>,
    level: Arc<Chosen>,
    style: Style,
}

impl Subscriber for LogSubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) {
            Interest::always()
        } else {
            Interest::never() // until `LogHandle::set_level` asks again
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level.get()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.get())
    }

    fn event(&self, event: &Event<'_>) {
        let mut record = Record::blank();
        record.fill(event, self.style);
        self.queue.submit(&record);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
mod tests;
