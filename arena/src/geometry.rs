//! How a bucket is divided.
//!
//! ```text
//! | guard | extension | stack → (grows down) | guard | report stack | signal stack | arena …………………… | reserve              |
//!                                                                                                    | control | panic room |
//! ```
//!
//! The reserve is what reporting a failure needs, so that it never depends on what has just run out: the
//! bucket's control block, a little room for what a panic allocates, and two stacks, of which one takes the
//! kernel's signal frame, and on the other a request that has no stack left is dealt with. Those lie apart,
//! above the second guard, which is therefore the end of them too.
//!
//! The extension is closed like a guard until the stack overflows. Then it is opened for the rest of that
//! request, which is marked: the function that overflowed may hold a lock, and goes on to its end. Its last
//! pages are opened only for functions of the C library, whose locks every thread needs.
//!
//! Guards are address space without memory, and no part of the bucket's size. The extension is a part of it.

use crate::bound::{PAGE, pages};
use crate::heap::HEAP_OVERHEAD;
use crate::loaded::each_object;
use crate::{Bytes, Place, Term};

/// Room for the bucket's control block, at the start of the reserve.
pub(crate) const CONTROL_SIZE: usize = PAGE;

/// Room for what panicking allocates (the boxed payload, the formatted message) once the arena is full.
pub(crate) const PANIC_ROOM_SIZE: usize = 2 * PAGE;

/// What our handler of a stack overflow needs beyond the kernel's signal frame. It decides what to do, and
/// calls nothing.
const SIGNAL_STACK_WORK: usize = PAGE;

/// What is done for a request that has no stack left: an answer and one log record. Measured at 9 KiB in a
/// debug build.
const REPORT_STACK_SIZE: usize = 4 * PAGE;

/// What a stack is extended by: only functions of the C library may have all of it.
pub(crate) const fn extension_size(for_library: bool) -> usize {
    match for_library {
        true => EXTENSION_SIZE,
        false => FIRST_EXTENSION_SIZE,
    }
}

/// What a stack is extended by first. Calls of the C library that hold a lock or block signals need less:
/// `tests/c_stack.rs` tries them.
const FIRST_EXTENSION_SIZE: usize = 8 * PAGE;

/// What it can be extended by in all. The rest is for a call of the C library that begins where the first
/// extension ends.
pub(crate) const EXTENSION_SIZE: usize = FIRST_EXTENSION_SIZE + 2 * PAGE;

/// Bytes of a guard. Compiled Rust touches a large frame page by page; a C library may be compiled without
/// that, and glibc has frames of 4 and 8 KiB (`getaddrinfo`, `realpath`): a guard of one page could be jumped
/// over.
pub(crate) const GUARD_SIZE: usize = 16 * PAGE;

/// The largest arena whose blocks can be numbered.
const ARENA_LARGEST: usize = crate::free_lists::ARENA_MAX & !(PAGE - 1);

/// The smallest arena that is worth a bucket: the request's own bookkeeping and a short answer.
const ARENA_MIN: usize = 4 * PAGE;

/// What a thread needs below its first frame beyond the system's minimum: the door's serve loop, unwinding a
/// panic.
const STACK_WORK: usize = 12 * PAGE;

/// The division of one bucket, in bytes. Having one tells you that every part is a multiple of [`PAGE`], that
/// the parts add up to `bucket_size`, and that stack and arena are large enough to serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketGeometry {
    bucket_size: usize,
    stack_size: usize,
    signal_stack_size: usize,
}

