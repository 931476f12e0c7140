//! `transom load`: tries to break a server's memory limits, and reports the result.
//!
//! [`mix`] and [`schedule`] say what is sent when, [`engine`] sends it, [`watch`] looks at the server
//! meanwhile, [`edge`] finds the largest request that fits; [`rounds`] and [`findings`] put together what was
//! found, [`report`] judges it, and [`text`], [`html`] and [`plot`] show it. Its own memory is bounded:
//! histograms and series of fixed size, connections and backlog by flag.

mod edge;
mod engine;
mod findings;
mod html;
mod metrics;
mod mix;
mod plot;
mod random;
mod report;
mod rounds;
mod run;
mod schedule;
mod server;
mod settings;
mod tally;
mod target;
mod text;
mod units;
mod watch;

pub use settings::{EXAMPLES, LoadSettings};

use report::LoadReport;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// It could not be run.
const COULD_NOT: u8 = 2;

/// The bound was passed, or ordinary requests suffered.
const NOT_WELL: u8 = 1;

/// Loads a server, and tells what was found.
pub fn run(settings: &LoadSettings) -> ExitCode {
    let told = settings
        .check()
        .and_then(|()| run::run(settings))
        .and_then(|report| tell(settings, &report).map(|()| report.fine));
    match told {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_WELL),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(COULD_NOT)
        }
    }
}

fn tell(settings: &LoadSettings, report: &LoadReport) -> Result<(), String> {
    let summary = text::summary(report);
    let json_to_stdout = settings.json.as_deref() == Some(Path::new("-"));
    if let Some(path) = &settings.json {
        let mut json =
            serde_json::to_string_pretty(report).map_err(|error| format!("--json: {error}"))?;
        json.push('\n');
        match json_to_stdout {
            true => print(&mut io::stdout(), &json)?,
            false => write("--json", path, &json)?,
        }
    }
    if let Some(path) = &settings.html {
        write("--html", path, &html::page(report))?;
    }
    if let Some(folder) = &settings.plots {
        fs::create_dir_all(folder)
            .map_err(|error| format!("--plots {}: {error}", folder.display()))?;
        for figure in plot::figures(report) {
            write(
                "--plots",
                &folder.join(format!("{}.svg", figure.name)),
                &transom_plot::file(&figure.svg),
            )?;
        }
    }
    match json_to_stdout {
        true => print(&mut io::stderr(), &summary),
        false => print(&mut io::stdout(), &summary),
    }
}

fn print(out: &mut impl Write, text: &str) -> Result<(), String> {
    out.write_all(text.as_bytes())
        .map_err(|error| format!("the report cannot be written: {error}"))
}

fn write(flag: &str, path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{flag} {}: {error}", path.display()))
}
