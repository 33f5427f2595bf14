//! Training steps: the same bits however they are computed, limits, and what is restored.

use tilewise::{
    Context, Error,
    gemm::{Backend, GatheredRows, Gemm},
    matrix::{MatRef, Matrix},
    nn::{CrossEntropy, Init, MlpConfig, Network, mlp},
    simd::{Denormals, InstructionSet},
    threads::Threads,
    train::{Optimizer, Trainer, TrainerConfig},
};

/// Rows of a batch, which the products of the larger net divide among several tasks.
const BATCH: usize = 96;

const FEATURES: usize = 3 * 140;

/// Bytes of images, from a small generator of their own.
struct Store {
    bytes: Vec<u8>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Store {
    fn new() -> Self {
        let mut state = 12345u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let bytes = std::iter::repeat_with(next).take(200 * FEATURES).collect();
        // So that numbers are exact, and the same with one rounding and with two.
        Self { bytes, scale: vec![1.0 / 256.0; FEATURES], shift: vec![-0.5; FEATURES] }
    }

    fn rows<'a>(&'a self, indices: &'a [u32]) -> GatheredRows<'a, f32> {
        GatheredRows::new(&self.bytes, indices, &self.scale, &self.shift).unwrap()
    }
}

fn indices(step: u32) -> Vec<u32> {
    (0..BATCH as u32).map(|i| (i * 7 + step * 31) % 200).collect()
}

fn labels(step: u32) -> Vec<u32> {
    indices(step).iter().map(|index| index % 7).collect()
}

fn network(dropout: f64) -> Network<f32> {
    let (input, hidden, init) = (FEATURES, vec![130, 70], Init::He);
    mlp(&MlpConfig::default()
        .with_input(input)
        .with_hidden(hidden)
        .with_classes(7)
        .with_init(init)
        .with_dropout(dropout)
        .with_seed(3))
    .unwrap()
}

fn settings(optimizer: Optimizer) -> TrainerConfig {
    let config = TrainerConfig::default().with_batch_size(BATCH).with_learning_rate(0.01);
    config.with_optimizer(optimizer)
}

fn bits(network: &Network<f32>) -> Vec<u32> {
    let tensors = network.parameters().iter();
    tensors.flat_map(|(_, values)| values).map(|value| value.to_bits()).collect()
}

fn all_optimizers() -> Vec<Optimizer> {
    let named = Optimizer::NAMES.iter().map(|name| name.parse().unwrap());
    let decayed = [Optimizer::nesterov(0.8).with_weight_decay(0.01)];
    named.chain(decayed).collect()
}

/// Parameters after some steps on gathered images, with L2 regularization and dropout.
fn train(context: Context<f32>, settings: TrainerConfig, steps: u32) -> Vec<u32> {
    let store = Store::new();
    let settings = settings.with_l2(1e-3);
    let mut trainer = Trainer::with_context(network(0.2), settings, context).unwrap();
    for step in 0..steps {
        trainer.step(store.rows(&indices(step)), &labels(step)).unwrap();
    }
    bits(trainer.network())
}

fn context(set: InstructionSet) -> Context<f32> {
    Context::of(Gemm::with_instruction_set(set).unwrap()).unwrap()
}

#[test]
fn fifty_steps_have_the_same_bits_on_any_threads_and_fused_sets() {
    let fused = InstructionSet::available().filter(|set| set.is_fused());
    let sets: Vec<_> = fused.map(context).collect();
    for optimizer in all_optimizers() {
        let Some(&best) = sets.last() else { return };
        let expected = train(best, settings(optimizer), 50);
        for &context in &sets {
            let found = train(context, settings(optimizer), 50);
            assert!(found == expected, "{optimizer}, {context:?}");
        }
        for threads in 2..=4 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let settings = settings(optimizer).with_threads(Threads::Pool);
            let found = pool.install(|| train(best, settings, 50));
            assert!(found == expected, "{optimizer}, {threads} threads");
        }
    }
}

