//! A user whose threads are this test's alone: the limit on threads (`RLIMIT_NPROC`) counts per user, and
//! does not bind root.

use crate::{Launch, Server};
use std::process::{Command, Stdio};

/// A user that this process becomes in what it starts.
#[derive(Debug)]
pub struct OtherUser([String; 3]);

impl OtherUser {
    /// A user who can run `program` and set limits. None, with a line that says why the test is skipped, if
    /// there is none: it takes root, `setpriv` and `prlimit`, and a program that any user may run.
    #[must_use]
    pub fn who_runs(program: &str) -> Option<Self> {
        let id = 100_000 + std::process::id();
        let user = OtherUser([
            format!("--reuid={id}"),
            format!("--regid={id}"),
            "--clear-groups".to_owned(),
        ]);
        let can = user.succeeds(&[program, "--check"]) && user.succeeds(&["prlimit", "--nproc"]);
        if !can {
            println!(
                "skipped: not root, no setpriv and prlimit, or {program} is not for everybody"
            );
        }
        can.then_some(user)
    }

    /// A launch of `program` as this user.
    #[must_use]
    pub fn launch(&self, program: &str) -> Launch {
        Launch::of_file("setpriv")
            .words(self.0.iter().map(String::as_str))
            .words([program])
    }

    /// From now on `server`, which this user runs, starts no thread that would be one more than `threads`.
    ///
    /// # Panics
    /// If the limit cannot be set.
    pub fn limit_threads(&self, server: &Server, threads: u32) {
        let pid = format!("--pid={}", server.pid());
        assert!(self.succeeds(&["prlimit", &pid, &format!("--nproc={threads}:")]));
    }

    fn succeeds(&self, words: &[&str]) -> bool {
        let status = Command::new("setpriv")
            .args(&self.0)
            .args(words)
            .stdout(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }
}
