//! A file whose close(2) never returns: it lies in a file system of a process of ours that does not answer.

use std::io::{self, BufRead};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLockWriteGuard};

use crate::Folder;
use crate::echo::{FORKS, start_mortal};
use crate::raw::Wire;

/// The file, open. Nothing that asks its file system returns as long as this lives: neither close(2) nor
/// fstat(2). Nor does this process start another one meanwhile.
#[derive(Debug)]
pub struct HangingFile {
    fd: ManuallyDrop<OwnedFd>,
    server: Child,
    _no_forks: RwLockWriteGuard<'static, ()>,
}

impl HangingFile {
    /// Starts the file system, which is the binary `program`. `None` where this user may mount none, which is
    /// said.
    ///
    /// # Panics
    /// If the binary cannot be started, or ends otherwise than by saying that it may not mount.
    #[must_use]
    pub fn start(program: &str) -> Option<Self> {
        let folder = Folder::new("hanging");
        let path = folder.path().join("wire");
        let listener = Wire::listen(&path).expect("a listener");
        let mut command = Command::new(program);
        command.arg(&path).stdout(Stdio::piped());
        let mut server = start_mortal(&mut command).expect("the binary can be started");
        let mut said = String::new();
        let mut lines = io::BufReader::new(server.stdout.take().expect("it is piped"));
        lines.read_line(&mut said).expect("it says how it went");
        if said.trim() != "ready" {
            let _ = server.wait();
            eprintln!("skipped: no file system in user space can be had here: {said}");
            return None;
        }
        let no_forks = FORKS.write().unwrap_or_else(PoisonError::into_inner);
        let (_, mut descriptors) = (listener.accept().and_then(|wire| wire.receive()))
            .expect("the file comes over the wire");
        let fd = ManuallyDrop::new(descriptors.pop().expect("the file"));
        Some(Self {
            fd,
            server,
            _no_forks: no_forks,
        })
    }

    /// Its descriptor.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for HangingFile {
    /// Without its server the file system answers everything with an error.
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        // SAFETY: not used after this.
        unsafe { ManuallyDrop::drop(&mut self.fd) };
    }
}

/// From now on this thread and its children are on a Linux before 6.16: there is no `SO_PASSRIGHTS`.
///
/// # Errors
/// What the system says.
pub fn forget_passrights() -> io::Result<()> {
    let on = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = |at: u32| on(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let equal =
        |k: u32, otherwise: u8| on(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 0, otherwise);
    let answer = |k: u32| on(libc::BPF_RET | libc::BPF_K, k, 0, 0);
    // The number is at 0 in seccomp_data, the arguments from 16 on; the low halves come first.
    let mut filter = [
        load(0),
        equal(libc::SYS_setsockopt as u32, 5),
        load(16 + 8),
        equal(libc::SOL_SOCKET as u32, 3),
        load(16 + 16),
        equal(83, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::ENOPROTOOPT as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program is valid for the call.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
            || libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) < 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
