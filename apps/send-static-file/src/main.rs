//! Serves the files below a folder: `send-static-file --root docs`. A file goes through the reply slot, so
//! its size does not matter to the bucket.
//!
//! | a request | gets |
//! |---|---|
//! | GET or HEAD of a file | 200 with `ETag`, `Accept-Ranges` and `Last-Modified`: the later of the times of its last modification and its last change of status; with `--replicas`, of its last modification |
//! | of a folder | its `index.html`, after a redirect to the name with a slash; 404 if it has none |
//! | of a link, a device, a FIFO, a socket | 404; with `--follow-links` what a link leads to below the root |
//! | of what may not be read | 403 |
//! | of a name that begins with a dot, or lies below one | 404; but `/.well-known/` (RFC 8615); with `--dot-files` as others |
//! | while there is no folder in the root's place | 503 |
//! | with conditions | 304 or 412 by RFC 9110 §13.2.2 |
//! | with one range, and an `If-Range` that holds | 206, or 416 |
//! | with several ranges | 200 and the whole file |
//!
//! `sendfile` would save a copy, and has no place here: the socket is the front end's, often in another
//! process, and a loop must not wait for a disk, as `sendfile` does when the file is not in the page cache.
//! Here only the handler's own thread waits. The file is read straight into the reply slot, so there is one
//! copy, as from a pipe.

mod conditions;
mod encodings;
mod media;
mod ranges;
mod root;

use conditions::{Conditions, Tags, Validators, Verdict};
use encodings::Coding;
use media::MediaType;
use ranges::{Selection, select};
use root::{Folder, Found, Root};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::SystemTime;
use transom::{Failure, Registered, Request, Response, Router};

/// What is served when a folder is asked for.
const INDEX: &str = "index.html";

#[derive(clap::Args)]
struct Flags {
    /// Folder whose files are served
    #[arg(
        long,
        env = "TRANSOM_ROOT",
        value_name = "FOLDER",
        default_value = ".",
        help_heading = "Files"
    )]
    root: PathBuf,

    /// Follow symbolic links that lead to a place below the root; without it they give 404
    #[arg(long, env = "TRANSOM_FOLLOW_LINKS", help_heading = "Files")]
    follow_links: bool,

    /// Send FILE.br or FILE.gz in place of FILE to clients that accept it; keep the copies up to date
    /// yourself
    #[arg(long, env = "TRANSOM_PRECOMPRESSED", help_heading = "Files")]
    precompressed: bool,

    /// Serve files and folders whose names begin with a dot (.git, .env), too; without it only /.well-known/
    /// is there
    #[arg(long, env = "TRANSOM_DOT_FILES", help_heading = "Files")]
    dot_files: bool,

    /// Make ETags of size and modification time alone, so that machines with copies of the same files agree
    /// on them, as behind a load balancer; they are weak then, and downloads that were interrupted begin
    /// anew. The copies must have the same modification times (rsync -t, tar, image layers), and a new
    /// version another one
    #[arg(long, env = "TRANSOM_REPLICAS", help_heading = "Files")]
    replicas: bool,
}

/// What the flags have made; set once, before the first request.
static SITE: OnceLock<Site> = OnceLock::new();

struct Site {
    root: Root,
    precompressed: bool,
    dot_files: bool,
    tags: Tags,
}

impl Site {
    fn open(flags: &Flags) -> Result<Self, String> {
        let root = Root::open(&flags.root, flags.follow_links)
            .map_err(|error| format!("--root {}: {error}", flags.root.display()))?;
        Ok(Self {
            root,
            precompressed: flags.precompressed,
            dot_files: flags.dot_files,
            tags: if flags.replicas {
                Tags::Replicas
            } else {
                Tags::OwnFile
            },
        })
    }

