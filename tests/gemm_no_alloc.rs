//! No product allocates once its plan, its panels and its scratch memory are there: counted by
//! the allocator itself, over all threads.

mod support;

use support::Counting;
use tilewise::{
    Bf16, Element, Result,
    gemm::{
        Bf16ToF32, DropoutMask, Epilogue, Finish, GatheredRows, Gemm, Operand, Rule, Update,
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

/// The same of products of bf16, with C in f32 and panels that are filled again.
fn allocations_in_bf16(gemm: Gemm<Bf16ToF32>, (m, n, k): (usize, usize, usize)) -> Result<usize> {
    let (a, b, values) =
        (vec![Bf16::ONE; m * k], vec![Bf16::ONE; k * n], vec![0.25f32; k * n.max(m)]);
    let (a, b) = (MatRef::new(&a, m, k)?, MatRef::new(&b, k, n)?);
    let values_a = Operand::Rounded(MatRef::new(&values[..m * k], m, k)?);
    let values_b = Operand::Rounded(MatRef::new(&values[..k * n], k, n)?);
    let (mut packed_a, mut packed_b) = (gemm.pack_a(0.5, a)?, gemm.pack_b(b)?);
    let (store, indices) = (vec![1; m * k], (0..m as u32).rev().collect::<Vec<_>>());
    let (scale, shift) = (vec![0.25; k], vec![0.5; k]);
    let rows = GatheredRows::new(&store, &indices, &scale, &shift)?;
    let mut c = vec![0.0f32; m * n];
    let (mut weights, mut velocity) = (vec![0.0f32; k * n], vec![0.0f32; k * n]);
    let errors = vec![0.5f32; m * n];
    let errors = Operand::Rounded(MatRef::new(&errors, m, n)?);
    let mut scratch = gemm.scratch(m.max(k), n, k.max(m))?;
    let before = ALLOCATOR.allocations();
    for _ in 0..2 {
        gemm.repack_a(0.5, values_a, &mut packed_a)?;
        gemm.repack_b(values_b, &mut packed_b)?;
        let operands: [(Operand<'_, Bf16>, Operand<'_, Bf16>); 5] = [
            (a.into(), b.into()),
            (values_a, values_b),
            ((&packed_a).into(), values_b),
            (a.into(), (&packed_b).into()),
            (rows.into(), (&packed_b).into()),
        ];
        for (a, b) in operands {
            let view = MatMut::new(&mut c, m, n)?;
            gemm.run(1.0, a, b, view, Epilogue::default(), &mut scratch)?;
        }
        let rule = Momentum { learning_rate: 0.1, momentum: 0.9, nesterov: false };
        let update = Update { l2: 0.0, weight_decay: 0.0, rule: Rule::Momentum(rule) };
        let update = Epilogue::update(update, MatMut::new(&mut velocity, k, n)?);
        let weights = MatMut::new(&mut weights, k, n)?;
        gemm.run(1.0, Operand::GatheredTransposed(rows), errors, weights, update, &mut scratch)?;
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
                    // The portable set computes bf16 in software.
                    if set != InstructionSet::Portable || sizes.0 < 10 {
                        let bf16 = Gemm::with_instruction_set(set).unwrap().with_threads(threads);
                        let found = allocations_in_bf16(bf16, sizes).unwrap();
                        assert_eq!(found, 0, "bf16 {set} {sizes:?} {threads:?}");
                    }
                }
            }
        }
    });
}
