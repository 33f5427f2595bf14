//! `max(x W + b, 0)` on one thread: by the contestants' products, and fused or as two passes.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{CONTESTANTS, assert_close, forward, gemm, random, set_flops};
use tilewise::{
    Context,
    gemm::Backend,
    matrix::Matrix,
    nn::{
        Mode, Network, Passes, Plan, Shape,
        layers::{Linear, Relu},
    },
};

const BATCH: usize = 512;

/// (in_features, out_features) of the networks' hidden layers.
const LAYERS: [(usize, usize); 3] = [(3072, 200), (3072, 512), (512, 1024)];

fn layers(criterion: &mut Criterion) {
    for (input, output) in LAYERS {
        let mut group = criterion.benchmark_group(format!("linear_relu/{input}x{output}"));
        set_flops(&mut group, 2 * BATCH * input * output);
        let network = Network::<f32>::builder(Shape::Features(input)).linear(output).relu();
        let network = network.seed(1).build().expect("a sensible network");
        let x = random(BATCH, input, 2);
        let context =
            |backend| Context::of(gemm(backend)).expect("a context of the calling thread");
        let mut expected: Option<Matrix<f32>> = None;
        for (contestant, backend) in CONTESTANTS {
            let plan = Plan::new(&network, BATCH, Passes::Forward, context(backend));
            let mut plan = plan.expect("little memory");
            let mut forward = || {
                plan.forward(&network, x.view(), Mode::Evaluation).expect("operands that fit");
            };
            forward();
            group.bench_function(contestant, |bencher| bencher.iter(&mut forward));
            let out = plan.logits(BATCH).expect("a forward pass");
            let out = Matrix::from_fn(BATCH, output, |i, j| out.get(i, j)).expect("a small matrix");
            assert_close(
                out.view(),
                expected.get_or_insert_with(|| out.try_clone().expect("a small matrix")).view(),
                input,
            );
        }
        let context = context(Backend::Tilewise);
        let linear = Linear::new(input, output).expect("a sensible layer");
        let mut sum = Matrix::zeros(BATCH, output).expect("a small matrix");
        let mut out = sum.try_clone().expect("a small matrix");
        let scratch = context.gemm().scratch(BATCH, output, input);
        let mut scratch = scratch.expect("little scratch memory");
        group.bench_function("tilewise, two passes", |bencher| {
            bencher.iter(|| {
                let parameters = network.parameters();
                let pass = (x.view(), sum.view_mut());
                forward(&context, &linear, parameters, pass, &mut scratch)
                    .and_then(|()| {
                        let pass = (sum.view(), out.view_mut());
                        forward(&context, &Relu, parameters, pass, &mut [])
                    })
                    .expect("operands that fit");
            });
        });
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = layers }
criterion_main!(benches);
