//! The command line: parses, calls the library, prints.

mod answer;
mod args;
mod bench;
mod cache;
mod chat;
mod check;
mod conversation;
mod convert;
mod eval;
mod inspect;
mod interrupt;
mod models;
mod out;
mod parts;
mod plan;
mod plot;
mod progress;
mod resolve;
mod run;
mod target;
mod text;
mod usage;
mod verify;
mod written;

use std::{io, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, builder::Resettable};

use args::{Args, Command};

/// Parses the command line and does what it says.
///
/// Exit status: 0 done, 1 what was asked for failed, 2 wrong use, 130 ended by Ctrl-C, SIGTERM or SIGHUP.
pub(crate) fn main() -> ExitCode {
    let args = arguments();
    out::set_level(args.quiet, args.verbose);
    let done = match args.command {
        Command::Run(args) => run::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "chaski", &mut script);
            out::print(&String::from_utf8_lossy(&script)).map_err(Into::into)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) if interrupt::was_followed(&e) => ExitCode::from(interrupt::EXIT_STATUS),
        Err(e) => {
            out::error_line(format_args!("chaski: {e}"));
            for cause in e.chain().skip(1) {
                out::error_line(format_args!("  cause: {cause}"));
            }
            ExitCode::FAILURE
        }
    }
}

/// The command line. An empty `CHASKI_THREADS` is none, as empty variables commonly are.
fn arguments() -> Args {
    let mut command = Args::command();
    if std::env::var_os("CHASKI_THREADS").is_some_and(|threads| threads.is_empty()) {
        for name in ["run", "convert", "plan", "eval"] {
            command = command.mut_subcommand(name, |command| {
                command.mut_arg("threads", |threads| threads.env(Resettable::Reset))
            });
        }
    }
    let matches = command
        .try_get_matches_from(usage::spelled(std::env::args_os()))
        .unwrap_or_else(|e| usage::with_tip(e).exit());
    Args::from_arg_matches(&matches).unwrap_or_else(|e| e.exit())
}

/// Whoever read our output has seen enough: `chaski run ... | head`.
fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
