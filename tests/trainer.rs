//! Training steps: the same bits however they are computed, limits, and what is restored.

use tilewise::{
    Error,
    gemm::{Backend, GatheredRows, Gemm},
    matrix::{MatRef, Matrix},
    nn::{CrossEntropy, FullyConnectedNet, Init, NetConfig},
    simd::{Denormals, InstructionSet},
    threads::Threads,
    train::{Optimizer, Trainer, TrainerConfig},
};

/// Rows of a batch, which the products of the larger net divide among several tasks.
const BATCH: usize = 96;

const FEATURES: usize = 3 * 140;

/// Bytes of pictures, from a small generator of their own.
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

fn labels(step: u32) -> Vec<u8> {
    indices(step).iter().map(|index| (index % 7) as u8).collect()
}

fn net(dropout: f64, l2: f64) -> FullyConnectedNet<f32> {
    let (input, hidden) = (FEATURES, vec![130, 70]);
    let init = Init::He;
    let config = NetConfig { input, hidden, classes: 7, init, l2, dropout, seed: 3 };
    FullyConnectedNet::new(&config).unwrap()
}

fn settings() -> TrainerConfig {
    TrainerConfig {
        batch_size: BATCH,
        learning_rate: 0.01,
        threads: Threads::Caller,
        ..TrainerConfig::default()
    }
}

fn bits(net: &FullyConnectedNet<f32>) -> Vec<u32> {
    let layers = net.layers().iter();
    let values = layers.flat_map(|layer| {
        let weight = layer.weight();
        let rows = (0..weight.rows()).flat_map(move |i| weight.row(i).unwrap().to_vec());
        rows.chain(layer.bias().to_vec())
    });
    values.map(f32::to_bits).collect()
}

fn all_optimizers() -> Vec<Optimizer> {
    let named = Optimizer::NAMES.iter().map(|name| name.parse().unwrap());
    let decayed = [Optimizer { weight_decay: 0.01, ..Optimizer::nesterov(0.8) }];
    named.chain(decayed).collect()
}

/// Parameters after some steps on gathered pictures.
fn train(
    optimizer: Optimizer,
    gemm: Gemm<f32>,
    settings: TrainerConfig,
    dropout: f64,
    steps: u32,
) -> Vec<u32> {
    let store = Store::new();
    let mut trainer = Trainer::with_gemm(net(dropout, 1e-3), optimizer, settings, gemm).unwrap();
    for step in 0..steps {
        trainer.step(store.rows(&indices(step)), &labels(step)).unwrap();
    }
    bits(trainer.net())
}

#[test]
fn fifty_steps_have_the_same_bits_on_any_threads_and_fused_sets() {
    let fused = InstructionSet::available().filter(|set| set.is_fused());
    let sets: Vec<_> = fused.map(|set| Gemm::with_instruction_set(set).unwrap()).collect();
    for optimizer in all_optimizers() {
        let Some(&best) = sets.last() else { return };
        let expected = train(optimizer, best, settings(), 0.2, 50);
        for &gemm in &sets {
            assert!(
                train(optimizer, gemm, settings(), 0.2, 50) == expected,
                "{optimizer}, {gemm:?}"
            );
        }
        for threads in 2..=4 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let settings = TrainerConfig { threads: Threads::Pool, ..settings() };
            let found = pool.install(|| train(optimizer, best, settings, 0.2, 50));
            assert!(found == expected, "{optimizer}, {threads} threads");
        }
    }
}

#[test]
fn the_average_follows_its_definition_on_any_threads() {
    let (store, decay) = (Store::new(), 0.75f32);
    let average = |threads, gemm: Gemm<f32>| {
        let settings = TrainerConfig { ema_decay: Some(f64::from(decay)), threads, ..settings() };
        let mut trainer =
            Trainer::with_gemm(net(0.1, 0.0), Optimizer::sgd(), settings, gemm).unwrap();
        let mut expected: Vec<f32> = Vec::new();
        for step in 0..6 {
            trainer.step(store.rows(&indices(step)), &labels(step)).unwrap();
            let w = bits(trainer.net()).into_iter().map(f32::from_bits);
            if step == 0 {
                expected = w.collect();
            } else {
                let next =
                    expected.iter().zip(w).map(|(&average, w)| match gemm.instruction_set() {
                        set if set.is_fused() => decay.mul_add(average, (1.0 - decay) * w),
                        _ => decay * average + (1.0 - decay) * w,
                    });
                expected = next.collect();
            }
        }
        let found = bits(trainer.averaged_net().unwrap());
        assert!(found.iter().map(|&x| f32::from_bits(x)).eq(expected), "{gemm:?}");
        found
    };
    for set in InstructionSet::available() {
        let gemm = Gemm::with_instruction_set(set).unwrap();
        let reference = average(Threads::Caller, gemm);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert!(pool.install(|| average(Threads::Pool, gemm)) == reference, "{set}");
    }
}

