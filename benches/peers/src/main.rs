//! Matrix products of tilewise and of other libraries, measured in turns in one process, as
//! fractions of the peak that fused multiply-adds on registers reach in the same round.

mod blas;
mod machine;
mod measure;
mod peers;
mod product;
mod report;
mod rows;

use std::{error::Error, ffi::OsString, path::PathBuf, process::ExitCode};

use clap::Parser;
use tilewise::{Bf16, simd::InstructionSet};

use crate::{
    measure::{Pool, Settings},
    peers::{Libraries, Scalar},
    rows::{Dtype, Row},
};

/// What everything here fails with: a sentence for the user.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Variables that make OpenBLAS use other kernels or blocks than those it would choose.
const REFUSED: [&str; 3] = ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_BLOCK_FACTOR"];

/// Measure matrix products of tilewise and its peers, in turns in one process.
///
/// Without selecting flags all rows are measured: f32 on one thread and on two, f64 and bf16 on one.
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Args {
    /// Only rows of this type.
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Only rows on one thread (1), or only those on several, run on N threads [default: both, 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Only rows whose name contains this, like "nt " or "512x512x3072"; may be repeated.
    #[arg(long, value_name = "SUBSTRING")]
    only: Vec<String>,
    /// Instruction set of tilewise [default: TILEWISE_ISA, else the best available]
    #[arg(long, value_name = "NAME")]
    isa: Option<InstructionSet>,
    /// Rounds of a row; in each one every contestant is measured once.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds of one measurement.
    #[arg(long, value_name = "S", default_value_t = 0.2, value_parser = seconds)]
    seconds: f64,
    /// Store matrices as `tilewise::matrix::Matrix` does, with gaps between rows; without, rows are
    /// contiguous.
    #[arg(long)]
    padded: bool,
    /// OpenBLAS as a shared library, of 32-bit integers.
    #[arg(long, value_name = "PATH", env = "PEERS_OPENBLAS", hide_env_values = true)]
    openblas: Option<PathBuf>,
    /// MKL as a shared library: `libmkl_rt.so.*` of the directory that has its other parts.
    #[arg(long, value_name = "PATH", env = "PEERS_MKL", hide_env_values = true)]
    mkl: Option<PathBuf>,
    /// Print all numbers as one JSON object; the table goes to the standard error.
    #[arg(long)]
    json: bool,
}

/// Reads a time in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds from 0 to 3600".into()),
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    refuse(|name| std::env::var_os(name))?;
    let rows = select(args)?;
    let threads = rows.iter().map(|row| row.threads).max().unwrap_or(1);
    let settings = Settings {
        isa: args.isa.map_or_else(InstructionSet::preferred, Ok)?,
        rounds: args.rounds.into(),
        seconds: args.seconds,
        padded: args.padded,
        pool: Pool::new(threads)?,
        libraries: Libraries::open(args.openblas.as_deref(), args.mkl.as_deref())?,
        load: machine::load(),
    };
    let say = |text: &str| if args.json { eprintln!("{text}") } else { println!("{text}") };
    say(&report::header(&settings));
    let mut results = Vec::new();
    for row in rows {
        let result = match row.dtype {
            Dtype::F32 => measure_row::<f32>(row, &settings)?,
            Dtype::F64 => measure_row::<f64>(row, &settings)?,
            Dtype::Bf16 => measure_row::<Bf16>(row, &settings)?,
        };
        say(&report::line(&result));
        results.push(result);
    }
    if args.json {
        println!("{:#}", report::json(&settings, &results));
    }
    Ok(())
}

fn measure_row<T: Scalar>(row: Row, settings: &Settings) -> Result<measure::Outcome> {
    measure::row::<T>(row, settings).map_err(|error| format!("{row}: {error}").into())
}

/// The rows that the flags select.
///
/// # Errors
/// If there are none, or if one asks for more threads than there are cores.
fn select(args: &Args) -> Result<Vec<Row>> {
    let several = args.threads.map_or(2, usize::from).max(2);
    let rows: Vec<Row> = rows::all(several)
        .filter(|row| args.dtype.is_none_or(|dtype| row.dtype == dtype))
        .filter(|row| args.threads.is_none_or(|threads| row.threads == usize::from(threads)))
        .filter(|row| {
            let name = row.to_string();
            args.only.is_empty() || args.only.iter().any(|part| name.contains(part))
        })
        .collect();
    if rows.is_empty() {
        let names: Vec<String> = rows::all(several).map(|row| row.to_string()).collect();
        return Err(format!("no row is selected; all are:\n{}", names.join("\n")).into());
    }
    let cores = std::thread::available_parallelism()?.get();
    match rows.iter().find(|row| row.threads > cores) {
        Some(row) => Err(format!("{row}: only {cores} cores; give --threads up to that").into()),
        None => Ok(rows),
    }
}

/// Fails if the environment has a variable that would change what a peer is.
fn refuse(value: impl Fn(&str) -> Option<OsString>) -> Result<()> {
    match REFUSED.into_iter().find(|name| value(name).is_some()) {
        Some(name) => {
            Err(format!("{name} is set, which changes OpenBLAS: unset it and run again").into())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn selected(line: &str) -> Vec<String> {
        let args = Args::parse_from(line.split_whitespace());
        select(&args).unwrap().iter().map(Row::to_string).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_select_rows() {
        assert_eq!(selected("peers --dtype f32 --threads 1 --only x10x").len(), 2);
        assert_eq!(selected("peers --dtype f32 --only tn --only 64x64x64").len(), 4);
        assert_eq!(selected("peers --dtype f64 --only 512x512x3072"), ["f64 t1 nn 512x512x3072"]);
        assert!(select(&Args::parse_from(["peers", "--only", "7x7"])).is_err());
    }

    #[test]
    fn variables_that_change_a_peer_are_refused() {
        assert!(refuse(|_| None).is_ok());
        let error = refuse(|name| (name == "OPENBLAS_L2_SIZE").then(|| "1".into())).unwrap_err();
        assert!(error.to_string().starts_with("OPENBLAS_L2_SIZE is set"), "{error}");
    }
}
