//! `tilewise bench train`: whole training steps of a network, by tilewise and by the same engine
//! on other products, compared with the FMA peak of the same run.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use serde_json::json;

use crate::{
    bench::contest::{BACKENDS, Common, NAIVE_LIMIT, Peak, Perceptron, backend},
    console::print,
    cores, options,
};
use tilewise::{
    Context, Element, Precision,
    error::{Error, Result},
    gemm::{Backend, GatheredRows, Gemm},
    matrix::Matrix,
    nn::Network,
    simd::InstructionSet,
    threads::Threads,
    train::{Optimizer, StepTimes, Trainer, TrainerConfig},
};

/// Images in the store for each one of a batch, so that batches are gathered from all over it.
const STORE_BATCHES: usize = 8;

/// Arguments of `tilewise bench train`.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    network: Perceptron,
    /// Batch size, in examples.
    #[arg(long, value_name = "N", default_value = "512", value_parser = options::count)]
    batch: usize,
    /// Optimizer.
    #[arg(long, value_name = "NAME", default_value = "sgd", value_parser = options::optimizer())]
    optimizer: Optimizer,
    /// Probability of dropping an activation of a hidden layer.
    #[arg(long, value_name = "P", default_value = "0", value_parser = options::fraction)]
    dropout: f64,
    #[command(flatten)]
    common: Common,
    /// Backends of the products to compare, separated by commas; bf16 has tilewise alone.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = backend(),
          default_value = "tilewise,matrixmultiply,naive")]
    backends: Vec<Backend>,
    /// Measuring time in seconds, divided equally among the backends.
    #[arg(long, value_name = "S", default_value = "5", value_parser = options::positive)]
    seconds: f64,
}

/// Runs `tilewise bench train`.
///
/// # Errors
/// Same as [`super::run`].
pub(super) fn run(args: &TrainArgs) -> Result<()> {
    args.common.run(|| bench::<f32>(args), || bench::<f64>(args), || bench::<f32>(args))
}

fn bench<T: Element>(args: &TrainArgs) -> Result<()> {
    let gemm = args.common.gemm::<T>()?;
    let network = args.network.build::<T>(args.dropout)?;
    let (input, classes) = (network.in_features(), network.classes());
    let flop = flop(&network, &args.network.dims, args.batch);
    let examples = Examples::<T>::new(input, classes, args.batch)?;
    let mut contestants = Vec::new();
    for (name, backend) in BACKENDS {
        let has = backend == Backend::Tilewise || args.common.precision != Precision::Bf16;
        let wanted = args.backends.contains(&backend) && has;
        if wanted && (backend != Backend::Naive || flop / 2.0 <= NAIVE_LIMIT as f64) {
            contestants.push(Contestant::new(name, backend, &network, gemm, args)?);
        }
    }
    let context = Context::of(gemm)?.with_precision(args.common.precision)?;
    let before = Peak::of_context(&context)?;
    let share = args.seconds / contestants.len().max(1) as f64;
    while contestants.iter().any(|contestant| contestant.is_unfinished(share)) {
        for contestant in &mut contestants {
            if contestant.is_unfinished(share) {
                contestant.step(&examples)?;
            }
        }
    }
    let after = Peak::of_context(&context)?;
    let lines = contestants.into_iter().map(|contestant| {
        let peaks = [before, after].map(|peak| peak.of(contestant.threads));
        contestant.line(peaks, flop, args.batch)
    });
    let lines: Vec<_> = lines.collect();
    let set = gemm.instruction_set();
    print(&if args.common.json { as_json(args, &lines) } else { as_text(args, set, &lines) })
}

/// Floating-point operations of a step: three products for each layer, two for the first, whose
/// input has no gradient.
fn flop<T: Element>(network: &Network<T>, dims: &[usize], batch: usize) -> f64 {
    batch as f64 * (6.0 * network.parameter_count() as f64 - 2.0 * (dims[0] * dims[1]) as f64)
}

