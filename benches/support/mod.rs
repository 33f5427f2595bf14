//! What the benchmarks share: the shapes of the networks' products, random data, the contestants.

#![allow(dead_code, reason = "each benchmark uses its part")]

use criterion::{BenchmarkGroup, Throughput, measurement::WallTime};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    gemm::{Backend, Gemm},
    matrix::{MatRef, Matrix},
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
