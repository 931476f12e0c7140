//! An application that logs: with what it has installed itself, or with nothing of its own.
//!
//! `OWN_LOG` says what it installs and when: `tracing` or `log` in `main`, `late` (both) in its warm-up,
//! nothing if it is not set. `GET /N` logs a line with each. `GET /large` outgrows its bucket inside a line,
//! under the lock of its own log.

use std::fmt::{self, Write as _};
use std::hint::black_box;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};
use transom::{App, Request, Router};

/// The lock under which lines are made and written, as loggers have one.
static LINE: Mutex<String> = Mutex::new(String::new());

fn write_line(from: &str, text: impl fmt::Display) {
    let Ok(mut line) = LINE.lock() else {
        println!("the lock is poisoned");
        return;
    };
    line.clear();
    let _ = write!(line, "{from}: {text}");
    println!("{line}");
}

struct OwnSubscriber;

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl Subscriber for OwnSubscriber {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        write_line("own tracing", text.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct OwnLogger;

impl log::Log for OwnLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        write_line("own log", record.args());
    }
    fn flush(&self) {
        let _ = std::io::stdout().flush();
    }
}

fn install_tracing() {
    tracing::subscriber::set_global_default(OwnSubscriber).expect("nothing else is installed");
}

fn install_log() {
    log::set_logger(&OwnLogger).expect("nothing else is installed");
    log::set_max_level(log::LevelFilter::Info);
}

fn answer(request: &Request) -> String {
    let n = request.param("n").unwrap_or_default();
    tracing::info!(n, "an event");
    log::info!("a line of {n}");
    "logged\n".to_owned()
}

struct Large;

impl fmt::Display for Large {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", black_box(vec![1u8; 1000 << 10]).len())
    }
}

fn large(_: &Request) -> String {
    tracing::info!(large = %Large, "an event");
    log::info!("a line of {Large}");
    "logged\n".to_owned()
}

fn main() -> ExitCode {
    let router = Router::new().get("/large", large).get("/{n}", answer);
    let app = App::new(router);
    let app = match std::env::var("OWN_LOG").as_deref() {
        Ok("tracing") => {
            install_tracing();
            app
        }
        Ok("log") => {
            install_log();
            app
        }
        Ok("late") => app.warm_up(|| {
            tracing::info!("before");
            install_tracing();
            install_log();
        }),
        _ => app.warm_up(|| tracing::info!("before")),
    };
    app.serve()
}
