//! Files below a folder: their types, validators, conditions and ranges, what is not served, and what becomes
//! of a file that changes while it is sent. Each in one process and through a door.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use transom_tests::doors::{before, behind};
use transom_tests::{Answer, Client, Folder, Launch, Server, eventually};

const LARGE: usize = 5 << 20;

/// A folder with a `public` root and files outside it that no client may get, and the server of the root.
struct Site {
    folder: Folder,
    front: Server,
    /// Behind a door, if it is not in the front end's process.
    application: Option<Server>,
}

impl Site {
    fn public(&self) -> PathBuf {
        self.folder.path().join("public")
    }

    /// The process that opens the files.
    fn opener(&self) -> &Server {
        self.application.as_ref().unwrap_or(&self.front)
    }

    fn connect(&self) -> Client {
        self.front.connect()
    }

    fn get(&self, path: &str) -> Answer {
        self.front.get(path)
    }

    /// The answer to a GET with more fields.
    fn get_with(&self, path: &str, fields: &str) -> Answer {
        self.front.answer_to(format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n"
        ))
    }

    /// The answer to a HEAD with more fields; nothing follows it.
    fn head_with(&self, path: &str, fields: &str) -> Answer {
        let mut client = self.connect();
        client.send(format!(
            "HEAD {path} HTTP/1.1\r\nHost: test\r\n{fields}Connection: close\r\n\r\n"
        ));
        let answer = client.answer_to_head();
        assert!(client.is_closed(), "a body follows {}", answer.head);
        answer
    }

    /// The tag of a file, once it is strong: a second after its last change.
    fn strong_tag(&self, path: &str) -> String {
        let tag = || self.get(path).field("etag").map(str::to_owned);
        assert!(
            eventually(|| tag().is_some_and(|tag| tag.starts_with('"'))),
            "{:?} stays weak",
            tag()
        );
        tag().unwrap_or_default()
    }

    /// The date of a file's last change, once its second is over: until then an earlier one is given.
    fn settled_date(&self, path: &str) -> String {
        let date = || {
            let answer = self.get(path);
            answer.field("last-modified").expect("a date").to_owned()
        };
        let holds = || {
            let fields = format!("If-Modified-Since: {}", date());
            self.get_with(path, &fields).status == 304
        };
        assert!(eventually(holds), "{} is no date to rely on", date());
        date()
    }
}

