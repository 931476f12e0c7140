//! `malloc` and its family: bounded inside requests, the C library's own outside; neither disturbs anything.
#![cfg(feature = "c-heap")]

mod common;

use common::{
    C_HEAP, C_QUOTA, Reported, alone, exhaustion, finish, never_stuck, next_bucket,
    on_bucket_thread, parks, start_on, wait_for, with_stack_left,
};
use std::ffi::{CString, c_void};
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use transom_arena::{Reason, Tenant, c_heap_usage};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

unsafe extern "C" {
    fn malloc_usable_size(block: *mut c_void) -> usize;
    fn reallocarray(block: *mut c_void, count: usize, size: usize) -> *mut c_void;
    fn memalign(align: usize, size: usize) -> *mut c_void;
    fn valloc(size: usize) -> *mut c_void;
    fn pvalloc(size: usize) -> *mut c_void;
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Runs in a request and fails as it fails.
fn in_a_request<R: Copy + std::fmt::Debug + 'static>(
    tenant: &mut Tenant,
    f: impl FnOnce() -> R,
) -> (R, usize) {
    let outcome = tenant.enter(&never_stuck, |_| f());
    let c_left = outcome.c_left;
    match outcome.result {
        Ok(value) => (value, c_left),
        Err(failed) => panic!("{failed:?}"),
    }
}

/// A block with a pattern.
struct Block {
    at: *mut u8,
    size: usize,
    fill: u8,
}

impl Block {
    fn check(&self, len: usize) {
        // SAFETY: the block is live, and `len` bytes of it were written.
        let bytes = unsafe { std::slice::from_raw_parts(self.at, len) };
        assert!(bytes.iter().all(|&byte| byte == self.fill));
    }

    fn fill(&self) {
        // SAFETY: the block is live.
        unsafe { self.at.write_bytes(self.fill, self.size) };
    }
}

/// Random sequences of the whole family, in requests and outside: blocks keep their bytes wherever they were
/// made.
#[test]
fn blocks_keep_their_bytes_through_every_sequence() {
    let _turn = alone();
    let mut dice = 1u32;
    let mut throw = move |below: usize| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (dice >> 8) as usize % below
    };
    let mut live: Vec<Block> = Vec::new();
    let mut step = move |live: &mut Vec<Block>, fill: u8| {
        let size = 1 + throw(3000);
        let align = 16usize << throw(8);
        let index = throw(live.len().max(1));
        // SAFETY: C's contract is kept: blocks are live, alignments are powers of two.
        let made = unsafe {
            match throw(9) {
                0 => libc::malloc(size),
                1 => {
                    let block = libc::calloc(size, 1);
                    let bytes = std::slice::from_raw_parts(block.cast::<u8>(), size);
                    assert!(bytes.iter().all(|&byte| byte == 0));
                    block
                }
                2 => {
                    let mut block = ptr::null_mut();
                    assert_eq!(libc::posix_memalign(&raw mut block, align, size), 0);
                    assert!(block.addr().is_multiple_of(align));
                    block
                }
                3 => {
                    let block = memalign(align, size);
                    assert!(block.addr().is_multiple_of(align));
                    block
                }
                4 => libc::aligned_alloc(align, size.next_multiple_of(align)),
                5 if !live.is_empty() => {
                    let block = &mut live[index];
                    let moved = if size % 2 == 0 {
                        libc::realloc(block.at.cast(), size)
                    } else {
                        reallocarray(block.at.cast(), size, 1)
                    };
                    block.at = moved.cast();
                    block.check(block.size.min(size));
                    block.size = size;
                    block.fill();
                    ptr::null_mut()
                }
                _ if !live.is_empty() => {
                    let block = live.swap_remove(index);
                    block.check(block.size);
                    libc::free(block.at.cast());
                    ptr::null_mut()
                }
                _ => ptr::null_mut(),
            }
        };
        if !made.is_null() {
            assert!(made.addr().is_multiple_of(16));
            // SAFETY: just made.
            assert!(unsafe { malloc_usable_size(made) } >= size);
            let block = Block {
                at: made.cast(),
                size,
                fill,
            };
            block.fill();
            live.push(block);
        }
        for block in &*live {
            block.check(block.size);
        }
    };
    let mut tenant = Tenant::adopt(next_bucket()).expect("free");
    for round in 0..200u32 {
        for n in 0..20 {
            let mut one = || step(&mut live, (round * 20 + n) as u8 | 1);
            if round % 3 == 0 {
                one();
            } else {
                // The list is the process heap's; its growth must not be a bucket's.
                drop(std::hint::black_box(Vec::<u8>::with_capacity(1)));
                in_a_request(&mut tenant, &mut one);
            }
        }
        while live.len() > 30 {
            let block = live.swap_remove(0);
            block.check(block.size);
            // SAFETY: live, and not used again.
            unsafe { libc::free(block.at.cast()) };
        }
    }
    for block in live {
        // SAFETY: as above.
        unsafe { libc::free(block.at.cast()) };
    }
}

