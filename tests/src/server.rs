//! A server as its operator has it: a process with flags, an environment, lines on standard error, and an
//! exit status.

use crate::build::binary;
use crate::client::{Answer, Client};
use crate::proc::{Sample, sleeping_threads};
use crate::{PATIENCE, eventually};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines of standard error that are kept: a million requests can write as many.
const LINES_MAX: usize = 10_000;

/// A command line that has not been run yet. The environment has no `TRANSOM_…` but what is set here.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    listens: bool,
    /// Ready is enough: there is no port.
    portless: bool,
    /// Kept open until it has been started.
    passed: Vec<OwnedFd>,
}

impl Launch {
    /// The command line of an application, or of `transom`.
    #[must_use]
    pub fn of(app: &str) -> Self {
        Self::prepare(Command::new(binary(app)))
    }

    /// The command line of a binary that cargo has built along with the test: `env!("CARGO_BIN_EXE_…")`.
    #[must_use]
    pub fn of_file(path: &str) -> Self {
        Self::prepare(Command::new(path))
    }

    /// As [`Launch::of`], with a tracer in front of it, which must become the server's child, not its parent
    /// (`strace -D`).
    #[must_use]
    pub fn under(tracer: &[&str], app: &str) -> Self {
        let mut command = Command::new(tracer[0]);
        command.args(&tracer[1..]).arg(binary(app));
        Self::prepare(command)
    }

    fn prepare(mut command: Command) -> Self {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TRANSOM_") || name == "RUST_BACKTRACE" {
                command.env_remove(name);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: prctl is a plain system call, and safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Nothing is left running, even if this process is killed.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Launch {
            command,
            listens: false,
            portless: false,
            passed: Vec::new(),
        }
    }

    /// Adds flags, separated by spaces.
    #[must_use]
    pub fn flags(mut self, flags: &str) -> Self {
        // A door has no port; a front end alone says where it listens in its forwards.
        self.listens |= ["--listen", "--door ", "--forward", "--config"]
            .iter()
            .any(|flag| flags.contains(flag));
        let portless = ["--door ", "unix:/", "systemd:"];
        self.portless |=
            portless.iter().any(|flag| flags.contains(flag)) && !flags.contains("127.0.0.1:");
        self.command.args(flags.split_whitespace());
        self
    }

    /// Adds words as they are, spaces and all.
    #[must_use]
    pub fn words<'w>(mut self, words: impl IntoIterator<Item = &'w str>) -> Self {
        self.command.args(words);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.listens |= name == "TRANSOM_LISTEN";
        self.command.env(name, value);
        self
    }

    /// Passes sockets as systemd does: from descriptor 3 on, with these names.
    ///
    /// # Panics
    /// If there are no descriptors left.
    #[must_use]
    pub fn pass(app: &str, sockets: Vec<OwnedFd>, names: &str) -> Self {
        // The sockets get the numbers 3, 4, … only in the server; here other descriptors have these numbers.
        // None of them may be the pipe over which the standard library hears of a failed exec, so all of them
        // have to be in use.
        let mut held = sockets;
        let passed: Vec<_> = held.iter().map(AsRawFd::as_raw_fd).collect();
        let first_free = 3 + i32::try_from(passed.len()).expect("a few");
        while held.last().is_none_or(|last| last.as_raw_fd() < first_free) {
            held.push(
                std::fs::File::open("/dev/null")
                    .expect("it can be opened")
                    .into(),
            );
        }
        let count = passed.len();
        // The number of the process is known to itself only.
        let script = format!("LISTEN_PID=$$ LISTEN_FDS={count} exec \"$0\" \"$@\"");
        let mut launch = Self::under(&["sh", "-c", &script], app);
        launch.passed = held;
        launch.command.env("LISTEN_FDNAMES", names);
        // SAFETY: fcntl and dup2 are plain system calls, and safe between fork and exec; nothing is
        // allocated.
        unsafe {
            launch.command.pre_exec(move || {
                const ASIDE: libc::c_int = 100;
                for (fd, n) in passed.iter().zip(0..) {
                    libc::dup2(*fd, ASIDE + n);
                }
                for (_, n) in passed.iter().zip(0..) {
                    libc::dup2(ASIDE + n, 3 + n);
                    libc::close(ASIDE + n);
                }
                Ok(())
            });
        }
        launch
    }

    /// Starts it, on a port of the kernel's choice unless one was given, and waits until it is ready.
    ///
    /// # Panics
    /// If it is not ready within [`PATIENCE`]: what it said is in the message.
    #[must_use]
    pub fn start(mut self) -> Server {
        if !self.listens {
            self.command.args(["--listen", "127.0.0.1:0"]);
        }
        let portless = self.portless;
        let mut child = self.command.spawn().expect("the binary can be started");
        let stderr = child.stderr.take().expect("it is piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let lines = lines.clone();
            move || {
                for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                    lines.push(line);
                    if lines.len() > LINES_MAX {
                        lines.drain(LINES_MAX / 4..LINES_MAX / 2);
                    }
                }
            }
        });
        let mut server = Server {
            child,
            status: None,
            lines,
            reader: Some(reader),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        let mut port = None;
        let decided = eventually(|| {
            port = server.lines().iter().find_map(|line| {
                if portless {
                    line.contains(" ready ").then_some(0)
                } else {
                    ready_port(line)
                }
            });
            port.is_some() || server.has_exited()
        });
        assert!(
            decided && port.is_some(),
            "the server is not ready; it said:\n{}",
            server.lines().join("\n")
        );
        server.address.set_port(port.unwrap_or(0));
        server
    }

    /// Runs it to its end, which must come by itself.
    ///
    /// # Panics
    /// If it has not ended within [`PATIENCE`].
    #[must_use]
    pub fn run(self) -> Ended {
        self.run_within(PATIENCE)
    }

    /// The same with another patience, for what takes its time.
    ///
    /// # Panics
    /// If it has not ended by then.
    #[must_use]
    pub fn run_within(mut self, patience: Duration) -> Ended {
        let mut child = self.command.spawn().expect("the binary can be started");
        // A pipe holds 64 KiB, and nothing that ends by itself says as much.
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is ours to wait for") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{:?} did not end", self.command);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut stdout = String::new();
        let mut stderr = String::new();
        child
            .stdout
            .take()
            .expect("piped")
            .read_to_string(&mut stdout)
            .expect("UTF-8");
        child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut stderr)
            .expect("UTF-8");
        Ended {
            status,
            stdout,
            lines: stderr.lines().map(str::to_owned).collect(),
        }
    }
}

