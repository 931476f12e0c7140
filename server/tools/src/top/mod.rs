//! `transom top`: the live page of the admin address, in a terminal.

mod grid;
mod header;
mod model;
mod parts;
mod rates;
mod tables;
#[cfg(test)]
mod tests;
mod units;
mod view;

use crate::admin_client::AdminAddress;
use crate::snapshot::{self, SnapshotError};
use model::Model;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::terminal;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use transom::snapshot::Snapshot;

/// How often keys are looked for.
const KEYS: Duration = Duration::from_millis(50);

/// The width of a picture that is not for a terminal.
const PICTURE_WIDTH: u16 = 120;

/// What `transom top` takes.
#[derive(Debug, clap::Args)]
pub struct Top {
    /// The server's --admin: ADDRESS:PORT or unix:PATH
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    address: AdminAddress,

    /// Time between two snapshots
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = interval)]
    interval: Duration,

    /// Print one picture as plain text, of two snapshots an interval apart, and end
    #[arg(long)]
    once: bool,
}

/// Reads `500ms` or `2s`, from 50 ms to an hour.
fn interval(text: &str) -> Result<Duration, String> {
    let (number, factor_ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => (text, 0),
    };
    let ms = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor_ms));
    match ms {
        Some(ms @ 50..=3_600_000) => Ok(Duration::from_millis(ms)),
        _ => Err("not a time between 50ms and 3600s, as in 500ms or 2s".to_owned()),
    }
}

/// Runs it: status 1 if there is no server to look at, or no terminal.
#[must_use]
pub fn run(top: &Top) -> ExitCode {
    let done = if top.once { once(top) } else { live(top) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn once(top: &Top) -> Result<(), Box<dyn std::error::Error>> {
    let mut model = Model::new(&top.address);
    model.hear(Ok(snapshot::take(&top.address)?));
    // A rate needs two.
    thread::sleep(top.interval);
    model.hear(Ok(snapshot::take(&top.address)?));
    let width = if io::stdout().is_terminal() {
        terminal::size().map_or(PICTURE_WIDTH, |(width, _)| width.max(40))
    } else {
        PICTURE_WIDTH
    };
    io::stdout().write_all(picture(&mut model, width)?.as_bytes())?;
    Ok(())
}

/// All panes as text, as high as they need.
fn picture(model: &mut Model, width: u16) -> Result<String, Box<dyn std::error::Error>> {
    model.shown = [true; 4];
    model.keys = false;
    let mut terminal = Terminal::new(TestBackend::new(width, view::height(model, width)))?;
    terminal.draw(|frame| view::draw(frame, model))?;
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for line in buffer.content().chunks(usize::from(width)) {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(text)
}

fn live(top: &Top) -> Result<(), Box<dyn std::error::Error>> {
    if !io::stdout().is_terminal() {
        return Err("the output is no terminal: use --once for one picture as plain text".into());
    }
    // Errors at the start are reported as by other commands, not on a screen.
    let mut model = Model::new(&top.address);
    model.hear(Ok(snapshot::take(&top.address)?));

    // A server that is slow to answer does not keep the keys waiting. The thread ends with the process.
    let (send, news) = mpsc::channel();
    let (address, interval) = (top.address.clone(), top.interval);
    thread::spawn(move || {
        loop {
            let asked = Instant::now();
            if send.send(snapshot::take(&address)).is_err() {
                return;
            }
            thread::sleep(interval.saturating_sub(asked.elapsed()));
        }
    });

    // It also gives the terminal back if this panics.
    let mut terminal = ratatui::try_init()?;
    let done = watch(&mut terminal, &mut model, &news);
    ratatui::restore();
    done.map_err(Into::into)
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    model: &mut Model,
    news: &mpsc::Receiver<Result<Snapshot, SnapshotError>>,
) -> io::Result<()> {
    loop {
        terminal.draw(|frame| view::draw(frame, model))?;
        // Until there is something new to draw.
        loop {
            if event::poll(KEYS)? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => {
                        if !model.press(key.code, key.modifiers) {
                            return Ok(());
                        }
                        break;
                    }
                    Event::Resize(..) => break,
                    _ => {}
                }
            }
            if let Some(last) = news.try_iter().last() {
                model.hear(last);
                break;
            }
        }
    }
}