#[test]
fn stored_gradients_make_the_same_steps_as_fused_updates() {
    let gemm = Gemm::new().unwrap();
    // With the L2 term of the network, weight decay would be a second addition to the gradient.
    for optimizer in all_optimizers().into_iter().filter(|optimizer| optimizer.weight_decay == 0.0)
    {
        let stored = TrainerConfig { store_gradients: true, ..settings() };
        let found = train(optimizer, gemm, stored, 0.2, 8);
        assert!(found == train(optimizer, gemm, settings(), 0.2, 8), "{optimizer}");
    }
}

#[test]
fn rows_of_numbers_make_the_same_steps_as_gathered_bytes() {
    let store = Store::new();
    let mut gathered = Trainer::new(net(0.1, 0.0), Optimizer::momentum(0.9), settings()).unwrap();
    let mut numbers = Trainer::new(net(0.1, 0.0), Optimizer::momentum(0.9), settings()).unwrap();
    for step in 0..5 {
        let indices = indices(step);
        let rows = store.rows(&indices);
        let matrix = Matrix::from_fn(BATCH, FEATURES, |i, j| rows.get(i, j)).unwrap();
        let one = gathered.step(rows, &labels(step)).unwrap();
        let other = numbers.step(matrix.view(), &labels(step)).unwrap();
        assert_eq!((one.loss, one.rows), (other.loss, BATCH));
    }
    assert!(bits(gathered.net()) == bits(numbers.net()));
}

#[test]
fn parts_of_a_batch_make_the_step_of_the_whole() {
    let store = Store::new();
    let stored = TrainerConfig { store_gradients: true, ..settings() };
    let mut whole = Trainer::new(net(0.3, 1e-3), Optimizer::adam(), settings()).unwrap();
    let mut parts = Trainer::new(net(0.3, 1e-3), Optimizer::adam(), stored).unwrap();
    for step in 0..5 {
        let (indices, labels) = (indices(step), labels(step));
        whole.step(store.rows(&indices), &labels).unwrap();
        for part in [0..1, 1..40, 40..BATCH] {
            parts.accumulate(store.rows(&indices[part.clone()]), &labels[part], BATCH).unwrap();
        }
        parts.apply().unwrap();
    }
    assert!(bits(whole.net()) == bits(parts.net()));
}

#[test]
fn parts_must_make_up_their_batch() {
    let store = Store::new();
    let (indices, labels) = (indices(0), labels(0));
    let (some, of_some) = (store.rows(&indices[..10]), &labels[..10]);
    let mut fused = Trainer::new(net(0.0, 0.0), Optimizer::sgd(), settings()).unwrap();
    let error = fused.accumulate(some, of_some, 20).unwrap_err();
    assert!(error.to_string().contains("store_gradients"), "{error}");
    let stored = TrainerConfig { store_gradients: true, ..settings() };
    let mut trainer = Trainer::new(net(0.0, 0.0), Optimizer::sgd(), stored).unwrap();
    assert!(trainer.apply().is_err());
    trainer.accumulate(some, of_some, 20).unwrap();
    let error = trainer.apply().unwrap_err();
    assert!(error.to_string().contains("10 of 20 rows"), "{error}");
    assert!(trainer.accumulate(some, of_some, 30).is_err());
    trainer.accumulate(some, of_some, 20).unwrap();
    assert!(trainer.accumulate(some, of_some, 20).is_err());
    let before = bits(trainer.net());
    trainer.apply().unwrap();
    assert!(bits(trainer.net()) != before);
    assert_eq!(trainer.steps(), 1);
}