#[test]
fn a_request_has_its_quota_and_then_enomem() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        for _ in 0..20 {
            let (refused_at, c_left) = in_a_request(tenant, || {
                let mut blocks = [ptr::null_mut::<c_void>(); 64];
                let mut refused_at = 0;
                for (n, block) in blocks.iter_mut().enumerate() {
                    // SAFETY: any size will do.
                    *block = unsafe { libc::malloc(50_000) };
                    if block.is_null() {
                        assert_eq!(errno(), libc::ENOMEM);
                        refused_at = n;
                        break;
                    }
                }
                // SAFETY: each is null or live, and freed once.
                unsafe {
                    assert!(black_box(libc::malloc(C_QUOTA * 2)).is_null());
                    assert!(black_box(libc::malloc(black_box(usize::MAX))).is_null());
                    assert!(black_box(libc::calloc(black_box(usize::MAX / 2), 3)).is_null());
                    let most = black_box(usize::MAX - 10);
                    assert!(
                        black_box(valloc(most)).is_null() && black_box(pvalloc(most)).is_null()
                    );
                    let mut out = ptr::without_provenance_mut(7);
                    assert_eq!(
                        libc::posix_memalign(&raw mut out, 64, C_QUOTA * 2),
                        libc::ENOMEM
                    );
                    assert_eq!(libc::posix_memalign(&raw mut out, 3, 8), libc::EINVAL);
                    assert_eq!(out.addr(), 7, "left as it was");
                    // What is refused leaves the block as it was.
                    assert!(black_box(libc::realloc(blocks[0], C_QUOTA * 2)).is_null());
                    blocks[0].cast::<u8>().write_bytes(1, 50_000);
                    for block in blocks {
                        libc::free(block);
                    }
                }
                refused_at
            });
            let fit = C_QUOTA / 50_100;
            assert!((fit..=fit + 1).contains(&refused_at), "{refused_at} {fit}");
            assert_eq!(c_left, 0);
        }
    });
}

/// What it leaves is charged to no request, not even to the next one.
#[test]
fn what_outlives_its_request_is_charged_to_no_request() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let mut blocks = Vec::new();
        for _ in 0..4 {
            let (block, c_left) = in_a_request(tenant, || {
                // SAFETY: any size will do.
                let block = unsafe { libc::malloc(C_QUOTA / 2) };
                assert!(!block.is_null());
                block as usize
            });
            assert!(c_left >= C_QUOTA / 2, "{c_left}");
            blocks.push(block);
        }
        let kept = c_heap_usage().kept;
        assert!(kept >= 2 * C_QUOTA);
        let freed = std::thread::spawn(move || {
            for block in blocks {
                // SAFETY: live, and freed once, by another thread.
                unsafe { libc::free(block as *mut c_void) };
            }
        });
        freed.join().expect("ends");
        assert!(c_heap_usage().kept + 2 * C_QUOTA <= kept);
    });
}

