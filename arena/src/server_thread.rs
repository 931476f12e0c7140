//! Starting a thread whose stack lies in its bucket.
//!
//! `std::thread` maps its own stacks, so this is `pthread_create` with `pthread_attr_setstack`. Nothing is
//! allocated by us; the C library takes a few hundred bytes for the thread's table of thread-local storage.

use crate::bucket::Bucket;
use crate::recovery::Tenant;
use crate::thread::begin_era;
use crate::{shared, signal};
use std::ffi::c_void;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// What a thread bound to a bucket runs: a plain function and one word for it.
pub type ThreadMain = fn(Tenant, usize);

impl Bucket {
    /// Starts a thread on this bucket's stack, bound to it. It runs `main(tenant, argument)`. When that
    /// returns the thread ends, which runs the destructors of its thread-locals; the bucket can have another
    /// thread once [`has_ended`](Bucket::has_ended) has said that this one is gone.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if the bucket has a thread; what `pthread_create` says otherwise (the
    /// limits on threads: `ulimit -u`, the cgroup's `pids.max`).
    pub fn start_thread(&'static self, main: ThreadMain, argument: usize) -> io::Result<()> {
        signal::install()?;
        last_key()?;
        if !self.adopt() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "this bucket has a thread already",
            ));
        }
        self.set_main(main, argument);
        let result = self.create_thread();
        if result.is_err() {
            self.disown();
        }
        result
    }

    /// Whether the thread that this bucket had has ended and is gone, so that the bucket can have another
    /// one. False while it runs, and while destructors of its thread-locals do. True once, for one caller.
    pub fn has_ended(&'static self) -> bool {
        let Some(thread) = self.take_thread_that_returned() else {
            return false;
        };
        // SAFETY: the thread was created joinable. No other thread joins it, because we have taken it, and
        // none has, because one that was joined is not put back.
        if unsafe { libc::pthread_tryjoin_np(thread, std::ptr::null_mut()) } != 0 {
            self.has_returned(thread);
            return false;
        }
        self.end_of_thread();
        self.disown();
        true
    }

    fn create_thread(&'static self) -> io::Result<()> {
        let check = |code: libc::c_int| match code {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        };
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
        // SAFETY: attributes are initialised before use and destroyed after. The stack is this bucket's,
        // between its guards, writable, page-aligned, and used by no other thread (adopted above). The
        // argument lives for ever.
        unsafe {
            check(libc::pthread_attr_init(attributes.as_mut_ptr()))?;
            let attributes = attributes.assume_init_mut();
            let created = check(libc::pthread_attr_setstack(
                attributes,
                self.stack_bottom() as *mut c_void,
                self.geometry().stack_size(),
            ))
            .and_then(|()| {
                check(libc::pthread_create(
                    thread.as_mut_ptr(),
                    attributes,
                    start,
                    std::ptr::from_ref(self).cast_mut().cast(),
                ))
            });
            libc::pthread_attr_destroy(attributes);
            created
        }
    }
}

extern "C" fn start(argument: *mut c_void) -> *mut c_void {
    // SAFETY: `create_thread` passes a bucket, which lives for ever.
    let bucket: &'static Bucket = unsafe { &*argument.cast::<Bucket>() };
    bucket.thread_begins((&raw const argument).addr(), signal::mask());
    begin_era();
    name_this_thread(bucket.index());
    // The standard library makes a thread's handle when it is first asked for (channels do), with `malloc`,
    // and aborts where that gets nothing, as it may in a request.
    drop(std::thread::current());
    if signal::use_signal_stack(bucket).is_ok() {
        let (main, argument) = bucket.main();
        let tenant = Tenant::of(bucket, true);
        // A panic here is a bug of ours, outside any request; it must not cross into the C library.
        let _ = catch_unwind(AssertUnwindSafe(|| main(tenant, argument)));
    }
    // What destructors of thread-locals allocate comes from the bucket, as what they free goes back to it.
    bucket.begin_to_end();
    call_when_destructors_have_run(bucket);
    // SAFETY: pthread_self has no preconditions.
    bucket.has_returned(unsafe { libc::pthread_self() });
    std::ptr::null_mut()
}

/// The key whose destructor is called when those of thread-locals have run: the C library's order. (glibc,
/// `start_thread`: `__call_tls_dtors`, then `__nptl_deallocate_tsd`.)
fn last_key() -> io::Result<libc::pthread_key_t> {
    static KEY: OnceLock<Result<libc::pthread_key_t, libc::c_int>> = OnceLock::new();
    let made = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: the C library writes the key; the destructor is a function of this program.
        match unsafe { libc::pthread_key_create(&raw mut key, Some(destructors_have_run)) } {
            0 => Ok(key),
            code => Err(code),
        }
    });
    made.map_err(io::Error::from_raw_os_error)
}

fn call_when_destructors_have_run(bucket: &'static Bucket) {
    if let Ok(key) = last_key() {
        // SAFETY: the key was made, and is never deleted.
        unsafe { libc::pthread_setspecific(key, std::ptr::from_ref(bucket).cast()) };
    }
}

/// Gives back what destructors of thread-locals have left locked, by coroutines that never return. Here, and
/// not when the thread is gone: a cell may itself be a thread-local.
extern "C" fn destructors_have_run(bucket: *mut c_void) {
    // SAFETY: `call_when_destructors_have_run` has set a bucket, which lives for ever.
    let bucket: &'static Bucket = unsafe { &*bucket.cast::<Bucket>() };
    if shared::has_closures(bucket) {
        shared::give_up_closures(bucket, None);
    }
    // Once more after those of other keys, as long as the C library goes through them.
    call_when_destructors_have_run(bucket);
}

fn name_this_thread(index: u32) {
    let mut name = [0u8; 16]; // the kernel's limit, NUL included
    let _ = write!(&mut name[..15], "door-{index}");
    // SAFETY: a NUL-terminated name for the calling thread.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}
