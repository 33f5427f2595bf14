//! What each fusion buys, on one thread: a product with its epilogue against the same product and
//! passes of their own. Names are those of a training step at batch 512.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{backward, forward as pass, gemm, random, set_flops};
use tilewise::{
    Context,
    gemm::{
        Backend, Companions, DropoutMask, Epilogue, Finish, GatheredRows, Operand, Rule, Update,
        epilogue::{Descent, Momentum},
    },
    matrix::{MatMut, Matrix},
    nn::{
        Arena, Network, Shape,
        layers::{Dropout, Relu},
    },
};

const BATCH: usize = 512;
const INPUT: usize = 3072;
const HIDDEN: usize = 512;

/// The parameters of a network that has none, for passes of layers without any.
fn nothing() -> Arena<f32> {
    let network = Network::builder(Shape::Features(1)).relu().build().expect("one layer");
    network.parameters().try_clone().expect("no memory at all")
}

/// `relu(X W + b)`, and with dropout behind it.
fn forward(criterion: &mut Criterion) {
    let gemm = gemm(Backend::Tilewise);
    let (x, w) = (random(BATCH, INPUT, 1), random(INPUT, HIDDEN, 2));
    let bias = vec![0.1; HIDDEN];
    let (context, none) = (Context::of(gemm).expect("the calling thread"), nothing());
    let mut out = Matrix::zeros(BATCH, HIDDEN).expect("a small matrix");
    let mut sums = out.try_clone().expect("a small matrix");
    let mut scratch = gemm.scratch(BATCH, HIDDEN, INPUT).expect("little scratch memory");
    let mut product = |out: &mut Matrix<f32>, finish| {
        let epilogue = Epilogue { finish, ..Epilogue::bias(&bias) };
        gemm.run(1.0, x.view(), w.view(), out.view_mut(), epilogue, &mut scratch)
            .expect("operands that fit");
    };
    let mut group = criterion.benchmark_group("epilogues/forward");
    set_flops(&mut group, 2 * BATCH * INPUT * HIDDEN);
    group.bench_function("ReLU, fused", |b| b.iter(|| product(&mut out, Finish::Relu)));
    group.bench_function("ReLU, two passes", |b| {
        b.iter(|| {
            product(&mut sums, Finish::Store);
            pass(&context, &Relu, &none, (sums.view(), out.view_mut()), &mut [])
                .expect("equal shapes");
        });
    });
    let dropout = Dropout::new(0.1).expect("a probability");
    let (mask, scale) = (DropoutMask::new(0.1, 7, 1, 0), dropout.scale());
    group.bench_function("ReLU and dropout, fused", |b| {
        b.iter(|| product(&mut out, Finish::ReluDropout { mask, scale }));
    });
    group.bench_function("ReLU and dropout, three passes", |b| {
        b.iter(|| {
            product(&mut sums, Finish::Store);
            pass(&context, &Relu, &none, (sums.view(), out.view_mut()), &mut [])
                .expect("equal shapes");
            pass(&context, &dropout, &none, (out.view(), sums.view_mut()), &mut [])
                .expect("equal shapes");
        });
    });
}

/// `dX = (dY Wᵀ)` gated by the activation.
fn input_gradient(criterion: &mut Criterion) {
    const NEXT: usize = 1024;
    let gemm = gemm(Backend::Tilewise);
    let (d_out, w) = (random(BATCH, NEXT, 1), random(HIDDEN, NEXT, 2));
    let activation = random(BATCH, HIDDEN, 3);
    let (context, mut none) = (Context::of(gemm).expect("the calling thread"), nothing());
    let mut d_x = Matrix::zeros(BATCH, HIDDEN).expect("a small matrix");
    let mut sums = d_x.try_clone().expect("a small matrix");
    let mut scratch = gemm.scratch(BATCH, HIDDEN, NEXT).expect("little scratch memory");
    let mut product = |d_x: &mut Matrix<f32>, epilogue| {
        gemm.run(1.0, d_out.view(), w.view().t(), d_x.view_mut(), epilogue, &mut scratch)
            .expect("operands that fit");
    };
    let mut group = criterion.benchmark_group("epilogues/input gradient");
    set_flops(&mut group, 2 * BATCH * HIDDEN * NEXT);
    group.bench_function("ReLU gradient, fused", |b| {
        b.iter(|| product(&mut d_x, Epilogue::relu_gradient(activation.view())));
    });
    group.bench_function("ReLU gradient, two passes", |b| {
        b.iter(|| {
            product(&mut sums, Epilogue::default());
            let operands = (activation.view(), sums.view(), d_x.view_mut());
            backward(&context, &Relu, &mut none, operands).expect("equal shapes");
        });
    });
}

