//! What the benchmarks share: the shapes of the networks' products, random data, the contestants.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Throughput, measurement::WallTime};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Context, Result,
    gemm::{Backend, Gemm},
    matrix::{MatMut, MatRef, Matrix},
    nn::{Arena, Backward, Forward, Init, Layer, MlpConfig, Network, RandomPlace, mlp},
    threads::Threads,
    train::{Trainer, TrainerConfig},
};

/// Who is compared. `matrixmultiply` and `naive` are what the crate offers as backends.
pub const CONTESTANTS: [(&str, Backend); 3] = [
    ("naive", Backend::Naive),
    ("matrixmultiply", Backend::MatrixMultiply),
    ("tilewise", Backend::Tilewise),
];

/// Random elements between -1 and 1.
pub fn random(rows: usize, cols: usize, seed: u64) -> Matrix<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Matrix::from_fn(rows, cols, |_, _| rng.random_range(-1.0..1.0)).expect("a small matrix")
}

/// The best kernels on one thread, with a contestant's backend.
pub fn gemm(backend: Backend) -> Gemm<f32> {
    Gemm::new().expect("an available instruction set").with_backend(backend)
}

/// Fails unless two results of different orders of summation agree.
pub fn assert_close(found: MatRef<'_, f32>, expected: MatRef<'_, f32>, depth: usize) {
    let tolerance = 1e-6 * depth as f32;
    for i in 0..expected.rows() {
        for j in 0..expected.cols() {
            let (a, b) = (found.get(i, j), expected.get(i, j));
            assert!((a - b).abs() <= tolerance, "({i}, {j}): {a} instead of {b}");
        }
    }
}

/// Throughput in floating-point operations: criterion's "elem/s" are flop/s.
pub fn set_flops(group: &mut BenchmarkGroup<'_, WallTime>, flops: usize) {
    group.throughput(Throughput::Elements(flops as u64));
}

/// Criterion with few samples, for operations of milliseconds.
pub fn criterion() -> criterion::Criterion {
    criterion::Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

/// A perceptron for CIFAR-10 with these hidden layers.
pub fn perceptron(hidden: &[usize]) -> Network<f32> {
    let config = MlpConfig::default().with_hidden(hidden.to_vec()).with_init(Init::He);
    mlp(&config).expect("a sensible network")
}

/// Sizes of a perceptron's layers, from the input to the classes.
pub fn sizes(network: &Network<f32>, hidden: &[usize]) -> Vec<usize> {
    [&[network.in_features()], hidden, &[network.classes()]].concat()
}

/// Training steps of a perceptron (forward, backward, SGD), all on the same batch.
pub struct Steps {
    pool: rayon::ThreadPool,
    trainer: Trainer<f32>,
    /// (batch, in)
    x: Matrix<f32>,
    labels: Vec<u32>,
}

impl Steps {
    /// Rows of the batch.
    pub const BATCH: usize = 512;

    /// Floating-point operations of a step: three products for each layer, two for the first, whose
    /// input has no gradient.
    pub fn flops(network: &Network<f32>, sizes: &[usize]) -> usize {
        Self::BATCH * (6 * network.parameter_count() - 2 * sizes[0] * sizes[1])
    }

    /// Steps of a copy of the network, the first of which is done.
    pub fn new(network: &Network<f32>, context: Context<f32>, threads: usize) -> Self {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.expect("a pool of threads");
        let config = TrainerConfig::default()
            .with_batch_size(Self::BATCH)
            .with_learning_rate(0.01)
            .with_threads(Threads::Count(threads));
        let network = network.try_clone().expect("a small network");
        let x = random(Self::BATCH, network.in_features(), 3);
        let trainer = pool.install(|| Trainer::with_context(network, config, context));
        let trainer = trainer.expect("sensible settings");
        let labels = (0..Self::BATCH as u32).map(|i| i % 10).collect();
        let mut steps = Self { pool, trainer, x, labels };
        steps.run(1);
        steps
    }

    /// The time of so many steps.
    pub fn run(&mut self, count: u64) -> Duration {
        let Self { pool, trainer, x, labels } = self;
        pool.install(|| {
            let begin = Instant::now();
            for _ in 0..count {
                trainer.step(x.view(), labels).expect("ten classes");
            }
            begin.elapsed()
        })
    }
}

/// Where the random numbers of a layer alone come from.
const PLACE: RandomPlace = RandomPlace { seed: 7, step: Some(1), layer: 0, first_row: 0 };

/// A layer's forward pass alone.
pub fn forward(
    context: &Context<f32>,
    layer: &dyn Layer<f32>,
    parameters: &Arena<f32>,
    (x, out): (MatRef<'_, f32>, MatMut<'_, f32>),
    scratch: &mut [u8],
) -> Result<()> {
    let count = parameters.layout().tensors().len();
    let (parameters, buffers) = (parameters.slices(0..count), parameters.slices(0..0));
    let (saved, random): (&mut [f32], _) = (&mut [], PLACE);
    layer.forward(context, Forward { parameters, buffers, x, out, saved, scratch, random })
}

/// The backward pass alone of a layer without parameters.
pub fn backward(
    context: &Context<f32>,
    layer: &dyn Layer<f32>,
    none: &mut Arena<f32>,
    (out, d_out, d_x): (MatRef<'_, f32>, MatRef<'_, f32>, MatMut<'_, f32>),
) -> Result<()> {
    let nothing = none.try_clone()?;
    let pass = Backward {
        parameters: nothing.slices(0..0),
        x: None,
        out: Some(out),
        d_out,
        d_x: Some(d_x),
        gradients: none.slices_mut(0..0),
        accumulate: false,
        saved: &mut [],
        scratch: &mut [],
        random: PLACE,
    };
    layer.backward(context, pass)
}
