//! What the server `crates` tells the driver of each of its routes: what to send, and what must come back.
//!
//! The server prints a list of [`Row`]s as JSON when it is started with `--rows`. So the route's author
//! states beside the handler what it must answer, and the driver knows only what this server can do,
//! whatever features it was built with.

use serde::{Deserialize, Serialize};

/// Stands for the number of the request in bodies and answers.
pub const NUMBER: &str = "{n}";

/// A route and what must hold for it. The driver adds `?n=…` to the path, with another number in each
/// request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Its path.
    pub path: String,
    /// The crate or habit.
    pub uses: String,
    /// What is sent to it.
    pub body: Body,
    /// The status that every answer must have.
    pub status: u16,
    /// The body that every answer must have.
    pub answer: Answer,
    /// The server's environment, beside what it always has.
    pub environment: Vec<(String, String)>,
    /// The server's flags, beside those that it always has.
    pub flags: Vec<String>,
    /// An environment variable that says where another server is; without it the row is skipped.
    pub needs: Option<String>,
    /// What it must write to standard output or standard error.
    pub prints: Option<Prints>,
}

/// The body of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Body {
    /// None: a GET.
    None,
    /// These bytes: a POST.
    Bytes(Vec<u8>),
    /// A text with [`NUMBER`] in it: a POST.
    Text(String),
}

/// The body of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A text with [`NUMBER`] in it.
    Text(String),
    /// A text that this regular expression matches.
    Matches(String),
}

/// Lines that a route writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prints {
    /// The text before the request's number.
    pub text: String,
    /// Each request must have its line. Otherwise one line of all is enough: the platform's own log drops
    /// lines when its queue is full.
    pub each: bool,
}
