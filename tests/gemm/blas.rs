//! The raw entry points, which take the place of those of the crate `matrixmultiply`, and the
//! backends that can take the place of the kernels.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    gemm::{Backend, Epilogue, Gemm, dgemm, dgemm_with, sgemm, sgemm_with},
    matrix::MatRef,
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
                    let (a, b, threads) = (left, right, Threads::Count(3));
                    // SAFETY: as above.
                    unsafe {
                        $with(
                            threads, m, k, n, alpha, a, ra.0, ra.1, b, rb.0, rb.1, beta, c, rc.0,
                            rc.1,
                        )
                    }
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
