//! The servers: which ones there are, and how each is set up, started and ended.

use crate::machine::{Cpus, first_line};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server may take to be there, or to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a run's folder is called, before the id of its process.
const SCRATCH: &str = "transom-peers-";

/// Bytes of the file that is sent.
pub const FILE_BYTES: usize = 16 << 10;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours, front end and application in one process.
    Transom,
    /// Ours, front end and application each in its own process, on the same CPUs.
    Door,
    /// The least that epoll can do.
    Epoll,
    /// The least that io_uring can do.
    Uring,
    /// nginx with one worker.
    Nginx,
    /// nginx before `Epoll` on a Unix socket, whose connections it keeps.
    NginxUnix,
    /// hyper on one thread of tokio.
    Hyper,
    /// axum on one thread of tokio.
    Axum,
    /// actix-web with one worker.
    Actix,
    /// may_minihttp on one worker.
    May,
    /// net/http.
    Go,
    /// node:http.
    Node,
    /// nginx before php-fpm.
    Php,
    /// Varnish, which makes its answers itself.
    Varnish,
}

impl Kind {
    /// All, in the order of the tables.
    pub const ALL: [Self; 14] = [
        Self::Transom,
        Self::Door,
        Self::Epoll,
        Self::Uring,
        Self::Nginx,
        Self::NginxUnix,
        Self::Hyper,
        Self::Axum,
        Self::Actix,
        Self::May,
        Self::Go,
        Self::Node,
        Self::Php,
        Self::Varnish,
    ];

    /// What it is called in flags and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transom => "transom",
            Self::Door => "door",
            Self::Epoll => "epoll",
            Self::Uring => "uring",
            Self::Nginx => "nginx",
            Self::NginxUnix => "nginx-unix",
            Self::Hyper => "hyper",
            Self::Axum => "axum",
            Self::Actix => "actix",
            Self::May => "may",
            Self::Go => "go",
            Self::Node => "node",
            Self::Php => "php",
            Self::Varnish => "varnish",
        }
    }

    /// What it is, for readers of the page.
    pub fn what(self) -> &'static str {
        match self {
            Self::Transom => "Transom, front end and application in one process",
            Self::Door => {
                "Transom, `transom serve` and the application behind a door, both on that CPU"
            }
            Self::Epoll => {
                "the least that epoll can do: one read, one write of a fixed answer, nothing parsed"
            }
            Self::Uring => {
                "the least that io_uring can do: a receive linked behind the send of a fixed answer, nothing parsed"
            }
            Self::Nginx => "nginx, one worker, answers with `return`; files with `sendfile`",
            Self::NginxUnix => {
                "nginx, one worker, before `epoll` on a Unix socket, connections kept, both on that CPU"
            }
            Self::Hyper => "hyper, a single-threaded tokio runtime",
            Self::Axum => "axum, a single-threaded tokio runtime",
            Self::Actix => "actix-web, one worker",
            Self::May => "may_minihttp, one worker",
            Self::Go => "Go's net/http",
            Self::Node => "Node's http",
            Self::Php => "nginx before php-fpm, 8 processes, `memory_limit` 16 MiB",
            Self::Varnish => "Varnish, synthetic answers",
        }
    }

    /// Whether it is this project's.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Transom | Self::Door)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which of our applications is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    /// The application that gives all answers of the harness.
    Harness,
    /// `apps/send-static-file`.
    StaticFile,
    /// `apps/varying-allocations`.
    VaryingAllocations,
    /// `apps/csv-svg-path`.
    CsvSvgPath,
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Ours: which application.
    pub application: Application,
    /// Connections that it must be able to hold.
    pub connections: u32,
    /// Ours: loops, on as many CPUs.
    pub loops: u32,
    /// Ours: more flags for the application.
    pub flags: Vec<String>,
    /// The minimal epoll server: how it takes what it reads.
    pub epoll: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            application: Application::Harness,
            connections: 1024,
            loops: 1,
            flags: Vec::new(),
            epoll: "kept",
        }
    }
}

