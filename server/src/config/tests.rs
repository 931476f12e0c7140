//! Rows of text and what is said to it.

use super::*;
use proptest::prelude::*;

fn check(name: &str, value: &str) -> Result<(), String> {
    match (name, value.parse::<u32>()) {
        ("connections", Err(_)) => Err(format!("{value:?} is not a number")),
        _ => Ok(()),
    }
}

fn keys() -> Keys<'static> {
    Keys {
        names: ["connections", "queue-timeout", "trust", "ipv6-only"]
            .map(str::to_owned)
            .into(),
        lists: vec!["trust".to_owned()],
        switches: vec!["ipv6-only".to_owned()],
        check: &check,
    }
}

fn read(bytes: &[u8], flags: &[&str]) -> Result<Config, ConfigError> {
    let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    let name = "front.toml";
    Config::read(Some(Source { name, bytes }), &flags, &keys())
}

fn flags(flags: &[&str]) -> Result<Config, ConfigError> {
    let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    Config::read(None, &flags, &keys())
}

fn rows(config: &Config) -> Vec<String> {
    let line = |row: Row<'_>| {
        let Row {
            listen,
            method,
            path,
            door,
        } = row;
        format!("{listen} {method} {path} {}", door.display())
    };
    config.rows().into_iter().map(line).collect()
}

/// The file of `docs/doors.md`.
const WHOLE: &str = r#"
connections = 4096
queue-timeout = "500ms"

[[forward]]
listen = "http://0.0.0.0:8080"

[[forward.map]]                     # the longest prefix wins; method is optional
path = "/"
door = "/run/site.door"

[[forward.map]]
path = "/primes"
door = "/run/old.door"

[[forward.map]]
method = "GET"
path   = "/primes"
door   = "/run/primes.door"

[[forward]]
listen = "tcp://127.0.0.1:7007"
door   = "/run/echo.door"

[[forward]]
listen = "udp://127.0.0.1:7007"
door   = "/run/dns.door"

[[forward]]
listen = "http://[::1]:8080"
door   = "/run/site.door"
"#;

#[test]
fn a_whole_file_is_read() {
    let config = read(WHOLE.as_bytes(), &[]).expect("it is right");
    let settings: Vec<_> = config
        .settings
        .iter()
        .map(|s| (s.name.as_str(), s.value.as_str(), s.place.to_string()))
        .collect();
    assert_eq!(
        settings,
        [
            ("connections", "4096", "front.toml:2:15".to_owned()),
            ("queue-timeout", "500ms", "front.toml:3:17".to_owned()),
        ]
    );
    assert_eq!(
        rows(&config),
        [
            "http://0.0.0.0:8080 GET /primes /run/primes.door",
            "http://0.0.0.0:8080 any /primes /run/old.door",
            "http://0.0.0.0:8080 any / /run/site.door",
            "tcp://127.0.0.1:7007  connections /run/echo.door",
            "udp://127.0.0.1:7007  datagrams /run/dns.door",
            "http://[::1]:8080 any / /run/site.door",
        ]
    );
    let doors: Vec<_> = config
        .doors()
        .into_iter()
        .map(|d| d.display().to_string())
        .collect();
    assert_eq!(
        doors,
        [
            "/run/primes.door",
            "/run/old.door",
            "/run/site.door",
            "/run/echo.door",
            "/run/dns.door"
        ]
    );
}

#[test]
fn flags_say_the_same_as_a_file() {
    let config = flags(&[
        "http://127.0.0.1:8080=/run/site.door",
        "tcp://127.0.0.1:7007=/run/echo.door",
        "http://127.0.0.1:8080/primes=/run/primes=2.door",
        "udp://[::1]:53=/run/dns.door",
    ])
    .expect("they are right");
    assert_eq!(
        rows(&config),
        [
            "http://127.0.0.1:8080 any /primes /run/primes=2.door",
            "http://127.0.0.1:8080 any / /run/site.door",
            "tcp://127.0.0.1:7007  connections /run/echo.door",
            "udp://[::1]:53  datagrams /run/dns.door",
        ]
    );
    let both = read(WHOLE.as_bytes(), &["tcp://127.0.0.1:9=/run/more.door"]).expect("both");
    assert_eq!(both.forwards.len(), 5);
}

