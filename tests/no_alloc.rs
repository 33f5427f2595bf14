//! No heap allocation on any thread once a run is planned: counted by the allocator itself. It runs
//! without the test harness, whose own thread allocates when a test takes longer than a minute.

mod support;

use std::ops::ControlFlow;

use support::Counting;
use tilewise::{
    Precision,
    data::{Augmentation, Normalization, Split, synthetic},
    nn::{Network, Shape},
    threads::Threads,
    train::{Optimizer, Progress, Solver, SolverConfig, TrainerConfig, TrainingData},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Layers that are fused, blocks, layers of their own passes, and a parameter that is not trained.
fn network() -> Network<f32> {
    let builder = Network::builder(Shape::Features(3072)).linear(64).relu().dropout(0.1);
    let builder = builder.residual(|block| block.linear(32).relu().linear(64).dropout(0.1));
    let builder = builder.relu().scale(0.9).residual(|block| block.residual(|b| b.linear(64)));
    let mut network = builder.linear(48).relu().linear(10).build().unwrap();
    let frozen = network.parameter_settings()[0].with_frozen(true);
    network.set_parameter_settings("3.2.weight", frozen).unwrap();
    network
}

/// Allocations of a whole training run, accuracy checks included, after its construction.
fn allocations_of_a_run(
    threads: usize,
    precision: Precision,
    optimizer: Optimizer,
    clip_norm: Option<f64>,
) -> usize {
    let images = synthetic(1500, 1).unwrap();
    let data = TrainingData {
        images: &images,
        split: Split::new(images.len(), None, None).unwrap(),
        normalization: Normalization::new(vec![1.0 / 255.0; 3], vec![-0.5; 3]).unwrap(),
    };
    let trainer = TrainerConfig::default()
        .with_batch_size(256)
        .with_optimizer(optimizer)
        .with_l2(1e-4)
        .with_clip_norm(clip_norm)
        .with_ema_decay(Some(0.9))
        .with_precision(Some(precision))
        .with_threads(Threads::Count(threads));
    let augmentation = Augmentation::default().with_flip(true).with_shift(2).with_cutout(4);
    let settings = SolverConfig::default().with_trainer(trainer).with_epochs(2);
    let settings = settings.with_augmentation(augmentation);
    let net = network();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut solver = Solver::new(net, data, settings).unwrap();
        let mut epochs = 0;
        let before = ALLOCATOR.allocations();
        solver
            .train_with(&mut |progress| {
                epochs += usize::from(matches!(progress, Progress::Epoch(_)));
                ControlFlow::Continue(())
            })
            .unwrap();
        let allocations = ALLOCATOR.allocations() - before;
        assert_eq!(epochs, 2);
        allocations
    })
}

fn main() {
    let before = ALLOCATOR.allocations();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(ALLOCATOR.allocations(), before + 1, "the counter counts");
    for threads in [1, 2, 4] {
        for name in Optimizer::NAMES {
            let optimizer = name.parse().unwrap();
            for clip_norm in [None, Some(1.0)] {
                let precision = Precision::F32;
                let found = allocations_of_a_run(threads, precision, optimizer, clip_norm);
                assert_eq!(found, 0, "{threads} threads, {name}, clipped to {clip_norm:?}");
            }
        }
        for clip_norm in [None, Some(1.0)] {
            let (precision, optimizer) = (Precision::Bf16, Optimizer::adam());
            let found = allocations_of_a_run(threads, precision, optimizer, clip_norm);
            assert_eq!(found, 0, "{threads} threads in bf16, clipped to {clip_norm:?}");
        }
    }
    println!("whole epochs allocate nothing: ok");
}
