//! The raw entry points, which take the place of those of the crate `matrixmultiply`, and the
//! backends that can take the place of the kernels.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    gemm::{Backend, Epilogue, Finish, Gemm, dgemm, dgemm_with, sgemm, sgemm_with},
    matrix::{MatMut, MatRef},
    threads::Threads,
};

use crate::operands::{Heap, Layouts, Strided, product};

/// Products of whole numbers, exact in any order of additions, by tilewise and by
/// `matrixmultiply`, through one type of function.
macro_rules! same_products {
    ($test:ident, $t:ident, $ours:ident, $with:ident) => {
        #[test]
        fn $test() {
    #[rustfmt::skip]
            type Product = unsafe fn(
                usize, usize, usize, $t,
                *const $t, isize, isize, *const $t, isize, isize, $t,
                *mut $t, isize, isize,
            );
            let functions: [Product; 2] = [$ours, matrixmultiply::$ours];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
            let seed = 6;
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for case in 0..2_000 {
                let limit = if case % 400 == 0 { 250 } else { 40 };
                let mut size = || rng.random_range(0..limit);
                let (m, k, n) = (size(), size(), size());
                let whole = |rng: &mut ChaCha8Rng| $t::from(rng.random_range(-8..=8i8));
                let a = Strided::<$t, Heap>::with(&mut rng, (m, k), Layouts::Shared, whole);
                let b = Strided::<$t, Heap>::with(&mut rng, (k, n), Layouts::Shared, whole);
                let c = Strided::<$t, Heap>::with(&mut rng, (m, n), Layouts::Distinct, whole);
                let (alpha, beta) = (whole(&mut rng), whole(&mut rng));
                let (ra, rb, rc) = (a.place.strides, b.place.strides, c.place.strides);
                let left = a.data.as_ptr().wrapping_add(a.place.offset);
                let right = b.data.as_ptr().wrapping_add(b.place.offset);
                // C as a function leaves it, what stands around it included; NaN as `None`.
                let run = |function: &dyn Fn(*mut $t)| {
                    let mut data = c.data.clone();
                    function(data.as_mut_ptr().wrapping_add(c.place.offset));
                    data.iter().map(|&c| (!c.is_nan()).then_some(c)).collect::<Vec<_>>()
                };
                let [ours, theirs] = functions.map(|f| {
                    // SAFETY: all elements of the places lie in their slices, those of C are
                    // distinct.
                    run(&|c| unsafe {
                        f(m, k, n, alpha, left, ra.0, ra.1, right, rb.0, rb.1, beta, c, rc.0, rc.1)
                    })
                });
                let divided = run(&|c| {
                    let addresses = [left as usize, right as usize, c as usize];
                    pool.install(|| {
                        let [a, b, c] = addresses;
                        let (a, b, c) = (a as *const $t, b as *const $t, c as *mut $t);
                        let threads = Threads::Count(3);
                        // SAFETY: as above.
                        unsafe {
                            $with(
                                threads, m, k, n, alpha, a, ra.0, ra.1, b, rb.0, rb.1, beta, c,
                                rc.0, rc.1,
                            )
                        }
                    })
                });
                let about = format!(
                    "seed {seed} case {case}: {m} x {n} x {k}, A {ra:?}, B {rb:?}, C {rc:?}, \
                     alpha {alpha}, beta {beta}"
                );
                assert!(ours == theirs, "on one thread: {about}");
                assert!(divided == theirs, "divided: {about}");
            }
        }
    };
}

same_products!(sgemm_computes_what_matrixmultiply_does, f32, sgemm, sgemm_with);
same_products!(dgemm_computes_what_matrixmultiply_does, f64, dgemm, dgemm_with);