/// Where programs and sources are, and where servers may write.
pub struct Place {
    /// Our own programs.
    pub ours: PathBuf,
    /// The other servers that are built here.
    pub peers: PathBuf,
    /// Their sources.
    pub sources: PathBuf,
    /// A folder that is removed at the end.
    pub scratch: PathBuf,
}

impl Place {
    /// Makes the folder, and the files that servers send.
    pub fn new(ours: PathBuf, peers: PathBuf, sources: PathBuf) -> io::Result<Self> {
        remove_abandoned(&std::env::temp_dir());
        let scratch = std::env::temp_dir().join(format!("{SCRATCH}{}", std::process::id()));
        fs::create_dir(&scratch)?;
        let place = Self {
            ours,
            peers,
            sources,
            scratch,
        };
        let files = place.files();
        fs::create_dir(&files)?;
        fs::create_dir(files.join("size"))?;
        fs::write(files.join("page.txt"), "x".repeat(FILE_BYTES))?;
        for bytes in [64 << 10, 1 << 20] {
            fs::write(files.join(format!("size/{bytes}")), "x".repeat(bytes))?;
        }
        Ok(place)
    }

    /// The files that are sent.
    pub fn files(&self) -> PathBuf {
        self.scratch.join("files")
    }

    /// A version of what is there, or why it is not.
    pub fn version(&self, kind: Kind) -> Result<String, String> {
        let program = |path: PathBuf| {
            if path.exists() {
                Ok(())
            } else {
                Err(format!("{} is not built", path.display()))
            }
        };
        let crate_version = |name: &str| -> Result<String, String> {
            program(self.peers.join(format!("peer-{kind}")))?;
            let lock = self.sources.join("Cargo.lock");
            let lock = fs::read_to_string(&lock)
                .map_err(|error| format!("{}: {error}", lock.display()))?;
            locked(&lock, name).ok_or_else(|| format!("no {name} in Cargo.lock"))
        };
        let installed = |path: Option<PathBuf>, name: &str, flag: &str| -> Result<String, String> {
            let path = path.ok_or_else(|| format!("{name} is not installed"))?;
            first_line(&[&path.display().to_string(), flag])
                .ok_or_else(|| format!("{name} {flag} prints nothing"))
        };
        let nginx = || {
            installed(find("nginx"), "nginx", "-v").map(|line| line.replace("nginx version: ", ""))
        };
        match kind {
            Kind::Transom => {
                program(self.ours.join("peer-transom"))?;
                Ok(env!("CARGO_PKG_VERSION").into())
            }
            Kind::Door => {
                program(self.ours.join("transom"))?;
                Ok(env!("CARGO_PKG_VERSION").into())
            }
            Kind::Epoll => program(self.peers.join("peer-epoll")).map(|()| "of this folder".into()),
            Kind::Uring => {
                let version = crate_version("io-uring")?;
                // 2 is for no process, 1 for privileged ones.
                let off =
                    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
                match off.trim() {
                    "" | "0" => Ok(format!("of this folder, io-uring {version}")),
                    _ => Err("the kernel's io_uring is turned off".into()),
                }
            }
            Kind::Nginx => nginx(),
            Kind::NginxUnix => nginx().and_then(|nginx| self.version(Kind::Epoll).map(|_| nginx)),
            Kind::Hyper => crate_version("hyper"),
            Kind::Axum => crate_version("axum"),
            Kind::Actix => crate_version("actix-web"),
            Kind::May => crate_version("may_minihttp"),
            Kind::Go => {
                let version = installed(find("go"), "Go", "version")?;
                program(self.peers.join("peer-go"))?;
                Ok(version.replace("go version ", ""))
            }
            Kind::Node => installed(find("node"), "Node", "--version"),
            Kind::Php => {
                let php = installed(php_fpm(), "php-fpm", "-v")?;
                let php = php.split(" (").next().unwrap_or_default().to_owned();
                Ok(format!("{php}, {}", nginx()?))
            }
            Kind::Varnish => installed(find("varnishd"), "Varnish", "-V"),
        }
    }

