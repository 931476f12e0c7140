//! Memory between two processes: sealed memfds with, as far as possible, one writer each.
//!
//! The creator of a piece first maps it, then seals it: it can neither shrink (a touched page never vanishes:
//! no SIGBUS) nor grow, no seal can be added or removed, and, if the creator is its only writer, no process
//! can map it writable any more. The receiver of a descriptor trusts none of this, and checks it before
//! mapping.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::between::closer;
use crate::values::descriptors::Descriptors;
use crate::values::error::MemoryError;

/// Which side may write a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Its creator alone.
    Creator,
    /// Both sides; everything in it is an atomic.
    Both,
}

impl Writer {
    fn seals(self) -> libc::c_int {
        let fixed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        match self {
            Writer::Creator => fixed | libc::F_SEAL_FUTURE_WRITE,
            Writer::Both => fixed,
        }
    }
}

/// A piece of memory that lies in two processes. Unmapped when dropped; not inherited by fork.
#[derive(Debug)]
pub struct Mapping {
    memory: ManuallyDrop<MmapRaw>,
    /// The process that has it mapped: in a child of it something else may lie there by now.
    process: u32,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            // SAFETY: dropped once, here, and not used after that.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

impl Mapping {
    /// New, zeroed and touched memory of `len` bytes, and the descriptor to give away.
    pub fn create(name: &CStr, len: usize, writer: Writer) -> Result<(Self, OwnedFd), MemoryError> {
        let file = File::from(memfd(name)?);
        file.set_len(len as u64)?;
        let memory = MmapOptions::new().len(len).populate().map_raw(&file)?;
        memory.advise(Advice::DontFork)?;
        // SAFETY: a plain system call on an open descriptor.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, writer.seals()) } < 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok((Self::of(memory), file.into()))
    }

    /// Maps memory that the other side has created, the next of its descriptors, once it is what was agreed.
    /// One that is not stays where it is.
    pub fn receive(
        from: &mut Descriptors,
        len: usize,
        writer: Writer,
    ) -> Result<Self, MemoryError> {
        let first = from.first().ok_or(MemoryError::Missing)?;
        check(first.as_fd(), len, writer)?;
        let file = File::from(from.next().ok_or(MemoryError::Missing)?);
        let mut options = MmapOptions::new();
        options.len(len);
        let memory = match writer {
            Writer::Creator => options.map_raw_read_only(&file)?,
            Writer::Both => options.map_raw(&file)?,
        };
        memory.advise(Advice::DontFork)?;
        Ok(Self::of(memory))
    }

    fn of(memory: MmapRaw) -> Self {
        Self {
            memory: ManuallyDrop::new(memory),
            process: std::process::id(),
        }
    }

    /// Maps every page now, so that no call is the first to touch one. What the kernel cannot map now, it
    /// maps later.
    pub fn touch(&self) {
        let _ = self.memory.advise(Advice::PopulateRead);
    }

    /// Its first byte.
    pub fn base(&self) -> NonNull<u8> {
        NonNull::new(self.memory.as_mut_ptr()).expect("mmap never maps page 0")
    }
}

/// Whether a descriptor is memory as agreed. A file system is only asked once it is known to be one of the
/// kernel's own, which answers at once.
fn check(fd: BorrowedFd<'_>, len: usize, writer: Writer) -> Result<(), MemoryError> {
    // linux/magic.h; libc has it for some systems only.
    const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;
    let needed = writer.seals();
    let given = closer::seals(fd);
    if given.is_none_or(|given| given & needed != needed) {
        let given = given.unwrap_or(-1);
        return Err(MemoryError::Seals { given, needed });
    }
    let mut system = MaybeUninit::<libc::statfs>::uninit();
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: both are written by the calls, and read only if those succeeded.
    let (kind, given) = unsafe {
        if libc::fstatfs(fd.as_raw_fd(), system.as_mut_ptr()) < 0
            || libc::fstat(fd.as_raw_fd(), status.as_mut_ptr()) < 0
        {
            return Err(io::Error::last_os_error().into());
        }
        (
            system.assume_init().f_type as u32,
            status.assume_init().st_size as u64,
        )
    };
    if kind == HUGETLBFS_MAGIC {
        return Err(MemoryError::HugePages);
    }
    if given != len as u64 {
        return Err(MemoryError::Size { given, needed: len });
    }
    Ok(())
}

fn memfd(name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // Linux 6.3 and later can forbid to execute it; older kernels do not know the flag.
    for flags in [flags | libc::MFD_NOEXEC_SEAL, flags] {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: the call succeeded, so `fd` is open and nothing else knows it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(fd: OwnedFd, len: usize, writer: Writer) -> Result<Mapping, MemoryError> {
        let mut descriptors = Descriptors::default();
        descriptors.push(fd);
        Mapping::receive(&mut descriptors, len, writer)
    }

    #[test]
    fn what_is_created_is_received_and_has_one_writer() {
        let (ours, fd) = Mapping::create(c"test", 8192, Writer::Creator).expect("memory");
        // SAFETY: the first byte of a mapping that both hold.
        unsafe { ours.base().write_volatile(7) };
        let again = fd.try_clone().expect("a descriptor");
        let theirs = receive(fd, 8192, Writer::Creator).expect("as agreed");
        // SAFETY: as above.
        assert_eq!(unsafe { theirs.base().read_volatile() }, 7);
        let file = File::from(again);
        assert!(file.set_len(4096).is_err(), "it must not shrink");
        assert!(
            MmapOptions::new().len(8192).map_raw(&file).is_err(),
            "no other process may write it"
        );
    }

    #[test]
    fn wrong_sizes_and_missing_seals_are_refused() {
        let (_ours, fd) = Mapping::create(c"test", 8192, Writer::Both).expect("memory");
        let again = fd.try_clone().expect("a descriptor");
        assert!(matches!(
            receive(fd, 4096, Writer::Both),
            Err(MemoryError::Size {
                given: 8192,
                needed: 4096
            })
        ));
        assert!(matches!(
            receive(again, 8192, Writer::Creator),
            Err(MemoryError::Seals { .. })
        ));
        let no_memfd = OwnedFd::from(File::open("/dev/zero").expect("opens"));
        assert!(matches!(
            receive(no_memfd, 4096, Writer::Both),
            Err(MemoryError::Seals { given: -1, .. })
        ));
    }

    #[test]
    fn memory_of_huge_pages_is_refused() {
        const LEN: usize = 2 << 20;
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_HUGETLB;
        // SAFETY: the name is a C string; nothing else owns the new descriptor.
        let file = unsafe {
            let fd = libc::memfd_create(c"huge".as_ptr(), flags);
            if fd < 0 {
                return; // a kernel without huge pages gives none
            }
            File::from_raw_fd(fd)
        };
        file.set_len(LEN as u64).expect("a length");
        let seals = Writer::Both.seals();
        // SAFETY: a plain system call.
        let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        assert_eq!(sealed, 0);
        assert!(matches!(
            receive(file.into(), LEN, Writer::Both),
            Err(MemoryError::HugePages)
        ));
    }
}