    fn send<'r>(&self, request: &'r Request) -> Result<Response<'r>, Failure> {
        let name = relative(request.path()).ok_or_else(not_found)?;
        if !self.dot_files && is_hidden(&name) {
            return Err(not_found());
        }
        let folder = self.enter()?;
        match folder.find(&name)? {
            Found::File(file, metadata) => self.send_file(request, &folder, &name, file, &metadata),
            // Only if the folder has an index: clients must not learn whether other folders exist.
            Found::Folder => match folder.find(&format!("{name}/{INDEX}"))? {
                Found::File(..) => Ok(Response::redirect(with_slash(request)).with_status(308)),
                Found::Forbidden => Err(forbidden()),
                Found::Folder | Found::Nothing => Err(not_found()),
            },
            Found::Forbidden => Err(forbidden()),
            Found::Nothing => Err(not_found()),
        }
    }

    /// The root as it is now.
    fn enter(&self) -> Result<Folder, Failure> {
        self.root.enter().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Failure::unavailable("The files are being replaced. Try again in a moment.")
            }
            _ => error.into(),
        })
    }

    fn send_file<'r>(
        &self,
        request: &'r Request,
        folder: &Folder,
        name: &str,
        file: Registered<File>,
        metadata: &Metadata,
    ) -> Result<Response<'r>, Failure> {
        let media = MediaType::of(name);
        let (file, metadata, coding, suffix) = match self
            .compressed(request, folder, name, media)?
        {
            Some((file, metadata, coding)) => (file, metadata, Some(coding.name), coding.suffix),
            None => (file, metadata.clone(), media.coding, ""),
        };
        let size = metadata.len();
        let validators = Validators::of(&metadata, self.tags, SystemTime::now());
        let finish = |mut response: Response<'r>| {
            response = response.header("ETag", validators.etag());
            if let Some(modified) = validators.last_modified() {
                response = response.header("Last-Modified", modified);
            }
            if self.precompressed {
                response = response.header("Vary", "Accept-Encoding");
            }
            response
        };
        let was_here = |then: SystemTime| {
            let since = then
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let name = format!("{name}{suffix}");
            self.root
                .has_led_there_since(&name, since.as_secs().cast_signed())
        };
        let ranges = match validators.judge(&conditions(request), was_here) {
            Verdict::NotModified => return Ok(finish(Response::empty(304))),
            Verdict::Failed => {
                return Ok(Response::text("Precondition Failed\n").with_status(412));
            }
            Verdict::Send { ranges } => ranges,
        };
        let range = joined(request, "range").filter(|_| ranges && request.method() == "GET");
        let (status, start, len) = match range.map_or(Selection::Whole, |range| select(range, size))
        {
            Selection::Whole => (200, 0, size),
            Selection::Part { start, len } => (206, start, len),
            Selection::Unsatisfiable => {
                let response = Response::text("Range Not Satisfiable\n").with_status(416);
                return Ok(finish(response)
                    .header("Content-Range", format_args!("bytes */{size}"))
                    .header("Accept-Ranges", "bytes"));
            }
        };
        let mut response = finish(part(file, start, len).with_status(status).with_length(len))
            .header("Content-Type", media)
            .header("Accept-Ranges", "bytes");
        if status == 206 {
            let last = start + len - 1;
            response =
                response.header("Content-Range", format_args!("bytes {start}-{last}/{size}"));
        }
        if let Some(coding) = coding {
            response = response.header("Content-Encoding", coding);
        }
        Ok(response)
    }

    /// The copy of a file in the coding that the client likes best, if there is one.
    fn compressed(
        &self,
        request: &Request,
        folder: &Folder,
        name: &str,
        media: MediaType,
    ) -> io::Result<Option<(Registered<File>, Metadata, Coding)>> {
        if !self.precompressed || media.coding.is_some() {
            return Ok(None);
        }
        for coding in encodings::accepted(joined(request, "accept-encoding").unwrap_or_default()) {
            if let Found::File(file, metadata) = folder.find(&format!("{name}{}", coding.suffix))? {
                return Ok(Some((file, metadata, coding)));
            }
        }
        Ok(None)
    }
}