/// What is wrong with a file: each row is a text, and for each problem its line and column and a part of the
/// sentence.
#[test]
fn every_problem_has_its_place() {
    let http = "[[forward]]\nlisten = \"http://127.0.0.1:80\"\n";
    let tcp = "[[forward]]\nlisten = \"tcp://127.0.0.1:80\"\n";
    let map = |rest: &str| format!("{http}[[forward.map]]\n{rest}\n");
    let listen = |text: &str| format!("[[forward]]\nlisten = \"{text}\"\ndoor = \"/d\"\n");
    let method = |text: &str| map(&format!("path = \"/\"\ndoor = \"/d\"\nmethod = \"{text}\""));
    let path = |text: &str| map(&format!("door = \"/d\"\npath = \"{text}\""));
    let door = |text: &str| format!("{tcp}door = \"{text}\"");
    let rows: Vec<(String, &[(&str, &str)])> = vec![
        // Nothing to do.
        (String::new(), &[("1:1", "there is no [[forward]]")]),
        (
            "connections = 5\n".into(),
            &[("1:1", "there is no [[forward]]")],
        ),
        ("forward = []".into(), &[("1:1", "there is no [[forward]]")]),
        // Not TOML.
        ("[[forward]\n".into(), &[("1:", "")]),
        ("a = 1\nb = \"".into(), &[("2:", "")]),
        ("a = 1\na = 2".into(), &[("2:1", "duplicate key")]),
        // Keys.
        (
            method("GET").replace("method", "mehtod"),
            &[("6:1", "unknown key `mehtod`; did you mean `method`?")],
        ),
        (
            format!("{tcp}dor = \"/d\""),
            &[("3:1", "unknown key `dor`; did you mean `door`?")],
        ),
        (
            format!("{tcp}timeout = 1"),
            &[("3:1", "unknown key `timeout`; a forward has")],
        ),
        (map("host = 1"), &[("4:1", "unknown key `host`; a map has")]),
        ("[[forwards]]".into(), &[("1:3", "did you mean `forward`?")]),
        (
            "conections = 1".into(),
            &[("1:1", "did you mean `connections`?")],
        ),
        (
            "buckets = 1".into(),
            &[("1:1", "unknown key `buckets`; beside")],
        ),
        // Kinds of values.
        (
            "[forward]\nlisten = \"http://127.0.0.1:80\"".into(),
            &[("1:1", "write [[forward]]")],
        ),
        ("forward = [1]".into(), &[("1:12", "invalid type")]),
        (
            format!("{http}[forward.map]\npath = \"/\""),
            &[("3:1", "write [[forward.map]]")],
        ),
        (
            "[[forward]]\nlisten = 8080".into(),
            &[("2:10", "invalid type: integer `8080`, expected a string")],
        ),
        (
            "[[forward]]\ndoor = \"/d\"".into(),
            &[("1:1", "missing field `listen`")],
        ),
        (map("path = \"/\""), &[("3:1", "missing field `door`")]),
        (map("door = \"/d\""), &[("3:1", "missing field `path`")]),
        // Flags.
        (
            format!("connections = \"many\"\n{tcp}door = \"/d\""),
            &[("1:15", "`connections`: \"many\" is not a number")],
        ),
        (
            format!("connections = 1.5\n{tcp}door = \"/d\""),
            &[("1:15", "not a float")],
        ),
        (
            format!("connections = 0x10\n{tcp}door = \"/d\""),
            &[("1:15", "not an integer of another base")],
        ),
        (
            format!("connections = [1]\n{tcp}door = \"/d\""),
            &[("1:15", "has one value, not a list of them")],
        ),
        // Where to listen.
        (
            listen("127.0.0.1:80"),
            &[("2:10", "is not a scheme, an address and a port")],
        ),
        (
            listen("https://127.0.0.1:80"),
            &[("2:10", "did you mean http://?")],
        ),
        (
            listen("ftp://127.0.0.1:80"),
            &[("2:10", "the scheme \"ftp\" is not http, tcp or udp")],
        ),
        (
            listen("http://127.0.0.1"),
            &[(
                "2:10",
                "127.0.0.1 has no port: write it behind the address, as in 127.0.0.1:8080",
            )],
        ),
        (listen("http://unix:x.sock"), &[("2:10", "is absolute")]),
        (listen("http://systemd:a:b"), &[("2:10", "colon")]),
        (
            listen("udp://unix:/x.sock"),
            &[("2:10", "datagrams come to an address and a port")],
        ),
        (
            listen("http://unix:/x.sock") + &listen("tcp://unix:/x.sock"),
            &[(
                "5:10",
                "unix:/x.sock is listened on already (front.toml:2:10): a path has",
            )],
        ),
        (
            listen("http://systemd:") + &listen("http://systemd:"),
            &[("5:10", "a name has one forward")],
        ),
        (listen("http://127.0.0.1:"), &[("2:10", "has no port")]),
        (listen("tcp://::1"), &[("2:10", "as in [::1]:8080")]),
        (listen("tcp://[::1]"), &[("2:10", "as in [::1]:8080")]),
        (
            listen("http://localhost:80"),
            &[("2:10", "names are not looked up")],
        ),
        (
            listen("http://127.0.0.1:65536"),
            &[("2:10", "is not an IP address and a port")],
        ),
        (
            listen("http://127.0.0.1:80/a"),
            &[("2:10", "write it as `path` of a [[forward.map]]")],
        ),
        (
            listen("udp://127.0.0.1:80/a"),
            &[("2:10", "only http has paths")],
        ),
        (
            listen("http://127.0.0.1:80") + &listen("tcp://127.0.0.1:80"),
            &[(
                "5:10",
                "127.0.0.1:80 is listened on already (front.toml:2:10)",
            )],
        ),
        // Where to.
        (
            http.into(),
            &[("1:1", "leads nowhere: give it `door`, or [[forward.map]]")],
        ),
        (tcp.into(), &[("1:1", "leads nowhere: give it `door`")]),
        (
            format!("{tcp}[[forward.map]]\npath = \"/\"\ndoor = \"/d\""),
            &[("3:1", "only http has a map")],
        ),
        (
            format!("{http}door = \"/d\"\n[[forward.map]]\npath = \"/\"\ndoor = \"/d\""),
            &[("3:8", "has `door` and [[forward.map]]")],
        ),
        (
            format!("{tcp}door = \"/d\"\nowner = \"no such one\""),
            &[("4:9", "`owner`: there is no user \"no such one\"")],
        ),
        (
            format!(
                "{http}owner = \"1\"\n[[forward.map]]\npath = \"/\"\ndoor = \"/d\"\n\
                 [[forward.map]]\npath = \"/x\"\ndoor = \"/d\"\nowner = \"2\""
            ),
            &[("10:9", "/d has another owner already")],
        ),
        (door("run/d"), &[("3:8", "the path of a door is absolute")]),
        (door(""), &[("3:8", "a door has a path")]),
        (door("/run/"), &[("3:8", "that is a folder")]),
        (door("/run/\\u0000"), &[("3:8", "a path has no NUL")]),
        (method(""), &[("6:10", "\"\" is not a method")]),
        (method("G ET"), &[("6:10", "is not a method")]),
        (method("get"), &[("6:10", "did you mean GET?")]),
        (
            method("TRACE"),
            &[("6:10", "the front end forwards GET, HEAD")],
        ),
        (path("a"), &[("5:8", "a path begins with \"/\"")]),
        (path(""), &[("5:8", "a path begins with \"/\"")]),
        (path("/a?b"), &[("5:8", "a query does not choose the door")]),
        (path("/%20"), &[("5:8", "compared decoded")]),
        (path("/a/../b"), &[("5:8", "leave them out")]),
        (path("/a\\n"), &[("5:8", "no control characters")]),
        (
            map("path = \"/ä\"\ndoor = \"/d\"\n[[forward.map]]\npath = \"/ä\"\ndoor = \"/e\""),
            &[(
                "7:8",
                "every method of /ä has a door already (front.toml:3:1)",
            )],
        ),
        // Columns are characters.
        (
            "forward = [{listen = \"http://127.0.0.1:80\", map = [{path = \"/ä\", dor = 1}]}]"
                .into(),
            &[("1:66", "`dor`")],
        ),
        // All at once, in the order of the file.
        (
            listen("http://a") + &listen("http://127.0.0.1") + "[[forward]]\nlisen = 1\n",
            &[
                ("2:10", "names are not looked up"),
                ("5:10", "has no port"),
                ("8:1", "`listen`"),
            ],
        ),
        (
            map("path = \"a\"\ndoor = \"b\"\nmethod = \"get\""),
            &[("4:8", "begins with"), ("5:8", "absolute"), ("6:10", "GET")],
        ),
    ];
    for (text, expected) in rows {
        let problems = read(text.as_bytes(), &[]).expect_err(&text).problems;
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), expected.len(), "{text}\n{said:#?}");
        for (said, (place, part)) in said.iter().zip(expected) {
            let place = format!("front.toml:{place}");
            assert!(
                said.starts_with(&place) && said.contains(part) && !said.contains('\n'),
                "{text}\n{said}\nis not {place} … {part}"
            );
        }
    }
}

