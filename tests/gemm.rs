//! The product against its definition, to the bit: every instruction set, sizes on both sides of
//! every block size, strides, epilogues, threads.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Element, Error,
    float::Float,
    gemm::{Blocking, DropoutMask, Epilogue, Finish, Gemm, Start, gemm, naive},
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
    threads::Threads,
};

/// A matrix in a larger slice: random elements, NaN everywhere else.
struct Operand<T> {
    data: Vec<T>,
    offset: usize,
    shape: (usize, usize),
    strides: (isize, isize),
}

impl<T: Float> Operand<T> {
    fn random(rng: &mut ChaCha8Rng, rows: usize, cols: usize) -> Self {
        let gap = rng.random_range(0..3);
        let step = rng.random_range(1..3);
        // Row-major, column-major, or with gaps in both directions; either end first.
        let (mut row_stride, mut col_stride) = match rng.random_range(0..3) {
            0 => ((cols + gap) as isize, 1),
            1 => (1, (rows + gap) as isize),
            _ => ((cols * step + gap).max(1) as isize, step as isize),
        };
        let span = |len: usize, stride: isize| len.saturating_sub(1) * stride.unsigned_abs();
        let len = span(rows, row_stride) + span(cols, col_stride) + 1;
        let mut offset = 0;
        if rng.random_bool(0.2) {
            offset += span(rows, row_stride);
            row_stride = -row_stride;
        }
        if rng.random_bool(0.2) {
            offset += span(cols, col_stride);
            col_stride = -col_stride;
        }
        let guard = rng.random_range(0..17);
        let mut operand = Self {
            data: vec![T::from_f64(f64::NAN); len + 2 * guard],
            offset: offset + guard,
            shape: (rows, cols),
            strides: (row_stride, col_stride),
        };
        for i in 0..rows {
            for j in 0..cols {
                let value = T::from_f64(rng.random_range(-1.0..1.0));
                operand.view_mut().set(i, j, value);
            }
        }
        operand
    }

    fn view(&self) -> MatRef<'_, T> {
        MatRef::strided(&self.data, self.offset, self.shape, self.strides).unwrap()
    }

    fn view_mut(&mut self) -> MatMut<'_, T> {
        MatMut::strided(&mut self.data, self.offset, self.shape, self.strides).unwrap()
    }

    fn bits(&self) -> Vec<u64> {
        self.data.iter().map(|x| x.to_f64().to_bits()).collect()
    }
}

fn rounding(set: InstructionSet) -> naive::Rounding {
    if set.is_fused() { naive::Rounding::Once } else { naive::Rounding::Twice }
}

/// Random products of up to `max` rows and columns with tiny blocks, against the definition.
fn check_against_naive<T: Element>(set: InstructionSet, cases: usize, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let plain = Gemm::<T>::with_instruction_set(set).unwrap();
    let (mr, nr) = plain.tile();
    for case in 0..cases {
        let m = rng.random_range(0..=2 * mr + 1);
        let n = rng.random_range(0..=2 * nr + 1);
        let k = rng.random_range(0..=20);
        let blocking = Blocking {
            mc: rng.random_range(1..=2) * mr,
            kc: rng.random_range(1..=8),
            nc: rng.random_range(1..=2) * nr,
            kb: rng.random_range(1..=16),
            in_place_lines: rng.random_range(0..=4),
            in_place_work: [0, 1 << 18][rng.random_range(0..2)],
        };
        let a = Operand::<T>::random(&mut rng, m, k);
        let b = Operand::<T>::random(&mut rng, k, n);
        let mut c = Operand::<T>::random(&mut rng, m, n);
        let bias: Vec<T> = (0..n).map(|_| T::from_f64(rng.random_range(-1.0..1.0))).collect();
        let activation: Vec<T> =
            (0..m * n).map(|_| T::from_f64(rng.random_range(-1.0..1.0))).collect();
        let alpha = T::from_f64([0.0, 1.0, -0.3][rng.random_range(0..3)]);
        let beta = T::from_f64([0.0, 1.0, 0.7][rng.random_range(0..3)]);
        let dense = rng.random_bool(0.4);
        if dense {
            c.strides = (n as isize + 2, 1);
            c.offset = 3;
            c.data = vec![T::from_f64(0.25); (n + 2) * m + 6];
        }
        let mut velocity = activation.clone();
        let mut other_velocity = activation.clone();
        let mut sums = vec![T::from_f64(f64::NAN); n];
        let mut other_sums = sums.clone();
        let (start, finish) = (rng.random_range(0..2), rng.random_range(0..6));
        let asked = dense && rng.random_bool(0.5) && b.strides.1 == 1;
        let epilogue = |velocity, b_sums| {
            let mut epilogue = Epilogue { b_sums, ..Epilogue::scaled(beta) };
            if dense && start == 1 {
                epilogue.start = Start::Bias(&bias);
            }
            epilogue.finish = match finish {
                1 => Finish::Relu,
                2 if dense => Finish::Gate {
                    activation: MatRef::new(&activation, m, n).unwrap(),
                    scale: T::from_f64(1.25),
                },
                3 if dense => Finish::ReluDropout {
                    mask: DropoutMask::new(0.3, 1, 2, 3),
                    scale: T::from_f64(1.25),
                },
                4 if dense => {
                    Finish::Descent { learning_rate: T::from_f64(0.1), l2: T::from_f64(0.01) }
                }
                5 if dense => Finish::Momentum {
                    velocity: MatMut::new(velocity, m, n).unwrap(),
                    learning_rate: T::from_f64(0.1),
                    momentum: T::from_f64(0.9),
                    l2: T::from_f64(0.01),
                },
                _ => Finish::Store,
            };
            if dense && finish >= 4 {
                epilogue.start = Start::Scaled(T::ZERO);
            }
            epilogue
        };
        let update = dense && finish >= 4;
        let reads_c = update || (beta != T::ZERO && !(dense && start == 1));
        if !reads_c {
            c.data.fill(T::from_f64(f64::NAN));
        }
        let mut expected =
            Operand { data: c.data.clone(), offset: c.offset, shape: c.shape, strides: c.strides };
        let reference = epilogue(&mut other_velocity, asked.then_some(&mut other_sums[..]));
        let rounding = rounding(set);
        naive::gemm(rounding, alpha, a.view(), b.view(), expected.view_mut(), reference).unwrap();
        let multiplier = plain.with_blocking(blocking);
        let mut scratch = multiplier.scratch(m, n, k).unwrap();
        scratch.fill(T::from_f64(f64::NAN));
        let fused = epilogue(&mut velocity, asked.then_some(&mut sums[..]));
        let about = format!("{fused:?}");
        multiplier.run(alpha, a.view(), b.view(), c.view_mut(), fused, &mut scratch).unwrap();
        let bits = |x: &[T]| x.iter().map(|x| x.to_f64().to_bits()).collect::<Vec<_>>();
        assert!(
            c.bits() == expected.bits()
                && bits(&velocity) == bits(&other_velocity)
                && bits(&sums) == bits(&other_sums),
            "{set} {} seed {seed} case {case}: {m} x {n} x {k}, {blocking:?}, alpha {alpha}, \
             {about}, A {:?}, B {:?}, C {:?}",
            T::NAME,
            a.strides,
            b.strides,
            c.strides
        );
    }
}

