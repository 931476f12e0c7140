//! Opening what lies below a folder, and nothing else.
//!
//! The kernel ensures this if it can: `openat2` with `RESOLVE_BENEATH` refuses every way out while it
//! resolves, so that there is no moment between a check and an open. If it cannot (before Linux 5.6, or where
//! a sandbox forbids the call), the path is walked one name at a time without following a symbolic link. That
//! is as safe, but cannot tell a link that stays below the root from one that leaves it.
//!
//! It knows nothing of requests.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use transom::Registered;

/// How often a file that is replaced just while it is opened is looked for again.
const ATTEMPTS: usize = 16;

/// Links that a path may have, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// The path of a folder. Having one proves that there was a folder, and that there is a safe way to resolve
/// names below it.
///
/// The folder itself is opened anew for each request ([`Root::enter`]), so that a new folder in its place is
/// noticed: a link `current` that is switched to the next release, or a build that removes its output and
/// makes it again.
pub struct Root {
    path: CString,
    way: Way,
}

/// The folder that a root's path stands for at one moment.
pub struct Folder {
    folder: Registered<OwnedFd>,
    way: Way,
}

#[derive(Clone, Copy)]
enum Way {
    /// `openat2` with these `RESOLVE_` flags.
    Kernel(u64),
    /// One `openat` a name, none of which follows a link.
    Stepwise,
}

/// What a name stands for.
pub enum Found {
    /// A regular file, open for reading, and what the kernel says of it.
    File(Registered<File>, Metadata),
    /// A folder.
    Folder,
    /// Something that this process may not open.
    Forbidden,
    /// Nothing that is served: no such file, no regular file, or a file behind a link that is not followed.
    Nothing,
}

/// Why a folder cannot be a root. Each is a sentence's second half, behind the flag.
#[derive(Debug)]
pub enum RootError {
    /// It cannot be opened.
    Open(io::Error),
    /// Links were to be followed, but `openat2` failed like this.
    Links(io::Error),
}

impl std::fmt::Display for RootError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(error) => write!(f, "{error}; name a folder that exists and may be read"),
            Self::Links(error) => write!(
                f,
                "--follow-links needs the system call openat2, which fails here ({error}): leave the flag out, or use Linux 5.6 or later and a sandbox that permits it"
            ),
        }
    }
}

impl Root {
    /// Opens a folder. With `follow_links` symbolic links are followed as long as they lead to what lies
    /// below it.
    pub fn open(path: &Path, follow_links: bool) -> Result<Self, RootError> {
        // The working directory is looked up once only.
        let path = std::path::absolute(path).map_err(RootError::Open)?;
        let path = CString::new(path.into_os_string().into_encoded_bytes())
            .map_err(|error| RootError::Open(error.into()))?;
        let folder = open_folder(&path).map_err(RootError::Open)?;
        let links = if follow_links {
            0
        } else {
            libc::RESOLVE_NO_SYMLINKS
        };
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | links;
        let way = match open_beneath(folder.as_fd(), c".", FOLDER, resolve) {
            Ok(_) => Way::Kernel(resolve),
            Err(error) if follow_links => return Err(RootError::Links(error)),
            Err(_) => Way::Stepwise,
        };
        Ok(Self { path, way })
    }

    /// The folder as it is now.
    ///
    /// # Errors
    /// It is away, or there are no descriptors.
    pub fn enter(&self) -> io::Result<Folder> {
        Ok(Folder {
            folder: Registered::new(open_folder(&self.path)?),
            way: self.way,
        })
    }

    /// Whether `name`, relative to the folder, has led to the same place since that second, as far as can be
    /// told: no link on the way was made or moved, and no folder renamed, above the root neither. A folder
    /// whose entries have changed since it was renamed does not tell; neither does one that something was
    /// mounted over.
    pub fn has_led_there_since(&self, name: &str, second: i64) -> bool {
        self.switched(name).is_ok_and(|last| last <= second)
    }

