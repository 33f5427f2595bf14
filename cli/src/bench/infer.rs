//! `tilewise bench infer`: latency and throughput of predictions at several batch sizes, with
//! weights packed in advance, on one thread and on several, compared with forward passes on the
//! products of matrixmultiply and a plain read of the bytes of the packed weights. A small batch
//! cannot be faster than this read.

use std::{fmt::Write as _, hint::black_box, time::Instant};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use serde_json::json;

use crate::{
    bench::contest::{Common, Perceptron},
    console::print,
    cores, options,
};
use tilewise::{
    Context, Element, Precision,
    error::Result,
    gemm::Backend,
    infer::Predictor,
    matrix::Matrix,
    nn::{Mode, Passes, Plan},
    simd::InstructionSet,
    threads::Threads,
};

/// Arguments of `tilewise bench infer`.
#[derive(Debug, clap::Args)]
pub struct InferArgs {
    #[command(flatten)]
    network: Perceptron,
    /// Batch sizes to measure, in examples, separated by commas.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = options::count,
          default_value = "1,8,32,512")]
    batch: Vec<usize>,
    #[command(flatten)]
    common: Common,
    /// Measuring time for each batch size in seconds, divided equally among the backends.
    #[arg(long, value_name = "S", default_value = "2", value_parser = options::positive)]
    seconds: f64,
}

/// Runs `tilewise bench infer`.
///
/// # Errors
/// Same as [`super::run`].
pub(super) fn run(args: &InferArgs) -> Result<()> {
    args.common.run(|| bench::<f32>(args), || bench::<f64>(args), || bench::<f32>(args))
}

/// One way to compute the logits of a batch.
struct Contestant<'a> {
    backend: &'static str,
    threads: usize,
    pass: &'a mut dyn FnMut() -> Result<()>,
    /// Of each pass.
    seconds: Vec<f64>,
}

impl<'a> Contestant<'a> {
    fn new(backend: &'static str, threads: usize, pass: &'a mut dyn FnMut() -> Result<()>) -> Self {
        Self { backend, threads, pass, seconds: Vec::new() }
    }

    /// Passes for a few milliseconds, so that it mostly finds its own data in the caches.
    fn take_turn(&mut self) -> Result<()> {
        let turn = Instant::now();
        while turn.elapsed().as_secs_f64() < 4e-3 {
            let begin = Instant::now();
            (self.pass)()?;
            self.seconds.push(begin.elapsed().as_secs_f64());
        }
        Ok(())
    }

    fn line(mut self, batch: usize) -> Line {
        self.seconds.sort_by(f64::total_cmp);
        let last = self.seconds.len() - 1;
        let at = |share: f64| 1e3 * self.seconds[(last as f64 * share) as usize];
        let Self { backend, threads, .. } = self;
        let [median_ms, p90_ms, p99_ms, max_ms] = [0.5, 0.9, 0.99, 1.0].map(at);
        Line { backend, batch, threads, median_ms, p90_ms, p99_ms, max_ms }
    }
}

/// Latencies of one backend at one batch size.
struct Line {
    backend: &'static str,
    batch: usize,
    threads: usize,
    median_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Line {
    /// In which it was computed: products of others than tilewise have no bf16.
    fn precision(&self, args: &InferArgs) -> Precision {
        match args.common.precision {
            Precision::Bf16 if self.backend == BASELINE => Precision::F32,
            precision => precision,
        }
    }

    fn images_per_s(&self) -> f64 {
        1e3 * self.batch as f64 / self.median_ms
    }

    /// The time of the read on as many threads over this one's.
    fn of_a_read(&self, lines: &[Line]) -> f64 {
        let is_read = |line: &&Line| {
            (line.backend, line.batch, line.threads) == (READ, self.batch, self.threads)
        };
        lines.iter().find(is_read).map_or(f64::NAN, |read| read.median_ms / self.median_ms)
    }
}

/// The name of the passes on other products.
const BASELINE: &str = "matrixmultiply";

/// The name of the plain read.
const READ: &str = "read";

/// Reads all words, divided among `threads` tasks, at the speed of the caches and the memory.
fn read(words: &[u64], threads: usize) -> u64 {
    if threads > 1 {
        let left = threads / 2;
        let (first, second) = words.split_at(words.len() * left / threads);
        let (a, b) = rayon::join(|| read(first, left), || read(second, threads - left));
        return a ^ b;
    }
    let mut sums = [0; 16];
    for words in words.chunks_exact(sums.len()) {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum ^= word;
        }
    }
    sums.into_iter().fold(0, |a, b| a ^ b)
}

