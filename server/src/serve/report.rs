//! What is said outside of the log: why a start failed, what a command line has asked for, and with which
//! status the process ends.

use super::error::StartError;
use crate::settings::FrontSettings;
use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use transom_log::{self as log, LogHandle, LogOptions};

/// Runs a server with logs, and writes the last lines of them.
pub(super) fn with_logs(
    settings: &FrontSettings,
    serve: impl FnOnce(&LogHandle, log::Pending) -> Result<ExitCode, StartError>,
) -> Result<ExitCode, StartError> {
    let (logs, pending) = log::install(LogOptions {
        format: settings.log.into(),
        level: settings.log_level,
        queue: usize::from(settings.log_queue.get()),
    })?;
    let result = serve(&logs, pending);
    logs.shutdown(Instant::now() + Duration::from_secs(1));
    result
}

/// Writes to standard output what was asked for, or says why not. The status of the process.
pub fn print_asked(text: fmt::Arguments<'_>) -> ExitCode {
    report(print(text))
}

/// Says why a memory equation cannot be printed. The status of the process.
pub fn refuse_plan(error: crate::plan::PlanError) -> ExitCode {
    report(Err(error.into()))
}

/// Writes to standard output what was asked for.
pub(super) fn print(text: fmt::Arguments<'_>) -> Result<ExitCode, StartError> {
    let mut out = io::stdout().lock();
    let written = out.write_fmt(text).and_then(|()| out.flush());
    written.map_err(StartError::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints why a command line is not taken, or what it has asked for (`--help`, `--version`). The status of
/// the process.
pub fn refuse_line(error: &clap::Error, command: &clap::Command) -> ExitCode {
    let printed = error.print().and_then(|()| io::stdout().flush());
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some(word) = std::env::args_os().find(|word| word.to_str().is_none())
    {
        let _ = writeln!(io::stderr(), "\nThat is {word:?} on the command line");
    }
    if let Some((flag, variable)) = from_environment(error, command) {
        let value = std::env::var_os(variable).unwrap_or_default();
        let _ = writeln!(
            io::stderr(),
            "\n{flag} is set by the environment: {variable}={value:?}. Unset the variable, or give it a value"
        );
    }
    match (error.exit_code(), printed) {
        (0, Err(error)) => report(Err(StartError::Output(error))),
        (code, _) => ExitCode::from(u8::try_from(code).unwrap_or(2)),
    }
}

/// The flag that an error is about, and the variable that has set it, if the command line has not.
fn from_environment<'c>(
    error: &clap::Error,
    command: &'c clap::Command,
) -> Option<(String, &'c str)> {
    let commands = std::iter::once(command).chain(command.get_subcommands());
    let mut arguments = commands.flat_map(clap::Command::get_arguments);
    if error.kind() == ErrorKind::InvalidUtf8 {
        let argument = arguments.find(|one| {
            let value = one.get_env().and_then(std::env::var_os);
            value.is_some_and(|value| value.to_str().is_none()) && !is_path(one)
        })?;
        let flag = format!("--{}", argument.get_long()?);
        return Some((flag, argument.get_env()?.to_str()?));
    }
    let Some(ContextValue::String(about)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = about.split([' ', '=']).next()?;
    let argument = arguments.find(|one| {
        one.get_long()
            .is_some_and(|long| flag.strip_prefix("--") == Some(long))
    })?;
    let variable = argument.get_env()?.to_str()?;
    let is_on_line = std::env::args_os().any(|word| {
        let word = word.to_string_lossy();
        word.strip_prefix(flag)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    (std::env::var_os(variable).is_some() && !is_on_line).then(|| (flag.to_owned(), variable))
}

/// Whether an argument takes bytes that are no text.
fn is_path(argument: &clap::Arg) -> bool {
    argument.get_value_parser().type_id() == ValueParser::path_buf().type_id()
}

/// The status of a server that ran, or the sentence why it did not.
pub(super) fn report(result: Result<ExitCode, StartError>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(error.status())
        }
    }
}
