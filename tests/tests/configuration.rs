//! `transom serve` and `transom check`: what a file and flags are taken to mean, and what is said of
//! mistakes.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use transom_tests::{Ended, Launch};

/// A folder of a test's own, empty.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("it can be made");
    folder
}

fn file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("front.toml");
    std::fs::write(&path, text).expect("it can be written");
    path
}

fn check(path: &Path) -> Ended {
    let path = path.to_str().expect("UTF-8");
    Launch::of("transom").flags(&format!("check {path}")).run()
}

fn serve(flags: &str) -> Ended {
    Launch::of("transom").flags(&format!("serve {flags}")).run()
}

/// The count and unit of a term of the equation.
fn term(ended: &Ended, name: &str) -> String {
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    let line = ended.stdout.lines().find(|line| line.contains(name));
    let words = line.unwrap_or_default().split_whitespace();
    let words: Vec<_> = words
        .skip_while(|word| word.parse::<u64>().is_err())
        .collect();
    let at = words
        .iter()
        .position(|&word| word == "×")
        .expect("a product");
    words[at - 1..=at + 1].join(" ")
}

#[test]
fn a_file_that_holds_is_shown_as_it_is_understood() {
    let folder = folder("understood");
    let door = folder.join("site.door");
    let _door = UnixListener::bind(&door).expect("a socket");
    let text = format!(
        "connections = 64\n\
         [[forward]]\nlisten = \"http://127.0.0.1:8080\"\n\
         [[forward.map]]\npath = \"/\"\ndoor = \"{}\"\n\
         [[forward.map]]\nmethod = \"GET\"\npath = \"/primes\"\ndoor = \"/nowhere/primes.door\"\n\
         [[forward]]\nlisten = \"tcp://127.0.0.1:7007\"\ndoor = \"/nowhere/echo.door\"\n\
         [[forward]]\nlisten = \"udp://127.0.0.1:5353\"\ndoor = \"/etc/passwd\"\n",
        door.display()
    );
    let path = file(&folder, &text);
    let ended = check(&path);
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    let lines: Vec<Vec<&str>> = ended
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let name = format!("{}:", path.display());
    let site = door.to_str().expect("UTF-8");
    let expected: [&[&str]; 6] = [
        &[&name, "3", "forwards,", "4", "doors:", "valid"],
        &["--connections", "64"],
        &[
            "http://127.0.0.1:8080",
            "GET",
            "/primes",
            "/nowhere/primes.door",
            "not",
            "there",
            "now",
        ],
        &["http://127.0.0.1:8080", "any", "/", site, "there", "now"],
        &[
            "tcp://127.0.0.1:7007",
            "connections",
            "/nowhere/echo.door",
            "not",
            "there",
            "now",
        ],
        &[
            "udp://127.0.0.1:5353",
            "datagrams",
            "/etc/passwd",
            "there",
            "is",
            "something",
            "else",
            "now",
        ],
    ];
    assert_eq!(lines, expected);
}

#[test]
fn every_mistake_of_a_file_is_told_at_once_with_line_and_column() {
    let folder = folder("mistakes");
    let text = "idle-timeout = \"5\"\n\
         [[forward]]\nlisten = \"http://127.0.0.1\"\ndoor = \"/d\"\n\
         [[forward]]\nlisten = \"http://127.0.0.1:80\"\n\
         [[forward.map]]\nmehtod = \"GET\"\npath = \"/\"\ndoor = \"/d\"\n\
         [[forward]]\nlisten = \"tcp://127.0.0.1:81\"\ndoor = \"d\"\n";
    let path = file(&folder, text);
    let ended = check(&path);
    assert_eq!(ended.code(), 2);
    let said = ended.stderr();
    let name = path.display();
    let lines: Vec<_> = said.lines().collect();
    for (line, (place, part)) in [
        ("1:16", "write a whole number and ms, s, m or h"),
        ("3:10", "127.0.0.1 has no port"),
        ("8:1", "unknown key `mehtod`; did you mean `method`?"),
        ("13:8", "absolute"),
    ]
    .into_iter()
    .enumerate()
    {
        let error = if line == 0 { "error: " } else { "" };
        let start = format!("{error}{name}:{place}: ");
        assert!(
            lines[line].starts_with(&start) && lines[line].contains(part),
            "{said}"
        );
    }
    assert_eq!(lines.len(), 4, "{said}");
    // A server says the same.
    assert_eq!(serve(&format!("--config {name}")).stderr(), said);
}

#[test]
fn what_only_shows_with_other_settings_has_its_place_too() {
    let folder = folder("together");
    let text = "[[forward]]\nlisten = \"http://127.0.0.1:80\"\ndoor = \"/d\"\n";
    let path = file(&folder, &format!("idle-timeout = \"0\"\n{text}"));
    let ended = check(&path);
    let start = format!("error: {}:1:16: --idle-timeout is 0", path.display());
    assert!(
        ended.code() == 2 && ended.stderr().starts_with(&start),
        "{}",
        ended.stderr()
    );
    // Another machine may have the memory that this one has not.
    let path = file(
        &folder,
        &format!("loops = 60000\nconnections = 4000000000\n{text}"),
    );
    assert_eq!(check(&path).code(), 0, "{}", check(&path).stderr());
    assert_eq!(
        serve(&format!("--check --config {}", path.display())).code(),
        1
    );
}

