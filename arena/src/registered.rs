//! Values that a request must not leave behind when it is left by a jump: descriptors, temporary files, what
//! a C library has made.

use crate::bucket::Bucket;
use crate::cleanup::{Node, WayOut};
use crate::recovery::{refusing, room_for_cleanup};
use crate::thread::bound;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::fmt;
use std::hint::black_box;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;

/// A value that is dropped also if its request is left by a jump ([`Policy::Escape`](crate::Policy::Escape)),
/// which runs no destructors: a `Registered<File>` is closed, and a plain `File` stays open.
///
/// Otherwise it is an owner like `Box`: it drops its value when it is dropped itself, and what is moved into
/// a place that outlives the request stays as it is. A request that is parked keeps it, because other threads
/// may use what it has lent.
///
/// ```
/// use std::fs::File;
/// use std::io::Read;
/// # use transom_arena as transom_platform;
/// use transom_platform::Registered;
///
/// # fn main() -> std::io::Result<()> {
/// let mut file = Registered::new(File::open("/proc/self/statm")?);
/// let mut text = String::new();
/// file.read_to_string(&mut text)?; // may not fit: the file is closed all the same
/// # Ok(())
/// # }
/// ```
pub struct Registered<T: 'static> {
    entry: NonNull<Entry<T>>,
    owns: PhantomData<T>,
}

#[repr(C)]
struct Entry<T> {
    node: Node,
    /// On whose list the node is.
    bucket: Cell<Option<&'static Bucket>>,
    /// The value was dropped with its request. An owner may be left in another value that is registered, or
    /// in a cleanup.
    gone: Cell<bool>,
    value: ManuallyDrop<T>,
}

impl<T: 'static> Registered<T> {
    /// Registers a value with the request that this thread runs. On another thread it is a plain owner.
    pub fn new(value: T) -> Self {
        let bucket = bound();
        let Some(entry) = Self::room(bucket) else {
            // The request ends here, by a jump or for good: this frame would not drop the value.
            drop(value);
            Self::without_room()
        };
        // SAFETY: a fresh block of this layout. It stays where it is, and valid until it is taken off the
        // list, by `run` or before.
        unsafe {
            entry.write(Entry {
                node: Node::new(Self::run),
                bucket: Cell::new(bucket),
                gone: Cell::new(false),
                value: ManuallyDrop::new(value),
            });
            if let Some(bucket) = bucket {
                bucket.cleanups.push(entry.cast());
            }
        }
        Registered {
            entry,
            owns: PhantomData,
        }
    }

    /// Memory for an entry. Where the arena is full, the bucket's reserve may have some, or the overdraft.
    fn room(bucket: Option<&'static Bucket>) -> Option<NonNull<Entry<T>>> {
        let layout = Layout::new::<Entry<T>>();
        // SAFETY: an entry is not of size zero.
        let first = || refusing(|| NonNull::new(unsafe { alloc(layout) }));
        let block = match bucket {
            Some(bucket) => room_for_cleanup(bucket, layout, first),
            None => first(),
        };
        block.map(NonNull::cast)
    }

    /// Ends the request, as an allocation that does not fit does; outside of a request, it ends the process.
    fn without_room() -> ! {
        let layout = Layout::new::<Entry<T>>();
        // SAFETY: as in `room`. If there is room by now, the block is not used. (The compiler may leave out
        // an allocation that is not used.)
        black_box(unsafe { alloc(layout) });
        handle_alloc_error(layout)
    }

    /// Takes the value back.
    ///
    /// # Panics
    /// If its request was left by a jump, which has dropped it. (Only a cleanup can see that.)
    pub fn into_inner(self) -> T {
        let this = ManuallyDrop::new(self);
        this.is_there();
        this.unregister();
        // SAFETY: made as a box is, off the list, and `this` is not used again.
        ManuallyDrop::into_inner(unsafe { Box::from_raw(this.entry.as_ptr()) }.value)
    }

    /// The value was not dropped with its request.
    #[inline]
    fn is_there(&self) {
        assert!(
            !self.is_gone(),
            "this value was dropped when its request was left"
        );
    }

    #[inline]
    fn is_gone(&self) -> bool {
        // SAFETY: the entry is valid for as long as its owner can be used: after a jump, until all cleanups
        // have run.
        unsafe { (*self.entry.as_ptr()).gone.get() }
    }

    fn unregister(&self) {
        // SAFETY: valid for as long as its owner. Only the node and this field are reached by way of the
        // list.
        let bucket = unsafe { &(*self.entry.as_ptr()).bucket };
        if let Some(bucket) = bucket.take() {
            // SAFETY: as above; this is the list that `new` has pushed it to, if any took it.
            unsafe { bucket.cleanups.remove(self.entry.cast()) };
        }
    }

    /// # Safety
    /// `node` is that of a valid entry which was on its bucket's list and is not any more. This is its
    /// request's end.
    unsafe fn run(node: NonNull<Node>, way_out: WayOut) {
        let entry = node.cast::<Entry<T>>().as_ptr();
        // SAFETY: valid, by the caller's promise.
        unsafe {
            if (*entry).gone.get() {
                // All cleanups have run, so nothing can use its owner any more. Its value was dropped.
                return dealloc(entry.cast(), Layout::new::<Entry<T>>());
            }
            let bucket = (*entry).bucket.take();
            match way_out {
                // Its owner is somewhere, and drops it.
                WayOut::Returned | WayOut::Unwound => {}
                // Its owner was on a frame that was jumped over, or is in something else that is registered
                // and was made before: the promise that the handler may be left so includes that nothing
                // outside the request has it.
                WayOut::Escaped | WayOut::Overflowed => {
                    (*entry).gone.set(true);
                    if let Some(bucket) = bucket {
                        bucket.cleanups.bury(node);
                    }
                    ManuallyDrop::drop(&mut (*entry).value);
                }
            }
        }
    }
}

impl<T: 'static> Drop for Registered<T> {
    fn drop(&mut self) {
        if self.is_gone() {
            return;
        }
        self.unregister();
        // SAFETY: made as a box is, off the list, and not used again; the value was not dropped.
        unsafe {
            let mut entry = Box::from_raw(self.entry.as_ptr());
            ManuallyDrop::drop(&mut entry.value);
        }
    }
}

impl<T: 'static> Deref for Registered<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.is_there();
        // SAFETY: valid for as long as its owner; once the list has reached the value, it is gone.
        unsafe { &(*self.entry.as_ptr()).value }
    }
}

impl<T: 'static> DerefMut for Registered<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.is_there();
        // SAFETY: as above, and `&mut self` keeps other borrows away.
        unsafe { &mut (*self.entry.as_ptr()).value }
    }
}

impl<T: fmt::Debug> fmt::Debug for Registered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registered").field(&**self).finish()
    }
}

impl<T: Read> Read for Registered<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (**self).read_vectored(buffers)
    }

    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        (**self).read_to_end(buffer)
    }

    fn read_to_string(&mut self, buffer: &mut String) -> io::Result<usize> {
        (**self).read_to_string(buffer)
    }
}

impl<T: Write> Write for Registered<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (**self).write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (**self).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }
}

impl<T: Seek> Seek for Registered<T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (**self).seek(to)
    }
}

impl<T: AsFd> AsFd for Registered<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

impl<T: AsRawFd> AsRawFd for Registered<T> {
    fn as_raw_fd(&self) -> RawFd {
        (**self).as_raw_fd()
    }
}