/// Random examples: bytes for those who gather, numbers for those who do not.
struct Examples<T: Element> {
    store: Vec<u8>,
    scale: Vec<T>,
    shift: Vec<T>,
    /// One order of the store after another.
    indices: Vec<u32>,
    /// The first batch, as numbers.
    rows: Matrix<T>,
    labels: Vec<u32>,
}

impl<T: Element> Examples<T> {
    fn new(input: usize, classes: usize, batch: usize) -> Result<Self> {
        let count = batch.saturating_mul(STORE_BATCHES);
        let bytes = count.checked_mul(input).filter(|&bytes| bytes < 1 << 36);
        let overflow = || Error::SizeOverflow { what: "examples", rows: count, cols: input };
        let mut store = vec![0; bytes.ok_or_else(overflow)?];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        rng.fill_bytes(&mut store);
        let (scale, shift) = (T::from_f64(1.0 / 255.0), T::from_f64(-0.5));
        let (scale, shift) = (vec![scale; input], vec![shift; input]);
        let indices: Vec<u32> = (0..count).map(|_| rng.random_range(0..count as u32)).collect();
        let first = GatheredRows::new(&store, &indices[..batch], &scale, &shift)?;
        let rows = Matrix::from_fn(batch, input, |i, j| first.get(i, j))?;
        let labels = (0..batch).map(|i| (i % classes) as u32).collect();
        Ok(Self { store, scale, shift, indices, rows, labels })
    }

    /// Batch number `number` of the store.
    fn gathered(&self, number: usize) -> Result<GatheredRows<'_, T>> {
        let batch = self.labels.len();
        let start = number % STORE_BATCHES * batch;
        let indices = &self.indices[start..start + batch];
        GatheredRows::new(&self.store, indices, &self.scale, &self.shift)
    }
}

/// One backend's training.
struct Contestant<T: Element> {
    name: &'static str,
    backend: Backend,
    threads: usize,
    trainer: Trainer<T>,
    /// Seconds in all, also those of the first step, which warms up.
    used: f64,
    /// Seconds of each step.
    seconds: Vec<f64>,
    times: Vec<StepTimes>,
}

impl<T: Element> Contestant<T> {
    fn new(
        name: &'static str,
        backend: Backend,
        network: &Network<T>,
        gemm: Gemm<T>,
        args: &TrainArgs,
    ) -> Result<Self> {
        let own = backend == Backend::Tilewise;
        let (threads, threading) =
            if own { (args.common.threads, Threads::Pool) } else { (1, Threads::Caller) };
        let config = TrainerConfig::default()
            .with_batch_size(args.batch)
            .with_optimizer(args.optimizer)
            .with_learning_rate(1e-3)
            .with_precision(Some(args.common.precision))
            .with_threads(threading);
        let context = Context::of(gemm.with_backend(backend))?;
        let trainer = Trainer::with_context(network.try_clone()?, config, context)?;
        let (seconds, times) = (Vec::new(), Vec::new());
        Ok(Self { name, backend, threads, trainer, used: 0.0, seconds, times })
    }

    fn step(&mut self, examples: &Examples<T>) -> Result<()> {
        let first = self.used == 0.0;
        let begin = Instant::now();
        let stats = if self.backend == Backend::Tilewise {
            let x = examples.gathered(self.seconds.len())?;
            self.trainer.step(x, &examples.labels)?
        } else {
            self.trainer.step(examples.rows.view(), &examples.labels)?
        };
        let seconds = begin.elapsed().as_secs_f64().max(1e-9);
        self.used += seconds;
        // A step that takes most of the time has no other beside it.
        if !first || seconds > 1.0 {
            self.seconds.push(seconds);
            self.times.push(stats.times);
        }
        Ok(())
    }

    /// Whether it has time left of its share, or no step measured yet.
    fn is_unfinished(&self, share: f64) -> bool {
        self.used < share || self.seconds.is_empty()
    }

