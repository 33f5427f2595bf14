//! `tilewise bench`: benchmarks of products, training steps and predictions.

mod contest;
mod gemm;
mod infer;
mod product;
mod search;
mod train;
mod turns;

use tilewise::error::Result;

/// Arguments of `tilewise bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    /// Measure matrix products, as fractions of the FMA peak measured in the same run.
    Gemm(gemm::GemmArgs),
    /// Measure training steps, as fractions of the FMA peak measured in the same run.
    Train(train::TrainArgs),
    /// Measure latency and throughput of forward passes.
    Infer(infer::InferArgs),
}

/// Runs `tilewise bench`.
///
/// # Errors
/// [`Error::Setting`](tilewise::Error::Setting) for sizes that do not fit the memory,
/// [`Error::IsaUnavailable`](tilewise::Error::IsaUnavailable) if `TILEWISE_ISA` names an instruction
/// set that is not available, [`Error::ThreadPool`](tilewise::Error::ThreadPool) if the threads
/// cannot be started, [`Error::Io`](tilewise::Error::Io) if nothing can be printed.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.command {
        BenchCommand::Gemm(args) => gemm::run(args),
        BenchCommand::Train(args) => train::run(args),
        BenchCommand::Infer(args) => infer::run(args),
    }
}