    /// The last second in which the way to `name` changed.
    fn switched(&self, name: &str) -> io::Result<i64> {
        let root = Path::new(OsStr::from_bytes(self.path.as_bytes()));
        let mut ahead: Vec<_> = root.join(name).components().rev().map(own).collect();
        let (mut at, mut last, mut links) = (PathBuf::new(), i64::MIN, 0);
        while let Some(part) = ahead.pop() {
            let next = at.join(&part);
            let seen = next.symlink_metadata()?;
            let (changed, modified) = (
                (seen.ctime(), seen.ctime_nsec()),
                (seen.mtime(), seen.mtime_nsec()),
            );
            // A change of a folder's entries sets both.
            if seen.is_symlink() || seen.is_dir() && changed != modified {
                last = last.max(seen.ctime());
            }
            if seen.is_symlink() {
                links += 1;
                if links > LINKS_MAX {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                ahead.extend(next.read_link()?.components().rev().map(own));
            } else {
                at = next;
            }
        }
        Ok(last)
    }
}

fn own(part: Component<'_>) -> OsString {
    part.as_os_str().to_owned()
}

impl Folder {
    /// What `path`, relative and without empty or dot segments, stands for.
    ///
    /// # Errors
    /// Errors that have nothing to do with the name, such as a lack of descriptors.
    pub fn find(&self, path: &str) -> io::Result<Found> {
        let Ok(path) = CString::new(path) else {
            return Ok(Found::Nothing);
        };
        for _ in 0..ATTEMPTS {
            // Looked at before it is opened: to open a FIFO wakes a process that waits at its other end, and
            // to open a device may do anything.
            let seen = match self.open_at(&path, libc::O_PATH) {
                Ok(seen) => File::from(seen).metadata()?,
                Err(error) => match meaning(&error) {
                    Meaning::Answer(found) => return Ok(found),
                    Meaning::Again => continue,
                    Meaning::Trouble => return Err(error),
                },
            };
            if seen.is_dir() {
                return Ok(Found::Folder);
            }
            if !seen.is_file() {
                return Ok(Found::Nothing);
            }
            // If a FIFO has taken its place just now, this does not wait for it.
            let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
            let file = match self.open_at(&path, flags) {
                Ok(file) => Registered::new(File::from(file)),
                Err(error) => match meaning(&error) {
                    Meaning::Answer(found) => return Ok(found),
                    Meaning::Again => continue,
                    Meaning::Trouble => return Err(error),
                },
            };
            let metadata = file.metadata()?;
            if (metadata.dev(), metadata.ino()) == (seen.dev(), seen.ino()) {
                return Ok(Found::File(file, metadata));
            }
        }
        Err(io::Error::other(
            "the file is replaced again and again while it is opened",
        ))
    }

    fn open_at(&self, path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
        match self.way {
            Way::Kernel(resolve) => open_beneath(self.folder.as_fd(), path, flags, resolve),
            Way::Stepwise => self.step_to(path, flags),
        }
    }