/// Why a bucket of these sizes cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// The stack cannot hold a thread.
    #[error(
        "--stack-size is {was}; it must be at least {least}, which is what a thread, the thread-local variables of this program and its libraries, and an unwinding panic need"
    )]
    StackTooSmall {
        /// The setting.
        was: Bytes,
        /// The least that works.
        least: Bytes,
    },
    /// Nothing, or too little, is left for the arena.
    #[error(
        "--bucket-size is {was}; it must be at least {least}: {stack} of stack (--stack-size), {overhead} of reserve, and an arena of {arena}"
    )]
    BucketTooSmall {
        /// The setting.
        was: Bytes,
        /// The least that works with this stack.
        least: Bytes,
        /// The stack.
        stack: Bytes,
        /// The reserve.
        overhead: Bytes,
        /// The smallest arena.
        arena: Bytes,
    },
    /// More than an arena can number its blocks in.
    #[error("--bucket-size is {was}; it must be at most {most}")]
    BucketTooLarge {
        /// The setting.
        was: Bytes,
        /// The most that works with this stack.
        most: Bytes,
    },
    /// Not a whole number of pages.
    #[error("{flag} is {was}; it must be a multiple of the page size, {page}: the next one is {next}", page = Bytes(PAGE))]
    NotPages {
        /// The flag.
        flag: &'static str,
        /// The setting.
        was: Bytes,
        /// The next larger size that works.
        next: Bytes,
    },
    /// No buckets at all.
    #[error("--buckets is 0; it must be at least 1: a request lives in a bucket")]
    NoBuckets,
    /// More than the registry of buckets can name.
    #[error("--buckets is {was}; it must be at most {most}")]
    TooManyBuckets {
        /// The setting.
        was: usize,
        /// The most.
        most: usize,
    },
}

/// The most buckets a process can have: a thread each, and Linux's default `threads-max` is in this order.
pub const BUCKETS_MAX: usize = 16_384;

impl BucketGeometry {
    /// Divides a bucket of `bucket_size` bytes that has `stack_size` bytes of stack.
    ///
    /// # Errors
    /// [`GeometryError`], naming the flag, what it was and what it must be. Nothing is rounded or clamped.
    pub fn new(bucket_size: Bytes, stack_size: Bytes) -> Result<Self, GeometryError> {
        Self::with_minimums(bucket_size, stack_size, SystemMinimums::of_this_machine())
    }

    fn with_minimums(
        bucket_size: Bytes,
        stack_size: Bytes,
        minimums: SystemMinimums,
    ) -> Result<Self, GeometryError> {
        for (flag, was) in [("--bucket-size", bucket_size), ("--stack-size", stack_size)] {
            if !was.0.is_multiple_of(PAGE) {
                return Err(GeometryError::NotPages {
                    flag,
                    was,
                    next: Bytes(pages(was.0).unwrap_or(usize::MAX & !(PAGE - 1))),
                });
            }
        }
        let needed = minimums.thread_stack + STACK_WORK;
        let stack_least = pages(needed.max(minimums.accepted)).expect("a few pages");
        if stack_size.0 < stack_least {
            return Err(GeometryError::StackTooSmall {
                was: stack_size,
                least: Bytes(stack_least),
            });
        }
        let signal_stack_size =
            pages(minimums.signal_frame + SIGNAL_STACK_WORK).expect("a few pages");
        let overhead =
            EXTENSION_SIZE + REPORT_STACK_SIZE + signal_stack_size + CONTROL_SIZE + PANIC_ROOM_SIZE;
        let least = (overhead + ARENA_MIN).saturating_add(stack_size.0);
        if bucket_size.0 < least {
            return Err(GeometryError::BucketTooSmall {
                was: bucket_size,
                least: Bytes(least),
                stack: stack_size,
                overhead: Bytes(overhead),
                arena: Bytes(ARENA_MIN),
            });
        }
        let most = (overhead + ARENA_LARGEST).saturating_add(stack_size.0);
        if bucket_size.0 > most {
            return Err(GeometryError::BucketTooLarge {
                was: bucket_size,
                most: Bytes(most),
            });
        }
        Ok(BucketGeometry {
            bucket_size: bucket_size.0,
            stack_size: stack_size.0,
            signal_stack_size,
        })
    }

    /// The term of the memory equation for `count` such buckets.
    ///
    /// # Errors
    /// [`GeometryError::NoBuckets`] and [`GeometryError::TooManyBuckets`].
    pub fn term(&self, count: usize) -> Result<Term, GeometryError> {
        if count == 0 {
            return Err(GeometryError::NoBuckets);
        }
        if count > BUCKETS_MAX {
            return Err(GeometryError::TooManyBuckets {
                was: count,
                most: BUCKETS_MAX,
            });
        }
        Ok(Term {
            name: "buckets",
            count,
            unit: self.bucket_size,
            guards: 2 * GUARD_SIZE,
            holder: "one request each: stack, arena, reserve",
            flags: "--buckets, --bucket-size",
            place: Place::Region,
        })
    }

    /// Bytes of a whole bucket.
    #[must_use]
    pub const fn bucket_size(&self) -> usize {
        self.bucket_size
    }

