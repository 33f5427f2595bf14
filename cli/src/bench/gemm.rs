//! `tilewise bench gemm`: rates of products by tilewise, matrixmultiply and three plain loops,
//! compared with the peak: multiply-adds on registers only.

use std::{
    fmt::{self, Write as _},
    time::Instant,
};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use serde_json::json;

use crate::{
    bench::{
        contest::{BACKENDS, Common, NAIVE_LIMIT, Peak, backend},
        turns::{Rates, take_turns},
    },
    console::print,
    cores, options,
};
use tilewise::{
    Bf16,
    aligned::AlignedBuf,
    error::{Error, Result},
    float::Float,
    gemm::{Backend, Blocking, Epilogue, Gemm, PanelElement, Product},
    matrix::{MatRef, Matrix},
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
    /// Measuring time for each shape in seconds, divided equally among the backends.
    #[arg(long, value_name = "S", default_value = "1", value_parser = options::positive)]
    seconds: f64,
}

/// Sizes of a product: A is (m, k), B is (k, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
}

/// Which operands are stored transposed: A as (k, m), B as (n, k).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transpose {
    a: bool,
    b: bool,
}

/// Neither.
const NN: Transpose = Transpose { a: false, b: false };
/// A, as for the gradient of weights.
const TN: Transpose = Transpose { a: true, b: false };
/// B, as for the gradient of a layer's input.
const NT: Transpose = Transpose { a: false, b: true };

impl fmt::Display for Transpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |transposed| if transposed { 't' } else { 'n' };
        f.pad(&format!("{}{}", letter(self.a), letter(self.b)))
    }
}

impl Shape {
    fn multiply_adds(self) -> u128 {
        [self.m, self.n, self.k].iter().map(|&size| size as u128).product()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padded as a whole, if the caller wants that.
        f.pad(&format!("{}x{}x{}", self.m, self.n, self.k))
    }
}

/// Reads a shape, as "512x200x3072".
fn shape(text: &str) -> Result<Shape, String> {
    let sizes: Option<Vec<usize>> = text.split('x').map(|size| size.parse().ok()).collect();
    let Some(&[m, n, k]) = sizes.as_deref() else {
        return Err("expected m x n x k as three whole numbers, like 512x200x3072".into());
    };
    if m.min(n).min(k) == 0 {
        return Err("expected sizes above 0".into());
    }
    let product = m.checked_mul(n).and_then(|mn| mn.checked_mul(k)?.checked_mul(2));
    product.ok_or("expected sizes whose product fits 63 bits")?;
    Ok(Shape { m, n, k })
}

