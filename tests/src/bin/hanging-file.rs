//! A file system with one file, which can be opened; any other operation on it hangs.
//!
//! ```text
//! hanging-file WIRE
//! ```
//!
//! It sends the open file over the socket at `WIRE`, says `ready`, and lives until it is killed. A child of
//! its opens the file: a process that serves a file system and has a file of it open waits for itself when
//! it ends.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use transom_tests::raw::Wire;

/// Kinds of requests; see fuse(4) and linux/fuse.h.
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;

fn main() -> ExitCode {
    let wire = std::env::args().nth(1).expect("hanging-file WIRE");
    let outcome = mount(Path::new(&wire)).and_then(|(device, place)| {
        let wire = Wire::connect(Path::new(&wire))?;
        mount_at(&device, &place)?;
        // SAFETY: this process has one thread, so its child can do what it could.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(device);
                // SAFETY: a plain system call.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                let opened = open_and_send(&place, &wire);
                println!(
                    "{}",
                    opened.map_or_else(|error| error.to_string(), |()| "ready".into())
                );
                loop {
                    std::thread::park();
                }
            }
            _ => {
                drop(wire);
                serve(device);
                Ok(())
            }
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn open_and_send(place: &CStr, wire: &Wire) -> io::Result<()> {
    let path = Path::new(OsStr::from_bytes(place.to_bytes())).join("file");
    let file = ManuallyDrop::new(File::open(path)?);
    wire.send(b"file", &[file.as_raw_fd()])
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Enters a mount namespace of its own. Returns the device of the file system, and where to mount it.
fn mount(wire: &Path) -> io::Result<(File, CString)> {
    // SAFETY: no preconditions.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: this process has one thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) })?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let folder = wire.parent().unwrap_or(Path::new("/tmp"));
    Ok((device, CString::new(folder.as_os_str().as_bytes())?))
}

fn mount_at(device: &File, place: &CStr) -> io::Result<()> {
    let fd = device.as_raw_fd();
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
    let options = CString::new(options)?;
    // SAFETY: every string is a C string.
    check(unsafe {
        libc::mount(
            c"hanging".as_ptr(),
            place.as_ptr(),
            c"fuse".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV,
            options.as_ptr().cast(),
        )
    })
}

fn serve(mut device: File) {
    let mut request = vec![0; 1 << 20];
    let mut opened = false;
    while let Ok(len) = device.read(&mut request) {
        let number =
            |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("4 bytes"));
        let (kind, node) = (number(4), number(16));
        let mut body = Vec::new();
        let mut u32s = |numbers: &[u32]| {
            for number in numbers {
                body.extend_from_slice(&number.to_le_bytes());
            }
        };
        match kind {
            // Version 7.31, and nothing that is optional.
            INIT => u32s(&[7, 31, 0, 0, 0, 1 << 16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            LOOKUP if !opened => {
                // Node 2; nothing of it may be remembered.
                u32s(&[2, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
                body.extend(attributes(libc::S_IFREG | 0o644));
            }
            GETATTR if !opened => {
                u32s(&[0, 0, 0, 0]);
                body.extend(attributes(match node {
                    1 => libc::S_IFDIR | 0o755,
                    _ => libc::S_IFREG | 0o644,
                }));
            }
            OPEN => {
                u32s(&[1, 0, 0, 0]);
                opened = true;
            }
            _ => continue, // for ever
        }
        let mut answer = (16 + body.len() as u32).to_le_bytes().to_vec();
        answer.extend_from_slice(&[0; 4]);
        answer.extend_from_slice(&request[8..16]);
        answer.extend(body);
        if device.write_all(&answer).is_err() || len == 0 {
            return;
        }
    }
}

fn attributes(mode: u32) -> Vec<u8> {
    let mut all = [0_u32; 22];
    all[0] = 2; // the node
    (all[15], all[16]) = (mode, 1);
    all.iter().flat_map(|number| number.to_le_bytes()).collect()
}