#[test]
fn the_average_follows_its_definition_on_any_threads() {
    let (store, decay) = (Store::new(), 0.75f32);
    let average = |threads, context: Context<f32>| {
        let settings = settings(Optimizer::sgd()).with_threads(threads);
        let settings = settings.with_ema_decay(Some(f64::from(decay)));
        let mut trainer = Trainer::with_context(network(0.1), settings, context).unwrap();
        let mut expected: Vec<f32> = Vec::new();
        for step in 0..6 {
            trainer.step(store.rows(&indices(step)), &labels(step)).unwrap();
            let w = bits(trainer.network()).into_iter().map(f32::from_bits);
            if step == 0 {
                expected = w.collect();
            } else {
                let next =
                    expected.iter().zip(w).map(|(&average, w)| match context.instruction_set() {
                        set if set.is_fused() => decay.mul_add(average, (1.0 - decay) * w),
                        _ => decay * average + (1.0 - decay) * w,
                    });
                expected = next.collect();
            }
        }
        let found = bits(trainer.average().unwrap());
        assert!(found.iter().map(|&x| f32::from_bits(x)).eq(expected), "{context:?}");
        found
    };
    for set in InstructionSet::available() {
        let reference = average(Threads::Caller, context(set));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert!(pool.install(|| average(Threads::Pool, context(set))) == reference, "{set}");
    }
}

#[test]
fn stored_gradients_make_the_same_steps_as_fused_updates() {
    let context = Context::new().unwrap();
    for optimizer in all_optimizers() {
        let stored = settings(optimizer).with_store_gradients(true);
        let found = train(context, stored, 8);
        assert!(found == train(context, settings(optimizer), 8), "{optimizer}");
    }
}

#[test]
fn rows_of_numbers_make_the_same_steps_as_gathered_bytes() {
    let store = Store::new();
    let new = || Trainer::new(network(0.1), settings(Optimizer::momentum(0.9))).unwrap();
    let (mut gathered, mut numbers) = (new(), new());
    for step in 0..5 {
        let indices = indices(step);
        let rows = store.rows(&indices);
        let matrix = Matrix::from_fn(BATCH, FEATURES, |i, j| rows.get(i, j)).unwrap();
        let one = gathered.step(rows, &labels(step)).unwrap();
        let other = numbers.step(matrix.view(), &labels(step)).unwrap();
        assert_eq!((one.loss, one.rows), (other.loss, BATCH));
    }
    assert!(bits(gathered.network()) == bits(numbers.network()));
}

#[test]
fn parts_of_a_batch_make_the_step_of_the_whole() {
    let store = Store::new();
    let settings = settings(Optimizer::adam()).with_l2(1e-3);
    let stored = settings.clone().with_store_gradients(true);
    let mut whole = Trainer::new(network(0.3), settings).unwrap();
    let mut parts = Trainer::new(network(0.3), stored).unwrap();
    for step in 0..5 {
        let (indices, labels) = (indices(step), labels(step));
        whole.step(store.rows(&indices), &labels).unwrap();
        for part in [0..1, 1..40, 40..BATCH] {
            parts.accumulate(store.rows(&indices[part.clone()]), &labels[part], BATCH).unwrap();
        }
        parts.apply().unwrap();
    }
    assert!(bits(whole.network()) == bits(parts.network()));
}

#[test]
fn parts_must_make_up_their_batch() {
    let store = Store::new();
    let (indices, labels) = (indices(0), labels(0));
    let (some, of_some) = (store.rows(&indices[..10]), &labels[..10]);
    let mut fused = Trainer::new(network(0.0), settings(Optimizer::sgd())).unwrap();
    let error = fused.accumulate(some, of_some, 20).unwrap_err();
    assert!(error.to_string().contains("store_gradients"), "{error}");
    let stored = settings(Optimizer::sgd()).with_store_gradients(true);
    let mut trainer = Trainer::new(network(0.0), stored).unwrap();
    assert!(trainer.apply().is_err());
    trainer.accumulate(some, of_some, 20).unwrap();
    let error = trainer.apply().unwrap_err();
    assert!(error.to_string().contains("10 of 20 rows"), "{error}");
    assert!(trainer.accumulate(some, of_some, 30).is_err());
    trainer.accumulate(some, of_some, 20).unwrap();
    assert!(trainer.accumulate(some, of_some, 20).is_err());
    let before = bits(trainer.network());
    trainer.apply().unwrap();
    assert!(bits(trainer.network()) != before);
    assert_eq!(trainer.steps(), 1);
}