/// The port in the line that says `ready`, human or JSON.
fn ready_port(line: &str) -> Option<u16> {
    if !line.contains("ready") {
        return None;
    }
    let (_, rest) = line.split_once("127.0.0.1:")?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// A running server. Killed when it is dropped, by its own process id.
#[derive(Debug)]
pub struct Server {
    child: Child,
    status: Option<ExitStatus>,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Server {
    /// Starts an application with flags separated by spaces, and waits until it is ready.
    #[must_use]
    pub fn start(app: &str, flags: &str) -> Self {
        Launch::of(app).flags(flags).start()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for `--admin`.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        let line = self.line_with(" ready ");
        let address = line.split(' ').find_map(|word| word.strip_prefix("admin="));
        address
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no address for --admin in {line}"))
    }

    /// The value of a metric, with its labels if it has some; none if there is no answer, or no such one.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let mut client = Client::try_connect(self.admin()).ok()?;
        client
            .try_send(crate::client::get("/metrics"))
            .then_some(())?;
        let answer = client.try_answer().ok()?;
        let mut lines = answer.text().lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.parse().ok()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection to it.
    #[must_use]
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// The answer to a GET on a connection of its own.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.connect().get(path)
    }

    /// The answer to a POST on a connection of its own.
    #[must_use]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.connect().post(path, body)
    }

    /// The answer to these bytes on a connection of its own.
    #[must_use]
    pub fn answer_to(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut client = self.connect();
        client.send(bytes);
        client.answer()
    }

    /// What `/proc` says of it.
    #[must_use]
    pub fn sample(&self) -> Sample {
        Sample::of(self.pid())
    }

    /// Waits until so many handlers are asleep, as `/sleep/MS` of `oom` makes them.
    ///
    /// # Panics
    /// If they do not fall asleep.
    pub fn wait_for_sleepers(&self, count: usize) {
        let asleep = || sleeping_threads(self.pid());
        assert!(
            eventually(|| asleep() == count),
            "{} handlers are asleep, not {count}",
            asleep()
        );
    }

    /// What it has written to standard error so far; of very many lines, the middle is left out.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The first line with this text, which is waited for.
    ///
    /// # Panics
    /// If it does not come.
    #[must_use]
    pub fn line_with(&self, text: &str) -> String {
        let find = || self.lines().into_iter().find(|line| line.contains(text));
        assert!(
            eventually(|| find().is_some()),
            "no line says {text:?}:\n{}",
            self.lines().join("\n")
        );
        find().unwrap_or_default()
    }

    /// The bound of its own memory that it stated at its start, in bytes: region and process, without the
    /// kernel's memory for it.
    ///
    /// # Panics
    /// If it has not said so.
    #[must_use]
    pub fn memory_bound(&self) -> u64 {
        let line = self.line_with(" memory: ");
        let number = |name: &str| -> u64 {
            let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
            let value = fields.find(|(key, _)| *key == name).map(|(_, value)| value);
            value
                .and_then(|value| value.parse().ok())
                .unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        number("region") + number("process")
    }

    /// Stops it, and returns when no thread of it runs any more; SIGCONT has it go on.
    ///
    /// # Panics
    /// If it does not stop.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        let stopped = || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
            tasks.flatten().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit(") ")
                    .next()
                    .is_some_and(|rest| rest.starts_with('T'))
            })
        };
        assert!(eventually(stopped), "it does not stop");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a plain system call; the child has not been waited for, so the id is still its own.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }

    /// Sets what it may use of a resource from now on (the soft limit; the hard one stays).
    ///
    /// # Panics
    /// If the limit cannot be set.
    #[cfg(target_os = "linux")]
    pub fn limit(&self, resource: libc::__rlimit_resource_t, soft: libc::rlim_t) {
        let pid = self.child.id().cast_signed();
        let mut limits = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: limits of a child that has not been waited for; what is written and read is valid for the
        // calls.
        let set = unsafe {
            libc::prlimit(pid, resource, std::ptr::null(), &raw mut limits) == 0 && {
                limits.rlim_cur = soft;
                libc::prlimit(pid, resource, &raw const limits, std::ptr::null_mut()) == 0
            }
        };
        assert!(set, "{}", std::io::Error::last_os_error());
    }

    /// Whether it has ended.
    pub fn has_exited(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("it is ours to wait for");
        }
        self.status.is_some()
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`].
    #[must_use]
    pub fn wait(mut self) -> Ended {
        assert!(
            eventually(|| self.has_exited()),
            "the server does not end:\n{}",
            self.lines().join("\n")
        );
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        let status = self.status.expect("it has ended");
        Ended {
            status,
            stdout: self
                .child
                .stdout
                .take()
                .map_or(String::new(), what_is_there),
            lines: self.lines(),
        }
    }

    /// Tells it to drain, and waits until it has.
    #[must_use]
    pub fn stop(self) -> Ended {
        self.signal(libc::SIGTERM);
        self.wait()
    }
}

/// The bytes in a pipe now: a process that took over from the server may still have its other end.
fn what_is_there(mut pipe: ChildStdout) -> String {
    // SAFETY: fcntl on a descriptor of ours.
    let set = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(set, 0, "a pipe can be read without waiting");
    let mut bytes = Vec::new();
    // It ends with an error where the other end is open.
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the server said:\n{}", self.lines().join("\n"));
        }
    }
}

/// What a process leaves behind.
#[derive(Debug)]
pub struct Ended {
    status: ExitStatus,
    /// Standard output; of a server that was started, the first 64 KiB.
    pub stdout: String,
    /// Standard error.
    pub lines: Vec<String>,
}

impl Ended {
    /// Its exit status.
    ///
    /// # Panics
    /// If a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        let signal = self.status.signal();
        self.status
            .code()
            .unwrap_or_else(|| panic!("signal {signal:?} ended it:\n{}", self.stderr()))
    }

    /// The signal that ended it, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Standard error as one text.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.lines.join("\n")
    }

    /// The number that a field of the last line has, the sum of all that was done.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn figure(&self, name: &str) -> u64 {
        let summary = self.lines.iter().rfind(|line| line.contains(" drained "));
        let value = summary.and_then(|line| {
            let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
            fields.find(|(key, _)| *key == name)?.1.parse().ok()
        });
        value.unwrap_or_else(|| panic!("no {name} in the summary:\n{}", self.stderr()))
    }
}

/// The command that makes another one process 1 of a namespace of its own, for [`Launch::under`]. None, with
/// a line that says so, if that cannot be done here.
#[must_use]
pub fn as_process_one() -> Option<[&'static str; 4]> {
    let command = ["unshare", "--pid", "--fork", "--kill-child"];
    let status = Command::new(command[0])
        .args(&command[1..])
        .arg("true")
        .status();
    let possible = status.is_ok_and(|status| status.success());
    if !possible {
        println!("skipped: a PID namespace cannot be made here (unshare --pid --fork)");
    }
    possible.then_some(command)
}

/// Where a program of this name is, if it is installed.
#[must_use]
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
