//! `tilewise bench gemm`: rates of products by tilewise, matrixmultiply and three plain loops,
//! compared with the peak: multiply-adds on registers only.

use std::{fmt::Write as _, time::Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{
    bench::{
        contest::{BACKENDS, Common, NAIVE_LIMIT, Peak, backend},
        product::{Measured, Operands, Shape, Transpose, shape, transpose},
        search::{self, search},
        turns::{Rates, take_turns},
    },
    console::print,
    cores, options,
};
use tilewise::{
    Bf16,
    error::Result,
    gemm::{Backend, Blocking, Gemm},
    matrix::Matrix,
    threads::Threads,
};

/// Products (m, n, k) without `--shapes`: squares, and what networks need on the way forward and
/// back, with batches of 512, 8 and 1 and with the gradients' transposes.
const DEFAULTS: [(usize, usize, usize, Transpose); 16] = [
    (2048, 2048, 2048, NN),
    (1024, 1024, 1024, NN),
    (256, 256, 256, NN),
    (128, 128, 128, NN),
    (64, 64, 64, NN),
    (512, 512, 3072, NN),
    (512, 1024, 512, NN),
    (512, 200, 3072, NN),
    (512, 10, 1024, NN),
    (3072, 512, 512, TN),
    (512, 1024, 512, TN),
    (1024, 10, 512, TN),
    (512, 512, 1024, NT),
    (512, 1024, 10, NT),
    (8, 512, 3072, NN),
    (1, 512, 3072, NN),
];

/// Neither operand stored transposed.
const NN: Transpose = Transpose { a: false, b: false };
/// A, as for the gradient of weights.
const TN: Transpose = Transpose { a: true, b: false };
/// B, as for the gradient of a layer's input.
const NT: Transpose = Transpose { a: false, b: true };

/// Seconds for each shape without `--seconds`.
const SECONDS: f64 = 1.0;
/// The same with `--search`.
const SECONDS_OF_SEARCH: f64 = 10.0;

/// Arguments of `tilewise bench gemm`.
#[derive(Debug, clap::Args)]
pub struct GemmArgs {
    /// Products to measure, separated by commas [default: squares, and those of training steps]
    #[arg(long, value_name = "MxNxK", value_delimiter = ',', value_parser = shape)]
    shapes: Vec<Shape>,
    /// Whether A and B are stored transposed (t) or not (n) [default: nn with --shapes]
    #[arg(long, value_name = "WHICH", value_parser = transpose())]
    transpose: Option<Transpose>,
    #[command(flatten)]
    common: Common,
    /// Backends to compare, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = backend(),
          default_value = "tilewise,matrixmultiply,naive")]
    backends: Vec<Backend>,
    /// Search the fastest blocking (mc, kc, nc, operands in place or packed) instead, and compare it
    /// with the default.
    #[arg(long, conflicts_with = "backends")]
    search: bool,
    /// Measuring time for each shape in seconds, divided equally among the backends, or with --search
    /// among its stages [default: 1, with --search 10]
    #[arg(long, value_name = "S", value_parser = options::positive)]
    seconds: Option<f64>,
}

impl GemmArgs {
    fn products(&self) -> Vec<(Shape, Transpose)> {
        if self.shapes.is_empty() {
            let default =
                |(m, n, k, transpose)| (Shape { m, n, k }, self.transpose.unwrap_or(transpose));
            return DEFAULTS.map(default).to_vec();
        }
        let transpose = self.transpose.unwrap_or(NN);
        self.shapes.iter().map(|&shape| (shape, transpose)).collect()
    }
}

/// Runs `tilewise bench gemm`.
///
/// # Errors
/// Same as [`super::run`].
///
/// # Panics
/// If two backends disagree on a product, which would be a bug of one of them.
pub(super) fn run(args: &GemmArgs) -> Result<()> {
    args.common.run(|| bench::<f32>(args), || bench::<f64>(args), || bench::<Bf16>(args))
}

