//! What the settings mean together: the memory equation, and the geometry that follows from it.
//!
//! [`Plan::new`] is the one place where the sum is stated. The mapping is laid out from it, the line at start prints it.

use crate::connection::Connection;
use crate::log;
use crate::settings::{FrontSettings, SLOTS_MAX, Settings};
use transom_arena::{
    Bound, BoundError, BucketGeometry, Bytes, GeometryError, MemoryLimit, PAGE, Place, Term, pages,
};
use transom_doors::{ChannelGeometry, GeometryError as ChannelError};

/// Bytes that one read may bring, beyond a head: the rest of a pipelined burst is left to the next read.
pub(crate) const READ_SIZE: usize = 16 << 10;

/// Where short answers are put together, so that one system call sends them.
const WRITE_SIZE: usize = 16 << 10;

/// Bytes of a loop's scratch for writing; a path is decoded there too, and is no longer than a head.
pub(crate) fn write_size(settings: &FrontSettings) -> usize {
    WRITE_SIZE.max(settings.head_limit.get())
}

/// The stack of a loop. Measured at 30 KiB in a debug build.
pub(crate) const LOOP_STACK: usize = 256 << 10;

/// Code, libraries, the process heap at "ready" and its headroom: 3.2 MiB measured for `hello`, debug builds 4.6 MiB.
const PROCESS_CONSTANT: usize = 6 << 20;

/// What the kernel takes for a thread: its stack (16 KiB) and task structures.
const KERNEL_PER_THREAD: usize = 24 << 10;

/// Smaller receive and send buffers than these are raised by the kernel itself (SOCK_MIN_RCVBUF, SOCK_MIN_SNDBUF).
const SOCKET_BUFFER_MIN: usize = 4 << 10;

/// The settings, checked against each other and against the machine, and the sum they make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The memory equation.
    pub bound: Bound,
    /// The division of a bucket.
    pub bucket: BucketGeometry,
    /// The slots of each loop's channel.
    pub channel: ChannelGeometry,
    /// Loops.
    pub loops: u32,
}

