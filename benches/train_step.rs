//! A whole training step (forward, backward, SGD) at batch 512 on one thread: naive,
//! matrixmultiply, tilewise. Naive products take part in the small network only.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{CONTESTANTS, gemm, random, set_flops};
use tilewise::{
    gemm::Backend,
    nn::{FullyConnectedNet, Init, Mode, NetConfig},
    train::{Sgd, optim},
};

const BATCH: usize = 512;

fn steps(criterion: &mut Criterion) {
    for hidden in [vec![200], vec![512, 1024]] {
        let config = NetConfig { hidden: hidden.clone(), init: Init::He, ..NetConfig::default() };
        let net = FullyConnectedNet::<f32>::new(&config).expect("a sensible network");
        let dims = net.dims();
        let mut group = criterion.benchmark_group(format!("train_step/{dims:?}"));
        // Three products for each layer, two for the first: its input has no gradient.
        set_flops(&mut group, BATCH * (6 * net.parameter_count() - 2 * dims[0] * dims[1]));
        let labels: Vec<u8> = (0..BATCH).map(|i| (i % 10) as u8).collect();
        let x = random(BATCH, dims[0], 3);
        let mut expected = None;
        for (contestant, backend) in CONTESTANTS {
            if backend == Backend::Naive && hidden.len() > 1 {
                continue;
            }
            let mut net = net.clone();
            let mut workspace = net.workspace(gemm(backend), BATCH).expect("a small workspace");
            let mut input = workspace.input_mut(BATCH).expect("room for the batch");
            for i in 0..BATCH {
                let row = x.view().row(i).expect("a dense row");
                input.row_mut(i).expect("a dense row").copy_from_slice(row);
            }
            let mut step = || {
                let mode = Mode::Training { step: 0 };
                let loss = net.loss_and_gradient(&mut workspace, &labels, mode);
                let loss = loss.expect("labels of the ten classes");
                optim::update(&mut Sgd, &mut net, &workspace, 1e-4);
                loss
            };
            let loss = step();
            let expected = *expected.get_or_insert(loss);
            assert!((loss - expected).abs() < 1e-4 * expected, "{loss} instead of {expected}");
            group.bench_function(contestant, |bencher| bencher.iter(&mut step));
        }
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = steps }
criterion_main!(benches);
