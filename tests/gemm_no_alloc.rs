//! No product allocates once its plan, its panels and its scratch memory are there: counted by
//! the allocator itself, over all threads.

mod support;

use support::Counting;
use tilewise::{
    Element, Result,
    gemm::{
        DropoutMask, Epilogue, Finish, GatheredRows, Gemm, Operand, Rule, Update,
        epilogue::Momentum,
    },
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
    threads::Threads,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Allocations of every kind of product of (m, k) by (k, n), twice each: the first call must not
/// be an exception.
fn allocations<T: Element>(gemm: Gemm<T>, (m, n, k): (usize, usize, usize)) -> Result<usize> {
    let some = T::from_f64(0.25);
    let (a, b) = (vec![some; m * k], vec![some; k * n]);
    let (a, b) = (MatRef::new(&a, m, k)?, MatRef::new(&b, k, n)?);
    let (packed_a, packed_b) = (gemm.pack_a(some, a)?, gemm.pack_b(b)?);
    let (store, indices) = (vec![1; m * k], (0..m as u32).rev().collect::<Vec<_>>());
    let (scale, shift) = (vec![some; k], vec![some; k]);
    let rows = GatheredRows::new(&store, &indices, &scale, &shift)?;
    let errors = vec![some; m * n];
    let errors = MatRef::new(&errors, m, n)?;
    let bias = vec![some; n];
    let mut c = vec![some; m * n];
    let (mut weights, mut velocity, mut sums) =
        (vec![some; k * n], vec![some; k * n], vec![some; n]);
    let mut scratch = gemm.scratch(m.max(k), n, k.max(m))?;
    let mask = DropoutMask::new(0.5, 1, 2, 3);

    let before = ALLOCATOR.allocations();
    for _ in 0..2 {
        let operands: [(Operand<'_, T>, Operand<'_, T>); 5] = [
            (a.into(), b.into()),
            ((&packed_a).into(), b.into()),
            (a.into(), (&packed_b).into()),
            ((&packed_a).into(), (&packed_b).into()),
            (rows.into(), (&packed_b).into()),
        ];
        for (a, b) in operands {
            let view = MatMut::new(&mut c, m, n)?;
            gemm.run(T::ONE, a, b, view, Epilogue::bias_relu(&bias), &mut scratch)?;
        }
        let dropout =
            Epilogue { finish: Finish::ReluDropout { mask, scale: some }, ..Epilogue::bias(&bias) };
        gemm.run(T::ONE, a, b, MatMut::new(&mut c, m, n)?, dropout, &mut scratch)?;
        let by_columns = MatMut::new(&mut c, n, m)?.t();
        gemm.run(some, a, b, by_columns, Epilogue::scaled(some), &mut scratch)?;
        let rule = Momentum { learning_rate: some, momentum: some, nesterov: true };
        let update = Update { l2: some, weight_decay: some, rule: Rule::Momentum(rule) };
        let update = Epilogue {
            column_sums: Some(&mut sums),
            ..Epilogue::update(update, MatMut::new(&mut velocity, k, n)?)
        };
        let images = Operand::GatheredTransposed(rows);
        let weights = MatMut::new(&mut weights, k, n)?;
        gemm.run(T::ONE, images, errors, weights, update, &mut scratch)?;
    }
    Ok(ALLOCATOR.allocations() - before)
}

// One test, because the counter sees the allocations of all tests of the process.
#[test]
fn products_allocate_nothing() {
    let before = ALLOCATOR.allocations();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(ALLOCATOR.allocations(), before + 1, "the counter counts");

    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    pool.install(|| {
        // A thread that looks for work for the first time allocates.
        rayon::broadcast(|_| rayon::yield_now());
        // Square, few rows (in place, divided by columns), few columns, and tiny.
        for sizes in [(200, 210, 220), (3, 3000, 700), (3000, 10, 200), (7, 9, 11)] {
            for set in InstructionSet::available() {
                for threads in [1, 2, 4].map(Threads::Count) {
                    let single =
                        Gemm::<f32>::with_instruction_set(set).unwrap().with_threads(threads);
                    let found = allocations(single, sizes).unwrap();
                    assert_eq!(found, 0, "f32 {set} {sizes:?} {threads:?}");
                    let double =
                        Gemm::<f64>::with_instruction_set(set).unwrap().with_threads(threads);
                    let found = allocations(double, sizes).unwrap();
                    assert_eq!(found, 0, "f64 {set} {sizes:?} {threads:?}");
                }
            }
        }
    });
}