/// With a factor of 0, A and B are not read; with one of 0 for C, nor is that; without depth there
/// still are start and finish.
#[test]
fn no_backend_reads_what_a_factor_of_0_takes_out() {
    let (m, n) = (33, 47);
    let nan = vec![f32::NAN; 64 * 64];
    let old: Vec<f32> = (0..m * n).map(|i| i as f32 - 700.0).collect();
    let bias: Vec<f32> = (0..n).map(|j| j as f32 - 20.0).collect();
    let activation: Vec<f32> = (0..m * n).map(|i| (i % 3) as f32 - 1.0).collect();
    for (k, alpha) in [(0, 1.0), (0, 0.0), (0, f32::NAN), (61, 0.0), (61, -0.0)] {
        let a = MatRef::new(&nan[..m * k], m, k).unwrap();
        let b = MatRef::new(&nan[..k * n], k, n).unwrap();
        for (infinite, &backend) in
            [false, true].into_iter().flat_map(|x| Backend::ALL.iter().map(move |b| (x, b)))
        {
            let inf = vec![f32::INFINITY; 64 * 64];
            let (a, b) = if infinite {
                (
                    MatRef::new(&inf[..m * k], m, k).unwrap(),
                    MatRef::new(&inf[..k * n], k, n).unwrap(),
                )
            } else {
                (a, b)
            };
            let about = format!("{backend:?} k {k} alpha {alpha}");
            let gemm = Gemm::<f32>::new().unwrap().with_backend(backend);
            let mut scratch = gemm.scratch(m, n, k).unwrap();
            let mut run = |old: &[f32], epilogue: Epilogue<'_, f32>| {
                let mut c = old.to_vec();
                let view = MatMut::new(&mut c, m, n).unwrap();
                gemm.run(alpha, a, b, view, epilogue, &mut scratch).unwrap();
                c
            };
            let zeros = vec![0.0; m * n];
            assert_eq!(run(&nan[..m * n], Epilogue::scaled(0.0)), zeros, "{about}: beta 0");
            assert_eq!(run(&old, Epilogue::scaled(1.0)), old, "{about}: beta 1");
            let halves: Vec<f32> = old.iter().map(|c| 0.5 * c).collect();
            assert_eq!(run(&old, Epilogue::scaled(0.5)), halves, "{about}: beta 0.5");
            let clamped: Vec<f32> = halves.iter().map(|c| c.max(0.0)).collect();
            let relu = Epilogue { finish: Finish::Relu, ..Epilogue::scaled(0.5) };
            assert_eq!(run(&old, relu), clamped, "{about}: beta 0.5 and ReLU");
            let biased: Vec<f32> = (0..m).flat_map(|_| bias.iter().map(|b| b.max(0.0))).collect();
            let found = run(&nan[..m * n], Epilogue::bias_relu(&bias));
            assert_eq!(found, biased, "{about}: bias and ReLU");
            let gate = Epilogue {
                finish: Finish::ReluGradient { scale: 2.0 },
                companions: MatRef::new(&activation, m, n).unwrap().into(),
                ..Epilogue::scaled(0.5)
            };
            let gated = old.iter().zip(&activation);
            let gated: Vec<f32> =
                gated.map(|(c, x)| if *x > 0.0 { 2.0 * (0.5 * c) } else { 0.0 }).collect();
            let found = run(&old, gate);
            assert_eq!(found, gated, "{about}: beta 0.5 and gate");
            for (beta, expected) in [(0.0, 0.0), (0.5, 1.5)] {
                let mut sums = vec![if beta == 0.0 { f32::NAN } else { 3.0 }; n];
                run(&old, Epilogue { column_sums: Some(&mut sums), ..Epilogue::scaled(beta) });
                assert_eq!(sums, vec![expected; n], "{about}: sums of the columns of B, {beta}");
            }
        }
    }
}

#[test]
fn every_backend_computes_the_same_whole_numbers() {
    let (seed, (m, n, k)) = (14, (33, 47, 61));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut whole =
        |len: usize| (0..len).map(|_| f32::from(rng.random_range(-8..=8i8))).collect::<Vec<_>>();
    let (a, b, bias, activation) = (whole(m * k), whole(k * n), whole(n), whole(m * n));
    let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
    let relu_gradient = || Epilogue::relu_gradient(MatRef::new(&activation, m, n).unwrap());
    let gemm = Gemm::new().unwrap();
    for &backend in &Backend::ALL[1..] {
        let other = gemm.with_backend(backend);
        let biased = product(other, a, b, Epilogue::bias_relu(&bias));
        let expected = product(gemm, a, b, Epilogue::bias_relu(&bias));
        assert_eq!(biased, expected, "{backend:?} seed {seed}: bias and ReLU");
        assert_eq!(
            product(other, a, b, relu_gradient()),
            product(gemm, a, b, relu_gradient()),
            "{backend:?}"
        );
    }
}