#[test]
fn clipped_gradients_have_the_norm_asked_for() {
    let store = Store::new();
    let norm = |trainer: &Trainer<f32>| {
        let gradients = trainer.gradients().unwrap().iter().flat_map(|(_, gradient)| gradient);
        gradients.map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
    };
    let settings = settings(Optimizer::sgd()).with_l2(1e-2);
    let unclipped = settings.clone().with_store_gradients(true);
    let mut trainer = Trainer::new(network(0.0), unclipped).unwrap();
    trainer.step(store.rows(&indices(0)), &labels(0)).unwrap();
    let whole = norm(&trainer);
    for limit in [whole / 3.0, whole * 3.0] {
        let clipped = settings.clone().with_clip_norm(Some(limit));
        let mut trainer = Trainer::new(network(0.0), clipped).unwrap();
        let stats = trainer.step(store.rows(&indices(0)), &labels(0)).unwrap();
        let reported = stats.gradient_norm.unwrap();
        assert!((reported / whole - 1.0).abs() < 1e-5, "{reported} instead of {whole}");
        let found = norm(&trainer);
        assert!((found / limit.min(whole) - 1.0).abs() < 1e-5, "{found}, at most {limit}");
    }
}

#[test]
fn smoothed_labels_change_the_loss_by_their_formula() {
    let logits = [0.3f64, -1.0, 2.0, 0.0];
    let view = MatRef::new(&logits, 1, 4).unwrap();
    let mut losses = [0.0];
    let loss = CrossEntropy::new(0.2).unwrap().forward(view, &[1], &mut losses).unwrap();
    let log_sum = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
    let by_hand: f64 = logits.iter().enumerate().fold(0.0, |sum, (j, logit)| {
        let target = if j == 1 { 0.8 + 0.05 } else { 0.05 };
        sum + target * (log_sum - logit)
    });
    assert!((loss - by_hand).abs() < 1e-14, "{loss} instead of {by_hand}");
    assert!(CrossEntropy::new(1.0).is_err() && CrossEntropy::new(-0.1).is_err());
}

#[test]
fn every_backend_trains_alike() {
    let store = Store::new();
    let rows = Matrix::from_fn(BATCH, FEATURES, |i, j| store.rows(&indices(0)).get(i, j)).unwrap();
    let losses = Backend::ALL.iter().map(|&backend| {
        let context = Context::of(Gemm::new().unwrap().with_backend(backend)).unwrap();
        let settings = settings(Optimizer::nesterov(0.9)).with_l2(1e-3);
        let mut trainer = Trainer::with_context(network(0.1), settings, context).unwrap();
        [0; 6].map(|_| trainer.step(rows.view(), &labels(0)).unwrap().loss)
    });
    let losses: Vec<[f64; 6]> = losses.collect();
    for (first, last) in losses.iter().map(|losses| (losses[0], losses[5])) {
        assert!((last / losses[0][5] - 1.0).abs() < 1e-4 && last < first, "{losses:?}");
    }
}

