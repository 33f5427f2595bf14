//! The `tilewise` program: its command line and one module per subcommand.

pub mod data;

use std::process::ExitCode;

use clap::Parser;

/// Trains neural networks on a CPU.
#[derive(clap::Parser)]
#[command(name = "tilewise", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Look at the data set, or fetch it.
    Data(data::DataArgs),
}

/// Runs the program; errors go to standard error.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Data(args) => data::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
