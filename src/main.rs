//! The `tilewise` program: reads the command line and hands over to `tilewise::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tilewise::cli::main()
}
