//! What the benchmarks share: the shapes of the networks' products, random data, the contestants.

#![allow(dead_code, reason = "each benchmark uses its part")]

use criterion::{BenchmarkGroup, Throughput, measurement::WallTime};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Context, Result,
    gemm::{Backend, Gemm},
    matrix::{MatMut, MatRef, Matrix},
    nn::{Arena, Backward, Forward, Layer, RandomPlace},
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
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2))
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