#[test]
fn the_c_librarys_own_calls_are_served_from_it() {
    let _turn = alone();
    on_bucket_thread(|tenant| {
        let before = c_heap_usage().calls;
        in_a_request(tenant, || {
            let host = CString::new("localhost").expect("no NUL");
            let mut result = ptr::null_mut();
            // SAFETY: a NUL-terminated name; what is found is given back.
            unsafe {
                if libc::getaddrinfo(host.as_ptr(), ptr::null(), ptr::null(), &raw mut result) == 0
                {
                    libc::freeaddrinfo(result);
                }
            }
        });
        assert!(
            c_heap_usage().calls > before + 5,
            "{before} {:?}",
            c_heap_usage()
        );
        // A folder that cannot be opened for lack of memory is an error like any other.
        in_a_request(tenant, || {
            let path = c"/";
            // SAFETY: a NUL-terminated path; the stream is closed, the blocks are freed.
            unsafe {
                let open = libc::opendir(path.as_ptr());
                assert!(!open.is_null());
                libc::closedir(open);
                let mut blocks = [ptr::null_mut::<c_void>(); 256];
                for block in &mut blocks {
                    *block = libc::malloc(8000);
                }
                let refused = libc::opendir(path.as_ptr());
                assert!(refused.is_null() && errno() == libc::ENOMEM);
                for block in blocks {
                    libc::free(block);
                }
            }
        });
    });
}

/// The dynamic linker makes a thread's thread-local storage, and ends the process when it cannot; a
/// destructor of a thread-local is registered in memory of the C library's, which ends the process when it
/// cannot.
#[test]
fn threads_and_thread_locals_are_made_when_the_quota_is_used_up() {
    let _turn = alone();
    struct Loud;
    impl Drop for Loud {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::SeqCst);
        }
    }
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static LOUD: Loud = const { Loud };
    }
    for round in 1..=4 {
        let bucket = next_bucket();
        let result = start_on(bucket, |tenant| {
            in_a_request(tenant, || {
                let mut blocks = [ptr::null_mut::<c_void>(); 4096];
                // SAFETY: any size will do.
                blocks.fill_with(|| unsafe { libc::malloc(2000) });
                assert!(blocks.iter().any(|block| block.is_null()));
                LOUD.with(|_| ());
                let joined = std::thread::spawn(|| LOUD.with(|_| 7)).join();
                assert_eq!(joined.expect("it was started"), 7);
                for block in blocks {
                    // SAFETY: null or live, and freed once.
                    unsafe { libc::free(block) };
                }
            });
        });
        finish(&result);
        wait_for("both threads have ended", || {
            bucket.has_ended() || DROPPED.load(Ordering::SeqCst) == 2 * round
        });
    }
}

/// The standard library makes a thread's handle with `malloc`, and aborts if it gets nothing. What others
/// have taken must not cause that.
#[test]
fn a_request_that_has_little_of_a_full_heap_can_start_threads() {
    let _turn = alone();
    let hogs: Vec<_> = (0..C_HEAP / C_QUOTA + 1)
        .map(|_| {
            let (full, is_full) = mpsc::channel();
            let (end, ends) = mpsc::channel::<()>();
            let result = start_on(next_bucket(), move |tenant| {
                in_a_request(tenant, || {
                    let mut last = ptr::null_mut::<*mut c_void>();
                    for size in [64 << 10, 4 << 10, 100, 24] {
                        loop {
                            // SAFETY: any size will do; a block has room for a pointer.
                            unsafe {
                                let block = libc::malloc(size).cast::<*mut c_void>();
                                if block.is_null() {
                                    break;
                                }
                                block.write(last.cast());
                                last = block;
                            }
                        }
                    }
                    full.send(()).expect("it waits");
                    let _ = ends.recv();
                    while !last.is_null() {
                        // SAFETY: live, written above, and freed once.
                        unsafe {
                            let before = last.read();
                            libc::free(last.cast());
                            last = before.cast();
                        }
                    }
                });
            });
            is_full.recv().expect("it is");
            (end, result)
        })
        .collect();
    on_bucket_thread(|tenant| {
        in_a_request(tenant, || {
            for _ in 0..10 {
                let joined = std::thread::spawn(|| std::thread::current().name().is_none());
                assert!(joined.join().expect("it was started"));
            }
        });
    });
    for (end, result) in hogs {
        drop(end);
        finish(&result);
    }
}