#[test]
fn bytes_that_are_not_utf8_have_a_place_too() {
    let error = read(b"a = 1\nb = \"\xc3\xa4\xff\"", &[]).expect_err("not UTF-8");
    assert!(error.to_string().starts_with("front.toml:2:7: "), "{error}");
}

#[test]
fn a_wrong_flag_is_named() {
    for (values, parts) in [
        (&[][..], &["--forward: there is nothing to forward"][..]),
        (
            &["http://127.0.0.1:80"],
            &["--forward http://127.0.0.1:80: it needs an address"],
        ),
        (
            &["127.0.0.1:80=/d"],
            &["--forward 127.0.0.1:80=/d: ", "is not a scheme"],
        ),
        (&["http://127.0.0.1=/d"], &["has no port"]),
        (&["http://127.0.0.1:80="], &["a door has a path"]),
        (&["http://127.0.0.1:80=d"], &["is absolute"]),
        (
            &["http://127.0.0.1:80/a?b=/d"],
            &["a query does not choose"],
        ),
        (&["tcp://127.0.0.1:80/a=/d"], &["only http has paths"]),
        (
            &["http://127.0.0.1:80=/d", "http://127.0.0.1:80=/e"],
            &["every method of / has a door already"],
        ),
        (
            &["tcp://127.0.0.1:80=/d", "tcp://127.0.0.1:80=/e"],
            &["is listened on already (--forward tcp"],
        ),
    ] {
        let error = flags(values).expect_err(&format!("{values:?}"));
        assert_eq!(error.problems.len(), 1, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{values:?}: {error}");
        }
    }
}