    /// The processes of a server in the order of their start, each with the condition for starting the next.
    /// `name` is the server's own in this run; its files are called so. `build` is where our programs are, if
    /// elsewhere.
    pub fn processes(
        &self,
        kind: Kind,
        setup: &Setup,
        name: &str,
        port: u16,
        build: Option<&Path>,
    ) -> io::Result<Vec<Process>> {
        let ours = build.unwrap_or(&self.ours);
        let folder = self.scratch.join(name);
        fs::create_dir_all(&folder)?;
        let address = format!("127.0.0.1:{port}");
        let peer = |program: &str, arguments: &[&str]| {
            let mut words = vec![
                self.peers.join(program).display().to_string(),
                address.clone(),
            ];
            words.extend(arguments.iter().map(ToString::to_string));
            Process::new(words)
        };
        let files = self.files().display().to_string();
        Ok(match kind {
            Kind::Transom => {
                let mut words = self.application(ours, setup);
                words.extend(["--listen".into(), address]);
                words.extend(front_flags(setup));
                vec![Process::new(words)]
            }
            Kind::Door => {
                let door = folder.join("door");
                let mut application = self.application(ours, setup);
                application.extend(["--door".into(), door.display().to_string()]);
                let mut front = vec![ours.join("transom").display().to_string(), "serve".into()];
                front.extend([
                    "--forward".into(),
                    format!("http://{address}={}", door.display()),
                ]);
                front.extend(front_flags(setup));
                vec![Process::new(application).makes(door), Process::new(front)]
            }
            Kind::Epoll => vec![peer("peer-epoll", &[setup.epoll])],
            Kind::Uring => vec![peer("peer-uring", &[])],
            Kind::Hyper => vec![peer("peer-hyper", &[&files])],
            Kind::Axum => vec![peer("peer-axum", &[])],
            Kind::Actix => vec![peer("peer-actix", &[])],
            Kind::May => vec![peer("peer-may", &[])],
            Kind::Go => vec![peer("peer-go", &[])],
            Kind::Node => {
                let script = self.sources.join("answers.js").display().to_string();
                vec![Process::new(vec!["node".into(), script, port.to_string()])]
            }
            Kind::Nginx => {
                let locations = format!(
                    "location = / {{ return 200 \"hello, world\\n\"; }}\n\
                     location = /json {{ default_type application/json; return 200 '{{\"message\":\"Hello, World!\"}}'; }}\n\
                     location /size/ {{ root {files}; }}\n\
                     location /file/ {{ alias {files}/; }}"
                );
                vec![nginx(&folder, &address, &locations, "", setup)?]
            }
            Kind::NginxUnix => {
                let socket = folder.join("upstream");
                let program = self.peers.join("peer-epoll").display().to_string();
                let upstream = vec![
                    program,
                    format!("unix:{}", socket.display()),
                    setup.epoll.into(),
                ];
                let location = "location / { proxy_pass http://upstream; proxy_http_version 1.1; \
                                proxy_set_header Connection \"\"; }";
                let kept = format!(
                    "upstream upstream {{ server unix:{}; keepalive 128; keepalive_requests 1000000000; \
                     keepalive_timeout 1h; }}",
                    socket.display()
                );
                vec![
                    Process::new(upstream).makes(socket),
                    nginx(&folder, &address, location, &kept, setup)?,
                ]
            }
            Kind::Php => {
                let socket = folder.join("php");
                let script = self.sources.join("answers.php").display().to_string();
                let location = format!(
                    "location / {{ fastcgi_pass unix:{}; fastcgi_keep_conn on; fastcgi_param SCRIPT_FILENAME {script}; \
                     fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $request_uri; \
                     fastcgi_param CONTENT_LENGTH $content_length; }}",
                    socket.display()
                );
                vec![
                    php(&folder, &socket)?.makes(socket),
                    nginx(&folder, &address, &location, "", setup)?,
                ]
            }
            Kind::Varnish => vec![varnish(&folder, &address)?],
        })
    }

