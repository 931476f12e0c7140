//! `transom`: what can be done without an application.

mod admin_client;
mod load;
mod plan;
mod prometheus;
mod snapshot;
mod top;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use transom::{ForwardSettings, Plan, Settings};

#[derive(Parser)]
#[command(
    name = "transom",
    version,
    about = "Transom: web servers whose memory is decided before they start"
)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Serve as a front end: HTTP, connections and datagrams go to the doors of other processes
    ///
    /// What goes where is said by --forward, by a file, or by both. `transom check` says what a file means.
    #[command(
        after_help = "SIZE is a number of bytes, or one with KiB, MiB, GiB. TIME is a number with ms, s, m, h.\n\
                      Every flag is also an environment variable, TRANSOM_ and its name.\n\
                      --check prints the memory equation, one line an addend."
    )]
    Serve {
        #[command(flatten)]
        settings: Box<ForwardSettings>,
    },
    /// Check a file for `transom serve --config`, without serving
    ///
    /// Prints which requests go through which door, whether the door is there now (it need not be), and
    /// whether a permitted user serves it. Everything that is wrong is told with its line and column.
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the memory equation of a server with these flags, one line an addend, and the sum
    ///
    /// The flags are those that every application built on Transom takes. Fails if the settings do not add up
    /// on this machine.
    Bound {
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Find the flags for an amount of memory and a rate of requests, and say what they will and will not
    /// hold
    ///
    /// As in `transom plan --memory 512MiB --rate 2000 --latency 20ms`. Takes all flags of an application,
    /// too, for its memory equation.
    #[command(after_help = plan::AFTER_HELP)]
    Plan(Box<plan::PlanFlags>),
    /// Watch a server's buckets, rates and exhausted requests in a terminal
    ///
    /// Asks the address that the server was given with --admin. Keys: q quits; b, x, r and e hide and show
    /// the buckets, the exhausted requests, the routes and the memory equation.
    Top(top::Top),
    /// Try to break a server's memory limits: load it with ordinary and with hungry requests, and compare
    ///
    /// Requests are sent when they are due, whatever the server does (open loop), and latencies count from
    /// when they were due. Ordinary requests are sent without and with the hungry ones, in turn; then the
    /// largest request that fits is looked for. Exit status 1: the bound was passed, or an ordinary request
    /// suffered. 2: it could not be run.
    #[command(after_help = load::EXAMPLES)]
    Load {
        #[command(flatten)]
        settings: Box<load::LoadSettings>,
    },
}

fn main() -> ExitCode {
    let matches = match Command::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return transom::refuse_line(&error, &Command::command()),
    };
    let command = match Command::from_arg_matches(&matches) {
        Ok(command) => command,
        Err(error) => return transom::refuse_line(&error, &Command::command()),
    };
    match command.action {
        Action::Serve { settings } => {
            let line = matches.subcommand().map_or(&matches, |(_, line)| line);
            transom::serve_forwards(&settings, line)
        }
        Action::Check { file } => transom::check_file(&file),
        Action::Bound { settings } => bound(&settings),
        Action::Plan(flags) => {
            let line = matches.subcommand().map_or(&matches, |(_, line)| line);
            plan::run(&flags, line)
        }
        Action::Top(top) => top::run(&top),
        Action::Load { settings } => load::run(&settings),
    }
}

fn bound(settings: &Settings) -> ExitCode {
    match Plan::new(settings) {
        Ok(plan) => transom::print_asked(format_args!("{}\n", plan.bound)),
        Err(error) => transom::refuse_plan(error),
    }
}
