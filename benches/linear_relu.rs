//! `max(x W + b, 0)` on one thread: by the contestants' products, and fused or as two passes.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{CONTESTANTS, assert_close, gemm, random, set_flops};
use tilewise::{
    gemm::Backend,
    matrix::Matrix,
    nn::{Init, Linear, LinearRelu, Relu},
};

const BATCH: usize = 512;

/// (in_features, out_features) of the networks' hidden layers.
const LAYERS: [(usize, usize); 3] = [(3072, 200), (3072, 512), (512, 1024)];

fn layers(criterion: &mut Criterion) {
    for (input, output) in LAYERS {
        let mut group = criterion.benchmark_group(format!("linear_relu/{input}x{output}"));
        set_flops(&mut group, 2 * BATCH * input * output);
        let layer = Linear::<f32>::new(input, output, Init::He, 1, 0).expect("a sensible layer");
        let fused = LinearRelu(layer.clone());
        let x = random(BATCH, input, 2);
        let mut expected: Option<Matrix<f32>> = None;
        for (contestant, backend) in CONTESTANTS {
            let gemm = gemm(backend);
            let mut out = Matrix::zeros(BATCH, output).expect("a small matrix");
            let mut scratch = gemm.scratch(BATCH, output, input).expect("little scratch memory");
            let mut forward = |out: &mut Matrix<f32>| {
                fused
                    .forward(&gemm, x.view(), out.view_mut(), &mut scratch)
                    .expect("operands that fit");
            };
            forward(&mut out);
            assert_close(out.view(), expected.get_or_insert_with(|| out.clone()).view(), input);
            group.bench_function(contestant, |bencher| bencher.iter(|| forward(&mut out)));
        }
        let gemm = gemm(Backend::Tilewise);
        let mut sum = Matrix::zeros(BATCH, output).expect("a small matrix");
        let mut out = sum.clone();
        let mut scratch = gemm.scratch(BATCH, output, input).expect("little scratch memory");
        group.bench_function("tilewise, two passes", |bencher| {
            bencher.iter(|| {
                layer
                    .forward(&gemm, x.view(), sum.view_mut(), &mut scratch)
                    .and_then(|()| Relu.forward(&gemm, sum.view(), out.view_mut()))
                    .expect("operands that fit");
            });
        });
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = layers }
criterion_main!(benches);