/// Reads one letter for A and one for B.
fn transpose() -> impl TypedValueParser<Value = Transpose> {
    PossibleValuesParser::new(["nn", "tn", "nt", "tt"])
        .map(|letters| Transpose { a: letters.starts_with('t'), b: letters.ends_with('t') })
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
    let mut lines = Vec::new();
    for (shape, transpose) in products {
        bar.set_message(format!("{shape} {transpose}"));
        let operands = Operands::new(&gemm, shape, transpose).map_err(|error| match error {
            Error::SizeOverflow { .. } => Error::Settings {
                detail: format!("--shapes {shape}: the matrices exceed the memory"),
            },
            other => other,
        })?;
        lines.extend(operands.measure(args)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let Common { threads, json, .. } = args.common;
    print(&if json { as_json(&gemm, &lines) } else { as_text(&gemm, threads, &lines) })
}

/// A product of matrices whose elements have one type.
trait Measured: Product<Left = Self::Of, Right = Self::Of, Output = Self::Of> {
    /// The type of the elements.
    type Of: PanelElement<Value = Self::Sum>;
    const NAME: &'static str;
    /// The distance from 1 to the next larger element, or to the next sum if that is larger.
    const EPSILON: f64;
    /// Whether other backends have it too.
    const HAS_RIVALS: bool;
}

impl Measured for f32 {
    type Of = f32;
    const NAME: &'static str = "f32";
    const EPSILON: f64 = f32::EPSILON as f64;
    const HAS_RIVALS: bool = true;
}

impl Measured for f64 {
    type Of = f64;
    const NAME: &'static str = "f64";
    const EPSILON: f64 = f64::EPSILON;
    const HAS_RIVALS: bool = true;
}

impl Measured for Bf16 {
    type Of = Bf16;
    const NAME: &'static str = "bf16";
    const EPSILON: f64 = 1.0 / 128.0;
    const HAS_RIVALS: bool = false;
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

/// One product's operands, result and scratch memory, which the backends share.
struct Operands<'g, P: Measured> {
    gemm: &'g Gemm<P>,
    shape: Shape,
    transpose: Transpose,
    /// As stored: (m, k), or (k, m) if transposed.
    a: Matrix<P::Of>,
    /// As stored: (k, n), or (n, k) if transposed.
    b: Matrix<P::Of>,
    /// (m, n)
    c: Matrix<P::Of>,
    scratch: AlignedBuf<u8>,
}

impl<'g, P: Measured> Operands<'g, P> {
    fn new(gemm: &'g Gemm<P>, shape: Shape, transpose: Transpose) -> Result<Self> {
        let Shape { m, n, k } = shape;
        let stored = |transposed, rows, cols| {
            if transposed { (cols, rows) } else { (rows, cols) }
        };
        // First, so that they are refused before random numbers take their time.
        let (c, scratch) = (Matrix::zeros(m, n)?, gemm.scratch(m, n, k)?);
        let a = random(stored(transpose.a, m, k), 1)?;
        let b = random(stored(transpose.b, k, n), 2)?;
        Ok(Self { gemm, shape, transpose, a, b, c, scratch })
    }

    fn multiply(&mut self, backend: Backend) -> Result<()> {
        let (a, b) = (self.a.view(), self.b.view());
        let a = if self.transpose.a { a.t() } else { a };
        let b = if self.transpose.b { b.t() } else { b };
        let gemm = self.gemm.with_backend(backend);
        gemm.run(P::Sum::ONE, a, b, self.c.view_mut(), Epilogue::default(), &mut self.scratch)
    }

    /// Lets the backends compute the product in turns, between two looks at the peak.
    fn measure(mut self, args: &GemmArgs) -> Result<Vec<Line>> {
        let multiply_adds = self.shape.multiply_adds();
        let left_out = |backend| {
            backend != Backend::Tilewise && !P::HAS_RIVALS
                || backend == Backend::Naive && multiply_adds > NAIVE_LIMIT
        };
        let chosen = BACKENDS.into_iter().filter(|(_, backend)| args.backends.contains(backend));
        let (left_out, chosen): (Vec<_>, Vec<_>) =
            chosen.partition(|&(_, backend)| left_out(backend));

        let before = Peak::measure(self.gemm);
        let mut expected: Option<Matrix<P::Of>> = None;
        let mut contestants = Vec::new();
        for (name, backend) in chosen {
            let begin = Instant::now();
            self.multiply(backend)?;
            contestants.push(((name, backend), begin.elapsed().as_secs_f64()));
            match &expected {
                Some(expected) => self.expect_close(expected.view(), name),
                None => expected = Some(self.c.try_clone()?),
            }
        }
        let rates = take_turns(&contestants, args.seconds, |&(_, backend)| self.multiply(backend))?;
        let after = Peak::measure(self.gemm);

        let gflop = 2e-9 * multiply_adds as f64;
        let gflops = |Rates { median, best }| Rates { median: gflop * median, best: gflop * best };
        let names = contestants.into_iter().map(|(contestant, _)| contestant);
        let measured = names.zip(rates.into_iter().map(gflops).map(Some));
        let missing = left_out.into_iter().map(|contestant| (contestant, None));
        let line = |((name, backend), rates)| {
            let threads = if backend == Backend::Tilewise { args.common.threads } else { 1 };
            let peaks = [before.of(threads), after.of(threads)];
            let (shape, transpose) = (self.shape, self.transpose);
            Line { shape, transpose, backend: name, threads, peaks, rates }
        };
        Ok(measured.chain(missing).map(line).collect())
    }

    /// Fails unless C is correct up to the order of summation.
    fn expect_close(&self, expected: MatRef<'_, P::Of>, backend: &str) {
        let tolerance = 8.0 * P::EPSILON * self.shape.k as f64;
        let c = self.c.view();
        for i in 0..c.rows() {
            for j in 0..c.cols() {
                let (found, expected) = (c.get(i, j).value(), expected.get(i, j).value());
                assert!(
                    (found - expected).abs().to_f64() <= tolerance,
                    "{backend}, {} {}, ({i}, {j}): {found} instead of {expected}",
                    self.shape,
                    self.transpose,
                );
            }
        }
    }
}

/// Random elements between -1 and 1.
fn random<E: PanelElement>((rows, cols): (usize, usize), seed: u64) -> Result<Matrix<E>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut number = || E::Value::from_f64(rng.random_range(-1.0..1.0));
    Matrix::from_fn(rows, cols, |_, _| E::nearest(number()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_three_sizes_above_zero() {
        assert_eq!(shape("512x200x3072"), Ok(Shape { m: 512, n: 200, k: 3072 }));
        for text in ["", "5", "5x5", "5x5x5x5", "5x5x", "5x-5x5", "5 x5x5", "0x5x5", "5x5x0"] {
            assert!(shape(text).is_err(), "{text:?}");
        }
        let half = 1usize << 21;
        assert!(shape(&format!("{half}x{half}x{half}")).is_err());
        assert!(shape("99999999999999999999x1x1").is_err());
    }

    #[test]
    #[should_panic(expected = "naive, 2x2x3 tn, (1, 0)")]
    fn wrong_results_are_not_timed() {
        let gemm = Gemm::<f64>::new().unwrap();
        let shape = Shape { m: 2, n: 2, k: 3 };
        let mut operands = Operands::new(&gemm, shape, TN).unwrap();
        operands.multiply(Backend::Tilewise).unwrap();
        let expected = operands.c.try_clone().unwrap();
        operands.multiply(Backend::Naive).unwrap();
        operands.expect_close(expected.view(), "naive");
        operands.c.view_mut().set(1, 0, 9.0);
        operands.expect_close(expected.view(), "naive");
    }
}