#[test]
fn a_unix_socket_and_a_prefix_are_parted_by_a_colon() {
    let config = flags(&[
        "http://unix:/run/x.sock=/d",
        "http://unix:/run/x.sock:/a/b=/e",
        "http://systemd:web/a=/d",
        "tcp://unix:/run/y.sock=/d",
    ]);
    assert_eq!(
        rows(&config.expect("it is right")),
        [
            "http://unix:/run/x.sock any /a/b /e",
            "http://unix:/run/x.sock any / /d",
            "http://systemd:web any /a /d",
            "tcp://unix:/run/y.sock  connections /d",
        ]
    );
}

#[test]
fn port_0_is_another_port_each_time() {
    let text = "[[forward]]\nlisten = \"tcp://127.0.0.1:0\"\ndoor = \"/d\"\n";
    let config = read(text.repeat(2).as_bytes(), &[]).expect("two ports");
    assert_eq!(config.forwards.len(), 2);
}

#[test]
fn tables_that_are_too_deep_are_refused() {
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(read(deep.as_bytes(), &[]).is_err());
    let keys = format!("{}a = 1", "a.".repeat(100_000));
    assert!(read(keys.as_bytes(), &[]).is_err());
}

/// Either it makes sense, or something is said of it.
fn holds(result: Result<Config, ConfigError>) {
    match result {
        Ok(config) => assert!(!config.forwards.is_empty() && !config.doors().is_empty()),
        Err(error) => assert!(!error.problems.is_empty()),
    }
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        holds(read(&bytes, &[]));
    }

    #[test]
    fn any_mixture_of_the_right_words_gets_an_answer(
        words in prop::collection::vec(prop::sample::select(vec![
            "[[forward]]", "[[forward.map]]", "[forward]", "\n", "listen", "door", "map", "path", "method", " = ", "\"",
            "http://", "tcp://", "127.0.0.1:80", "[::1]", "/", "GET", "ä", "{", "}", "[", "]", ",", ".", "1", "connections",
            "\u{0}", "'''", "\\u",
        ]), 0..60)
    ) {
        holds(read(words.concat().as_bytes(), &[]));
    }

    #[test]
    fn a_whole_file_with_a_hole_gets_an_answer(from in 0..WHOLE.len(), len in 0..40usize, byte in any::<u8>()) {
        let mut bytes = WHOLE.as_bytes().to_vec();
        let to = (from + len).min(bytes.len());
        bytes.splice(from..to, [byte]);
        holds(read(&bytes, &[]));
    }

    #[test]
    fn any_flag_gets_an_answer(text in "(http|tcp|udp)?(://)?[0-9.:\\[\\]]{0,12}[/=a-z?%]{0,8}=?.{0,8}") {
        holds(flags(&[&text]));
    }
}

#[test]
fn a_door_has_the_owner_that_the_file_gives_it() {
    let text = "[[forward]]\nlisten = \"http://127.0.0.1:1\"\nowner = \"1\"\n\
                [[forward.map]]\npath = \"/a\"\ndoor = \"/a\"\n\
                [[forward.map]]\npath = \"/b\"\ndoor = \"/b\"\nowner = \"anybody\"\n\
                [[forward]]\nlisten = \"tcp://127.0.0.1:2\"\ndoor = \"/c\"\nowner = \"root\"\n\
                [[forward]]\nlisten = \"udp://127.0.0.1:1\"\ndoor = \"/d\"\n";
    let mut config = read(text.as_bytes(), &[]).expect("it is right");
    let of = |config: &Config, door: &str| config.owner_of(Path::new(door));
    assert_eq!(of(&config, "/d"), DoorOwner::UsOrRoot);
    config.own_the_rest(DoorOwner::User(4711));
    assert_eq!(of(&config, "/a"), DoorOwner::User(1));
    assert_eq!(of(&config, "/b"), DoorOwner::Anybody);
    assert_eq!(of(&config, "/c"), DoorOwner::User(0));
    assert_eq!(of(&config, "/d"), DoorOwner::User(4711));
}