/// Why these settings cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A bucket that cannot work.
    #[error(transparent)]
    Bucket(#[from] GeometryError),
    /// Slots that cannot work.
    #[error("--slots, --request-size or --reply-size: {0}")]
    Channel(#[from] ChannelError),
    /// A sum that does not fit.
    #[error(transparent)]
    Bound(#[from] BoundError),
    /// A value below what works.
    #[error("{flag} is {was}; it must be at least {least}: {why}")]
    TooSmall {
        /// The flag.
        flag: &'static str,
        /// What it is.
        was: String,
        /// The least that works.
        least: String,
        /// Why.
        why: &'static str,
    },
    /// A value above what works.
    #[error("{flag} is {was}; it must be at most {most}: {why}")]
    TooLarge {
        /// The flag.
        flag: &'static str,
        /// What it is.
        was: String,
        /// The most that works.
        most: String,
        /// Why.
        why: &'static str,
    },
}

impl Plan {
    /// Adds everything up.
    ///
    /// # Errors
    /// [`PlanError`], naming the flag, what it was and what it must be.
    pub fn new(settings: &Settings) -> Result<Self, PlanError> {
        check(settings)?;
        let loops = settings.front.loops();
        let bucket = BucketGeometry::new(
            settings.application.bucket_size,
            settings.application.stack_size,
        )?;
        let channel = ChannelGeometry {
            slots: settings.slots(),
            request_size: settings.channel.request_size.get(),
            reply_size: settings.channel.reply_size.get(),
        };
        channel.check()?;
        let connections = settings.front.connections_per_loop() as usize * loops as usize;
        let threads = settings.application.buckets as usize + loops as usize + 2;
        let term = |name, place, count, unit, holder, flags| Term {
            name,
            count,
            unit,
            holder,
            flags,
            place,
        };
        let (region, process, kernel) = (Place::Region, Place::Process, Place::Kernel);
        let loop_count = loops as usize;
        let bound = Bound::new(vec![
            bucket.term(settings.application.buckets as usize)?,
            term(
                "channels",
                region,
                loop_count,
                channel.memory_len(),
                "a loop each: slots × (request + reply), and their headers",
                "--loops, --slots, --request-size, --reply-size",
            ),
            term(
                "connections",
                region,
                loop_count,
                pages(settings.front.connections_per_loop() as usize * size_of::<Connection>())
                    .unwrap_or(usize::MAX),
                "a loop's table: 200 bytes or so for an open connection",
                "--connections",
            ),
            term(
                "partial heads",
                region,
                loop_count * usize::from(settings.front.partial_heads.get()),
                settings.front.head_limit.get(),
                "a client each that has not finished its head",
                "--partial-heads, --head-limit",
            ),
            term(
                "scratch",
                region,
                loop_count,
                READ_SIZE + write_size(&settings.front),
                "a loop each: one read, one answer",
                "--loops",
            ),
            term(
                "shared heap",
                region,
                1,
                settings.application.shared_heap.get(),
                "state that outlives requests",
                "--shared-heap",
            ),
            term(
                "loop stacks",
                process,
                loop_count,
                LOOP_STACK,
                "a loop each",
                "--loops",
            ),
            term(
                "log",
                process,
                1,
                log::memory_bytes(usize::from(settings.front.log_queue.get())),
                "lines that wait to be written",
                "--log-queue",
            ),
            term(
                "constant",
                process,
                1,
                PROCESS_CONSTANT,
                "code, libraries, the heap at start",
                "none",
            ),
            term(
                "socket buffers",
                kernel,
                connections,
                // The kernel books twice what is asked for (socket(7), SO_RCVBUF).
                2 * (settings.front.receive_buffer.get() + settings.front.send_buffer.get()),
                "a connection each, at most",
                "--connections, --receive-buffer, --send-buffer",
            ),
            term(
                "threads",
                kernel,
                threads,
                KERNEL_PER_THREAD,
                "a bucket or a loop each, and two",
                "--buckets, --loops",
            ),
        ])?;
        bound.check(&MemoryLimit::of_this_process())?;
        Ok(Plan {
            bound,
            bucket,
            channel,
            loops,
        })
    }
}

fn check(settings: &Settings) -> Result<(), PlanError> {
    let small = |flag, was: Bytes, least: usize, why| {
        if was.get() >= least {
            return Ok(());
        }
        Err(PlanError::TooSmall {
            flag,
            was: was.to_string(),
            least: Bytes(least).to_string(),
            why,
        })
    };
    small(
        "--head-limit",
        settings.front.head_limit,
        1024,
        "an ordinary browser sends that much",
    )?;
    small(
        "--request-size",
        settings.channel.request_size,
        2 * settings.front.head_limit.get() + PAGE,
        "a whole head, its decoded path and the index of its fields must fit (twice --head-limit and a page)",
    )?;
    for (flag, was) in [
        ("--receive-buffer", settings.front.receive_buffer),
        ("--send-buffer", settings.front.send_buffer),
    ] {
        small(flag, was, SOCKET_BUFFER_MIN, "the kernel gives no less")?;
        if was.get() > 1 << 30 {
            return Err(PlanError::TooLarge {
                flag,
                was: was.to_string(),
                most: Bytes(1 << 30).to_string(),
                why: "the kernel books twice as much in 31 bits",
            });
        }
    }
    for (flag, time) in [
        ("--queue-timeout", settings.front.queue_timeout),
        ("--header-timeout", settings.front.header_timeout),
        ("--body-timeout", settings.front.body_timeout),
        ("--write-timeout", settings.front.write_timeout),
        ("--idle-timeout", settings.front.idle_timeout),
    ] {
        if time.is_zero() {
            return Err(PlanError::TooSmall {
                flag,
                was: "0".to_owned(),
                least: "1ms".to_owned(),
                why: "everything takes some time",
            });
        }
    }
    if settings.application.parked_limit() > settings.application.buckets.max(1) {
        return Err(PlanError::TooLarge {
            flag: "--parked-limit",
            was: settings.application.parked_limit().to_string(),
            most: settings.application.buckets.to_string(),
            why: "more buckets than there are (--buckets) cannot be parked, so the process would never be replaced",
        });
    }
    if settings.slots() > SLOTS_MAX {
        return Err(PlanError::TooLarge {
            flag: "--slots",
            was: settings.slots().to_string(),
            most: SLOTS_MAX.to_string(),
            why: "a channel's bitmaps have 64 words of 64",
        });
    }
    if !settings.application.shared_heap.get().is_multiple_of(PAGE)
        || settings.application.shared_heap.get() < 64 << 10
    {
        return Err(PlanError::TooSmall {
            flag: "--shared-heap",
            was: settings.application.shared_heap.to_string(),
            least: "64KiB, and a multiple of 4KiB".to_owned(),
            why: "the heap's own bookkeeping takes some of it",
        });
    }
    if !settings.front.head_limit.get().is_multiple_of(PAGE) {
        return Err(PlanError::TooSmall {
            flag: "--head-limit",
            was: settings.front.head_limit.to_string(),
            least: "4KiB, and a multiple of it".to_owned(),
            why: "partial heads are laid out in pages",
        });
    }
    Ok(())
}