#[test]
fn equals_the_definition_in_f32() {
    for set in InstructionSet::available() {
        check_against_naive::<f32>(set, 20_000, 1);
    }
}

#[test]
fn equals_the_definition_in_f64() {
    for set in InstructionSet::available() {
        check_against_naive::<f64>(set, 20_000, 2);
    }
}

/// Row-major random elements.
fn random<T: Float>(rng: &mut ChaCha8Rng, len: usize) -> Vec<T> {
    (0..len).map(|_| T::from_f64(rng.random_range(-1.0..1.0))).collect()
}

fn product<T: Element>(
    gemm: Gemm<T>,
    (m, n, k): (usize, usize, usize),
    a: &[T],
    b: &[T],
) -> Vec<T> {
    let mut c = vec![T::ZERO; m * n];
    let mut scratch = gemm.scratch(m, n, k).unwrap();
    gemm.run(
        T::ONE,
        MatRef::new(a, m, k).unwrap(),
        MatRef::new(b, k, n).unwrap(),
        MatMut::new(&mut c, m, n).unwrap(),
        Epilogue::default(),
        &mut scratch,
    )
    .unwrap();
    c
}

#[test]
fn threads_and_fused_sets_do_not_change_the_bits() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    for shape in [(1031, 257, 517), (5, 1100, 700), (2000, 10, 301), (300, 3, 4000)] {
        let (m, n, k) = shape;
        let (a, b) = (random::<f32>(&mut rng, m * k), random::<f32>(&mut rng, k * n));
        let mut reference: Option<Vec<f32>> = None;
        for set in InstructionSet::available().filter(|set| set.is_fused()) {
            let gemm = Gemm::with_instruction_set(set).unwrap();
            for tasks in [1, 2, 3, 4, 7] {
                let gemm = gemm.threads(Threads::Count(tasks));
                let c = pool.install(|| product(gemm, shape, &a, &b));
                match &reference {
                    Some(reference) => assert!(c == *reference, "{shape:?} {set} {tasks} tasks"),
                    None => reference = Some(c),
                }
            }
        }
    }
}

#[test]
fn agrees_with_matrixmultiply() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (m, n, k) = (133, 207, 411);
    let (a, b) = (random::<f64>(&mut rng, m * k), random::<f64>(&mut rng, k * n));
    let gemm = Gemm::new().unwrap();
    let ours = product(gemm, (m, n, k), &a, &b);
    let theirs =
        product(gemm.with_backend(tilewise::gemm::Backend::MatrixMultiply), (m, n, k), &a, &b);
    for (x, y) in ours.iter().zip(&theirs) {
        assert!((x - y).abs() < 1e-12, "{x} {y}");
    }
}

#[test]
fn misfits_are_errors_with_both_sizes() {
    let data = [0.0f32; 12];
    let mut c = [0.0f32; 9];
    let a = MatRef::new(&data, 3, 4).unwrap();
    let error = gemm(1.0, a, a, 0.0, MatMut::new(&mut c, 3, 3).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "B of a product with A: expected 4 x 4, found 3 x 4");
    let error = gemm(1.0, a, a.t(), 0.0, MatMut::new(&mut c[..6], 3, 2).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Shape { expected: (3, 3), found: (3, 2), .. }), "{error}");
    let plan = Gemm::new().unwrap();
    let c_view = MatMut::new(&mut c, 3, 3).unwrap();
    let error = plan.run(1.0, a, a.t(), c_view, Epilogue::bias(&[0.0; 2]), &mut []).unwrap_err();
    assert!(matches!(error, Error::Length { expected: 3, found: 2, .. }), "{error}");
    let c_view = MatMut::new(&mut c, 3, 3).unwrap();
    let error = plan.run(1.0, a, a.t(), c_view, Epilogue::default(), &mut []).unwrap_err();
    assert!(matches!(error, Error::Length { found: 0, .. }), "{error}");
}