    fn line(mut self, peaks: [f64; 2], flop: f64, batch: usize) -> Line {
        let steps = self.seconds.len();
        let mean = |time: fn(&StepTimes) -> Duration| {
            self.times.iter().map(time).sum::<Duration>().as_secs_f64() / steps as f64
        };
        let mut phases = [
            ("forward", mean(|times| times.forward)),
            ("loss", mean(|times| times.loss)),
            ("d_x", mean(|times| times.input_gradients)),
            ("d_w_update", mean(|times| times.parameter_gradients + times.updates)),
            ("other", self.seconds.iter().sum::<f64>() / steps as f64),
        ];
        // What is in no phase is the rest.
        phases[4].1 -= phases[..4].iter().map(|(_, seconds)| seconds).sum::<f64>();
        self.seconds.sort_by(f64::total_cmp);
        let (median, min) = (self.seconds[steps / 2], self.seconds[0]);
        Line {
            backend: self.name,
            threads: self.threads,
            median_ms: 1e3 * median,
            min_ms: 1e3 * min,
            gflops: 1e-9 * flop / min,
            peak_gflops: peaks[0].max(peaks[1]),
            images_per_s: batch as f64 / median,
            workspace_bytes: self.trainer.plan().bytes(),
            phases: phases.map(|(name, seconds)| (name, 1e3 * seconds)),
        }
    }
}

/// The result of one backend.
struct Line {
    backend: &'static str,
    threads: usize,
    median_ms: f64,
    min_ms: f64,
    /// Of the fastest step.
    gflops: f64,
    /// The best of the run, for as many threads.
    peak_gflops: f64,
    /// Of the median step.
    images_per_s: f64,
    workspace_bytes: usize,
    /// Mean milliseconds.
    phases: [(&'static str, f64); 5],
}

fn as_json(args: &TrainArgs, lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let phases: serde_json::Map<_, _> =
            line.phases.iter().map(|&(name, ms)| (name.into(), json!(ms))).collect();
        let object = json!({
            "backend": line.backend,
            "dims": args.network.dims,
            "batch": args.batch,
            "optimizer": args.optimizer.name(),
            "dropout": args.dropout,
            "dtype": args.common.precision.name(),
            "precision": args.common.precision.name(),
            "threads": line.threads,
            "median_ms": line.median_ms,
            "min_ms": line.min_ms,
            "gflops": line.gflops,
            "peak_gflops": line.peak_gflops,
            "fraction": line.gflops / line.peak_gflops,
            "images_per_s": line.images_per_s,
            "workspace_bytes": line.workspace_bytes,
            "phases": phases,
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{object}");
    }
    text
}

fn as_text(args: &TrainArgs, set: InstructionSet, lines: &[Line]) -> String {
    let mut text = format!(
        "tilewise {}: {}, batch {}, {}, dropout {}, {}, {set}, cores {}\n\
         Times are milliseconds a step; rate and fraction are those of the fastest step, the peak \
         is the best\nof this run; phases are means.\n\n\
         {:14} {:>7} {:>9} {:>9} {:>9} {:>7} {:>9} {:>11} {:>10}",
        env!("CARGO_PKG_VERSION"),
        args.network.name(),
        args.batch,
        args.optimizer,
        args.dropout,
        args.common.precision,
        cores(),
        "backend",
        "threads",
        "median",
        "min",
        "GFLOP/s",
        "peak",
        "fraction",
        "images/s",
        "workspace",
    );
    for (name, _) in lines.first().map_or(&[][..], |line| &line.phases) {
        // Writing to a string cannot fail, here and below.
        let _ = write!(text, " {name:>10}");
    }
    text.push('\n');
    for line in lines {
        let _ = write!(
            text,
            "{:14} {:>7} {:>9.3} {:>9.3} {:>9.1} {:>7.1} {:>9.3} {:>11.0} {:>8.1} M",
            line.backend,
            line.threads,
            line.median_ms,
            line.min_ms,
            line.gflops,
            line.peak_gflops,
            line.gflops / line.peak_gflops,
            line.images_per_s,
            line.workspace_bytes as f64 / 1e6,
        );
        for (_, ms) in line.phases {
            let _ = write!(text, " {ms:>10.3}");
        }
        text.push('\n');
    }
    text
}