/// `dW = Xᵀ dY`, the column sums of dY, and the update of W.
fn weight_gradient(criterion: &mut Criterion) {
    let gemm = gemm(Backend::Tilewise);
    let (x, d_out) = (random(BATCH, INPUT, 1), random(BATCH, HIDDEN, 2));
    let mut w = random(INPUT, HIDDEN, 3);
    let mut gradient = w.try_clone().expect("a small matrix");
    let mut velocity = vec![0.0; INPUT * HIDDEN];
    let mut sums = vec![0.0; HIDDEN];
    let mut scratch = gemm.scratch(INPUT, HIDDEN, BATCH).expect("little scratch memory");
    let mut product = |c: MatMut<'_, f32>, epilogue: Epilogue<'_, f32>| {
        gemm.run(1.0, x.view().t(), d_out.view(), c, epilogue, &mut scratch)
            .expect("operands that fit");
    };
    let rate = 1e-6;
    let mut group = criterion.benchmark_group("epilogues/weight gradient");
    set_flops(&mut group, 2 * BATCH * INPUT * HIDDEN);
    group.bench_function("stored", |b| {
        b.iter(|| product(gradient.view_mut(), Epilogue::default()));
    });
    group.bench_function("sums of columns, fused", |b| {
        b.iter(|| {
            let epilogue = Epilogue { column_sums: Some(&mut sums), ..Epilogue::default() };
            product(gradient.view_mut(), epilogue);
        });
    });
    group.bench_function("sums of columns, a pass", |b| {
        b.iter(|| {
            product(gradient.view_mut(), Epilogue::default());
            sums.fill(0.0);
            for i in 0..BATCH {
                let row = d_out.view().row(i).expect("a dense row");
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
        });
    });
    group.bench_function("SGD, fused", |b| {
        b.iter(|| {
            let rule = Rule::Descent(Descent { learning_rate: rate });
            let update = Update { l2: 0.0, weight_decay: 0.0, rule };
            product(w.view_mut(), Epilogue::update(update, Companions::default()));
        });
    });
    group.bench_function("SGD, a pass", |b| {
        b.iter(|| {
            product(gradient.view_mut(), Epilogue::default());
            for i in 0..INPUT {
                let from = gradient.view();
                let (from, mut to) = (from.row(i).expect("a dense row"), w.view_mut());
                let to = to.row_mut(i).expect("a dense row");
                to.iter_mut().zip(from).for_each(|(w, g)| *w -= rate * g);
            }
        });
    });
    group.bench_function("momentum, fused", |b| {
        b.iter(|| {
            let velocity = MatMut::new(&mut velocity, INPUT, HIDDEN).expect("as large as W");
            let rule = Momentum { learning_rate: rate, momentum: 0.9, nesterov: false };
            let update = Update { l2: 0.0, weight_decay: 0.0, rule: Rule::Momentum(rule) };
            product(w.view_mut(), Epilogue::update(update, velocity));
        });
    });
}

/// The first product of a step: images gathered and normalized while they are packed, and ahead.
fn gathered(criterion: &mut Criterion) {
    let gemm = gemm(Backend::Tilewise);
    let w = random(INPUT, HIDDEN, 2);
    let store: Vec<u8> = (0..4 * BATCH * INPUT).map(|i| (i * 7919 % 251) as u8).collect();
    let indices: Vec<u32> = (0..BATCH as u32).map(|i| (i * 1709) % (4 * BATCH as u32)).collect();
    let (scale, shift) = (vec![1.0 / 255.0; INPUT], vec![-0.5; INPUT]);
    let rows = GatheredRows::new(&store, &indices, &scale, &shift).expect("indices in the store");
    let mut x = Matrix::zeros(BATCH, INPUT).expect("a small matrix");
    let mut out = Matrix::zeros(BATCH, HIDDEN).expect("a small matrix");
    let mut scratch = gemm.scratch(BATCH, HIDDEN, INPUT).expect("little scratch memory");
    let mut product = |x: Operand<'_, f32>| {
        gemm.run(1.0, x, w.view(), out.view_mut(), Epilogue::default(), &mut scratch)
            .expect("operands that fit");
    };
    let mut group = criterion.benchmark_group("epilogues/gathered input");
    set_flops(&mut group, 2 * BATCH * INPUT * HIDDEN);
    group.bench_function("while packing", |b| b.iter(|| product(rows.into())));
    group.bench_function("a pass ahead", |b| {
        b.iter(|| {
            for (i, &index) in indices.iter().enumerate() {
                let image = &store[index as usize * INPUT..][..INPUT];
                let mut view = x.view_mut();
                let row = view.row_mut(i).expect("a dense row");
                for (j, (to, &byte)) in row.iter_mut().zip(image).enumerate() {
                    *to = f32::from(byte) * scale[j] + shift[j];
                }
            }
            product(x.view().into());
        });
    });
}

criterion_group! {
    name = benches;
    config = support::criterion();
    targets = forward, input_gradient, weight_gradient, gathered
}
criterion_main!(benches);