fn bench<T: Element>(args: &InferArgs) -> Result<()> {
    let gemm = args.common.gemm::<T>()?;
    let network = args.network.build::<T>(0.0)?;
    let (input, classes) = (network.in_features(), network.classes());
    let context = Context::of(gemm)?.with_precision(args.common.precision)?;
    let predictor = Predictor::with_context(&network, context)?;
    let words = vec![1u64; predictor.bytes() / size_of::<u64>()];
    let counts: &[usize] = match args.common.threads {
        1 => &[1],
        more => &[1, more],
    };
    let mut lines = Vec::new();
    for &batch in &args.batch {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let x = Matrix::from_fn(batch, input, |_, _| T::from_f64(rng.random_range(-0.5..0.5)))?;
        let context = Context::of(gemm.with_backend(Backend::MatrixMultiply))?;
        let mut plan = Plan::new(&network, batch, Passes::Forward, context)?;
        let mut baseline = || plan.forward(&network, x.view(), Mode::Evaluation);
        type Pass<'a> = Box<dyn FnMut() -> Result<()> + 'a>;
        let mut own: Vec<(&'static str, usize, Pass<'_>)> = Vec::new();
        for &threads in counts {
            let mut scratch = predictor.scratch_on(Threads::Count(threads), batch)?;
            let mut logits = Matrix::zeros(batch, classes)?;
            let (predictor, x, words) = (&predictor, &x, &words);
            let predict = move || predictor.predict_into(x.view(), logits.view_mut(), &mut scratch);
            own.push(("tilewise", threads, Box::new(predict)));
            let plain_read = move || {
                black_box(read(words, threads));
                Ok(())
            };
            own.push((READ, threads, Box::new(plain_read)));
        }
        let mut contestants: Vec<Contestant<'_>> = own
            .iter_mut()
            .map(|(backend, threads, pass)| Contestant::new(backend, *threads, pass))
            .collect();
        contestants.push(Contestant::new(BASELINE, 1, &mut baseline));
        for contestant in &mut contestants {
            (contestant.pass)()?;
        }
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < args.seconds {
            for contestant in &mut contestants {
                contestant.take_turn()?;
            }
        }
        lines.extend(contestants.into_iter().map(|contestant| contestant.line(batch)));
    }
    let set = gemm.instruction_set();
    print(&if args.common.json {
        as_json(args, &lines)
    } else {
        as_text(args, set, predictor.bytes(), &lines)
    })
}

fn as_json(args: &InferArgs, lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let object = json!({
            "backend": line.backend,
            "dims": args.network.dims,
            "batch": line.batch,
            "dtype": line.precision(args).name(),
            "precision": line.precision(args).name(),
            "threads": line.threads,
            "median_ms": line.median_ms,
            "p90_ms": line.p90_ms,
            "p99_ms": line.p99_ms,
            "max_ms": line.max_ms,
            "images_per_s": line.images_per_s(),
            "of_a_read": line.of_a_read(lines),
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{object}");
    }
    text
}

fn as_text(args: &InferArgs, set: InstructionSet, bytes: usize, lines: &[Line]) -> String {
    let mut text = format!(
        "tilewise {}: predictions of {}, {}, {set}, cores {}; `{READ}` reads the {:.1} MB of the \
         packed weights\n\n\
         {:14} {:>7} {:>7} {:>11} {:>11} {:>11} {:>11} {:>11} {:>10}\n",
        env!("CARGO_PKG_VERSION"),
        args.network.name(),
        args.common.precision,
        cores(),
        bytes as f64 / 1e6,
        "backend",
        "batch",
        "threads",
        "median ms",
        "90 % ms",
        "99 % ms",
        "longest ms",
        "images/s",
        "of a read",
    );
    for line in lines {
        let Line { backend, batch, threads, median_ms, p90_ms, p99_ms, max_ms } = line;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{backend:14} {batch:>7} {threads:>7} {median_ms:>11.4} {p90_ms:>11.4} \
             {p99_ms:>11.4} {max_ms:>11.4} {:>11.0} {:>10.2}",
            line.images_per_s(),
            line.of_a_read(lines),
        );
    }
    text
}
