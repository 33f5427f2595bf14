//! A whole training step (forward, backward, SGD) at batch 512: on naive products, on those of
//! matrixmultiply, and fused, on one thread and on two. Naive products take part in the
//! small network only.

mod support;

use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{CONTESTANTS, gemm, random, set_flops};
use tilewise::{
    Context,
    gemm::Backend,
    nn::{Init, MlpConfig, mlp},
    threads::Threads,
    train::{Trainer, TrainerConfig},
};

const BATCH: usize = 512;

fn steps(criterion: &mut Criterion) {
    for hidden in [vec![200], vec![512, 1024]] {
        let config = MlpConfig::default().with_hidden(hidden.clone()).with_init(Init::He);
        let network = mlp::<f32>(&config).expect("a sensible network");
        let dims = [&[network.in_features()], &hidden[..], &[network.classes()]].concat();
        let mut group = criterion.benchmark_group(format!("train_step/{dims:?}"));
        // Three products for each layer, two for the first: its input has no gradient.
        set_flops(&mut group, BATCH * (6 * network.parameter_count() - 2 * dims[0] * dims[1]));
        let labels: Vec<u32> = (0..BATCH as u32).map(|i| i % 10).collect();
        let x = random(BATCH, dims[0], 3);
        let runs = CONTESTANTS.map(|(name, backend)| (name.to_owned(), backend, 1));
        let in_two = ("tilewise, 2 threads".to_owned(), Backend::Tilewise, 2);
        for (name, backend, threads) in runs.into_iter().chain([in_two]) {
            if backend == Backend::Naive && hidden.len() > 1 {
                continue;
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.expect("a pool of threads");
            let config = TrainerConfig::default()
                .with_batch_size(BATCH)
                .with_learning_rate(0.01)
                .with_threads(Threads::Count(threads));
            let (network, gemm) = (network.try_clone().unwrap(), gemm(backend));
            let trainer = || Trainer::with_context(network, config, Context::of(gemm)?);
            let mut trainer = pool.install(trainer).expect("sensible settings");
            let mut steps = |count| {
                pool.install(|| {
                    let begin = Instant::now();
                    for _ in 0..count {
                        trainer.step(x.view(), &labels).expect("ten classes");
                    }
                    begin.elapsed()
                })
            };
            steps(1);
            group.bench_function(name, |bencher| bencher.iter_custom(&mut steps));
        }
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = steps }
criterion_main!(benches);