/// So many bytes of a file, from `start` on.
fn part<'r>(file: Registered<File>, start: u64, len: u64) -> Response<'r> {
    Response::stream(move |out| {
        while out.written() < len {
            // Straight from the file into the slot.
            let at = start + out.written();
            match file.read_at(out.space()?, at) {
                // The file has become shorter. What is missing is not padded: the connection ends before the
                // announced length, so that the client notices.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => out.advance(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

fn not_found() -> Failure {
    Failure::not_found("Not Found")
}

fn forbidden() -> Failure {
    Failure::forbidden("Forbidden")
}

/// The name below the root that a decoded path stands for: a folder's is its index's. `None` if no file can
/// have that name.
fn relative(path: &str) -> Option<String> {
    let path = path.strip_prefix('/')?;
    let name = if path.is_empty() || path.ends_with('/') {
        format!("{path}{INDEX}")
    } else {
        path.to_owned()
    };
    // The front end has resolved dots, but that a path cannot leave the root must not depend on the caller.
    let names = name.split('/');
    let plain = |name: &str| !matches!(name, "" | "." | "..");
    names.into_iter().all(plain).then_some(name)
}

/// Whether a name, or a folder before it, begins with a dot: such files are not public (`.git`, `.env`,
/// `.htpasswd`), but `.well-known` at the root is (RFC 8615).
fn is_hidden(name: &str) -> bool {
    let public = name.strip_prefix(".well-known/").unwrap_or(name);
    public.split('/').any(|name| name.starts_with('.'))
}

/// Where a folder's index is: the path with a slash, and with its query.
///
/// Made of the decoded path, not of the target as it came: `//elsewhere/%2e%2e/folder` is a path of ours, but
/// as a target the address of another server.
fn with_slash(request: &Request) -> String {
    let mut location = String::new();
    for &byte in request.path().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                location.push(char::from(byte));
            }
            _ => {
                let hex = |digit: u8| char::from(b"0123456789ABCDEF"[usize::from(digit)]);
                location.extend(['%', hex(byte >> 4), hex(byte & 15)]);
            }
        }
    }
    location.push('/');
    if let Some(query) = request.query_string() {
        location.push('?');
        location.push_str(query);
    }
    location
}

fn conditions(request: &Request) -> Conditions<'_> {
    Conditions {
        if_match: joined(request, "if-match"),
        if_unmodified_since: joined(request, "if-unmodified-since"),
        if_none_match: joined(request, "if-none-match"),
        if_modified_since: joined(request, "if-modified-since"),
        if_range: joined(request, "if-range"),
    }
}

/// The value of a field. Several fields of that name make one list (RFC 9110 §5.3).
fn joined<'r>(request: &'r Request, name: &str) -> Option<&'r [u8]> {
    let mut values = request
        .headers()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value);
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(first);
    };
    let list = [first, second].into_iter().chain(values);
    let list = list.collect::<Vec<_>>().join(&b", "[..]);
    Some(request.arena().alloc_slice_copy(&list))
}

fn send(request: &Request) -> Result<Response<'_>, Failure> {
    let site = SITE.get().ok_or_else(|| Failure::internal("no root"))?;
    site.send(request)
}

fn main() -> ExitCode {
    let router = Router::new().get("/", send).get("/{*path}", send);
    let app = transom::App::new(router).flags(|flags: Flags| {
        let site = Site::open(&flags)?;
        SITE.get_or_init(|| site);
        Ok(())
    });
    // SAFETY: the handlers hold no lock or scope and keep nothing beyond their request. The files that they
    // open are registered.
    unsafe { app.escaping() }.serve()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_empty_or_dot_segments() {
        for (path, name) in [
            ("/", "index.html"),
            ("/a", "a"),
            ("/a/", "a/index.html"),
            ("/a/b.c", "a/b.c"),
            ("/...", "..."),
            ("/.a/..b", ".a/..b"),
        ] {
            assert_eq!(relative(path).as_deref(), Some(name), "{path}");
        }
        for path in [
            "", "a", "//", "//a", "/a//", "/a//b", "/.", "/..", "/../a", "/a/..", "/a/./b",
            "/a/../",
        ] {
            assert_eq!(relative(path), None, "{path}");
        }
    }

    #[test]
    fn names_with_dots_are_hidden_but_well_known_ones() {
        for name in [
            ".env",
            ".git/config",
            "a/.git/config",
            "a/.htpasswd",
            "...",
            ".well-known",
            ".well-known/.secret",
            "a/.well-known/b",
            ".well-knowns/a",
        ] {
            assert!(is_hidden(name), "{name}");
        }
        for name in [
            "a",
            "a.b",
            "a./b",
            ".well-known/security.txt",
            ".well-known/acme-challenge/a",
        ] {
            assert!(!is_hidden(name), "{name}");
        }
    }
}