#[test]
fn clipped_gradients_have_the_norm_asked_for() {
    let store = Store::new();
    let norm = |trainer: &Trainer<f32>| {
        let layers = (0..3).flat_map(|l| trainer.gradient(l).unwrap().concat());
        layers.map(|g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
    };
    let unclipped = TrainerConfig { store_gradients: true, ..settings() };
    let mut trainer = Trainer::new(net(0.0, 1e-2), Optimizer::sgd(), unclipped).unwrap();
    trainer.step(store.rows(&indices(0)), &labels(0)).unwrap();
    let whole = norm(&trainer);
    for limit in [whole / 3.0, whole * 3.0] {
        let clipped = TrainerConfig { clip_norm: Some(limit), ..settings() };
        let mut trainer = Trainer::new(net(0.0, 1e-2), Optimizer::sgd(), clipped).unwrap();
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
        let gemm = Gemm::new().unwrap().with_backend(backend);
        let optimizer = Optimizer::nesterov(0.9);
        let mut trainer = Trainer::with_gemm(net(0.1, 1e-3), optimizer, settings(), gemm).unwrap();
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
    let mut trainer = Trainer::new(net(0.0, 0.0), Optimizer::sgd(), settings()).unwrap();
    let before = bits(trainer.net());
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
    let packed = Gemm::new().unwrap().pack_a(1.0, Matrix::zeros(5, FEATURES).unwrap().view());
    assert!(trainer.step(&packed.unwrap(), &[0; 5]).is_err());
    let infinite = Matrix::from_fn(5, FEATURES, |_, _| f32::INFINITY).unwrap();
    let error = trainer.step(infinite.view(), &[0; 5]).unwrap_err();
    assert!(matches!(error, Error::Diverged { iteration: 1, .. }), "{error}");
    assert!(bits(trainer.net()) == before);
    assert_eq!(trainer.steps(), 0);
    assert!(trainer.set_learning_rate(f64::NAN).is_err());
    for bad in [
        TrainerConfig { batch_size: 0, ..settings() },
        TrainerConfig { learning_rate: -1.0, ..settings() },
        TrainerConfig { label_smoothing: 1.0, ..settings() },
        TrainerConfig { clip_norm: Some(0.0), ..settings() },
    ] {
        assert!(Trainer::new(net(0.0, 0.0), Optimizer::sgd(), bad.clone()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_step_flushes_denormals_and_leaves_the_callers_setting() {
    // Denormal weights without a gradient stay what they are, or become 0.
    let weight = |denormals| {
        let mut net = net(0.0, 0.0);
        for layer in net.layers_mut() {
            let mut weights = layer.weight_mut();
            for i in 0..weights.rows() {
                weights.row_mut(i).unwrap().fill(1e-40);
            }
        }
        let mut trainer =
            Trainer::new(net, Optimizer::sgd(), TrainerConfig { denormals, ..settings() }).unwrap();
        let x = Matrix::zeros(4, FEATURES).unwrap();
        trainer.step(x.view(), &[0; 4]).unwrap();
        assert!(trainer.step(x.view(), &[9; 4]).is_err());
        assert_eq!(Denormals::current(), Denormals::Keep);
        trainer.net().layers()[0].weight().get(0, 0)
    };
    assert_eq!(weight(Denormals::Keep), 1e-40);
    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
    assert_eq!(weight(Denormals::Flush), 0.0);
}

#[test]
fn a_network_of_another_shape_in_place_of_the_trainers_is_refused() {
    let store = Store::new();
    let (rows, labels) = (indices(0), labels(0));
    let other =
        NetConfig { input: FEATURES, hidden: vec![70, 130], classes: 7, ..NetConfig::default() };
    let other = FullyConnectedNet::<f32>::new(&other).unwrap();
    for store_gradients in [false, true] {
        let settings = TrainerConfig { store_gradients, ema_decay: Some(0.5), ..settings() };
        let mut trainer = Trainer::new(net(0.0, 0.0), Optimizer::adam(), settings).unwrap();
        trainer.step(store.rows(&rows), &labels).unwrap();
        let own = trainer.net().clone();
        if store_gradients {
            trainer.accumulate(store.rows(&rows), &labels, BATCH).unwrap();
        }
        *trainer.net_mut() = other.clone();
        for error in [
            trainer.step(store.rows(&rows), &labels).unwrap_err(),
            trainer.accumulate(store.rows(&rows), &labels, BATCH).unwrap_err(),
            trainer.apply().unwrap_err(),
        ] {
            assert!(matches!(error, Error::Setting { name: "workspace", .. }), "{error}");
        }
        assert!(bits(trainer.net()) == bits(&other), "it was changed");
        assert_eq!((trainer.steps(), trainer.optimizer().steps()), (1, 1));
        *trainer.net_mut() = own;
        trainer.step(store.rows(&rows), &labels).unwrap();
    }
}
