//! Serves the files below a folder: `TRANSOM_ROOT=docs send-static-file`. A file goes through the reply slot, so its size
//! does not matter to the bucket.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use transom_platform::{Failure, Request, Response, Router};

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// What the system says of names that no file has, or could have.
const NOBODYS: [ErrorKind; 3] = [
    ErrorKind::NotFound,
    ErrorKind::NotADirectory,
    ErrorKind::InvalidFilename,
];

/// The file that a path names, if it lies below the root: no `..`, and no symbolic link that leads out.
fn find(path: &str) -> Result<PathBuf, Failure> {
    let root = ROOT.get().map_or(Path::new("."), PathBuf::as_path);
    let relative = Path::new(path.trim_start_matches('/'));
    if !relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(Failure::not_found("Not Found"));
    }
    let found = match root.join(relative).canonicalize() {
        Err(error) if NOBODYS.contains(&error.kind()) => {
            return Err(Failure::not_found("Not Found"));
        }
        found => found?,
    };
    let found = if found.is_dir() {
        found.join("index.html")
    } else {
        found
    };
    if found.starts_with(root) && found.is_file() {
        Ok(found)
    } else {
        Err(Failure::not_found("Not Found"))
    }
}

fn send(request: &Request) -> Result<Response<'_>, Failure> {
    let path = find(request.path())?;
    let mut file = File::open(&path)?;
    let length = file.metadata()?.len();
    let content_type = mime_guess::from_path(&path).first_or_octet_stream();
    let response = Response::stream(move |out| {
        loop {
            // Straight from the file into the slot.
            match file.read(out.space()?)? {
                0 => return Ok(()),
                len => out.advance(len),
            }
        }
    });
    Ok(response
        .with_length(length)
        .header("Content-Type", content_type))
}

fn main() -> ExitCode {
    let root = std::env::var_os("TRANSOM_ROOT").unwrap_or_else(|| ".".into());
    match fs::canonicalize(&root) {
        Ok(root) => ROOT.get_or_init(|| root),
        Err(error) => {
            eprintln!("error: TRANSOM_ROOT is {}: {error}", root.display());
            return ExitCode::FAILURE;
        }
    };
    // A file is open while it is sent, so its handler parks rather than leak it: `serve` needs no promise.
    transom::serve(Router::new().get("/", send).get("/{*path}", send))
}