#[test]
fn a_flag_prevails_over_the_environment_and_that_over_the_file() {
    let folder = folder("prevails");
    let text = "connections = 5\n[[forward]]\nlisten = \"http://127.0.0.1:80\"\ndoor = \"/d\"\n";
    let path = file(&folder, text);
    let launch = |flags: &str| {
        let config = path.display();
        Launch::of("transom").flags(&format!(
            "serve --check --loops 1 --config {config} {flags}"
        ))
    };
    let buffers = |launch: Launch| term(&launch.run(), "socket buffers");
    assert_eq!(buffers(launch("")), "5 × 192KiB");
    assert_eq!(
        buffers(launch("").env("TRANSOM_CONNECTIONS", "6")),
        "6 × 192KiB"
    );
    assert_eq!(
        buffers(launch("--connections 7").env("TRANSOM_CONNECTIONS", "6")),
        "7 × 192KiB"
    );
}

#[test]
fn flags_forward_without_a_file_and_beside_one() {
    let forward = "--forward http://127.0.0.1:80=/a --forward http://127.0.0.1:80/b=/b";
    let check = |flags: &str| serve(&format!("--check --loops 1 {flags}"));
    let channels = |flags: &str| term(&check(flags), "channels");
    assert_eq!(
        channels(&format!("{forward} --channel-limit 1MiB")),
        "4 × 1MiB"
    );
    let folder = folder("beside");
    let path = file(
        &folder,
        "[[forward]]\nlisten = \"udp://127.0.0.1:53\"\ndoor = \"/c\"\n",
    );
    let both = format!("{forward} --config {}", path.display());
    assert_eq!(channels(&both), "4 × 21MiB");
    assert_eq!(term(&check(&both), "forward channels"), "2 × 21MiB");
}

#[test]
fn what_cannot_be_forwarded_is_refused_in_a_sentence() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = other.local_addr().expect("it is bound");
    let folder = folder("refused");
    let nowhere = folder.join("no.toml").display().to_string();
    let empty = file(&folder, "").display().to_string();
    for (flags, parts) in [
        ("", &["--forward: there is nothing to forward"][..]),
        (
            "--forward 127.0.0.1:80=/d",
            &["--forward 127.0.0.1:80=/d: "],
        ),
        ("--forward http://127.0.0.1:80=d", &["absolute"]),
        (
            &format!("--config {nowhere}"),
            &["--config ", "no.toml", "No such file"],
        ),
        (
            &format!("--config {empty}"),
            &["front.toml:1:1: there is no [[forward]]"],
        ),
        (
            &format!("--forward http://127.0.0.1:0=/d --forward tcp://{address}=/d"),
            &["--forward tcp://", "another process listens there"],
        ),
        (
            "--forward http://127.0.0.1:80=/d --channel-limit 5000",
            &["--channel-limit is 5000B"],
        ),
        (
            "--forward http://127.0.0.1:80=/d --buckets 5",
            &["--buckets"],
        ),
    ] {
        let ended = serve(flags);
        let said = ended.stderr();
        assert!(
            matches!(ended.code(), 1 | 2) && said.starts_with("error: "),
            "{flags}: {said}"
        );
        for part in parts {
            assert!(said.contains(part), "{flags}: {said}");
        }
    }
}

#[test]
fn a_flag_that_may_be_given_more_than_once_is_a_list_in_a_file() {
    let folder = folder("lists");
    let forward = "[[forward]]\nlisten = \"http://127.0.0.1:80\"\ndoor = \"/d\"\n";
    let with = |line: &str| check(&file(&folder, &format!("{line}\n{forward}")));
    let ended = with("forwarded = \"forwarded\"\ntrust = [\"10.0.0.0/8\", \"unix:\"]");
    assert_eq!(ended.code(), 0, "{}", ended.stderr());
    assert!(
        ended.stdout.contains("--trust 10.0.0.0/8,unix:"),
        "{}",
        ended.stdout
    );
    for (value, shown) in [("true", true), ("false", false)] {
        let line = format!("ipv6-only = {value}");
        let text = forward.replace("127.0.0.1", "[::]");
        let ended = check(&file(&folder, &format!("{line}\n{text}")));
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        assert!(
            ended.stdout.contains(&format!("--ipv6-only {shown}")),
            "{}",
            ended.stdout
        );
    }
    for (line, part) in [
        ("ipv6-only = true", "1:13: --ipv6-only needs"),
        ("ipv6-only = 1", "`ipv6-only`"),
        ("connections = true", "not a boolean"),
        (
            "admin-host = \"a.example\"",
            "1:14: --admin-host needs --admin",
        ),
        ("trust = [\"10.0.0.1/8\"]", "1:1: "),
        ("trust = []", "`trust` is an empty list"),
        ("trust = [true]", "not a boolean"),
        (
            "connections = [5]",
            "`connections` has one value, not a list of them",
        ),
    ] {
        let ended = with(line);
        assert_eq!(ended.code(), 2, "{line}");
        let part = part.trim_start_matches("1:1: ");
        assert!(ended.stderr().contains(part), "{line}: {}", ended.stderr());
    }
}
