//! What the black-box tests are made of: servers that are started as a user starts them, clients that send
//! any bytes, a load that counts its answers, and what `/proc` says of a process.
//!
//! It knows the command line, HTTP and the log's lines, and no type or function that a server uses: what it
//! finds, an operator would have found. Everything waits for a condition with a deadline; nothing
//! sleeps and hopes.

pub mod browser;
pub mod build;
pub mod doors;
#[cfg(target_os = "linux")]
pub mod echo;
#[cfg(target_os = "linux")]
pub mod hanging;
pub mod hostile;
pub mod load;
pub mod ordinary;
#[cfg(target_os = "linux")]
pub mod other_user;
pub mod proc;
#[cfg(target_os = "linux")]
pub mod raw;
pub mod server;
#[cfg(target_os = "linux")]
pub mod succession;

pub use browser::{Browser, Page, View};
pub use load::{Kind, Load, Report};
pub use proc::Sample;
pub use server::{Ended, Launch, Server};
pub use transom_tests_client::{self as client, Answer, Client, PATIENCE, Trouble};

use std::time::{Duration, Instant};

/// Looks again and again until `condition` holds; false if it does not within [`PATIENCE`].
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many requests a long test sends: `default`, or `TRANSOM_TEST_REQUESTS` if that is set.
///
/// # Panics
/// If the variable is no number.
#[must_use]
pub fn requests(default: usize) -> usize {
    match std::env::var("TRANSOM_TEST_REQUESTS") {
        Ok(text) => text
            .parse()
            .expect("TRANSOM_TEST_REQUESTS is a number of requests"),
        Err(_) => default,
    }
}

/// A folder of one test's own, removed when it is dropped.
#[derive(Debug)]
pub struct Folder(std::path::PathBuf);

impl Folder {
    /// An empty folder. `name` is the test's.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("transom-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder can be written");
        // The servers resolve links, so that a comparison must not find one.
        Folder(path.canonicalize().expect("it was just made"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