    /// The application's program and flags, without a place to serve at.
    fn application(&self, ours: &Path, setup: &Setup) -> Vec<String> {
        let program = match setup.application {
            Application::Harness => "peer-transom",
            Application::StaticFile => "send-static-file",
            Application::VaryingAllocations => "varying-allocations",
            Application::CsvSvgPath => "csv-svg-path",
        };
        let mut words = vec![ours.join(program).display().to_string()];
        if setup.application == Application::StaticFile {
            words.extend(["--root".into(), self.files().display().to_string()]);
        }
        words.extend(setup.flags.iter().cloned());
        words
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Files that cannot be removed are below the folder of temporary files anyway.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Removes the folders of runs that were ended from outside.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(SCRATCH)?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            // It may be another user's.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Ours, of whichever process owns the sockets.
fn front_flags(setup: &Setup) -> Vec<String> {
    let mut flags: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
    flag("--loops", setup.loops.to_string());
    flag("--requests-per-connection", "1000000000".into());
    if setup.connections > 1024 {
        flag("--connections", setup.connections.to_string());
        flag("--backlog", "4096".into());
        flag("--idle-timeout", "1h".into());
    }
    flags
}

/// nginx with one worker: the locations of its only server, and the rest of its `http` block.
fn nginx(
    folder: &Path,
    address: &str,
    locations: &str,
    http: &str,
    setup: &Setup,
) -> io::Result<Process> {
    let here = folder.display();
    // If we are root, its worker would be a user that may not reach sockets and files in our folder.
    let user = if is_root()? { "user root;" } else { "" };
    // A connection to a client and perhaps one to the server behind it, each a descriptor.
    let connections = setup.connections * 2 + 64;
    let conf = format!(
        "daemon off;
worker_processes 1;
{user}
pid {here}/nginx.pid;
error_log stderr;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=100;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    default_type text/plain;
    client_body_temp_path {here}/body;
    proxy_temp_path {here}/proxy;
    fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi;
    scgi_temp_path {here}/scgi;
    {http}
    server {{
        listen {address} backlog=4096;
        {locations}
    }}
}}
"
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, conf)?;
    let program = find("nginx").unwrap_or_else(|| "nginx".into());
    let words = [
        program.display().to_string(),
        "-e".into(),
        "stderr".into(),
        "-p".into(),
        here.to_string(),
        "-c".into(),
        path.display().to_string(),
    ];
    Ok(Process::new(words.into()))
}

fn php(folder: &Path, socket: &Path) -> io::Result<Process> {
    let root = is_root()?;
    let user = if root { "user = root" } else { "" };
    let conf = format!(
        "[global]
error_log = /dev/stderr
daemonize = no
[www]
{user}
listen = {}
listen.mode = 0600
pm = static
pm.max_children = 8
php_admin_value[memory_limit] = 16M
php_admin_flag[display_errors] = off
",
        socket.display()
    );
    let path = folder.join("php-fpm.conf");
    fs::write(&path, conf)?;
    let program = php_fpm().unwrap_or_else(|| "php-fpm".into());
    let mut words = vec![
        program.display().to_string(),
        "--fpm-config".into(),
        path.display().to_string(),
    ];
    if root {
        words.push("--allow-to-run-as-root".into());
    }
    Ok(Process::new(words))
}

fn varnish(folder: &Path, address: &str) -> io::Result<Process> {
    let path = folder.join("answers.vcl");
    let vcl = r##"vcl 4.1;
backend default none;
sub vcl_recv { return (synth(200)); }
sub vcl_synth {
    if (req.url == "/json") {
        set resp.http.Content-Type = "application/json";
        set resp.body = """{"message":"Hello, World!"}""";
    } else {
        set resp.http.Content-Type = "text/plain; charset=utf-8";
        set resp.body = {"hello, world
"};
    }
    return (deliver);
}
"##;
    fs::write(&path, vcl)?;
    let words = [
        find("varnishd")
            .unwrap_or_else(|| "varnishd".into())
            .display()
            .to_string(),
        "-F".into(),
        "-j".into(),
        "none".into(),
        "-n".into(),
        folder.join("varnish").display().to_string(),
        "-f".into(),
        path.display().to_string(),
        "-a".into(),
        address.into(),
        "-s".into(),
        "malloc,64m".into(),
    ];
    Ok(Process::new(words.into()))
}

/// The version of a package in a Cargo.lock.
fn locked(lock: &str, name: &str) -> Option<String> {
    let mut lines = lock.lines();
    lines.find(|line| *line == format!("name = \"{name}\""))?;
    let version = lines.next()?.strip_prefix("version = \"")?;
    Some(version.strip_suffix('"')?.to_owned())
}

/// A program in `PATH`, or where administrators' programs are.
pub fn find(name: &str) -> Option<PathBuf> {
    folders()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Debian's php-fpm has its version in its name.
fn php_fpm() -> Option<PathBuf> {
    let entries = folders()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("php-fpm"));
    named.map(|entry| entry.path()).max()
}

fn folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders
        .into_iter()
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
}

