//! What the standard library asks of the system: standard output, threads, files, programs, names.

use crate::listing::{Rows, matches, number, text};
use std::net::ToSocketAddrs;
use std::process::Command;
use std::{env, fs, thread};
use transom::{Failure, Request};

pub fn add(rows: &mut Rows) {
    rows.get("/std/println", "`println!` of a formatted value", println)
        .answers(|| text("printed {n}"))
        .prints("a greeting of Visitor { number: ");
    rows.get("/std/thread/spawn", "`thread::spawn` and `join`", spawn)
        .answers(|| text("another thread says {n}"));
    rows.get("/std/thread/scope", "`thread::scope`", scope)
        .answers(|| text("left {n}, right {n}"));
    rows.get("/std/fs", "`fs`: write, read and remove a file", file)
        .answers(|| text("what was written: {n}"));
    rows.get("/std/fs/read_dir", "`fs::read_dir`", read_dir)
        .answers(|| matches("^(.+, )?err, (.+, )?out(, .+)?$"));
    rows.get("/std/command", "`Command`: `true`", command)
        .answers(|| text("exit status: 0"));
    rows.get("/std/dns", "`(\"localhost\", 80).to_socket_addrs()`", dns)
        .answers(|| matches(r"(^|, )(127\.0\.0\.1|\[::1\]):80(,|$)"));
}

/// `Debug` formats it piece by piece, while the lock of standard output is held.
#[derive(Debug)]
#[allow(dead_code)] // its fields are read by `Debug`
struct Visitor {
    number: u64,
    names: Vec<String>,
}

fn println(request: &Request) -> Result<String, Failure> {
    let number = number(request)?;
    let names = vec!["Ada".to_owned(), "Grace".to_owned()];
    println!("a greeting of {:?}", Visitor { number, names });
    Ok(format!("printed {number}"))
}

fn spawn(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let other = thread::spawn(move || format!("another thread says {n}"));
    other
        .join()
        .map_err(|_| Failure::internal("the other thread panicked"))
}

fn scope(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let (left, right) = thread::scope(|scope| {
        let left = scope.spawn(|| format!("left {n}"));
        let right = scope.spawn(|| format!("right {n}"));
        (left.join(), right.join())
    });
    let panicked = |_| Failure::internal("another thread panicked");
    Ok(format!(
        "{}, {}",
        left.map_err(panicked)?,
        right.map_err(panicked)?
    ))
}

fn file(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let path = env::temp_dir().join(format!("file {n}"));
    fs::write(&path, format!("what was written: {n}"))?;
    let text = fs::read_to_string(&path)?;
    fs::remove_file(&path)?;
    Ok(text)
}

/// The driver's folder: what the server writes to standard output and standard error is there.
fn read_dir(_: &Request) -> Result<String, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(env::temp_dir())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(", "))
}

fn command(_: &Request) -> Result<String, Failure> {
    Ok(Command::new("true").status()?.to_string())
}

fn dns(_: &Request) -> Result<String, Failure> {
    let addresses: Vec<String> = ("localhost", 80)
        .to_socket_addrs()?
        .map(|address| address.to_string())
        .collect();
    Ok(addresses.join(", "))
}
