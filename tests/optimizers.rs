//! Optimizers and learning-rate schedules, held against PyTorch; and their bits: over instruction
//! sets, tasks, tails, and fused into the product that computes the gradient.
//!
//! `tests/optimizers/reference.py` makes the figures.

use std::{fmt::Debug, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Context, Element, Error, Result,
    gemm::{Epilogue, Gemm},
    matrix::{MatMut, MatRef},
    nn::{
        Backward, Fill, Forward, Layer, LayerConfig, Network, ParameterKind, Shape, TensorLayout,
        TensorSpec,
    },
    simd::InstructionSet,
    threads::Threads,
    train::{
        Curve, Optimizer, OptimizerRule, OptimizerState, Schedule, WarmUp, optim::StepSettings,
    },
};

/// A layer that has parameters of these shapes and computes nothing.
#[derive(Debug)]
struct Tensors(Vec<Vec<usize>>);

impl<T: Element> Layer<T> for Tensors {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("tensors")
    }

    fn output_shape(&self, input: Shape) -> Result<Shape> {
        Ok(input)
    }

    fn parameters(&self) -> Vec<TensorSpec> {
        let spec = |(number, shape): (usize, &Vec<usize>)| {
            // Each a name of its own.
            let name =
                &"tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt"[number..];
            TensorSpec::new(name, shape, ParameterKind::Weight, Fill::Constant(0.0))
        };
        self.0.iter().enumerate().map(spec).collect()
    }

    fn forward(&self, _: &Context<T>, _: Forward<'_, T>) -> Result<()> {
        Ok(())
    }

    fn backward(&self, _: &Context<T>, _: Backward<'_, T>) -> Result<()> {
        Ok(())
    }
}

/// A network of parameters of these shapes.
fn network<T: Element>(shapes: Vec<Vec<usize>>) -> Result<Network<T>> {
    Network::builder(Shape::Features(1)).layer(Tensors(shapes)).build()
}

/// The layout of parameters of these lengths.
fn lengths<T: Element>(lengths: &[usize]) -> Arc<TensorLayout> {
    let shapes = lengths.iter().map(|&len| vec![len]).collect();
    Arc::clone(network::<T>(shapes).unwrap().parameters().layout())
}

/// The layout of one matrix.
fn matrix<T: Element>(rows: usize, cols: usize) -> Arc<TensorLayout> {
    Arc::clone(network::<T>(vec![vec![rows, cols]]).unwrap().parameters().layout())
}

/// The settings of a step of a parameter with the optimizer's own weight decay.
fn settings(optimizer: &Optimizer, learning_rate: f64, l2: f64) -> StepSettings {
    StepSettings { learning_rate, l2, weight_decay: optimizer.weight_decay }
}

fn context<T: Element>(set: InstructionSet) -> Context<T> {
    Context::of(Gemm::with_instruction_set(set).unwrap()).unwrap()
}

/// Relative error that is allowed against PyTorch in double precision.
const TOLERANCE: f64 = 1e-12;

fn assert_close(found: f64, expected: f64, what: &dyn Debug) {
    let error = (found - expected).abs() / expected.abs();
    assert!(error <= TOLERANCE, "{what:?}: {found} instead of {expected}, error {error:e}");
}

/// Every rule, with its name in the reference.
fn rules(rms_momentum: f64) -> [Optimizer; 7] {
    Optimizer::NAMES.map(|name| {
        let mut optimizer: Optimizer = name.parse().unwrap();
        assert_eq!((optimizer.name(), optimizer.to_string().as_str()), (name, name));
        if let OptimizerRule::RmsProp { momentum, .. } = &mut optimizer.rule {
            *momentum = rms_momentum;
        }
        optimizer
    })
}