/// A block from outside becomes smaller, and larger, where there is hardly any stack: glibc's own lock is not
/// taken there.
#[test]
fn a_block_from_outside_changes_its_size_with_little_stack() {
    let _turn = alone();
    // SAFETY: any size will do.
    let blocks: Vec<usize> = (0..60)
        .map(|_| unsafe { libc::malloc(5000) } as usize)
        .collect();
    on_bucket_thread(move |tenant| {
        for (n, block) in blocks.into_iter().enumerate() {
            // A stack that is extended on the way marks the request, and it goes on.
            let outcome = tenant.enter(&never_stuck, |_| {
                with_stack_left(700 + n * 100, &mut || {
                    // SAFETY: live; moved or kept, and freed once.
                    unsafe {
                        let smaller = libc::realloc(block as *mut c_void, 100);
                        assert!(!smaller.is_null());
                        let larger = libc::realloc(smaller, 9000);
                        libc::free(if larger.is_null() { smaller } else { larger });
                    }
                });
            });
            match outcome.result {
                Ok(()) => {}
                other => assert_eq!(exhaustion(other).reason, Reason::Stack),
            }
        }
    });
}

/// The same where small blocks have used up all room, and where there is hardly any stack left. The C library
/// itself would end the process then.
#[test]
fn a_destructor_is_registered_when_nothing_is_left() {
    let _turn = alone();
    struct Quiet;
    impl Drop for Quiet {
        fn drop(&mut self) {}
    }
    thread_local! {
        static QUIET: Quiet = const { Quiet };
    }
    on_bucket_thread(|tenant| {
        in_a_request(tenant, || {
            let mut last = ptr::null_mut::<*mut c_void>();
            loop {
                // SAFETY: any size will do; a block has room for a pointer.
                unsafe {
                    let block = libc::malloc(24).cast::<*mut c_void>();
                    if block.is_null() {
                        break;
                    }
                    block.write(last.cast());
                    last = block;
                }
            }
            QUIET.with(|_| ());
            while !last.is_null() {
                // SAFETY: live, written above, and freed once.
                unsafe {
                    let before = last.read();
                    libc::free(last.cast());
                    last = before.cast();
                }
            }
        });
    });
    #[inline(never)]
    fn with_little_stack(left: usize) {
        let frame = black_box([0u8; 64]);
        if transom_arena::stack_remaining().is_some_and(|now| now > left) {
            with_little_stack(left);
        } else {
            QUIET.with(|_| ());
        }
        black_box(&frame);
    }
    for left in [500, 1500, 2100, 3000, 5000, 7900] {
        // It returns, or the stack has ended and the request is parked.
        static PARKED: AtomicUsize = AtomicUsize::new(0);
        static RETURNED: AtomicUsize = AtomicUsize::new(0);
        let before = PARKED.load(Ordering::SeqCst) + RETURNED.load(Ordering::SeqCst);
        let _result = start_on(next_bucket(), move |tenant| {
            let is_parked = |_: transom_arena::Failed<'_>| {
                PARKED.fetch_add(1, Ordering::SeqCst);
            };
            let _ = tenant.enter(&is_parked, |_| with_little_stack(left));
            RETURNED.fetch_add(1, Ordering::SeqCst);
        });
        wait_for("the request has ended", || {
            PARKED.load(Ordering::SeqCst) + RETURNED.load(Ordering::SeqCst) > before
        });
    }
}

