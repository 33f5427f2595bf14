//! A whole training step (forward, backward, SGD) at batch 512 on one thread: naive,
//! matrixmultiply, tilewise. Naive products take part in the small network only.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{CONTESTANTS, assert_close, gemm, random, set_flops};
use tilewise::{
    gemm::Backend,
    matrix::Matrix,
    nn::{FullyConnectedNet, Init, Mode, NetConfig, Workspace},
    train::{Optimizer, OptimizerState, optim},
};

const BATCH: usize = 512;

fn step(
    net: &mut FullyConnectedNet<f32>,
    workspace: &mut Workspace<f32>,
    optimizer: &mut OptimizerState<f32>,
    labels: &[u8],
) {
    net.loss_and_gradient(workspace, labels, Mode::Training { step: 0 }).expect("ten classes");
    optim::update(optimizer, net, workspace, 0.01).expect("the network's state");
}

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
        let mut expected: Option<Matrix<f32>> = None;
        for (contestant, backend) in CONTESTANTS {
            if backend == Backend::Naive && hidden.len() > 1 {
                continue;
            }
            let mut net = net.clone();
            let mut workspace = net.workspace(gemm(backend), BATCH).expect("a small workspace");
            let mut optimizer =
                OptimizerState::new(&Optimizer::sgd(), &net.tensor_lengths()).expect("plain SGD");
            let mut input = workspace.input_mut(BATCH).expect("room for the batch");
            for i in 0..BATCH {
                let row = x.view().row(i).expect("a dense row");
                input.row_mut(i).expect("a dense row").copy_from_slice(row);
            }
            step(&mut net, &mut workspace, &mut optimizer, &labels);
            let weights = net.layers()[0].weight();
            let expected = expected.get_or_insert_with(|| {
                let element = |i, j| weights.get(i, j);
                Matrix::from_fn(weights.rows(), weights.cols(), element).expect("as large again")
            });
            assert_close(weights, expected.view(), 1);
            group.bench_function(contestant, |bencher| {
                bencher.iter(|| step(&mut net, &mut workspace, &mut optimizer, &labels));
            });
        }
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = steps }
criterion_main!(benches);