fn is_root() -> io::Result<bool> {
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}

/// A process that is to be started.
pub struct Process {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// What must be there before the next one is started.
    makes: Option<PathBuf>,
}

impl Process {
    fn new(words: Vec<String>) -> Self {
        Self { words, makes: None }
    }

    fn makes(mut self, path: PathBuf) -> Self {
        self.makes = Some(path);
        self
    }
}

/// A server that runs, on CPUs of its own. Dropping it ends it.
pub struct Running {
    children: Vec<Child>,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl Running {
    /// Starts processes, and waits until the last one listens. The error has the last lines that they have
    /// written.
    pub fn start(
        processes: &[Process],
        port: u16,
        cpus: &Cpus,
        log: &Path,
    ) -> Result<Self, String> {
        let mut running = Self {
            children: Vec::new(),
            port,
        };
        let started = running.start_all(processes, cpus, log);
        started
            .map(|()| running)
            .map_err(|error| format!("{error}{}", last_lines(log)))
    }

    fn start_all(&mut self, processes: &[Process], cpus: &Cpus, log: &Path) -> Result<(), String> {
        let file = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        for process in processes {
            let output = || file.try_clone().map(Stdio::from).unwrap_or(Stdio::null());
            // Both become the program, so that the child's id is the server's; the kernel ends it if we are
            // killed.
            let child = Command::new("setpriv")
                .args(["--pdeathsig", "TERM", "taskset", "-c", &cpus.to_string()])
                .args(&process.words)
                // nginx would take another's descriptors for its listeners.
                .env_remove("NGINX")
                .env("GOMAXPROCS", cpus.0.len().to_string())
                .stdin(Stdio::null())
                .stdout(output())
                .stderr(output())
                .spawn()
                .map_err(|error| format!("{}: {error}", process.words[0]))?;
            self.children.push(child);
            if let Some(path) = &process.makes {
                self.wait_until(&format!("{} is there", path.display()), || path.exists())?;
            }
        }
        let port = self.port;
        self.wait_until(&format!("port {port} is open"), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
    }

    fn wait_until(&mut self, what: &str, mut done: impl FnMut() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            for child in &mut self.children {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(format!("ended with {status} before {what}"));
                }
            }
            if Instant::now() > deadline {
                return Err(format!("{PATIENCE:?} have passed before {what}"));
            }
            sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// The ids of the processes that were started here.
    pub fn roots(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Last one first: a front end before what is behind it. A child that is not waited for keeps its id,
        // so that the id cannot be another process's.
        for child in self.children.iter_mut().rev() {
            let id = child.id().to_string();
            let _ = Command::new("kill")
                .args(["-TERM", &id])
                .stderr(Stdio::null())
                .status();
            let deadline = Instant::now() + PATIENCE;
            while matches!(child.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = child.kill();
                }
                sleep(Duration::from_millis(2));
            }
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines
        .iter()
        .rev()
        .map(|line| format!("\n    {line}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (at, kind) in Kind::ALL.iter().enumerate() {
            assert!(
                Kind::ALL[at + 1..]
                    .iter()
                    .all(|other| other.name() != kind.name())
            );
        }
    }

    #[test]
    fn a_version_is_the_locked_one() {
        let lock = "[[package]]\nname = \"hyper-util\"\nversion = \"0.1.2\"\n\n[[package]]\nname = \"hyper\"\nversion = \"1.12.0\"\n";
        assert_eq!(locked(lock, "hyper").as_deref(), Some("1.12.0"));
        assert_eq!(locked(lock, "axum"), None);
    }
}