#[test]
fn batches_that_do_not_fit_are_errors_and_change_nothing() {
    let store = Store::new();
    let settings = || settings(Optimizer::sgd());
    let mut trainer = Trainer::new(network(0.0), settings()).unwrap();
    let before = bits(trainer.network());
    let many: Vec<u32> = (0..BATCH as u32 + 1).collect();
    let error = trainer.step(store.rows(&many), &vec![0; many.len()]).unwrap_err();
    assert!(matches!(error, Error::BatchTooLarge { batch: 97, capacity: 96 }), "{error}");
    let error = trainer.step(store.rows(&many[..5]), &[0; 4]).unwrap_err();
    assert!(matches!(error, Error::Length { expected: 5, found: 4, .. }), "{error}");
    let error = trainer.step(store.rows(&many[..5]), &[0, 1, 2, 7, 3]).unwrap_err();
    assert!(matches!(error, Error::Label { label: 7, row: 3, classes: 7 }), "{error}");
    let error = trainer.step(store.rows(&[]), &[]).unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error}");
    let narrow = Matrix::zeros(5, 9).unwrap();
    assert!(matches!(trainer.step(narrow.view(), &[0; 5]), Err(Error::Shape { .. })));
    let packed =
        Gemm::<f32>::new().unwrap().pack_a(1.0, Matrix::zeros(5, FEATURES).unwrap().view());
    assert!(trainer.step(&packed.unwrap(), &[0; 5]).is_err());
    let infinite = Matrix::from_fn(5, FEATURES, |_, _| f32::INFINITY).unwrap();
    let error = trainer.step(infinite.view(), &[0; 5]).unwrap_err();
    assert!(matches!(error, Error::Diverged { iteration: 1, .. }), "{error}");
    assert!(bits(trainer.network()) == before);
    assert_eq!(trainer.steps(), 0);
    assert!(trainer.set_learning_rate(f64::NAN).is_err());
    for bad in [
        settings().with_batch_size(0),
        settings().with_learning_rate(-1.0),
        settings().with_l2(-1.0),
        settings().with_l2(f64::NAN),
        settings().with_ema_decay(Some(1.0)),
        settings().with_clip_norm(Some(0.0)),
        settings().with_optimizer(Optimizer::momentum(1.0)),
    ] {
        assert!(Trainer::new(network(0.0), bad.clone()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_step_flushes_denormals_and_leaves_the_callers_setting() {
    // Denormal weights without a gradient stay what they are, or become 0.
    let weight = |denormals| {
        let mut network = network(0.0);
        for name in ["0.weight", "2.weight", "4.weight"] {
            network.parameters_mut().get_mut(name).unwrap().fill(1e-40);
        }
        let settings = settings(Optimizer::sgd()).with_denormals(denormals);
        let mut trainer = Trainer::new(network, settings).unwrap();
        let x = Matrix::zeros(4, FEATURES).unwrap();
        trainer.step(x.view(), &[0; 4]).unwrap();
        assert!(trainer.step(x.view(), &[9; 4]).is_err());
        assert_eq!(Denormals::current(), Denormals::Keep);
        trainer.network().parameters().get("0.weight").unwrap()[0]
    };
    assert_eq!(weight(Denormals::Keep), 1e-40);
    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
    assert_eq!(weight(Denormals::Flush), 0.0);
}

#[test]
fn a_network_of_other_layers_in_place_of_the_trainers_is_refused() {
    let store = Store::new();
    let (rows, labels) = (indices(0), labels(0));
    let other =
        MlpConfig::default().with_input(FEATURES).with_hidden(vec![70, 130]).with_classes(7);
    let other = mlp::<f32>(&other).unwrap();
    for store_gradients in [false, true] {
        let settings = settings(Optimizer::adam()).with_store_gradients(store_gradients);
        let mut trainer = Trainer::new(network(0.0), settings.with_ema_decay(Some(0.5))).unwrap();
        trainer.step(store.rows(&rows), &labels).unwrap();
        let own = trainer.network().try_clone().unwrap();
        if store_gradients {
            trainer.accumulate(store.rows(&rows), &labels, BATCH).unwrap();
        }
        *trainer.network_mut() = other.try_clone().unwrap();
        for error in [
            trainer.step(store.rows(&rows), &labels).unwrap_err(),
            trainer.accumulate(store.rows(&rows), &labels, BATCH).unwrap_err(),
            trainer.apply().unwrap_err(),
        ] {
            assert!(
                matches!(error, Error::OtherNetwork { what: "network of a plan", .. }),
                "{error}"
            );
        }
        assert!(bits(trainer.network()) == bits(&other), "it was changed");
        assert_eq!((trainer.steps(), trainer.optimizer().steps()), (1, 1));
        *trainer.network_mut() = own;
        trainer.step(store.rows(&rows), &labels).unwrap();
    }
}
