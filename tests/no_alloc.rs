//! No heap allocation on any thread once a run is planned: counted by the allocator itself.

mod support;

use std::ops::ControlFlow;

use support::Counting;
use tilewise::{
    data::{Augmentation, Normalization, Split, synthetic},
    nn::{FullyConnectedNet, NetConfig},
    threads::Threads,
    train::{Optimizer, Progress, Solver, SolverConfig, TrainingData},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Allocations of a whole training run, accuracy checks included, after its construction.
fn allocations_of_a_run(threads: usize, optimizer: Optimizer, clip_norm: Option<f64>) -> usize {
    let images = synthetic(1500, 1).unwrap();
    let config = NetConfig { hidden: vec![64, 48], dropout: 0.1, l2: 1e-4, ..NetConfig::default() };
    let data = TrainingData {
        images: &images,
        split: Split::new(images.len(), None, None).unwrap(),
        normalization: Normalization::new(vec![1.0 / 255.0; 3], vec![-0.5; 3]).unwrap(),
    };
    let settings = SolverConfig {
        epochs: 2,
        batch_size: 256,
        optimizer,
        clip_norm,
        ema_decay: Some(0.9),
        augmentation: Augmentation { flip: true, shift: 2, cutout: 4, ..Augmentation::default() },
        threads: Threads::Count(threads),
        ..SolverConfig::default()
    };
    let net = FullyConnectedNet::<f32>::new(&config).unwrap();
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

// One test, because the counter sees the allocations of all tests of the process.
#[test]
fn whole_epochs_allocate_nothing() {
    let before = ALLOCATOR.allocations();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(ALLOCATOR.allocations(), before + 1, "the counter counts");
    for threads in [1, 2, 4] {
        for name in Optimizer::NAMES {
            let optimizer = name.parse().unwrap();
            for clip_norm in [None, Some(1.0)] {
                let allocations = allocations_of_a_run(threads, optimizer, clip_norm);
                assert_eq!(allocations, 0, "{threads} threads, {name}, clipped to {clip_norm:?}");
            }
        }
    }
}