    fn step_to(&self, path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
        let mut folder: Option<Registered<OwnedFd>> = None;
        let mut names = path.to_bytes().split(|&byte| byte == b'/').peekable();
        while let Some(name) = names.next() {
            // `Root::find` is given none of these; a walk that met one would leave the root or lose count.
            if matches!(name, b"" | b"." | b"..") {
                return Err(io::ErrorKind::NotFound.into());
            }
            let name = CString::new(name)?;
            let flags = if names.peek().is_some() {
                libc::O_PATH | libc::O_DIRECTORY
            } else {
                flags
            };
            let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
            let at = folder.as_deref().unwrap_or(&self.folder).as_raw_fd();
            // SAFETY: the name ends in NUL, and the descriptor is open.
            let next = owned(unsafe { libc::openat(at, name.as_ptr(), flags) })?;
            folder = Some(Registered::new(next));
        }
        let found = folder.map(Registered::into_inner);
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// What an error of an open says.
enum Meaning {
    Answer(Found),
    /// A rename came in between, and the kernel could not tell whether the path led out.
    Again,
    Trouble,
}

fn meaning(error: &io::Error) -> Meaning {
    match error.raw_os_error() {
        // EXDEV is a way out, ELOOP a link that is not followed; ENXIO is a socket's.
        None
        | Some(
            libc::ENOENT
            | libc::ENOTDIR
            | libc::ENAMETOOLONG
            | libc::EXDEV
            | libc::ELOOP
            | libc::ENXIO,
        ) => Meaning::Answer(Found::Nothing),
        Some(libc::EACCES | libc::EPERM) => Meaning::Answer(Found::Forbidden),
        Some(libc::EAGAIN | libc::EINTR) => Meaning::Again,
        Some(_) => Meaning::Trouble,
    }
}

/// How a folder is opened.
const FOLDER: libc::c_int = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;

fn open_folder(path: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the path ends in NUL.
    owned(unsafe { libc::open(path.as_ptr(), FOLDER) })
}

fn open_beneath(
    folder: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: three integers, for which zero is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.resolve = resolve;
    // SAFETY: the path ends in NUL, and `how` is a structure of the size that is stated; the kernel writes to
    // neither.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            folder.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    owned(libc::c_int::try_from(fd).unwrap_or(-1))
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Site(PathBuf);

    impl Site {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("transom-root-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("public/sub")).expect("writable");
            let public = path.join("public");
            fs::write(path.join("secret"), "secret").expect("writable");
            fs::write(public.join("a"), "a").expect("writable");
            fs::write(public.join("sub/b"), "b").expect("writable");
            symlink("a", public.join("alias")).expect("writable");
            symlink("sub", public.join("folder-alias")).expect("writable");
            symlink("..", public.join("up")).expect("writable");
            symlink(path.join("secret"), public.join("out")).expect("writable");
            symlink("loop", public.join("loop")).expect("writable");
            let fifo = CString::new(public.join("fifo").into_os_string().into_encoded_bytes());
            let fifo = fifo.expect("no NUL");
            // SAFETY: the path ends in NUL.
            assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
            drop(std::os::unix::net::UnixListener::bind(public.join("socket")).expect("writable"));
            Site(path)
        }

        fn root(&self, follow_links: bool) -> Folder {
            entered(&self.0.join("public"), follow_links)
        }
    }

    impl Drop for Site {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn entered(path: &Path, follow_links: bool) -> Folder {
        let root = Root::open(path, follow_links).unwrap_or_else(|error| panic!("{error}"));
        root.enter().expect("it is there")
    }

    fn contents(root: &Folder, path: &str) -> String {
        match root.find(path).expect("descriptors are free") {
            Found::File(mut file, metadata) => {
                let mut text = String::new();
                file.read_to_string(&mut text).expect("text");
                assert_eq!(metadata.len(), text.len() as u64);
                text
            }
            Found::Folder => "(folder)".into(),
            Found::Forbidden => "(forbidden)".into(),
            Found::Nothing => "(nothing)".into(),
        }
    }

    fn both_ways(site: &Site) -> [Folder; 2] {
        let by_kernel = site.root(false);
        assert!(
            matches!(by_kernel.way, Way::Kernel(_)),
            "the tests need Linux 5.6"
        );
        let stepwise = Folder {
            way: Way::Stepwise,
            ..site.root(false)
        };
        [by_kernel, stepwise]
    }

    #[test]
    fn files_and_folders_are_found_and_links_are_not() {
        let site = Site::new("plain");
        for root in both_ways(&site) {
            for (path, found) in [
                ("a", "a"),
                ("sub/b", "b"),
                ("sub", "(folder)"),
                ("alias", "(nothing)"),
                ("folder-alias/b", "(nothing)"),
                ("folder-alias", "(nothing)"),
                ("nowhere", "(nothing)"),
                ("nowhere/b", "(nothing)"),
                ("a/b", "(nothing)"),
                ("a\0b", "(nothing)"),
            ] {
                assert_eq!(contents(&root, path), found, "{path}");
            }
            assert_eq!(contents(&root, &"x".repeat(256)), "(nothing)");
            assert_eq!(contents(&root, &"x/".repeat(2100)), "(nothing)");
        }
        // Other tests of this process open descriptors of their own, so only those of this folder count.
        assert_eq!(descriptors_below(&site.0.join("public/sub")), 0);
    }

    fn descriptors_below(folder: &Path) -> usize {
        let open = fs::read_dir("/proc/self/fd").expect("a process has descriptors");
        open.flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|path| path.starts_with(folder))
            .count()
    }

    #[test]
    fn nothing_leads_out() {
        let site = Site::new("out");
        let [by_kernel, stepwise] = both_ways(&site);
        let following = site.root(true);
        for root in [by_kernel, stepwise, following] {
            for path in [
                "../secret",
                "up/secret",
                "up",
                "out",
                "sub/../../secret",
                "/etc/passwd",
                "loop",
                "",
            ] {
                assert_eq!(contents(&root, path), "(nothing)", "{path}");
            }
        }
    }

    #[test]
    fn links_are_followed_when_asked_for() {
        let site = Site::new("links");
        let root = site.root(true);
        assert_eq!(contents(&root, "alias"), "a");
        assert_eq!(contents(&root, "folder-alias/b"), "b");
        assert_eq!(contents(&root, "folder-alias"), "(folder)");
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let site = Site::new("odd");
        for root in both_ways(&site) {
            // An open of a FIFO would wait for a writer, for ever.
            assert_eq!(contents(&root, "fifo"), "(nothing)");
            assert_eq!(contents(&root, "socket"), "(nothing)");
        }
        let devices = entered(Path::new("/dev"), false);
        assert_eq!(contents(&devices, "null"), "(nothing)");
    }

    #[test]
    fn a_folder_that_takes_the_roots_place_is_seen() {
        let site = Site::new("replaced");
        let (current, public) = (site.0.join("current"), site.0.join("public"));
        symlink("public", &current).expect("writable");
        let root = Root::open(&current, false).unwrap_or_else(|error| panic!("{error}"));
        let now = |path| root.enter().map(|folder| contents(&folder, path));
        assert_eq!(now("a").expect("there"), "a");
        fs::create_dir(site.0.join("next")).expect("writable");
        fs::write(site.0.join("next/a"), "next").expect("writable");
        symlink("next", site.0.join("switch")).expect("writable");
        fs::rename(site.0.join("switch"), &current).expect("writable");
        assert_eq!(now("a").expect("there"), "next");
        fs::remove_dir_all(site.0.join("next")).expect("writable");
        assert_eq!(now("a").expect_err("away").kind(), io::ErrorKind::NotFound);
        fs::rename(public, site.0.join("next")).expect("writable");
        assert_eq!(now("a").expect("there"), "a");
    }

    #[test]
    fn a_root_that_is_no_folder_is_refused() {
        let site = Site::new("refused");
        for path in ["nowhere", "public/a"] {
            let error = Root::open(&site.0.join(path), false).err().expect(path);
            assert!(error.to_string().contains("name a folder"), "{error}");
        }
    }
}