fn bench<P: Measured>(args: &GemmArgs) -> Result<()> {
    let gemm = args.common.gemm::<P>()?.with_threads(Threads::Pool);
    let products = args.products();
    let bar = ProgressBar::new(products.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len}  {msg}") {
        bar.set_style(style);
    }
    let Common { threads, json, .. } = args.common;
    if args.search {
        let seconds = args.seconds.unwrap_or(SECONDS_OF_SEARCH);
        let mut found = Vec::new();
        for product in products {
            found.push(search(gemm, product, threads, seconds, &bar)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        return print(&if json {
            search::as_json(&gemm, threads, &found)
        } else {
            search::as_text(&gemm, threads, &found)
        });
    }
    let mut lines = Vec::new();
    for (shape, transpose) in products {
        bar.set_message(format!("{shape} {transpose}"));
        let operands = Operands::new(&[gemm], shape, transpose)?;
        lines.extend(measure(gemm, operands, args)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    print(&if json { as_json(&gemm, &lines) } else { as_text(&gemm, threads, &lines) })
}

/// The result of one backend for one product.
struct Line {
    shape: Shape,
    transpose: Transpose,
    backend: &'static str,
    threads: usize,
    peaks: [f64; 2],
    /// In GFLOP/s; `None` where it does not have the product, or that was too large for it.
    rates: Option<Rates>,
}

/// Lets the backends compute the product in turns, between two looks at the peak.
fn measure<P: Measured>(
    gemm: Gemm<P>,
    mut operands: Operands<P>,
    args: &GemmArgs,
) -> Result<Vec<Line>> {
    let Operands { shape, transpose, .. } = operands;
    let multiply_adds = shape.multiply_adds();
    let left_out = |backend| {
        backend != Backend::Tilewise && !P::HAS_RIVALS
            || backend == Backend::Naive && multiply_adds > NAIVE_LIMIT
    };
    let chosen = BACKENDS.into_iter().filter(|(_, backend)| args.backends.contains(backend));
    let (left_out, chosen): (Vec<_>, Vec<_>) = chosen.partition(|&(_, backend)| left_out(backend));

    let before = Peak::measure(&gemm);
    let mut expected: Option<Matrix<P::Of>> = None;
    let mut contestants = Vec::new();
    for (name, backend) in chosen {
        let begin = Instant::now();
        operands.multiply(gemm.with_backend(backend))?;
        contestants.push(((name, backend), begin.elapsed().as_secs_f64()));
        match &expected {
            Some(expected) => operands.expect_close(expected.view(), name),
            None => expected = Some(operands.c.try_clone()?),
        }
    }
    let rates = take_turns(&contestants, args.seconds.unwrap_or(SECONDS), |&(_, backend)| {
        operands.multiply(gemm.with_backend(backend))
    })?;
    let after = Peak::measure(&gemm);

    let gflop = 2e-9 * multiply_adds as f64;
    let gflops = |Rates { median, best }| Rates { median: gflop * median, best: gflop * best };
    let names = contestants.into_iter().map(|(contestant, _)| contestant);
    let measured = names.zip(rates.into_iter().map(gflops).map(Some));
    let missing = left_out.into_iter().map(|contestant| (contestant, None));
    let line = |((name, backend), rates)| {
        let threads = if backend == Backend::Tilewise { args.common.threads } else { 1 };
        let peaks = [before.of(threads), after.of(threads)];
        Line { shape, transpose, backend: name, threads, peaks, rates }
    };
    Ok(measured.chain(missing).map(line).collect())
}

/// The best peak of the run, for a number of threads.
fn best_peak(lines: &[Line], threads: usize) -> f64 {
    let same = lines.iter().filter(|line| line.threads == threads);
    same.flat_map(|line| line.peaks).fold(0.0, f64::max)
}

/// One object a line; products that a backend does not have, or that were too large for it, have none.
fn as_json<P: Measured>(gemm: &Gemm<P>, lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let Some(Rates { median, best }) = line.rates else {
            continue;
        };
        let peak = best_peak(lines, line.threads);
        let object = json!({
            "backend": line.backend,
            "m": line.shape.m,
            "n": line.shape.n,
            "k": line.shape.k,
            "transpose": line.transpose.to_string(),
            "dtype": P::NAME,
            "precision": P::NAME,
            // Of tilewise and of the peak: the others cannot be told.
            "isa": gemm.instruction_set().to_string(),
            "threads": line.threads,
            "median_gflops": median,
            "best_gflops": best,
            "peak_gflops": peak,
            "fraction": best / peak,
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{object}");
    }
    text
}

fn as_text<P: Measured>(gemm: &Gemm<P>, threads: usize, lines: &[Line]) -> String {
    let (rows, cols) = gemm.tile();
    let Blocking { mc, kc, nc, .. } = gemm.blocking();
    let mut text = format!(
        "tilewise {}: {}, {}, tile {rows} x {cols}, blocking mc {mc} kc {kc} nc {nc}, \
         threads {threads} (cores {})\n\
         Rates and peaks are GFLOP/s, fraction is best over the best peak of this run;\n\
         matrixmultiply and naive are single-threaded and compared with the peak of one thread.\n\n\
         {:18} {:7} {:14} {:>7} {:>8} {:>8} {:>11} {:>10} {:>8}\n",
        env!("CARGO_PKG_VERSION"),
        P::NAME,
        gemm.instruction_set(),
        cores(),
        "m x n x k",
        "storage",
        "backend",
        "threads",
        "median",
        "best",
        "peak before",
        "peak after",
        "fraction",
    );
    for line in lines {
        let fraction = |rates: Rates| rates.best / best_peak(lines, line.threads);
        let [median, best, fraction] = match line.rates {
            Some(rates) => [
                format!("{:.1}", rates.median),
                format!("{:.1}", rates.best),
                format!("{:.3}", fraction(rates)),
            ],
            None => ["-", "-", "-"].map(String::from),
        };
        let &Line { shape, transpose, backend, threads, peaks: [before, after], .. } = line;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{shape:18} {transpose:7} {backend:14} {threads:>7} {median:>8} {best:>8} \
             {before:>11.1} {after:>10.1} {fraction:>8}",
        );
    }
    text
}
