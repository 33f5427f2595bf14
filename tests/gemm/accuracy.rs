//! The error against double precision, by the measure of netlib's BLAS tests.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    gemm::{Epilogue, Gemm},
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
};

/// Rounding error of one operation in f32.
const EPS: f64 = 1.0 / (1 << 24) as f64;

/// What netlib accepts: 16 in units of 2^-23.
const LIMIT: f64 = 16.0 * 2.0;

/// Rows of each product that are compared.
const ROWS: usize = 6;

/// The largest of |expected - found| / (eps (|alpha| sum |a| |b| + |beta| |c|)) over some rows of
/// a product of random numbers between -1/2 and 1/2, as netlib draws them.
fn figure(rng: &mut ChaCha8Rng, set: InstructionSet, (m, n, k): (usize, usize, usize)) -> f64 {
    let (alpha, beta) = (0.7f32, 1.3f32);
    let mut numbers =
        |len: usize| (0..len).map(|_| rng.random_range(-0.5..0.5)).collect::<Vec<f32>>();
    let (a, b, old) = (numbers(m * k), numbers(k * n), numbers(m * n));
    let mut c = old.clone();
    let gemm = Gemm::<f32>::with_instruction_set(set).unwrap();
    let mut scratch = gemm.scratch(m, n, k).unwrap();
    let (left, right) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
    let view = MatMut::new(&mut c, m, n).unwrap();
    gemm.run(alpha, left, right, view, Epilogue::scaled(beta), &mut scratch).unwrap();

    let (alpha, beta) = (f64::from(alpha), f64::from(beta));
    let mut largest = 0.0f64;
    for _ in 0..ROWS.min(m) {
        let i = rng.random_range(0..m);
        let old = old[i * n..][..n].iter().map(|&c| f64::from(c));
        let mut sums: Vec<(f64, f64)> = old.map(|c| (beta * c, beta * c.abs())).collect();
        for (&a, row) in a[i * k..][..k].iter().zip(b.chunks_exact(n)) {
            let a = alpha * f64::from(a);
            for ((sum, scale), &b) in sums.iter_mut().zip(row) {
                let term = a * f64::from(b);
                *sum += term;
                *scale += term.abs();
            }
        }
        for (&found, (expected, scale)) in c[i * n..][..n].iter().zip(sums) {
            largest = largest.max((expected - f64::from(found)).abs() / (EPS * scale));
        }
    }
    largest
}

#[test]
fn the_error_is_far_below_what_netlib_accepts() {
    let seed = 5;
    for set in InstructionSet::available() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut largest = (0.0, (0, 0, 0));
        let mut size = || (3000f64.powf(rng.random_range(0.0..=1.0)).round()) as usize;
        let mut sizes: Vec<_> = (0..60).map(|_| (size(), size(), size())).collect();
        // The longest chains, where errors add up.
        sizes.extend([(7, 3000, 3000), (3000, 7, 3000), (300, 300, 3000)]);
        for sizes in sizes {
            let figure = figure(&mut rng, set, sizes);
            if figure > largest.0 {
                largest = (figure, sizes);
            }
        }
        println!("{set}: {:.2} of {LIMIT}, at {:?}, seed {seed}", largest.0, largest.1);
        assert!(largest.0 < LIMIT, "{set} seed {seed}: {} at {:?}", largest.0, largest.1);
    }
}
