//! A process that serves a door (`door-echo`), and what can be seen of it from outside.

use crate::eventually;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

/// Held for writing while this process has a descriptor open whose close(2) never returns. A child has a copy
/// of it until it calls execve(2), which closes it: the child would hang there, with copies of all else that
/// was open.
pub(crate) static FORKS: RwLock<()> = RwLock::new(());

/// Starts a process that dies with this one.
///
/// # Errors
/// What the system says.
pub fn start_mortal(command: &mut Command) -> io::Result<Child> {
    // SAFETY: prctl is a plain system call, and safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let _closes = FORKS.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// What a process holds: descriptors, mappings of channels and boards, threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Entries of `/proc/PID/fd`.
    pub descriptors: usize,
    /// Mappings whose names have `transom-` in them.
    pub mappings: usize,
    /// Threads.
    pub threads: usize,
}

impl Holdings {
    /// Looks at a process.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let count = |what: &str| {
            let entries = fs::read_dir(format!("/proc/{pid}/{what}"));
            entries.expect("a process of ours").count()
        };
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process of ours");
        Self {
            descriptors: count("fd"),
            mappings: maps
                .lines()
                .filter(|line| line.contains("transom-"))
                .count(),
            threads: count("task"),
        }
    }

    /// Waits until a process holds no more than this.
    ///
    /// # Panics
    /// If it does not come to that.
    #[track_caller]
    pub fn wait_for(self, pid: u32) {
        let fits = |now: Self| {
            now.descriptors <= self.descriptors
                && now.mappings <= self.mappings
                && now.threads <= self.threads
        };
        let back = eventually(|| fits(Self::of(pid)));
        let now = Self::of(pid);
        assert!(back, "{self:?} before, and still {now:?} now");
    }
}

/// A running `door-echo`. Killed when it is dropped, by its own process id.
#[derive(Debug)]
pub struct Echo {
    child: Child,
    path: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it and waits until it is ready. `file` is `env!("CARGO_BIN_EXE_door-echo")`.
    ///
    /// # Panics
    /// If it does not get ready.
    #[must_use]
    pub fn start(file: &str, path: &Path, threads: u32, options: &[&str]) -> Self {
        let mut command = Command::new(file);
        command
            .arg(path)
            .arg(threads.to_string())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = start_mortal(&mut command).expect("the binary can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let reader = std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    lines
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(line);
                }
            }
        });
        let echo = Self {
            child,
            path: path.to_owned(),
            lines,
            reader: Some(reader),
        };
        assert!(
            eventually(|| echo.count("ready") == 1),
            "the door is not ready"
        );
        echo
    }

    /// Where its door is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many lines begin so.
    #[must_use]
    pub fn count(&self, start: &str) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.starts_with(start)).count()
    }

    /// What it has said of a client.
    #[must_use]
    pub fn lines_about(&self, pid: u32) -> Vec<String> {
        let who = format!(" pid={pid} ");
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let about = lines.iter().filter(|line| line.contains(&who));
        about.cloned().collect()
    }

    /// What it holds.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        Holdings::of(self.pid())
    }

    /// What it holds when two looks in a row agree, with so many clients inside.
    #[must_use]
    pub fn holdings_at_rest(&self) -> Holdings {
        let mut last = self.holdings();
        let rested = eventually(|| {
            std::thread::sleep(std::time::Duration::from_millis(30));
            let now = self.holdings();
            std::mem::replace(&mut last, now) == now
        });
        assert!(rested, "the door does not come to rest: {last:?}");
        last
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// If it is not ours to ask.
    pub fn is_alive(&mut self) -> bool {
        let status = self.child.try_wait().expect("it is ours to wait for");
        status.is_none()
    }

    /// Stops it until [`go_on`](Self::go_on): no thread of it does anything once this returns.
    ///
    /// # Panics
    /// If it has ended.
    pub fn pause(&self) {
        let pid = self.child.id().cast_signed();
        let mut status = 0;
        // SAFETY: the process is a child of ours that has not been waited for; the status is a local.
        unsafe {
            assert_eq!(libc::kill(pid, libc::SIGSTOP), 0);
            assert_eq!(libc::waitpid(pid, &raw mut status, libc::WUNTRACED), pid);
        }
        assert!(libc::WIFSTOPPED(status), "the door has ended");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        // SAFETY: as above.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGCONT) };
    }

    /// Ends it as the kernel ends a process that has no say, and waits for that.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.kill();
        // A child of its own may keep the pipe open: then the reader ends later.
        if std::thread::panicking() {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let last = &lines[lines.len().saturating_sub(20)..];
            eprintln!("the door's last lines:\n{}", last.join("\n"));
        }
        drop(self.reader.take());
    }
}
