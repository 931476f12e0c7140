//! The server to load: one that runs, or one that is started here and ended afterwards.

use procfs::net::TcpState;
use procfs::process::FDTarget;
use std::collections::VecDeque;
use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines of a server's log that are kept, to be shown if it fails.
const LINES_KEPT: usize = 30;

/// The longest line that is read as one.
const LINE_MAX: u64 = 64 << 10;

/// How long a started server may take to end once it is told to.
const PATIENCE_AT_END: Duration = Duration::from_secs(15);

/// `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// `HOST:PORT`, as requests say it.
    pub host: String,
}

impl Url {
    /// Where that is.
    ///
    /// # Errors
    /// If the name means nothing here.
    pub fn resolve(&self) -> Result<SocketAddr, String> {
        let wrong = |why: String| format!("--target: {} is no address: {why}", self.host);
        let mut addresses =
            (self.host.to_socket_addrs()).map_err(|error| wrong(error.to_string()))?;
        addresses
            .next()
            .ok_or_else(|| wrong("it has none".to_owned()))
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} {why}: write http://HOST:PORT");
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(wrong(match text.starts_with("https://") {
                true => "asks for TLS, which is not spoken here",
                false => "does not begin with http://",
            }));
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
            return Err(wrong(
                "has more than a host and a port (paths belong in --mix)",
            ));
        }
        let has_port = match host.rsplit_once(':') {
            Some((_, port)) => port.parse::<u16>().is_ok(),
            None => false,
        };
        let host = match has_port {
            true => host.to_owned(),
            false if host.contains(':') && !host.ends_with(']') => {
                return Err(wrong("has a port that is no port"));
            }
            false => format!("{host}:80"),
        };
        Ok(Url { host })
    }
}

/// `--pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PidSetting {
    /// The processes that listen on the target's port.
    Auto,
    /// This process.
    Pid(i32),
}

impl FromStr for PidSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(PidSetting::Auto);
        }
        let pid = text.parse().ok().filter(|pid| *pid > 0);
        pid.map(PidSetting::Pid)
            .ok_or_else(|| format!("{text:?} is not a process: write its number, or auto"))
    }
}

/// The processes that listen on a port, found by the sockets that they have open.
///
/// # Errors
/// If there are none that can be seen.
pub fn who_listens_on(address: SocketAddr) -> Result<Vec<i32>, String> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let sockets: Vec<u64> = tables
        .into_iter()
        .flatten()
        .flatten()
        .filter(|socket| {
            let at = socket.local_address;
            let same = at.ip() == address.ip() || at.ip().is_unspecified();
            socket.state == TcpState::Listen && at.port() == address.port() && same
        })
        .map(|socket| socket.inode)
        .collect();
    if sockets.is_empty() {
        return Err(format!(
            "--pid auto: no process on this machine listens on {address} (in another network namespace, give its number)"
        ));
    }
    let listens = |process: &procfs::process::Process| {
        let mut descriptors = process.fd().into_iter().flatten().flatten();
        descriptors
            .any(|fd| matches!(fd.target, FDTarget::Socket(inode) if sockets.contains(&inode)))
    };
    let processes = procfs::process::all_processes().map_err(|error| format!("/proc: {error}"))?;
    let mut pids: Vec<i32> = processes
        .flatten()
        .filter(listens)
        .map(|process| process.pid())
        .collect();
    pids.sort_unstable();
    match pids.is_empty() {
        true => Err(format!(
            "--pid auto: a process listens on {address}, but this user may not look at its descriptors"
        )),
        false => Ok(pids),
    }
}

/// What a server says of itself once it is ready.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where it serves HTTP.
    pub listen: Option<SocketAddr>,
    /// Where its metrics are.
    pub admin: Option<String>,
    /// The bytes that it says it will not pass: region and process.
    pub bound: Option<u64>,
}

/// What a server of ours does when it has lost too many buckets.
const RECYCLE: &str = "TRANSOM_RECYCLE";

/// A server that was started here. It is ended when this is dropped.
#[derive(Debug)]
pub struct Started {
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
    ready: Receiver<Ready>,
}

