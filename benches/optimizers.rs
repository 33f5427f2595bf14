//! A step of every optimizer over one and two million parameters on one thread: the kernels, and
//! a scalar loop of the same arithmetic. Throughput is that of memory: parameters and what the
//! rule keeps are read and written, gradients read.

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{assert_close, gemm, random};
use tilewise::{
    Context,
    gemm::Backend,
    matrix::MatRef,
    nn::{Network, Shape},
    train::{Optimizer, OptimizerRule, OptimizerState, optim::StepSettings},
};

const RATE: f32 = 0.01;
const DECAY: f32 = 1e-4;

/// Step number `t` as a person would write it.
fn scalar_step(
    rule: OptimizerRule,
    t: i32,
    w: &mut [f32],
    gradient: &[f32],
    slots: &mut [Vec<f32>],
) {
    let correction = |beta: f64| (1.0 - beta.powi(t)) as f32;
    match rule {
        OptimizerRule::Sgd => {
            for (w, &g) in w.iter_mut().zip(gradient) {
                *w -= RATE * (g + DECAY * *w);
            }
        }
        OptimizerRule::Momentum { momentum } | OptimizerRule::Nesterov { momentum } => {
            let momentum = momentum as f32;
            let nesterov = matches!(rule, OptimizerRule::Nesterov { .. });
            for ((w, &g), v) in w.iter_mut().zip(gradient).zip(&mut slots[0]) {
                let push = -RATE * (g + DECAY * *w);
                *v = momentum * *v + push;
                *w += if nesterov { momentum * *v + push } else { *v };
            }
        }
        OptimizerRule::AdaGrad { epsilon } => {
            for ((w, &g), s) in w.iter_mut().zip(gradient).zip(&mut slots[0]) {
                let g = g + DECAY * *w;
                *s += g * g;
                *w -= RATE * g / (s.sqrt() + epsilon as f32);
            }
        }
        OptimizerRule::RmsProp { decay, epsilon, .. } => {
            for ((w, &g), s) in w.iter_mut().zip(gradient).zip(&mut slots[0]) {
                let g = g + DECAY * *w;
                *s = decay as f32 * *s + (1.0 - decay) as f32 * (g * g);
                *w -= RATE * g / (s.sqrt() + epsilon as f32);
            }
        }
        OptimizerRule::Adam { beta1, beta2, epsilon }
        | OptimizerRule::AdamW { beta1, beta2, epsilon } => {
            let (of_mean, of_square) = (correction(beta1), correction(beta2));
            let coupled = if matches!(rule, OptimizerRule::Adam { .. }) { DECAY } else { 0.0 };
            let shrink = RATE * (DECAY - coupled);
            let [means, squares] = slots else { unreachable!("Adam keeps two values") };
            let kept = means.iter_mut().zip(squares);
            for ((w, &g), (m, s)) in w.iter_mut().zip(gradient).zip(kept) {
                let g = g + coupled * *w;
                *m = beta1 as f32 * *m + (1.0 - beta1) as f32 * g;
                *s = beta2 as f32 * *s + (1.0 - beta2) as f32 * (g * g);
                let direction = (*m / of_mean) / ((*s / of_square).sqrt() + epsilon as f32);
                *w -= shrink * *w + RATE * direction;
            }
        }
    }
}

fn updates(criterion: &mut Criterion) {
    let context = Context::of(gemm(Backend::Tilewise)).expect("the calling thread");
    for len in [1 << 20, 2 << 20] {
        // Its first parameter has as many elements.
        let network = Network::<f32>::builder(Shape::Features(len)).linear(1).build();
        let network = network.expect("a small network");
        let layout = network.parameters().layout();
        let gradient = random(1, len, 1);
        let gradient = gradient.view().row(0).expect("a dense row").to_vec();
        let start: Vec<f32> = gradient.iter().rev().copied().collect();
        for name in Optimizer::NAMES {
            let rule: Optimizer = name.parse().expect("a rule's name");
            let optimizer = rule.with_weight_decay(DECAY.into());
            let slots = optimizer.slot_names().len();
            let mut state = OptimizerState::new(&optimizer, layout).expect("a small state");
            let mut w = start.clone();
            let mut step = |w: &mut [f32]| {
                let (learning_rate, weight_decay) = (RATE.into(), DECAY.into());
                let settings = StepSettings { learning_rate, l2: 0.0, weight_decay };
                state.begin_step();
                state.update(&context, 0, w, &gradient, settings).expect("as planned");
            };
            let (mut scalar_slots, mut scalar_w) = (vec![vec![0.0; len]; slots], start.clone());
            let mut t = 0;
            let mut scalar = |w: &mut [f32]| {
                t += 1;
                scalar_step(optimizer.rule, t, w, &gradient, &mut scalar_slots);
            };
            for _ in 0..3 {
                step(&mut w);
                scalar(&mut scalar_w);
            }
            let view = |w| MatRef::new(w, 1, len).expect("as long as planned");
            assert_close(view(&w), view(&scalar_w), 1);

            let mut group = criterion.benchmark_group(format!("optimizers/{name}/{len}"));
            let bytes = len * size_of::<f32>() * (3 + 2 * slots);
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function("tilewise", |bencher| bencher.iter(|| step(&mut w)));
            group.bench_function("scalar", |bencher| bencher.iter(|| scalar(&mut scalar_w)));
        }
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = updates }
criterion_main!(benches);