fn make(name: &str) -> Folder {
    let folder = Folder::new(name);
    let public = folder.path().join("public");
    fs::create_dir_all(public.join("sub dir")).expect("writable");
    for folder in ["bare", ".well-known", "sub dir/.hidden"] {
        fs::create_dir_all(public.join(folder)).expect("writable");
    }
    for (name, contents) in [
        ("a.txt", "0123456789"),
        ("b.json", "{}"),
        ("no-extension", "?"),
        ("empty.css", ""),
        ("sub dir/index.html", "<p>"),
        ("page.html", "plain"),
        ("page.html.gz", "as if by gzip"),
        ("page.html.br", "as if by brotli"),
        ("only.js", "plain"),
        ("only.js.gz", "as if by gzip"),
        ("drawing.svgz", "as if by gzip"),
        (".env", "secret"),
        ("sub dir/.hidden/a.txt", "secret"),
        (".well-known/security.txt", "Contact: us"),
    ] {
        fs::write(public.join(name), contents).expect("writable");
    }
    fs::write(public.join("large.bin"), vec![7; LARGE]).expect("writable");
    fs::write(folder.path().join("secret"), "secret").expect("writable");
    symlink(folder.path().join("secret"), public.join("out")).expect("writable");
    symlink("..", public.join("up")).expect("writable");
    symlink("a.txt", public.join("alias.txt")).expect("writable");
    symlink("sub dir", public.join("alias")).expect("writable");
    let fifo = CString::new(public.join("fifo").as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: the path ends in NUL.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    drop(UnixListener::bind(public.join("socket")).expect("writable"));
    folder
}

/// The site served in one process, and another one through a door.
fn both(name: &str, flags: &str) -> [Site; 2] {
    let folder = make(&format!("{name}-alone"));
    let root = |folder: &Folder| {
        format!(
            "--root {}/public --buckets 4 {flags}",
            folder.path().display()
        )
    };
    let alone = Site {
        front: Server::start("send-static-file", &root(&folder)),
        application: None,
        folder,
    };
    let folder = make(&format!("{name}-door"));
    let door = folder.path().join("app.door");
    let application = behind(&door, "send-static-file", &root(&folder));
    let split = Site {
        front: before(&door, ""),
        application: Some(application),
        folder,
    };
    [alone, split]
}

#[test]
fn files_come_with_their_type_and_length() {
    for site in both("types", "") {
        for (path, content_type, body) in [
            ("/a.txt", "text/plain; charset=utf-8", "0123456789"),
            ("/b.json", "application/json", "{}"),
            ("/no-extension", "application/octet-stream", "?"),
            ("/empty.css", "text/css; charset=utf-8", ""),
            ("/sub%20dir/", "text/html; charset=utf-8", "<p>"),
            (
                "/sub%20dir/../a.txt?query",
                "text/plain; charset=utf-8",
                "0123456789",
            ),
            ("/page.html.gz", "application/gzip", "as if by gzip"),
        ] {
            let answer = site.get(path);
            assert_eq!((answer.status, answer.text()), (200, body), "{path}");
            let length = body.len().to_string();
            for (field, value) in [
                ("content-type", Some(content_type)),
                ("content-length", Some(length.as_str())),
                ("accept-ranges", Some("bytes")),
                ("vary", None),
                ("content-encoding", None),
            ] {
                assert_eq!(answer.field(field), value, "{path}: {}", answer.head);
            }
            assert!(answer.field("last-modified").is_some(), "{}", answer.head);
            let head = site.head_with(path, "");
            for field in [
                "content-type",
                "content-length",
                "last-modified",
                "accept-ranges",
            ] {
                assert_eq!(head.field(field), answer.field(field), "{path}");
            }
        }
    }
}

#[test]
fn a_folder_is_its_index_behind_a_slash() {
    for site in both("folders", "") {
        for (path, location) in [
            ("/sub%20dir", "/sub%20dir/"),
            ("/sub%20dir?a=b/c&d", "/sub%20dir/?a=b/c&d"),
            // Decoded, these are paths of ours; undecoded, they are addresses of another site.
            ("//elsewhere.example/../../sub%20dir", "/sub%20dir/"),
            ("//elsewhere.example/%2e%2e/%2e%2e/sub%20dir", "/sub%20dir/"),
        ] {
            let answer = site.get(path);
            assert_eq!(
                (answer.status, answer.field("location")),
                (308, Some(location)),
                "{path}: {}",
                answer.head
            );
        }
        for path in [
            "/",
            "/bare",
            "/bare/",
            "/sub%20dir//",
            "//sub%20dir",
            "/a.txt/",
        ] {
            assert_eq!(site.get(path).status, 404, "{path}");
        }
    }
}

#[test]
fn a_file_larger_than_its_bucket_is_sent_at_constant_memory() {
    for site in both("large", "") {
        let samples = || [site.opener().sample(), site.front.sample()];
        assert_eq!(site.get("/large.bin").body.len(), LARGE);
        let first = samples();
        for _ in 0..5 {
            let answer = site.get("/large.bin");
            assert!(answer.body.len() == LARGE && answer.body.iter().all(|&byte| byte == 7));
        }
        let mut client = site.connect();
        client.send("HEAD /large.bin HTTP/1.1\r\nHost: test\r\n\r\n");
        let length = LARGE.to_string();
        assert_eq!(
            client.answer_to_head().field("content-length"),
            Some(length.as_str())
        );
        assert_eq!(
            client.get("/a.txt").text(),
            "0123456789",
            "no body followed"
        );
        drop(client);
        for (first, last) in first.iter().zip(samples()) {
            assert!(
                last.rss <= first.rss + first.rss / 100,
                "{first:?}, {last:?}"
            );
        }
        assert!(
            eventually(|| site.opener().sample().descriptors <= first[0].descriptors),
            "files are closed again"
        );
    }
}

#[test]
fn nothing_is_sent_from_outside_the_root() {
    let long = format!("/{}", "x".repeat(300)); // more than a file's name may have
    for flags in ["", "--follow-links"] {
        for site in both("outside", flags) {
            for path in [
                "/nowhere",
                "/../secret",
                "/%2e%2e/secret",
                "/.%2e/secret",
                "/sub%20dir/../../secret",
                "/sub%20dir/%2e%2e/%2e%2e/secret",
                "/..%2fsecret",
                "/sub%20dir%2f..%2f..%2fsecret",
                "/%252e%252e/secret",
                "/..\\secret",
                "//etc/passwd",
                "/%2fetc%2fpasswd",
                "/out",
                "/up/secret",
                "/up",
                "/a.txt/",
                "/a.txt/x",
                "/sub%20dir/nothing",
                &long,
            ] {
                let answer = site.get(path);
                assert!(
                    matches!(answer.status, 400 | 404),
                    "{path}: {}{:?}",
                    answer.head,
                    answer.text()
                );
                assert!(!answer.text().contains("secret"), "{path}");
            }
        }
    }
}

#[test]
fn links_are_followed_only_by_flag() {
    for site in both("no-links", "") {
        for path in ["/alias.txt", "/alias/", "/alias/index.html", "/alias"] {
            assert_eq!(site.get(path).status, 404, "{path}");
        }
    }
    for site in both("links", "--follow-links") {
        assert_eq!(site.get("/alias.txt").text(), "0123456789");
        assert_eq!(site.get("/alias/").text(), "<p>");
        assert_eq!(site.get("/alias").field("location"), Some("/alias/"));
    }
}

#[test]
fn what_is_no_file_is_not_there() {
    for site in both("odd", "") {
        // An open of a FIFO would wait for its other end.
        for path in ["/fifo", "/socket", "/fifo/"] {
            assert_eq!(site.get(path).status, 404, "{path}");
        }
        assert_eq!(site.get("/a.txt").status, 200);
    }
}

#[test]
fn a_root_that_is_none_is_said() {
    for launch in [
        Launch::of("send-static-file").flags("--root /nonexistent/folder"),
        Launch::of("send-static-file").env("TRANSOM_ROOT", "/nonexistent/folder"),
    ] {
        let ended = launch.run();
        assert!(
            ended.code() == 1 && ended.stderr().contains("--root /nonexistent/folder: "),
            "{}",
            ended.stderr()
        );
    }
    let help = Launch::of("send-static-file").flags("--help").run();
    assert!(
        help.code() == 0
            && help.stdout.contains("--follow-links")
            && help.stdout.contains("--buckets"),
        "{}",
        help.stdout
    );
    let ended = Launch::of("send-static-file").flags("--roots x").run();
    assert_eq!(ended.code(), 2);
}

#[test]
fn conditions_are_weighed_in_order() {
    for site in both("conditions", "") {
        let tag = site.strong_tag("/a.txt");
        assert_eq!(site.strong_tag("/a.txt"), tag, "it stays");
        assert_ne!(site.strong_tag("/b.json"), tag);
        let same = &*site.settled_date("/a.txt");
        let (old, new) = (
            "Sun, 06 Nov 1994 08:49:36 GMT",
            "Fri, 01 Jan 2100 00:00:00 GMT",
        );
        for (fields, status) in [
            (format!("If-None-Match: {tag}"), 304),
            (format!("If-None-Match: W/{tag}"), 304),
            (format!("If-None-Match: \"x\"\r\nIf-None-Match: {tag}"), 304),
            ("If-None-Match: *".into(), 304),
            ("If-None-Match: \"x\"".into(), 200),
            (format!("If-Modified-Since: {old}"), 200),
            (format!("If-Modified-Since: {same}"), 304),
            (format!("If-Modified-Since: {new}"), 304),
            ("If-Modified-Since: never".into(), 200),
            (
                format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {new}"),
                200,
            ),
            (format!("If-Match: {tag}"), 200),
            ("If-Match: *".into(), 200),
            (format!("If-Match: W/{tag}"), 412),
            ("If-Match: \"x\"".into(), 412),
            (format!("If-Unmodified-Since: {old}"), 412),
            (format!("If-Unmodified-Since: {same}"), 200),
            (
                format!("If-Match: {tag}\r\nIf-Unmodified-Since: {old}"),
                200,
            ),
            (format!("If-Match: \"x\"\r\nIf-None-Match: {tag}"), 412),
            (format!("If-Match: {tag}\r\nIf-None-Match: {tag}"), 304),
        ] {
            let answer = site.get_with("/a.txt", &fields);
            assert_eq!(answer.status, status, "{fields}");
            match status {
                200 => assert_eq!(answer.text(), "0123456789"),
                304 => {
                    assert_eq!(answer.field("etag"), Some(tag.as_str()));
                    assert_eq!(answer.field("last-modified"), Some(same));
                    assert_eq!(
                        (answer.field("content-length"), answer.field("content-type")),
                        (None, None)
                    );
                }
                _ => {}
            }
            assert_eq!(
                site.head_with("/a.txt", &format!("{fields}\r\n")).status,
                status,
                "HEAD, {fields}"
            );
        }
        // The connection goes on after a 304: no body was sent.
        let mut client = site.connect();
        client.send(format!(
            "GET /a.txt HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 304);
        assert_eq!(client.get("/b.json").text(), "{}");
        // A change that leaves size and modification time as they were is a change.
        let path = site.public().join("a.txt");
        let then = fs::metadata(&path).and_then(|seen| seen.modified());
        fs::write(&path, "9876543210").expect("ours");
        set_modified(&path, then.expect("it has one"));
        let answer = site.get_with("/a.txt", &format!("If-None-Match: {tag}"));
        assert_eq!((answer.status, answer.text()), (200, "9876543210"));
    }
}

fn set_modified(path: &Path, time: SystemTime) {
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|file| file.set_modified(time)).expect("ours");
}

/// As `touch -d @1`, archives and reproducible builds have it: other contents, and the modification time of
/// those before.
#[test]
fn a_date_that_two_versions_share_splices_no_download() {
    for site in both("splice", "") {
        let path = site.public().join("a.txt");
        for seconds in [784_111_777, 1, 0] {
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            fs::write(&path, "0123456789").expect("ours");
            set_modified(&path, then);
            let _ = site.strong_tag("/a.txt");
            let first = site.get("/a.txt");
            let date = first.field("last-modified").map(str::to_owned);
            assert_eq!(date.is_some(), seconds > 1, "{}", first.head);
            let date = date.unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:01 GMT".to_owned());
            fs::write(&path, "ABCDEFGHIJ").expect("ours");
            set_modified(&path, then);
            for fields in [
                format!("Range: bytes=5-\r\nIf-Range: {date}"),
                format!("If-Modified-Since: {date}"),
            ] {
                let answer = site.get_with("/a.txt", &fields);
                let got = (answer.status, answer.text());
                assert_eq!(got, (200, "ABCDEFGHIJ"), "{seconds}: {fields}");
            }
            if seconds > 1 {
                let fields = format!("Range: bytes=5-\r\nIf-Unmodified-Since: {date}");
                assert_eq!(site.get_with("/a.txt", &fields).status, 412, "{fields}");
            }
        }
    }
}

/// A date that is that of the last change, and whose second is over, can be trusted.
#[test]
fn a_resume_by_the_date_of_the_last_change_goes_on() {
    for site in both("resume", "") {
        fs::write(site.public().join("a.txt"), "9876543210").expect("ours");
        let date = site.settled_date("/a.txt");
        let resumed = |date: &str| {
            let fields = format!("Range: bytes=5-\r\nIf-Range: {date}");
            let answer = site.get_with("/a.txt", &fields);
            (answer.status, answer.text().to_owned())
        };
        assert_eq!(resumed(&date), (206, "43210".to_owned()));
    }
}

/// As unpacking, `rsync -t` and image layers leave a file: its modification time is older than the file.
#[test]
fn the_date_of_a_file_that_is_older_than_its_copy_holds_while_it_does_not_change() {
    for flags in ["", "--replicas"] {
        for site in both("older", flags) {
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
            set_modified(&site.public().join("a.txt"), then);
            let date = site.settled_date("/a.txt");
            let of_modification = date == "Sun, 06 Nov 1994 08:49:37 GMT";
            assert_eq!(of_modification, flags == "--replicas", "{date}");
            let with = |fields: &str| site.get_with("/a.txt", fields).status;
            assert_eq!(with(&format!("If-Unmodified-Since: {date}")), 200);
            let resumed = with(&format!("Range: bytes=5-\r\nIf-Range: {date}"));
            assert_eq!(resumed, if of_modification { 200 } else { 206 });
        }
    }
}

/// Two releases that were unpacked within one second: their files have the same times, and only the way to
/// them changes.
#[test]
fn a_date_that_two_releases_share_splices_no_download() {
    for site in both("releases", "") {
        let (public, folder) = (site.public(), site.folder.path());
        let [blue, green] = ["blue", "green"].map(|name| folder.join(name));
        fs::rename(&public, &blue).expect("ours");
        fs::create_dir(&green).expect("ours");
        let current = |release: &Path| {
            let link = folder.join("next");
            symlink(release, &link).expect("ours");
            fs::rename(&link, &public).expect("ours");
        };
        current(&blue);
        let written = |release: &Path, text: &str| {
            fs::write(release.join("a.txt"), text).expect("ours");
            let seen = fs::metadata(release.join("a.txt")).expect("ours");
            assert_eq!(seen.mtime(), seen.ctime());
            seen.mtime()
        };
        assert!(eventually(
            || written(&blue, "0123456789") == written(&green, "ABCDEFGHIJ")
        ));
        let resumed = |date: &str| {
            let fields = format!("Range: bytes=5-\r\nIf-Range: {date}");
            let answer = site.get_with("/a.txt", &fields);
            (answer.status, answer.text().to_owned())
        };
        let modified = site.settled_date("/a.txt");
        assert_eq!(resumed(&modified), (206, "56789".to_owned()));
        current(&green);
        assert_eq!(resumed(&modified), (200, "ABCDEFGHIJ".to_owned()));
        // As a folder that takes the other's place.
        fs::remove_file(&public).expect("ours");
        fs::rename(&green, &public).expect("ours");
        assert_eq!(resumed(&modified), (200, "ABCDEFGHIJ".to_owned()));
    }
}

#[test]
fn a_folder_that_takes_the_place_of_the_root_is_served() {
    for site in both("replaced", "") {
        let (public, next) = (site.public(), site.folder.path().join("next"));
        assert_eq!(site.get("/a.txt").text(), "0123456789");
        let before = site.opener().sample().descriptors;
        // As a build does it that removes its output first.
        fs::rename(&public, &next).expect("ours");
        assert_eq!(site.get("/a.txt").status, 503, "there is none");
        fs::create_dir(&public).expect("ours");
        assert_eq!(site.get("/a.txt").status, 404);
        fs::write(public.join("a.txt"), "rebuilt").expect("ours");
        assert_eq!(site.get("/a.txt").text(), "rebuilt");
        // As a deployment does it that switches a link.
        fs::remove_dir_all(&public).expect("ours");
        symlink("next", site.folder.path().join("switch")).expect("ours");
        fs::rename(site.folder.path().join("switch"), &public).expect("ours");
        assert_eq!(site.get("/a.txt").text(), "0123456789");
        assert!(eventually(|| site.opener().sample().descriptors <= before));
    }
}

#[test]
fn replicas_agree_on_tags_if_they_are_told_to() {
    let [one, other] = both("replicas", "--replicas");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let tags = || {
        [&one, &other].map(|site| {
            set_modified(&site.public().join("a.txt"), then);
            site.get("/a.txt").field("etag").map(str::to_owned)
        })
    };
    let [a, b] = tags();
    assert_eq!(a, b);
    let tag = a.expect("a tag");
    assert!(tag.starts_with("W/"), "{tag}");
    let fields = format!("If-None-Match: {tag}");
    assert_eq!(other.get_with("/a.txt", &fields).status, 304);
    // Two versions may share it, so nothing is resumed by it.
    let fields = format!("Range: bytes=5-\r\nIf-Range: {tag}");
    assert_eq!(other.get_with("/a.txt", &fields).status, 200);
    // Files whose time says nothing keep a tag of their own.
    for site in [&one, &other] {
        set_modified(&site.public().join("b.json"), SystemTime::UNIX_EPOCH);
    }
    let own = [&one, &other].map(|site| site.strong_tag("/b.json"));
    assert_ne!(own[0], own[1]);
}

#[test]
fn names_that_begin_with_a_dot_are_served_by_flag_only() {
    let hidden = [
        "/.env",
        "/sub%20dir/.hidden/a.txt",
        "/%2eenv",
        "/.well-known/.env",
    ];
    for site in both("hidden", "") {
        fs::write(site.public().join(".well-known/.env"), "secret").expect("ours");
        for path in hidden
            .into_iter()
            .chain(["/.well-known", "/sub%20dir/.hidden"])
        {
            assert_eq!(site.get(path).status, 404, "{path}");
        }
        let answer = site.get("/.well-known/security.txt");
        assert_eq!((answer.status, answer.text()), (200, "Contact: us"));
    }
    for site in both("shown", "--dot-files") {
        fs::write(site.public().join(".well-known/.env"), "secret").expect("ours");
        for path in hidden {
            assert_eq!(site.get(path).text(), "secret", "{path}");
        }
    }
}

#[test]
fn a_file_that_is_compressed_by_its_type_says_so() {
    for flags in ["", "--precompressed"] {
        for site in both("svgz", flags) {
            let answer = site.get("/drawing.svgz");
            assert_eq!(answer.field("content-type"), Some("image/svg+xml"));
            assert_eq!(answer.field("content-encoding"), Some("gzip"));
        }
    }
}

#[test]
fn one_range_is_a_part_and_several_are_the_whole() {
    for site in both("ranges", "") {
        for (range, content_range, body) in [
            ("bytes=0-0", "bytes 0-0/10", "0"),
            ("bytes=2-4", "bytes 2-4/10", "234"),
            ("bytes=8-", "bytes 8-9/10", "89"),
            ("bytes=8-1000", "bytes 8-9/10", "89"),
            ("bytes=-3", "bytes 7-9/10", "789"),
            ("bytes=-1000", "bytes 0-9/10", "0123456789"),
            ("bytes=0-18446744073709551616", "bytes 0-9/10", "0123456789"),
        ] {
            let answer = site.get_with("/a.txt", &format!("Range: {range}"));
            assert_eq!((answer.status, answer.text()), (206, body), "{range}");
            assert_eq!(answer.field("content-range"), Some(content_range));
            let length = body.len().to_string();
            assert_eq!(answer.field("content-length"), Some(length.as_str()));
            assert_eq!(
                answer.field("content-type"),
                Some("text/plain; charset=utf-8")
            );
            assert!(answer.field("etag").is_some(), "{}", answer.head);
        }
        for range in [
            "bytes=10-",
            "bytes=10-20",
            "bytes=-0",
            "bytes=18446744073709551616-",
        ] {
            let answer = site.get_with("/a.txt", &format!("Range: {range}"));
            assert_eq!(
                (answer.status, answer.field("content-range")),
                (416, Some("bytes */10")),
                "{range}"
            );
        }
        for range in [
            "bytes=0-1,3-4",
            "bytes=0-,0-,0-",
            "bytes=4-2",
            "bytes=x",
            "lines=0-1",
            "bytes=0-1\r\nRange: bytes=3-4",
        ] {
            let answer = site.get_with("/a.txt", &format!("Range: {range}"));
            assert_eq!(
                (answer.status, answer.text()),
                (200, "0123456789"),
                "{range}"
            );
            assert_eq!(answer.field("content-range"), None);
        }
        let head = site.head_with("/a.txt", "Range: bytes=0-1\r\n");
        assert_eq!(
            (head.status, head.field("content-length")),
            (200, Some("10")),
            "ranges are GET's"
        );
        let answer = site.get_with("/empty.css", "Range: bytes=0-");
        assert_eq!(
            (answer.status, answer.field("content-range")),
            (416, Some("bytes */0"))
        );
        let answer = site.get_with("/large.bin", &format!("Range: bytes={}-", LARGE - 100_000));
        assert_eq!((answer.status, answer.body.len()), (206, 100_000));
    }
}

#[test]
fn if_range_asks_for_the_part_of_the_same_bytes_only() {
    for site in both("if-range", "") {
        let tag = site.strong_tag("/a.txt");
        let dated = |fields: &str| site.get_with("/a.txt", fields);
        let modified = site.settled_date("/a.txt");
        for (value, status) in [
            (tag.as_str(), 206),
            (&modified, 206),
            (&format!("W/{tag}"), 200),
            ("\"x\"", 200),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 200),
            ("nonsense", 200),
        ] {
            let answer = site.get_with("/a.txt", &format!("Range: bytes=2-4\r\nIf-Range: {value}"));
            assert_eq!(answer.status, status, "{value}");
            assert_eq!(
                answer.text(),
                if status == 206 { "234" } else { "0123456789" }
            );
        }
        // A range of the old bytes behind the new ones would be a file that never was.
        fs::write(site.public().join("a.txt"), "9876543210").expect("ours");
        let answer = dated(&format!("Range: bytes=2-4\r\nIf-Range: {tag}"));
        assert_eq!((answer.status, answer.text()), (200, "9876543210"));
        let answer = dated(&format!("Range: bytes=20-\r\nIf-Range: {tag}"));
        assert_eq!(answer.status, 200, "no 416 either");
        let answer = dated(&format!(
            "Range: bytes=2-4\r\nIf-None-Match: *\r\nIf-Range: {tag}"
        ));
        assert_eq!(answer.status, 304, "conditions go first");
    }
}

/// A connection that has the beginning of an answer, and whose server cannot have sent much more.
fn begun(site: &Site, path: &str) -> Client {
    let mut client = Client::connect_with_buffer(site.front.address(), 4096);
    client.send(transom_tests::client::get(path));
    // The bytes read here are missing from the rest: all of the head and a few of the body.
    let mut first = [0; 1000];
    client
        .sender()
        .read_exact(&mut first)
        .expect("an answer begins");
    assert!(first.starts_with(b"HTTP/1.1 200 OK\r\n"));
    client
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_is_cut_and_never_padded() {
    for site in both("shrinks", "") {
        let path = site.public().join("shrinks.bin");
        let (long, short) = (32 << 20, 8 << 20);
        fs::write(&path, vec![7; long]).expect("writable");
        let descriptors = site.opener().sample().descriptors;
        let mut client = begun(&site, "/shrinks.bin");
        let file = OpenOptions::new().write(true).open(&path).expect("ours");
        file.set_len(short).expect("ours");
        let rest = client.rest().expect("the connection ends without a reset");
        assert!(
            !rest.is_empty() && rest.len() <= short as usize,
            "{} bytes",
            rest.len()
        );
        assert!(rest.iter().all(|&byte| byte == 7), "bytes that no file had");
        let answer = site.get("/shrinks.bin");
        assert_eq!((answer.status, answer.body.len()), (200, short as usize));
        assert!(
            eventually(|| site.opener().sample().descriptors <= descriptors),
            "the file is closed"
        );
    }
}

#[test]
fn a_client_that_leaves_has_its_file_closed() {
    for site in both("leaves", "") {
        let path = site.public().join("leaves.bin");
        fs::write(&path, vec![7; 32 << 20]).expect("writable");
        let open = || {
            let descriptors = fs::read_dir(format!("/proc/{}/fd", site.opener().pid()));
            let descriptors = descriptors.expect("a process has descriptors").flatten();
            let files = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
            files.filter(|file| *file == path).count()
        };
        let readers: Vec<Client> = (0..4).map(|_| begun(&site, "/leaves.bin")).collect();
        assert_eq!(open(), 4, "one for each that is being sent");
        for (n, reader) in readers.into_iter().enumerate() {
            if n % 2 == 0 {
                reader.reset();
            }
        }
        assert!(eventually(|| open() == 0), "{} are open still", open());
        assert_eq!(site.get("/a.txt").status, 200);
    }
}

#[test]
fn nothing_is_allocated_outside_the_buckets() {
    let rounds = 50;
    for mut site in both("heap", "--precompressed --follow-links") {
        for _ in 0..rounds {
            for path in [
                "/a.txt",
                "/sub%20dir",
                "/sub%20dir/",
                "/nowhere",
                "/fifo",
                "/alias.txt",
            ] {
                let _ = site.get_with(path, "Accept-Encoding: gzip, br\r\nRange: bytes=0-1");
                let _ = site.get_with(path, "If-None-Match: \"a\"\r\nIf-None-Match: *");
                let _ = site.get_with(path, "If-Match: \"a\"\r\nIf-Match: \"b\"");
            }
            assert_eq!(site.get("/large.bin").body.len(), LARGE);
        }
        // To let a front end in at its door, an application allocates a little, once: less than once for each
        // round.
        let allowed = if site.application.is_some() {
            rounds - 1
        } else {
            0
        };
        let opener = site.application.take().unwrap_or(site.front);
        let ended = opener.stop();
        assert_eq!(ended.code(), 0, "{}", ended.stderr());
        let allocations = ended.figure("process_heap_allocations");
        assert!(allocations <= allowed, "{allocations} allocations");
    }
}

#[test]
fn a_file_that_grows_while_it_is_sent_has_the_length_that_was_announced() {
    for site in both("grows", "") {
        let path = site.public().join("grows.bin");
        let len = 8 << 20;
        fs::write(&path, vec![7; len]).expect("writable");
        let mut client = begun(&site, "/grows.bin");
        let mut file = OpenOptions::new().append(true).open(&path).expect("ours");
        file.write_all(&[8; 100_000]).expect("ours");
        let mut rest = vec![0; len - 1000];
        client
            .sender()
            .read_exact(&mut rest)
            .expect("the answer goes on");
        assert!(rest.iter().all(|&byte| byte == 7));
        let head_len = {
            let head = site.head_with("/grows.bin", "");
            assert_eq!(
                head.field("content-length"),
                Some((len + 100_000).to_string().as_str())
            );
            let head = site.head_with("/large.bin", "");
            head.head.len()
        };
        assert!(head_len < 1000, "the first read had a part of the body");
        client.half_close();
        let tail = client.rest().expect("the connection ends");
        assert!(
            tail.len() < 1000 && tail.iter().all(|&byte| byte == 7),
            "{} bytes",
            tail.len()
        );
    }
}

#[test]
fn precompressed_copies_are_sent_by_flag() {
    for site in both("compressed", "--precompressed") {
        for (path, accept, coding, body) in [
            ("/page.html", "gzip, br", Some("br"), "as if by brotli"),
            (
                "/page.html",
                "gzip;q=1, br;q=0.1",
                Some("gzip"),
                "as if by gzip",
            ),
            ("/page.html", "gzip", Some("gzip"), "as if by gzip"),
            ("/page.html", "gzip;q=0", None, "plain"),
            ("/page.html", "deflate", None, "plain"),
            ("/only.js", "gzip, br", Some("gzip"), "as if by gzip"),
            ("/only.js", "br", None, "plain"),
        ] {
            let answer = site.get_with(path, &format!("Accept-Encoding: {accept}"));
            assert_eq!(
                (answer.status, answer.text()),
                (200, body),
                "{path}, {accept}"
            );
            assert_eq!(answer.field("content-encoding"), coding);
            assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
            let kind = if path == "/only.js" {
                "text/javascript"
            } else {
                "text/html"
            };
            assert!(
                answer
                    .field("content-type")
                    .is_some_and(|value| value.starts_with(kind))
            );
        }
        assert_eq!(site.get("/page.html").text(), "plain");
        let plain = site.strong_tag("/page.html");
        let answer = site.get_with(
            "/page.html",
            &format!("Accept-Encoding: br\r\nIf-None-Match: {plain}"),
        );
        assert_eq!(answer.status, 200, "each copy has a tag of its own");
        let answer = site.get_with("/page.html", "Accept-Encoding: br\r\nRange: bytes=3-4");
        assert_eq!((answer.status, answer.text()), (206, "if"));
        assert_eq!(site.get_with("/nowhere", "Accept-Encoding: br").status, 404);
    }
    for site in both("plain", "") {
        let answer = site.get_with("/page.html", "Accept-Encoding: gzip, br");
        assert_eq!((answer.text(), answer.field("vary")), ("plain", None));
    }
}