impl Started {
    /// Starts a command. Its standard error is read to the end, and written to a file if one is given.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn new(command: &[String], log: Option<File>) -> Result<Self, String> {
        let mut start = Command::new(&command[0]);
        start
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // A new instance would not be our child, and go on after us.
        if env::var_os(RECYCLE).is_none() {
            start.env(RECYCLE, "exit");
        }
        // SAFETY: what is called between fork and exec is one prctl(2), which allocates nothing and takes no
        // lock.
        unsafe {
            start.pre_exec(|| {
                // It does not outlive its load tester, even if that is killed.
                let signal = rustix::process::Signal::TERM;
                Ok(rustix::process::set_parent_process_death_signal(Some(
                    signal,
                ))?)
            });
        }
        let mut child = start
            .spawn()
            .map_err(|error| format!("{}: cannot be started: {error}", command[0]))?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, ready) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            let lines = lines.clone();
            thread::spawn(move || read_log(BufReader::new(stderr), log, &lines, &sender));
        }
        Ok(Started {
            child,
            lines,
            ready,
        })
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Waits until it is ready: until it says so, or, if `address` is given, until connections are accepted
    /// there.
    ///
    /// # Errors
    /// If it ends before that, or takes too long, with the last lines of its log.
    pub fn wait_until_ready(
        &mut self,
        address: Option<SocketAddr>,
        patience: Duration,
    ) -> Result<Ready, String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.ready.recv_timeout(Duration::from_millis(20)) {
                Ok(ready) if ready.listen.is_some() || address.is_some() => return Ok(ready),
                // It closed its log, which is not ours to judge.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(20)),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            if let Some(status) = ended {
                return Err(format!(
                    "the server has ended ({status}){}",
                    self.last_lines()
                ));
            }
            if let Some(address) = address
                && TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok()
            {
                // A server of ours says more in its log, even if its address was given.
                let said = self.ready.recv_timeout(Duration::from_millis(200));
                return Ok(said.unwrap_or_default());
            }
            if Instant::now() > deadline {
                let why = match address {
                    Some(address) => format!("no process accepts connections at {address}"),
                    None => "its log has no line with ready and listen=ADDRESS:PORT (if it is not one of ours, \
                             say where it listens with --target)"
                        .to_owned(),
                };
                return Err(format!(
                    "the server is not ready after {patience:?}: {why}{}",
                    self.last_lines()
                ));
            }
        }
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten();
        status.map(|status| format!("{status}{}", self.last_lines()))
    }

    fn last_lines(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.is_empty() {
            true => String::new(),
            false => format!(
                "; it said:\n{}",
                lines.iter().cloned().collect::<Vec<_>>().join("\n")
            ),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid()) else {
            return;
        };
        if let Ok(None) = self.child.try_wait() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let deadline = Instant::now() + PATIENCE_AT_END;
            while let Ok(None) = self.child.try_wait() {
                if Instant::now() > deadline {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn read_log(
    mut stderr: impl BufRead,
    mut copy: Option<File>,
    lines: &Mutex<VecDeque<String>>,
    sender: &mpsc::Sender<Ready>,
) {
    let mut ready = Ready::default();
    let mut told = false;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match stderr.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Some(file) = &mut copy
            && file.write_all(&bytes).is_err()
        {
            // A full disk must not stop the server, which waits for us to read its log.
            copy = None;
        }
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if !told {
            read_ready(&line, &mut ready);
            if ready.listen.is_some() {
                told = true;
                let _ = sender.send(ready.clone());
            }
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(line);
        if lines.len() > LINES_KEPT {
            lines.pop_front();
        }
    }
}

/// Takes what a line of a log says of the server, in either format.
fn read_ready(line: &str, ready: &mut Ready) {
    if let (Some(region), Some(process)) = (number(line, "region"), number(line, "process")) {
        ready.bound = ready.bound.or(Some(region + process));
    }
    if line.contains("ready") {
        // The first of several addresses is enough.
        let mut addresses = field(line, "listen").into_iter().flat_map(|text| {
            let text = text.trim_start_matches("http://").to_owned();
            text.split(',').map(str::to_owned).collect::<Vec<_>>()
        });
        ready.listen = addresses.find_map(|text| text.trim_start_matches("http://").parse().ok());
        ready.admin = field(line, "admin")
            .filter(|admin| *admin != "none")
            .map(str::to_owned);
    }
}

fn number(line: &str, name: &str) -> Option<u64> {
    field(line, name)?.parse().ok()
}

/// The value of `name=value`, or of `"name":"value"`.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let human = format!(" {name}=");
    let json = format!("\"{name}\":");
    let rest = match line.split_once(&human) {
        Some((_, rest)) => rest,
        None => line.split_once(&json)?.1,
    };
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest
            .split([' ', ',', '}'])
            .next()
            .filter(|value| !value.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_url_is_a_host_and_a_port() {
        let host = |text: &str| text.parse::<Url>().map(|url| url.host);
        assert_eq!(
            host("http://127.0.0.1:8080").as_deref(),
            Ok("127.0.0.1:8080")
        );
        assert_eq!(host("http://localhost/").as_deref(), Ok("localhost:80"));
        assert_eq!(host("http://[::1]:81").as_deref(), Ok("[::1]:81"));
        assert_eq!(host("http://[::1]").as_deref(), Ok("[::1]:80"));
        for (text, part) in [
            ("127.0.0.1:8080", "does not begin with http://"),
            ("https://a", "TLS"),
            ("http://", "more than a host"),
            ("http://a/b", "--mix"),
            ("http://a:port", "no port"),
            ("http://a:99999", "no port"),
        ] {
            let error = host(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_log_says_where_the_server_is_in_either_format() {
        for lines in [
            [
                "2026-11-21T10:00:00Z INFO memory: bound=57000000 region=40000000 process=10000000 kernel=7000000",
                "2026-11-21T10:00:00Z INFO ready listen=127.0.0.1:4711 admin=127.0.0.1:9180",
            ],
            [
                r#"{"level":"INFO","message":"memory","region":40000000,"process":10000000}"#,
                r#"{"level":"INFO","message":"ready","listen":"127.0.0.1:4711","admin":"127.0.0.1:9180"}"#,
            ],
        ] {
            let mut ready = Ready::default();
            lines.iter().for_each(|line| read_ready(line, &mut ready));
            let expected = Ready {
                listen: Some(([127, 0, 0, 1], 4711).into()),
                admin: Some("127.0.0.1:9180".to_owned()),
                bound: Some(50_000_000),
            };
            assert_eq!(ready, expected);
        }
    }

    #[test]
    fn who_listens_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it has one");
        let this = std::process::id().cast_signed();
        assert_eq!(who_listens_on(address), Ok(vec![this]));
        drop(listener);
        let error = who_listens_on(address).expect_err("none");
        assert!(error.contains("--pid auto"), "{error}");
    }

    #[test]
    fn a_command_that_ends_at_once_is_told_with_what_it_said() {
        let words = ["sh", "-c", "echo that did not work >&2; exit 3"].map(str::to_owned);
        let mut started = Started::new(&words, None).expect("there is a shell");
        let error = started
            .wait_until_ready(None, Duration::from_secs(20))
            .expect_err("it ends");
        assert!(error.contains("exit status: 3"), "{error}");
        let none = Started::new(&["/no/such/server".to_owned()], None);
        assert!(none.expect_err("none").contains("/no/such/server"));
    }
}
