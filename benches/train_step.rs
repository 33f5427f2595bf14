//! A whole training step (forward, backward, SGD) at batch 512: on naive products, on those of
//! matrixmultiply, and fused, on one thread and on two. Naive products take part in the
//! small network only.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{CONTESTANTS, Steps, gemm, perceptron, set_flops, sizes};
use tilewise::{Context, gemm::Backend};

fn steps(criterion: &mut Criterion) {
    for hidden in [&[200][..], &[512, 1024]] {
        let network = perceptron(hidden);
        let sizes = sizes(&network, hidden);
        let mut group = criterion.benchmark_group(format!("train_step/{sizes:?}"));
        set_flops(&mut group, Steps::flops(&network, &sizes));
        let runs = CONTESTANTS.map(|(name, backend)| (name, backend, 1));
        let in_two = ("tilewise, 2 threads", Backend::Tilewise, 2);
        for (name, backend, threads) in runs.into_iter().chain([in_two]) {
            if backend == Backend::Naive && hidden.len() > 1 {
                continue;
            }
            let context = Context::of(gemm(backend)).expect("sensible settings");
            let mut steps = Steps::new(&network, context, threads);
            group.bench_function(name, |bencher| bencher.iter_custom(|count| steps.run(count)));
        }
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = steps }
criterion_main!(benches);
