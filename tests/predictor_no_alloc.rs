//! No prediction allocates once predictor and scratch are there: counted by the allocator itself,
//! over all threads.

mod support;

use std::sync::Barrier;

use support::Counting;
use tilewise::{
    Context, Precision,
    data::Normalization,
    infer::{Predictor, Scratch, ScratchPool, top_classes, top_k},
    matrix::{MatMut, MatRef},
    nn::{Network, Shape, softmax},
    threads::Threads,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

// One test, because the counter sees the allocations of all tests of the process.
#[test]
fn predictions_allocate_nothing() {
    let before = ALLOCATOR.allocations();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(ALLOCATOR.allocations(), before + 1, "the counter counts");

    let builder = Network::<f32>::builder(Shape::Features(3072)).linear(512).relu().linear(300);
    let builder = builder.relu().residual(|block| block.linear(300).relu().scale(0.5));
    let network = builder.linear(10).build().unwrap();
    let normalization = Normalization::new(vec![1.0 / 255.0; 3], vec![-0.5; 3]).unwrap();
    let (x, images) = (vec![0.5f32; 100 * 3072], vec![99u8; 100 * 3072]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let context = Context::new().unwrap().with_precision(precision).unwrap();
        let predictor = Predictor::with_context(&network, context).unwrap();
        let predictor = predictor.with_normalization(&normalization).unwrap();
        pool.install(|| {
            for threads in [Threads::Caller, Threads::Count(2), Threads::Pool] {
                for rows in [1, 7, 32, 100] {
                    let found = allocations(&predictor, threads, rows, &x, &images);
                    assert_eq!(found, 0, "{rows} rows, {threads:?}, {precision}");
                }
            }
        });
        assert_eq!(allocations_of_eight_threads(&predictor, &x, &images), 0, "{precision}");
    }
}

/// How often memory is asked for by predictions of this many rows, of numbers and of images.
fn allocations(
    predictor: &Predictor<f32>,
    threads: Threads,
    rows: usize,
    x: &[f32],
    images: &[u8],
) -> usize {
    let scratch = predictor.scratch_on(threads, 32).unwrap();
    let scratches = ScratchPool::new(&scratch, 2).unwrap();
    let mut out = vec![0.0; rows * 10];
    let mut best = [(0, 0.0); 5];
    let before = ALLOCATOR.allocations();
    for _ in 0..2 {
        let mut scratch = scratches.take().unwrap();
        let view = MatRef::new(&x[..rows * 3072], rows, 3072).unwrap();
        let to = MatMut::new(&mut out, rows, 10).unwrap();
        predictor.predict_into(view, to, &mut scratch).unwrap();
        let to = MatMut::new(&mut out, rows, 10).unwrap();
        predictor.predict_into(&images[..rows * 3072], to, &mut scratch).unwrap();
        softmax(MatMut::new(&mut out, rows, 10).unwrap()).unwrap();
        assert_eq!(top_k(&out[..10], &mut best), 5);
        assert_eq!(top_classes(&out[..10], &mut [0; 3]), 3);
    }
    ALLOCATOR.allocations() - before
}

/// How often memory is asked for while eight threads predict at once, four with scratches of their
/// own and four with what they find in a pool of two.
fn allocations_of_eight_threads(predictor: &Predictor<f32>, x: &[f32], images: &[u8]) -> usize {
    const ROWS: usize = 5;
    let scratches = ScratchPool::new(&predictor.scratch(ROWS).unwrap(), 2).unwrap();
    let together = Barrier::new(9);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (scratches, together) = (&scratches, &together);
            scope.spawn(move || {
                let mut own = predictor.scratch(ROWS).unwrap();
                let mut logits = [0.0; ROWS * 10];
                // All is made; then the counter is read; then all predict; then it is read again,
                // before anybody ends, which frees and allocates.
                together.wait();
                together.wait();
                for round in 0..20 {
                    let mut predict = |scratch: &mut Scratch<f32>| {
                        let to = MatMut::new(&mut logits, ROWS, 10).unwrap();
                        if round % 2 == 0 {
                            let view = MatRef::new(&x[..ROWS * 3072], ROWS, 3072).unwrap();
                            predictor.predict_into(view, to, scratch).unwrap();
                        } else {
                            predictor.predict_into(&images[..ROWS * 3072], to, scratch).unwrap();
                        }
                    };
                    if thread < 4 {
                        predict(&mut own);
                    } else if let Some(mut scratch) = scratches.take() {
                        predict(&mut scratch);
                    }
                }
                together.wait();
                together.wait();
            });
        }
        together.wait();
        let before = ALLOCATOR.allocations();
        together.wait();
        together.wait();
        let found = ALLOCATOR.allocations() - before;
        together.wait();
        found
    })
}