/// A block from outside is freed where there is hardly any stack: glibc's own lock is not taken there.
#[test]
fn a_block_from_outside_is_freed_with_little_stack() {
    let _turn = alone();
    #[inline(never)]
    fn free_with_little_stack(left: usize, block: usize) {
        let frame = black_box([0u8; 64]);
        if transom_arena::stack_remaining().is_some_and(|now| now > left) {
            free_with_little_stack(left, block);
        } else {
            // SAFETY: live, and freed once.
            unsafe { libc::free(block as *mut c_void) };
        }
        black_box(&frame);
    }
    // SAFETY: any size will do.
    let blocks: Vec<usize> = (0..60)
        .map(|n| unsafe { libc::malloc(20 + n * 50) } as usize)
        .collect();
    on_bucket_thread(move |tenant| {
        for (n, block) in blocks.into_iter().enumerate() {
            in_a_request(tenant, || free_with_little_stack(2000 + n * 100, block));
            // SAFETY: any size will do; freed once.
            in_a_request(tenant, || unsafe {
                libc::free(black_box(libc::malloc(100)));
            });
        }
    });
}

/// A fork while other threads allocate: the child may use `malloc`, whichever thread had the locks.
#[test]
fn a_child_of_a_fork_can_allocate() {
    let _turn = alone();
    static DONE: AtomicBool = AtomicBool::new(false);
    let threads: Vec<_> = (0..16)
        .map(|_| {
            start_on(next_bucket(), |tenant| {
                while !DONE.load(Ordering::Relaxed) {
                    in_a_request(tenant, || {
                        for size in [10, 100, 1000, 10_000] {
                            // SAFETY: any size will do.
                            unsafe { libc::free(black_box(libc::malloc(size))) };
                        }
                        drop(black_box(transom_arena::outside(|| vec![1u8; 100])));
                    });
                }
            })
        })
        .collect();
    on_bucket_thread(|tenant| {
        for _ in 0..50 {
            let (status, _) = in_a_request(tenant, || {
                // SAFETY: the child calls what the C library allows after a fork, and `malloc`, and ends.
                unsafe {
                    let child = libc::fork();
                    if child == 0 {
                        libc::alarm(20);
                        for size in [10, 1000, 100_000] {
                            libc::free(black_box(libc::malloc(size)));
                        }
                        libc::_exit(7);
                    }
                    let mut status = 0;
                    libc::waitpid(child, &raw mut status, 0);
                    status
                }
            });
            assert!(
                libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7,
                "{status}"
            );
        }
    });
    DONE.store(true, Ordering::Relaxed);
    for thread in &threads {
        finish(thread);
    }
    assert!(FORK_HANDLERS_RAN.load(Ordering::SeqCst) >= 2 * 50);
}

type Fork = unsafe extern "C" fn() -> libc::pid_t;

unsafe extern "C" {
    fn _Fork() -> libc::pid_t;
    fn vfork() -> libc::pid_t;
}

