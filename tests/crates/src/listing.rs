//! [`Rows`]: the routes of this server, with what must hold for each.
//!
//! What is sent and expected is written as functions, and called for `--rows` only: a server that serves
//! must not have used a crate before its first request, since a static that is made inside a request is one
//! of the things to be tested.

use rows::{Answer, Body, Prints, Row};
use std::process::ExitCode;
use transom::{Failure, Handler, Request, Router};

/// A route in the making.
pub struct Entry {
    row: Row,
    body: fn() -> Body,
    answer: fn() -> Answer,
    before: fn(),
}

/// All routes of this server.
#[derive(Default)]
pub struct Rows {
    router: Router,
    entries: Vec<Entry>,
}

impl Rows {
    /// A route that is asked by GET.
    pub fn get(&mut self, path: &str, uses: &str, handler: impl Handler) -> &mut Entry {
        self.router = std::mem::take(&mut self.router).get(path, handler);
        self.entries.push_mut(Entry::new(path, uses, || Body::None))
    }

    /// A route that is sent a body by POST.
    pub fn post(
        &mut self,
        path: &str,
        uses: &str,
        body: fn() -> Body,
        handler: impl Handler,
    ) -> &mut Entry {
        self.router = std::mem::take(&mut self.router).post(path, handler);
        self.entries.push_mut(Entry::new(path, uses, body))
    }

    /// Prints them for the driver.
    pub fn print(self) -> ExitCode {
        let rows: Vec<Row> = self.entries.into_iter().map(Entry::finish).collect();
        match serde_json::to_writer(std::io::stdout(), &rows) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }

    /// The router of all routes. Runs the start-up work of the chosen route first.
    pub fn into_router(self, chosen: &str) -> Router {
        if let Some(entry) = self.entries.iter().find(|entry| entry.row.path == chosen) {
            (entry.before)();
        }
        self.router.get("/", |_: &Request| "crates\n")
    }
}

impl Entry {
    fn new(path: &str, uses: &str, body: fn() -> Body) -> Self {
        let row = Row {
            path: path.to_owned(),
            uses: uses.to_owned(),
            body: Body::None,
            status: 200,
            answer: Answer::Text(String::new()),
            environment: Vec::new(),
            flags: Vec::new(),
            needs: None,
            prints: None,
        };
        Entry {
            row,
            body,
            answer: || Answer::Text(String::new()),
            before: || {},
        }
    }

    /// The body of every answer.
    pub fn answers(&mut self, answer: fn() -> Answer) -> &mut Self {
        self.answer = answer;
        self
    }

    /// The status of every answer, if it is not 200.
    pub fn status(&mut self, status: u16) -> &mut Self {
        self.row.status = status;
        self
    }

    /// What `main` does before it serves.
    #[cfg(feature = "heavy")]
    pub fn before(&mut self, before: fn()) -> &mut Self {
        self.before = before;
        self
    }

    /// A variable of the server's environment.
    pub fn environment(&mut self, name: &str, value: &str) -> &mut Self {
        self.row
            .environment
            .push((name.to_owned(), value.to_owned()));
        self
    }

    /// Flags of the server, separated by spaces.
    pub fn flags(&mut self, flags: &str) -> &mut Self {
        self.row.flags.extend(flags.split(' ').map(str::to_owned));
        self
    }

    /// An environment variable that says where another server is.
    #[cfg(feature = "heavy")]
    pub fn needs(&mut self, variable: &str) -> &mut Self {
        self.row.needs = Some(variable.to_owned());
        self
    }

    /// The text before the request's number in the line that each request must write.
    pub fn prints(&mut self, text: &str) -> &mut Self {
        let text = text.to_owned();
        self.row.prints = Some(Prints { text, each: true });
        self
    }

    /// The text before the request's number in a line that some requests must write.
    pub fn prints_some(&mut self, text: &str) -> &mut Self {
        let text = text.to_owned();
        self.row.prints = Some(Prints { text, each: false });
        self
    }

    fn finish(self) -> Row {
        Row {
            body: (self.body)(),
            answer: (self.answer)(),
            ..self.row
        }
    }
}

/// The number of a request.
pub fn number(request: &Request) -> Result<u64, Failure> {
    let n = request.query_as("n")?;
    n.ok_or_else(|| Failure::bad_request("?n= is missing"))
}

/// An answer with `{n}` where the request's number is to be.
pub fn text(text: &str) -> Answer {
    Answer::Text(text.to_owned())
}

/// An answer that a regular expression matches.
pub fn matches(pattern: &str) -> Answer {
    Answer::Matches(pattern.to_owned())
}

/// A variable of the environment that must be there.
#[cfg(feature = "heavy")]
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the environment has no {name}"))
}