#[test]
fn updates_are_those_of_pytorch() {
    let table = include_str!("optimizers/updates.csv");
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|l| l.split(',').collect()).collect();
    assert_eq!(rows.len(), 16 * 10, "16 runs, 10 points of each");
    for set in InstructionSet::available() {
        let context = context::<f64>(set);
        for run in rows.chunks(10) {
            let number = |column: usize| run[0][column].parse::<f64>().unwrap();
            let (rate, weight_decay, momentum) = (number(1), number(2), number(3));
            let rule = rules(momentum).into_iter().find(|rule| rule.name() == run[0][0]).unwrap();
            let optimizer = rule.with_weight_decay(weight_decay);
            let mut state = OptimizerState::<f64>::new(&optimizer, &lengths::<f64>(&[7])).unwrap();
            let mut w = [2.0; 7];
            for t in 1..=100 {
                let gradient: [f64; 7] = std::array::from_fn(|i| {
                    let (curvature, target) = ((i + 1) as f64 / 8.0, (8 + i) as f64);
                    let noise = ((t * 37 + i * 101) % 64) as f64 - 32.0;
                    curvature * (w[i] - target) + noise / 64.0
                });
                state.begin_step();
                let settings = settings(&optimizer, rate, 0.0);
                state.update(&context, 0, &mut w, &gradient, settings).unwrap();
                if t % 10 == 0 {
                    let row = &run[t / 10 - 1];
                    assert_eq!(row[4], t.to_string());
                    for (found, expected) in w.iter().zip(&row[5..]) {
                        let what = (set, optimizer, t);
                        assert_close(*found, expected.parse().unwrap(), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn schedules_are_those_of_pytorch() {
    let table = include_str!("optimizers/schedules.csv");
    assert_eq!(table.lines().count(), 1 + 7);
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let number = |column: usize| columns[column].parse::<u64>().unwrap();
        let curve = match columns[0] {
            "constant" => Curve::Constant,
            "epoch-decay" => Curve::EpochDecay { factor: 0.9 },
            "step" => Curve::Step { every: 2, factor: 0.5 },
            "cosine" => Curve::Cosine { minimum: 0.01 },
            other => {
                let share = other.strip_prefix("one-cycle ").unwrap().parse().unwrap();
                Curve::OneCycle { share, initial_divisor: 25.0, final_divisor: 1e4 }
            }
        };
        let (epochs, per_epoch, warm_up) = (number(2), number(3), number(4));
        let schedule = Schedule::from(curve).with_warm_up(WarmUp::Steps(warm_up));
        schedule.check(0.3).unwrap();
        let rates: Vec<f64> = columns[5].split(' ').map(|rate| rate.parse().unwrap()).collect();
        assert_eq!(rates.len() as u64, epochs * per_epoch);
        for (step, &expected) in (0..).zip(&rates) {
            let found = schedule.rate(0.3, step, per_epoch, epochs * per_epoch);
            assert_close(found, expected, &(schedule, step));
        }
    }
}

#[test]
fn schedules_have_a_rate_at_every_step_of_any_run() {
    for name in Curve::NAMES {
        let curve: Curve = name.parse().unwrap();
        assert_eq!(curve.name(), name);
        for warm_up in [WarmUp::Steps(0), WarmUp::Steps(3), WarmUp::Epochs(0.5)] {
            let schedule = Schedule::from(curve).with_warm_up(warm_up);
            for total in 1..20 {
                for step in 0..total + 2 {
                    let rate = schedule.rate(0.3, step, 4, total);
                    assert!(rate > 0.0 && rate <= 0.3, "{schedule:?}, {step} of {total}: {rate}");
                }
            }
        }
        let epochs = Schedule::from(curve).with_warm_up(WarmUp::Epochs(0.5));
        let steps = Schedule::from(curve).with_warm_up(WarmUp::Steps(2));
        assert_eq!(epochs.rate(0.3, 1, 4, 9), steps.rate(0.3, 1, 4, 9));
    }
}

/// Random parameters, and gradients of several steps.
fn random<T: Element>(seed: u64, len: usize, steps: usize) -> (Vec<T>, Vec<Vec<T>>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensor = || (0..len).map(|_| T::from_f64(rng.random_range(-1.0..1.0))).collect();
    (tensor(), (0..steps).map(|_| tensor()).collect())
}

/// All bits of the parameters and of the slots after a few steps.
fn bits_of_steps<T: Element>(context: &Context<T>, optimizer: &Optimizer, len: usize) -> Vec<u8> {
    let (mut w, gradients) = random::<T>(len as u64, len, 4);
    let mut state = OptimizerState::new(optimizer, &lengths::<T>(&[5, len])).unwrap();
    for gradient in &gradients {
        state.begin_step();
        let settings = settings(optimizer, 0.01, 0.003);
        state.update(context, 1, &mut w, gradient, settings).unwrap();
    }
    assert!(w.iter().all(|w| w.is_finite()));
    let all = state.slots().fold(w, |all, (_, slot)| [&all, slot.tensor(1)].concat());
    bytemuck::cast_slice(&all).to_vec()
}

fn all_rules() -> impl Iterator<Item = Optimizer> {
    let all = rules(0.0).into_iter().chain(rules(0.5));
    all.map(|rule| rule.with_weight_decay(0.02))
}

fn sets_and_tasks_agree<T: Element>() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    for optimizer in all_rules() {
        // Every tail of the widest vector; and enough for several tasks.
        for len in (1..=33).chain([150_007]) {
            for fused in [true, false] {
                let mut expected = None;
                let sets = InstructionSet::available().filter(|set| set.is_fused() == fused);
                for (set, tasks) in sets.flat_map(|set| [1, 2, 3, 4].map(|tasks| (set, tasks))) {
                    let found = pool.install(|| {
                        let context = context::<T>(set).with_threads(Threads::Count(tasks));
                        bits_of_steps(&context.unwrap(), &optimizer, len)
                    });
                    let expected = expected.get_or_insert_with(|| found.clone());
                    assert!(found == *expected, "{optimizer:?}, {len}: {set}, {tasks} tasks");
                }
            }
        }
    }
}

#[test]
fn sets_and_tasks_agree_in_f32() {
    sets_and_tasks_agree::<f32>();
}

#[test]
fn sets_and_tasks_agree_in_f64() {
    sets_and_tasks_agree::<f64>();
}

/// A lane's result does not depend on its place: lone parameters are updated by tails alone.
#[test]
fn tails_have_the_bits_of_whole_vectors() {
    let (start, gradients) = random::<f32>(7, 64, 3);
    for set in InstructionSet::available() {
        let context = context::<f32>(set);
        for optimizer in all_rules() {
            let mut whole = start.clone();
            let mut state = OptimizerState::new(&optimizer, &lengths::<f32>(&[64])).unwrap();
            let mut lone = start.clone();
            let mut lone_state =
                OptimizerState::new(&optimizer, &lengths::<f32>(&[1; 64])).unwrap();
            for gradient in &gradients {
                state.begin_step();
                lone_state.begin_step();
                let settings = settings(&optimizer, 0.01, 0.1);
                state.update(&context, 0, &mut whole, gradient, settings).unwrap();
                for (i, w) in lone.iter_mut().enumerate() {
                    let (w, g) = (std::slice::from_mut(w), &gradient[i..=i]);
                    lone_state.update(&context, i, w, g, settings).unwrap();
                }
            }
            assert_eq!(lone, whole, "{optimizer:?} {set}");
        }
    }
}

/// Steps with the gradient `x^T d_out` of weights, fused and stored: the same bits.
fn fused_is_stored<T: Element>(
    context: Context<T>,
    optimizer: &Optimizer,
    l2: f64,
    (batch, rows, cols): (usize, usize, usize),
) {
    let (bits, gemm) = (|x: &[T]| bytemuck::cast_slice::<T, u8>(x).to_vec(), context.gemm());
    let mut scratch = gemm.scratch(rows, cols, batch).unwrap();
    let (start, _) = random::<T>(1, rows * cols, 0);
    let (mut fused, mut stored) = (start.clone(), start);
    let layout = matrix::<T>(rows, cols);
    let [mut a, mut b] = [(); 2].map(|()| OptimizerState::<T>::new(optimizer, &layout).unwrap());
    for step in 1..=4u32 {
        let settings = settings(optimizer, 0.1 / f64::from(step), l2);
        let (x, d_outs) = random::<T>(step.into(), batch * rows.max(cols), 1);
        let x = MatRef::new(&x[..batch * rows], batch, rows).unwrap();
        let d_out = MatRef::new(&d_outs[0][..batch * cols], batch, cols).unwrap();
        let mut product = |c: &mut [T], epilogue: Epilogue<'_, T>| {
            let c = MatMut::new(c, rows, cols).unwrap();
            gemm.run(T::ONE, x.t(), d_out, c, epilogue, &mut scratch).unwrap();
        };
        let mut gradient = vec![T::ZERO; rows * cols];
        product(&mut gradient, Epilogue::default());
        a.begin_step();
        a.update(&context, 0, &mut stored, &gradient, settings).unwrap();
        b.begin_step();
        product(&mut fused, b.fused_update(0, settings).unwrap());
        assert!(bits(&fused) == bits(&stored), "{optimizer:?} l2 {l2} step {step} {context:?}");
        let [a, b] =
            [&a, &b].map(|state| state.slots().map(|(_, s)| bits(s.tensor(0))).collect::<Vec<_>>());
        assert!(a == b, "{optimizer:?} l2 {l2} step {step} {context:?}");
    }
}

fn fused_steps_are_stored_steps<T: Element>() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for optimizer in rules(0.0).into_iter().chain(rules(0.5)) {
        for (l2, weight_decay) in [(0.0, 0.0), (0.003, 0.0), (0.0, 0.02), (0.003, 0.02)] {
            let optimizer = optimizer.with_weight_decay(weight_decay);
            for set in InstructionSet::available() {
                fused_is_stored(context::<T>(set), &optimizer, l2, (37, 41, 53));
                // Enough for two tasks.
                pool.install(|| {
                    let context = context::<T>(set).with_threads(Threads::Count(2)).unwrap();
                    fused_is_stored(context, &optimizer, l2, (65, 302, 261));
                });
            }
        }
    }
}

#[test]
fn fused_steps_are_stored_steps_in_f32() {
    fused_steps_are_stored_steps::<f32>();
}

#[test]
fn fused_steps_are_stored_steps_in_f64() {
    fused_steps_are_stored_steps::<f64>();
}

#[test]
fn a_state_restored_from_its_slots_continues_with_the_same_bits() {
    let context = Context::<f32>::new().unwrap();
    for optimizer in all_rules() {
        let layout = lengths::<f32>(&[19, 0, 40]);
        let (mut w, gradients) = random::<f32>(5, 40, 6);
        let mut state = OptimizerState::new(&optimizer, &layout).unwrap();
        let step = |state: &mut OptimizerState<f32>, w: &mut [f32], gradient: &[f32]| {
            state.begin_step();
            for (number, tensor) in layout.tensors().iter().enumerate() {
                let (w, gradient) = (&mut w[..tensor.len()], &gradient[..tensor.len()]);
                let settings = settings(&optimizer, 0.1, 0.0);
                state.update(&context, number, w, gradient, settings).unwrap();
            }
        };
        gradients[..3].iter().for_each(|gradient| step(&mut state, &mut w, gradient));
        let mut restored = OptimizerState::new(&optimizer, &layout).unwrap();
        restored.set_steps(state.steps());
        let names: Vec<_> = state.slots().map(|(name, _)| name).collect();
        assert_eq!(names, optimizer.slot_names(), "{optimizer}");
        assert_eq!(names, restored.slots_mut().map(|(name, _)| name).collect::<Vec<_>>());
        for ((_, from), (_, to)) in state.slots().zip(restored.slots_mut()) {
            for number in 0..3 {
                let values = from.tensor(number);
                assert!(values.is_empty() || values.as_ptr().addr().is_multiple_of(64));
            }
            to.copy_from(from).unwrap();
        }
        let mut other = w.clone();
        for gradient in &gradients[3..] {
            step(&mut state, &mut w, gradient);
            step(&mut restored, &mut other, gradient);
        }
        assert!(w == other && state.steps() == 6, "{optimizer}");
        assert_eq!(state.bytes(), 4 * (32 + 40) * optimizer.slot_names().len());
    }
}

#[test]
fn misuse_is_an_error() {
    let (context, six) = (Context::<f32>::new().unwrap(), lengths::<f32>(&[6]));
    let mut state = OptimizerState::<f32>::new(&Optimizer::adam(), &six).unwrap();
    let step = settings(&Optimizer::adam(), 0.1, 0.0);
    let mut update = |begin: bool, number: usize, w: usize, g: usize| {
        if begin {
            state.begin_step();
        }
        state.update(&context, number, &mut vec![0.0; w], &vec![0.0; g], step).unwrap_err()
    };
    let texts = [update(false, 0, 6, 6), update(true, 1, 6, 6), update(true, 0, 5, 6)];
    let expected = [
        "steps = 0: expected begin_step",
        "parameter = 1",
        "parameters: expected 6 elements, found 5",
    ];
    for (error, expected) in texts.iter().zip(expected) {
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(matches!(update(true, 0, 6, 7), Error::Length { what: "gradient", .. }));
    let mut state = OptimizerState::<f32>::new(&Optimizer::momentum(0.9), &six).unwrap();
    assert!(state.fused_update(0, step).is_err(), "no step was begun");
    state.begin_step();
    assert!(state.fused_update(1, step).is_err());
    let error = state.fused_update(0, step).unwrap_err();
    assert!(error.to_string().contains("shape of weights = [6]"), "{error}");

    let adam = |beta1, beta2, epsilon| OptimizerRule::Adam { beta1, beta2, epsilon }.into();
    let rms_prop =
        |decay, momentum| OptimizerRule::RmsProp { decay, epsilon: 1e-8, momentum }.into();
    for (optimizer, setting) in [
        (Optimizer::momentum(1.0), "momentum"),
        (Optimizer::nesterov(-0.1), "momentum"),
        (OptimizerRule::AdaGrad { epsilon: 0.0 }.into(), "epsilon"),
        (rms_prop(1.0, 0.0), "rms_decay"),
        (rms_prop(0.9, f64::NAN), "momentum"),
        (adam(1.0, 0.999, 1e-8), "beta1"),
        (adam(0.9, f64::INFINITY, 1e-8), "beta2"),
        // Nothing, in single precision.
        (adam(0.9, 0.999, 1e-60), "epsilon"),
        (Optimizer::adam_w(-1.0), "weight_decay"),
    ] {
        let error = OptimizerState::<f32>::new(&optimizer, &six).unwrap_err();
        assert!(matches!(error, Error::Setting { name, .. } if name == setting), "{error}");
    }
    let error = network::<f32>(vec![vec![usize::MAX / 3]]).unwrap_err();
    assert!(matches!(error, Error::SizeOverflow { .. }), "{error}");
    assert!("adamax".parse::<Optimizer>().is_err() && "exponential".parse::<Curve>().is_err());

    let one_cycle =
        |share, initial_divisor| Curve::OneCycle { share, initial_divisor, final_divisor: 100.0 };
    for curve in [
        Curve::EpochDecay { factor: 0.0 },
        Curve::Step { every: 0, factor: 0.1 },
        Curve::Step { every: 1, factor: f64::INFINITY },
        Curve::Cosine { minimum: 0.2 },
        Curve::Cosine { minimum: f64::NAN },
        one_cycle(1.0, 25.0),
        one_cycle(0.3, 0.5),
    ] {
        assert!(Schedule::from(curve).check(0.1).is_err(), "{curve:?}");
    }
    let warm_up = WarmUp::Epochs(-1.0);
    assert!(Schedule::default().with_warm_up(warm_up).check(0.1).is_err());
}