/// A child that aborts, overflows its stack or asks for much is bound to no request: it ends, as any process
/// would.
#[test]
fn a_child_of_a_fork_that_fails_ends() {
    let _turn = alone();
    fn deeper(n: usize) -> usize {
        let frame = black_box([n; 64]);
        if n == usize::MAX {
            return 0; // never
        }
        deeper(n + 1) + frame[0]
    }
    fn child(fork: Fork, run: fn()) -> i32 {
        // SAFETY: the child calls what it is told to, and ends.
        unsafe {
            let child = fork();
            if child == 0 {
                libc::alarm(20);
                let null = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY);
                libc::dup2(null, libc::STDERR_FILENO);
                run();
                libc::_exit(7);
            }
            let mut status = 0;
            libc::waitpid(child, &raw mut status, 0);
            status
        }
    }
    unsafe extern "C" fn by_number() -> libc::pid_t {
        // SAFETY: a child with a copy of all, as `fork` makes it.
        let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        child as libc::pid_t
    }
    on_bucket_thread(|tenant| {
        for fork in [_Fork, vfork, by_number as Fork] {
            let (status, _) = in_a_request(tenant, || child(fork, libc_abort));
            assert_eq!(libc::WTERMSIG(status), libc::SIGABRT, "{status}");
        }
        for (run, signal) in [
            ((|| libc_abort()) as fn(), Some(libc::SIGABRT)),
            (|| assert!(black_box(deeper(0)) > 0), Some(libc::SIGSEGV)),
            (|| drop(black_box(vec![1u8; 50 << 20])), None),
            (
                || {
                    // SAFETY: any size will do.
                    unsafe { libc::free(black_box(libc::malloc(50 << 20))) };
                },
                None,
            ),
        ] {
            let (status, _) = in_a_request(tenant, || child(libc::fork, run));
            match signal {
                Some(signal) => assert_eq!(libc::WTERMSIG(status), signal, "{status}"),
                None => assert_eq!(libc::WEXITSTATUS(status), 7, "{status}"),
            }
        }
    });
}

fn libc_abort() {
    // SAFETY: it has no preconditions.
    unsafe { libc::abort() }
}

/// A library that was loaded before us, or the program's own first steps, may have fork handlers that
/// allocate. They run in every fork of these tests.
#[used]
#[unsafe(link_section = ".init_array")]
static FORK_HANDLERS: extern "C" fn() = {
    extern "C" fn allocate() {
        // SAFETY: any size will do; freed once.
        unsafe { libc::free(black_box(libc::malloc(1000))) };
        FORK_HANDLERS_RAN.fetch_add(1, Ordering::SeqCst);
    }
    extern "C" fn register() {
        // SAFETY: functions of this program.
        unsafe { libc::pthread_atfork(Some(allocate), Some(allocate), Some(allocate)) };
    }
    register
};
static FORK_HANDLERS_RAN: AtomicUsize = AtomicUsize::new(0);

/// `free` leaves `errno` as it was, also when others have the heap's lock.
#[test]
fn free_leaves_errno_as_it_was() {
    let _turn = alone();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            start_on(next_bucket(), |tenant| {
                in_a_request(tenant, || {
                    for _ in 0..30_000 {
                        // SAFETY: any size will do; freed once; the address of this thread's errno.
                        unsafe {
                            let block = black_box(libc::malloc(3000));
                            *libc::__errno_location() = 4711;
                            libc::free(block);
                            assert_eq!(errno(), 4711);
                        }
                    }
                });
            })
        })
        .collect();
    for thread in &threads {
        finish(thread);
    }
}

/// C's `assert` is an `abort`: it ends its request, and not the process.
#[test]
fn an_assertion_of_c_that_fails_ends_its_request_only() {
    unsafe extern "C" {
        fn __assert_fail(
            assertion: *const libc::c_char,
            file: *const libc::c_char,
            line: libc::c_uint,
            function: *const libc::c_char,
        ) -> !;
    }
    let _turn = alone();
    let parked = parks(|_| -> usize {
        // SAFETY: texts.
        unsafe {
            __assert_fail(
                c"1 + 1 == 3".as_ptr(),
                c"sums.c".as_ptr(),
                7,
                c"main".as_ptr(),
            )
        }
    });
    assert_eq!(parked.report.what(), Reported::OtherPanic);
}

