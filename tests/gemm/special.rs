//! Numbers at the edges: NaN, infinity, denormals and huge values go the way of IEEE, whether
//! operands are packed or read in place.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Element,
    gemm::{Companions, Epilogue, Finish, Gemm, Start, naive},
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
};

use crate::{cases::rounding, operands::values};

/// Blockings that pack everything, and nothing.
fn packed_and_in_place<T: Element>(set: InstructionSet) -> [(Gemm<T>, &'static str); 2] {
    let gemm = Gemm::with_instruction_set(set).unwrap();
    let small = gemm.blocking().with_kc(5).with_in_place_lines(0).with_in_place_work(0);
    let in_place = small.with_in_place_work(1 << 30);
    [(gemm.with_blocking(small), "packed"), (gemm.with_blocking(in_place), "in place")]
}

/// Products of numbers from a list against the definition, to the bit; but any NaN equals any.
fn equals_the_definition<T: Element>(seed: u64, list: &[f64]) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for set in InstructionSet::available() {
        for case in 0..2_000 {
            let mut size = |limit| rng.random_range(1..=limit);
            let (m, n, k) = (size(20), size(70), size(12));
            let (scaled, biased) = (rng.random_bool(0.5), rng.random_bool(0.5));
            let ending = rng.random_range(0..3);
            // One in ten stays ordinary, so that not all sums end at the same place.
            let mut numbers = |len: usize| -> Vec<T> {
                let mut numbers = values::<T>(&mut rng, len);
                for number in &mut numbers {
                    if rng.random_bool(0.9) {
                        *number = T::from_f64(list[rng.random_range(0..list.len())]);
                    }
                }
                numbers
            };
            let (a, b, c) = (numbers(m * k), numbers(k * n), numbers(m * n));
            let (bias, activation) = (numbers(n), numbers(m * n));
            let alpha = if scaled { numbers(1)[0] } else { T::ONE };
            let beta = numbers(1)[0];
            let start = if biased { Start::Bias(&bias) } else { Start::Scaled(beta) };
            let epilogue = || Epilogue {
                start,
                finish: match ending {
                    0 => Finish::Store,
                    1 => Finish::Relu,
                    _ => Finish::ReluGradient { scale: T::from_f64(0.5) },
                },
                companions: match ending {
                    0 | 1 => Companions::default(),
                    _ => MatRef::new(&activation, m, n).unwrap().into(),
                },
                column_sums: None,
            };
            let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
            let mut expected = c.clone();
            let view = MatMut::new(&mut expected, m, n).unwrap();
            naive::gemm(rounding(set), alpha, a, b, view, epilogue()).unwrap();
            for (gemm, how) in packed_and_in_place::<T>(set) {
                let mut found = c.clone();
                let mut scratch = gemm.scratch(m, n, k).unwrap();
                let view = MatMut::new(&mut found, m, n).unwrap();
                gemm.run(alpha, a, b, view, epilogue(), &mut scratch).unwrap();
                let same = |x: T, y: T| {
                    let (x, y) = (x.to_f64(), y.to_f64());
                    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
                };
                assert!(
                    found.iter().zip(&expected).all(|(&x, &y)| same(x, y)),
                    "{set} {} seed {seed} case {case} {how}: {m} x {n} x {k}, alpha {alpha}, {:?}",
                    T::NAME,
                    epilogue(),
                );
            }
        }
    }
}

const NAN: f64 = f64::NAN;
const INFINITY: f64 = f64::INFINITY;

#[test]
fn infinities_and_nan_propagate_in_f32() {
    equals_the_definition::<f32>(7, &[0.0, -0.0, 1.0, -2.0, INFINITY, -INFINITY, NAN]);
}

#[test]
fn infinities_and_nan_propagate_in_f64() {
    equals_the_definition::<f64>(8, &[0.0, -0.0, 1.0, -2.0, INFINITY, -INFINITY, NAN]);
}

#[test]
fn denormals_keep_their_bits_in_f32() {
    let least = f64::from(f32::from_bits(1));
    let list = [0.0, -0.0, least, -least, 5.0 * least, f64::from(f32::MIN_POSITIVE), 1.5e-20, -0.7];
    equals_the_definition::<f32>(9, &list);
}

#[test]
fn denormals_keep_their_bits_in_f64() {
    let least = f64::from_bits(1);
    let list = [0.0, -0.0, least, -least, 5.0 * least, f64::MIN_POSITIVE, 1.5e-160, -0.7];
    equals_the_definition::<f64>(10, &list);
}

#[test]
fn huge_values_overflow_where_the_definition_does_in_f32() {
    let most = f64::from(f32::MAX);
    equals_the_definition::<f32>(11, &[most, -most, 0.6 * most, 1e19, -1e19, 0.5, -1.0, 1e-30]);
}

#[test]
fn huge_values_overflow_where_the_definition_does_in_f64() {
    let most = f64::MAX;
    equals_the_definition::<f64>(12, &[most, -most, 0.6 * most, 1e154, -1e154, 0.5, -1.0, 1e-300]);
}

/// The one element of `epilogue(c + a * b)`, in the corner of a product of zeros.
fn corner(gemm: Gemm<f32>, (m, n): (usize, usize), numbers: [f32; 3], finish: Finish<f32>) -> f32 {
    let [a, b, c] = numbers;
    let k = 3;
    let (mut left, mut right, mut out) = (vec![0.0; m * k], vec![0.0; k * n], vec![0.0; m * n]);
    // The last row, column and step of the depth: the most likely to be cut off.
    left[m * k - 1] = a;
    right[k * n - 1] = b;
    out[m * n - 1] = c;
    let mut scratch = gemm.scratch(m, n, k).unwrap();
    gemm.run(
        1.0,
        MatRef::new(&left, m, k).unwrap(),
        MatRef::new(&right, k, n).unwrap(),
        MatMut::new(&mut out, m, n).unwrap(),
        Epilogue { finish, ..Epilogue::scaled(1.0) },
        &mut scratch,
    )
    .unwrap();
    out[m * n - 1]
}

#[test]
fn every_path_follows_ieee() {
    let inf = f32::INFINITY;
    for set in InstructionSet::available() {
        for (gemm, how) in packed_and_in_place::<f32>(set) {
            for shape in [(1, 1), (1, 200), (3, 129), (15, 33), (29, 65)] {
                let corner = |numbers, finish| corner(gemm, shape, numbers, finish);
                let about = format!("{set} {how} {shape:?}");
                assert!(corner([0.0, inf, 1.0], Finish::Store).is_nan(), "0 inf: {about}");
                assert!(corner([1.0, inf, -inf], Finish::Store).is_nan(), "inf - inf: {about}");
                assert!(corner([0.0, 0.0, f32::NAN], Finish::Store).is_nan(), "NaN: {about}");
                assert!(corner([f32::NAN, 0.0, 1.0], Finish::Relu).is_nan(), "max NaN: {about}");
                assert_eq!(corner([1.0, -inf, 1.0], Finish::Relu), 0.0, "max -inf: {about}");
                assert_eq!(corner([2.0, inf, 1.0], Finish::Relu), inf, "max inf: {about}");
            }
        }
    }
}