    /// Bytes of address space from one bucket to the next: its size, and its guards.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.bucket_size + 2 * GUARD_SIZE
    }

    /// Bytes of its stack.
    #[must_use]
    pub const fn stack_size(&self) -> usize {
        self.stack_size
    }

    /// Bytes of its arena, of which bumpalo's footer takes 64.
    #[must_use]
    pub const fn arena_size(&self) -> usize {
        self.reserve_offset() - self.arena_offset()
    }

    /// The size of the smallest bucket with such a stack whose arena holds a request that needs so many
    /// bytes.
    #[must_use]
    pub fn bucket_size_for(&self, arena_bytes: usize) -> Bytes {
        let arena = pages(arena_bytes.saturating_add(HEAP_OVERHEAD)).unwrap_or(usize::MAX);
        let others = self.bucket_size - self.arena_size();
        Bytes(others.saturating_add(arena.max(ARENA_MIN)))
    }

    /// Bytes of its reserve, the stack's extension and the two small stacks included.
    #[must_use]
    pub const fn reserve_size(&self) -> usize {
        EXTENSION_SIZE + CONTROL_SIZE + PANIC_ROOM_SIZE + REPORT_STACK_SIZE + self.signal_stack_size
    }

    /// Where the stack begins (its lowest address); its extension lies just below.
    pub(crate) const fn stack_offset(&self) -> usize {
        GUARD_SIZE + EXTENSION_SIZE
    }

    /// Where the guard between stack and report stack begins.
    pub(crate) const fn second_guard_offset(&self) -> usize {
        self.stack_offset() + self.stack_size
    }

    pub(crate) const fn report_stack_offset(&self) -> usize {
        self.second_guard_offset() + GUARD_SIZE
    }

    pub(crate) const fn report_stack_size(&self) -> usize {
        REPORT_STACK_SIZE
    }

    pub(crate) const fn signal_stack_offset(&self) -> usize {
        self.report_stack_offset() + REPORT_STACK_SIZE
    }

    pub(crate) const fn signal_stack_size(&self) -> usize {
        self.signal_stack_size
    }

    pub(crate) const fn arena_offset(&self) -> usize {
        self.signal_stack_offset() + self.signal_stack_size
    }

    /// Where the control block and the panic room begin.
    pub(crate) const fn reserve_offset(&self) -> usize {
        self.stride() - CONTROL_SIZE - PANIC_ROOM_SIZE
    }

    pub(crate) const fn panic_room_offset(&self) -> usize {
        self.reserve_offset() + CONTROL_SIZE
    }
}

/// What the C library and the kernel want on this machine, in bytes.
#[derive(Debug, Clone, Copy)]
struct SystemMinimums {
    /// The least stack that the C library takes for a thread.
    accepted: usize,
    /// What a thread needs of it (thread-local storage included).
    thread_stack: usize,
    /// Bytes that the kernel pushes when it delivers a signal; several KiB with AVX-512 or SVE.
    signal_frame: usize,
}

impl SystemMinimums {
    fn of_this_machine() -> Self {
        if cfg!(miri) {
            return SystemMinimums {
                accepted: 16 << 10,
                thread_stack: 16 << 10,
                signal_frame: 4 << 10,
            };
        }
        // SAFETY: sysconf and getauxval only read process-wide constants.
        let (stack, frame) = unsafe {
            (
                libc::sysconf(libc::_SC_THREAD_STACK_MIN),
                libc::getauxval(libc::AT_MINSIGSTKSZ),
            )
        };
        let accepted = usize::try_from(stack).unwrap_or(0).max(16 << 10);
        let signal_frame = usize::try_from(frame).unwrap_or(0).max(4 << 10);
        SystemMinimums {
            accepted,
            // The least that the system says has room for a page of thread-locals. On aarch64 it always says
            // 128 KiB.
            thread_stack: accepted.min((32 << 10) + signal_frame)
                + thread_locals().saturating_sub(PAGE),
            signal_frame,
        }
    }
}

