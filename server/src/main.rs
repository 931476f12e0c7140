//! `transom`: what can be done without an application.

use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;
use transom::{Plan, Settings};

#[derive(Parser)]
#[command(
    version,
    about = "Transom: web servers whose memory is decided before they start"
)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print the memory equation of a server with these flags, one line an addend, and the sum
    ///
    /// The flags are those that every application built on Transom takes. Fails if the settings do not add up on this
    /// machine.
    Bound {
        #[command(flatten)]
        settings: Box<Settings>,
    },
}

fn main() -> ExitCode {
    let Action::Bound { settings } = Command::parse().action;
    match Plan::new(&settings) {
        Ok(plan) => match writeln!(io::stdout(), "{}", plan.bound) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
