//! The `tilewise` program: its command line, its exit codes, and one module per subcommand.

mod bench;
mod classify;
mod config;
mod console;
mod data;
mod dataset;
mod eval;
mod info;
mod network;
mod options;
mod plots;
mod precision;
mod predict;
mod recipe;
mod report;
mod run_dir;
mod run_lock;
mod shutdown;
mod sweep;
mod train;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, error::ErrorKind};

use console::complain;
use tilewise::{
    error::{Error, Result},
    printable,
};

/// Exit code of a run that failed.
const FAILED: u8 = 1;
/// Exit code for an invalid command line.
const WRONG_USAGE: u8 = 2;

/// Trains and evaluates neural networks on a CPU.
#[derive(Debug, clap::Parser)]
#[command(name = "tilewise", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Train a multilayer perceptron on CIFAR-10 or on synthetic images.
    Train(Box<config::Given<train::TrainArgs>>),
    /// Evaluate a trained network on the test set.
    Eval(eval::EvalArgs),
    /// Classify images with a trained network.
    Predict(predict::PredictArgs),
    /// Tune settings by grid or random search.
    Sweep(Box<sweep::SweepArgs>),
    /// Compare training runs on an HTML page.
    Report(report::ReportArgs),
    /// Show or download the data set.
    Data(data::DataArgs),
    /// Show instruction sets, kernels, and the plan of a network.
    Info(info::InfoArgs),
    /// Benchmark matrix products, training steps and predictions.
    Bench(bench::BenchArgs),
}

/// Runs the program with the arguments of the process. An error is one line on standard error;
/// the exit code is 0, 1 for a run that failed, 2 for wrong usage, 130 for training or a sweep that a
/// signal ended.
pub fn main() -> ExitCode {
    let (cli, used) = match parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let success = |()| ExitCode::SUCCESS;
    let result = match &cli.command {
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args).map(success),
        Command::Predict(args) => predict::run(args).map(success),
        Command::Sweep(args) => sweep::run(args),
        Command::Report(args) => report::run(args).map(success),
        Command::Data(args) => data::run(args).map(success),
        Command::Info(args) => info::run(args).map(success),
        Command::Bench(args) => bench::run(args).map(success),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            console::error(cli.command.message(&used, &error));
            ExitCode::from(match error {
                Error::Setting { .. } | Error::Settings { .. } | Error::IsaUnavailable { .. } => {
                    WRONG_USAGE
                }
                _ => FAILED,
            })
        }
    }
}

impl Command {
    /// The text of an error, with settings named as they were given. `used` is the subcommand.
    fn message(&self, used: &clap::Command, error: &Error) -> String {
        match self {
            Self::Train(given) => given.message(error),
            Self::Sweep(args) => args.message(error),
            _ => config::message(used, error),
        }
    }
}

/// Reads a command line; also returns the innermost subcommand that it names.
///
/// # Errors
/// A request for help, or what is wrong.
fn parse(
    line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<(Cli, clap::Command), clap::Error> {
    let mut command = with_negative_numbers(Cli::command());
    let all = command.try_get_matches_from_mut(line)?;
    let (mut used, mut matches) = (&command, &all);
    while let Some((name, inner)) = matches.subcommand() {
        let Some(subcommand) = used.find_subcommand(name) else { break };
        (used, matches) = (subcommand, inner);
    }
    Ok((Cli::from_arg_matches(&all)?, used.clone()))
}

/// Lets numeric flags accept numbers below 0, which clap would read as names of flags: the flag can
/// then report the problem.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let numbers = |arg: clap::Arg| {
        let takes_numbers = config::takes_numbers(&arg);
        arg.allow_negative_numbers(takes_numbers)
    };
    command.mut_args(numbers).mut_subcommands(with_negative_numbers)
}

/// Handles a command line that requests help or is invalid.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match console::print(&error.render().to_string()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(FAILED),
            }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            complain(&printable::lines(error.render().to_string().trim_end()));
            ExitCode::from(WRONG_USAGE)
        }
        _ => {
            let line = one_line(&error.render().to_string());
            complain(&format_args!("{}; run --help for details", printable::lines(&line)));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

/// The lines of clap's message before its usage text, as one.
fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.take_while(|line| {
        !line.starts_with("Usage:") && !line.starts_with("For more information")
    });
    let mut text = String::new();
    for line in lines {
        if !text.is_empty() {
            text.push_str(if text.ends_with(':') || line.starts_with('[') { " " } else { "; " });
        }
        text.push_str(line);
    }
    text
}

/// Runs `work` inside of a pool of its own of `threads` threads; by default, one for each core.
///
/// # Errors
/// [`Error::ThreadPool`] if the threads cannot be started; what `work` returns.
fn in_pool<R: Send>(threads: Option<usize>, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let threads = threads.unwrap_or_else(cores);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| Error::ThreadPool { threads, source: error.into() })?;
    pool.install(work)
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        with_negative_numbers(Cli::command()).debug_assert();
    }

    #[test]
    fn complaints_are_one_line() {
        let complaint = |line: &str| {
            let error = parse(line.split(' ')).unwrap_err();
            one_line(&error.render().to_string())
        };
        assert_eq!(
            complaint("tilewise train --epoch 3"),
            "error: unexpected argument '--epoch' found; tip: a similar argument exists: '--epochs'"
        );
        let missing = complaint("tilewise eval");
        assert!(missing.contains("provided: --model <FILE>"), "{missing}");
    }
}