/// Bytes of the thread-local variables of everything that is loaded. The C library puts them at the top of
/// the stack that it is given, and `sysconf` does not count them.
fn thread_locals() -> usize {
    let mut sum = 0usize;
    each_object(|_, headers| {
        for header in headers
            .iter()
            .filter(|header| header.p_type == libc::PT_TLS)
        {
            sum = sum.saturating_add((header.p_memsz + header.p_align) as usize);
        }
    });
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: SystemMinimums = SystemMinimums {
        accepted: 16 << 10,
        thread_stack: 16 << 10,
        signal_frame: 4 << 10,
    };

    fn geometry(bucket: Bytes, stack: Bytes) -> Result<BucketGeometry, GeometryError> {
        BucketGeometry::with_minimums(bucket, stack, SYSTEM)
    }

    #[test]
    fn the_parts_add_up_to_the_bucket() {
        let g = geometry(Bytes::kib(512), Bytes::kib(128)).expect("a common size");
        assert_eq!(
            g.stack_size() + g.arena_size() + g.reserve_size(),
            g.bucket_size()
        );
        assert_eq!(g.arena_offset() + g.arena_size(), g.reserve_offset());
        assert_eq!(g.panic_room_offset() + PANIC_ROOM_SIZE, g.stride());
        assert_eq!(g.term(8).expect("eight").bytes(), Some(8 * (512 << 10)));
    }

    #[test]
    fn a_bucket_for_what_a_request_needs_has_an_arena_for_it_and_not_a_page_more() {
        let g = geometry(Bytes::kib(512), Bytes::kib(128)).expect("a common size");
        assert_eq!(
            g.bucket_size_for(g.arena_size() - HEAP_OVERHEAD),
            Bytes(g.bucket_size())
        );
        for bytes in [0, 1, 10_000, 16 << 10, 1 << 20] {
            let size = g.bucket_size_for(bytes);
            let fitting = geometry(size, Bytes::kib(128)).expect("it works");
            assert!(fitting.arena_size() >= bytes + HEAP_OVERHEAD, "{bytes}");
            let smaller = geometry(Bytes(size.0 - PAGE), Bytes::kib(128));
            assert!(
                smaller.as_ref().is_err_and(|_| bytes < ARENA_MIN)
                    || smaller.is_ok_and(|one| one.arena_size() < bytes + HEAP_OVERHEAD),
                "{bytes}"
            );
        }
    }

    #[test]
    fn the_smallest_bucket_is_accepted_and_one_page_less_is_refused_with_its_size() {
        let stack = Bytes::kib(64);
        let least = match geometry(Bytes(0), stack) {
            Err(GeometryError::BucketTooSmall { least, .. }) => least,
            other => panic!("{other:?}"),
        };
        assert!(geometry(least, stack).is_ok());
        let error = geometry(Bytes(least.0 - PAGE), stack).expect_err("too small");
        let text = error.to_string();
        assert!(
            text.contains("--bucket-size") && text.contains(&least.to_string()),
            "{text}"
        );
    }

    #[test]
    fn settings_that_cannot_hold_are_refused_by_the_name_of_their_flag() {
        for (bucket, stack, part) in [
            (Bytes::kib(512), Bytes::kib(8), "--stack-size is 8KiB"),
            (Bytes(500_000), Bytes::kib(64), "--bucket-size is 500000B"),
            (Bytes::kib(512), Bytes(100_000), "--stack-size is 100000B"),
        ] {
            let text = geometry(bucket, stack).expect_err(part).to_string();
            assert!(text.contains(part), "{text}");
        }
        let g = geometry(Bytes::kib(512), Bytes::kib(64)).expect("fits");
        assert_eq!(g.term(0), Err(GeometryError::NoBuckets));
        assert!(g.term(BUCKETS_MAX + 1).is_err());
    }

    /// As on aarch64.
    #[test]
    fn what_the_system_accepts_is_not_what_a_thread_needs() {
        let system = SystemMinimums {
            accepted: 128 << 10,
            ..SYSTEM
        };
        let with = |stack| BucketGeometry::with_minimums(Bytes::kib(2048), stack, system);
        assert!(with(Bytes::kib(128)).is_ok());
        let error = with(Bytes::kib(124)).expect_err("pthread_attr_setstack refuses it");
        assert!(error.to_string().contains("at least 128KiB"), "{error}");
    }

    #[test]
    fn a_huge_stack_does_not_overflow_the_arithmetic() {
        let huge = Bytes(usize::MAX & !(PAGE - 1));
        assert!(matches!(
            geometry(Bytes::kib(512), huge),
            Err(GeometryError::BucketTooSmall { .. })
        ));
    }
}