/// Goes down through the C library with every alignment of the deepest frame: `opendir` allocates, and the
/// stack ends there, before, or after it.
#[test]
fn a_stack_that_ends_in_the_c_library_ends_its_request_only() {
    let _turn = alone();
    fn deeper(frame: usize) -> usize {
        if frame == usize::MAX {
            return 0; // never
        }
        let path = c"/";
        let room = vec![0u8; 1];
        let local = [frame; 4];
        black_box((&room, &local));
        // SAFETY: a NUL-terminated path; the stream is closed, if there is one.
        unsafe {
            let open = libc::opendir(path.as_ptr());
            if !open.is_null() {
                libc::closedir(open);
            }
        }
        deeper(frame + 1) + black_box(local[0])
    }
    fn shifted(by: usize) -> usize {
        // A frame of another size each time.
        match by % 5 {
            0 => black_box([0u8; 16])[0] as usize + deeper(by),
            1 => black_box([0u8; 200])[0] as usize + deeper(by),
            2 => black_box([0u8; 400])[0] as usize + deeper(by),
            3 => black_box([0u8; 720])[0] as usize + deeper(by),
            _ => black_box([0u8; 1000])[0] as usize + deeper(by),
        }
    }
    for by in 0..10 {
        let parked = parks(move |_| shifted(by));
        assert_eq!(parked.report.what(), Reported::Exhausted(Reason::Stack));
        on_bucket_thread(|tenant| {
            in_a_request(tenant, || {
                // SAFETY: any size will do.
                unsafe { libc::free(black_box(libc::malloc(1000))) };
                std::fs::read_dir("/").expect("opens").count()
            });
        });
        // SAFETY: as above, outside requests.
        unsafe { libc::free(black_box(libc::malloc(1000))) };
        assert!(parked.for_ever());
    }
    // A jump leaves the handler's own frames. If the stack ended in a frame of the C library, or in a
    // function that it had called, the request is parked.
    for by in 0..10 {
        let report = Arc::new(AtomicUsize::new(0));
        let theirs = report.clone();
        let result = start_on(next_bucket(), move |tenant| {
            // SAFETY: a handler that holds nothing but memory; what C has is leaked.
            let outcome = unsafe {
                tenant.enter_escaping(
                    &|_: transom_arena::Failed<'_>| {
                        theirs.fetch_add(1, Ordering::SeqCst);
                    },
                    |_| shifted(by),
                )
            };
            assert!(outcome.result.is_err());
        });
        wait_for("it is over", || {
            report.load(Ordering::SeqCst) == 1 || result.try_recv().is_ok_and(|it| it.is_ok())
        });
        std::fs::read_dir("/").expect("opens");
    }
}

/// A block that C got before the request, and that grows in it, is bounded from then on.
#[test]
fn a_block_from_outside_that_grows_in_a_request_moves_inside() {
    let _turn = alone();
    static BLOCK: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    // SAFETY: any size will do.
    BLOCK.store(unsafe { libc::calloc(1, 100) }, Ordering::SeqCst);
    on_bucket_thread(|tenant| {
        in_a_request(tenant, || {
            let block = BLOCK.load(Ordering::SeqCst);
            // SAFETY: live; the bytes are its own.
            unsafe {
                assert!(
                    black_box(libc::realloc(block, C_QUOTA * 2)).is_null(),
                    "too much"
                );
                let grown = libc::realloc(block, 10_000);
                assert!(!grown.is_null());
                let bytes = std::slice::from_raw_parts(grown.cast::<u8>(), 100);
                assert!(bytes.iter().all(|&byte| byte == 0));
                BLOCK.store(grown, Ordering::SeqCst);
            }
        });
        let (_, c_left) = in_a_request(tenant, || {
            // SAFETY: live, and freed once.
            unsafe { libc::free(BLOCK.load(Ordering::SeqCst)) };
        });
        assert_eq!(c_left, 0);
    });
}

/// Before `main`, where the dynamic linker has called us already and nothing is installed.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn before_main() {
        // SAFETY: any size will do; freed once.
        unsafe {
            let block = libc::malloc(100);
            if !block.is_null() {
                block.cast::<u8>().write_bytes(1, 100);
                let block = libc::realloc(block, 1000);
                EARLY.store(usize::from(!block.is_null()), Ordering::SeqCst);
                libc::free(block);
            }
        }
    }
    before_main
};
static EARLY: AtomicUsize = AtomicUsize::new(0);

#[test]
fn it_works_before_main() {
    assert_eq!(EARLY.load(Ordering::SeqCst), 1);
}
