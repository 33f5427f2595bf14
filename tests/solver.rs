//! Training runs: histories, reproducibility over threads and instruction sets, divergence.

use std::ops::ControlFlow;

use tilewise::{
    Error,
    data::{Augmentation, ImageSet, ImageShape, Normalization, NormalizeMode, Split, synthetic},
    gemm::Gemm,
    nn::{FullyConnectedNet, Init, NetConfig},
    threads::Threads,
    train::{
        Curve, EpochRecord, History, LastBatch, Optimizer, Progress, Solver, SolverConfig,
        TrainingData, evaluate,
    },
};

fn config() -> SolverConfig {
    SolverConfig {
        epochs: 3,
        batch_size: 64,
        learning_rate: 0.1,
        schedule: Curve::EpochDecay { factor: 0.9 }.into(),
        threads: Threads::Caller,
        ..SolverConfig::default()
    }
}

fn net_config(images: &ImageSet) -> NetConfig {
    NetConfig {
        input: images.features(),
        hidden: vec![50, 30],
        classes: images.classes(),
        init: Init::He,
        dropout: 0.1,
        l2: 1e-4,
        seed: 5,
    }
}

fn solver(images: &ImageSet, config: SolverConfig) -> Solver<'_, f32> {
    let split = Split::new(images.len(), None, None).unwrap();
    let statistics = images.channel_statistics(split.train.clone()).unwrap();
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean).unwrap();
    let net = FullyConnectedNet::new(&net_config(images)).unwrap();
    let data = TrainingData { images, split, normalization };
    Solver::new(net, data, config).unwrap()
}

/// History and all final parameters, as bits.
fn run(images: &ImageSet, config: SolverConfig) -> (History, Vec<u32>) {
    let mut solver = solver(images, config);
    solver.train().unwrap();
    (solver.history().clone(), bits(solver.net()))
}

fn bits(net: &FullyConnectedNet<f32>) -> Vec<u32> {
    let values = net.layers().iter().flat_map(|layer| {
        let rows = (0..layer.in_features()).flat_map(|i| layer.weight().row(i).unwrap());
        rows.chain(layer.bias())
    });
    values.map(|x| x.to_bits()).collect()
}

#[test]
fn threads_do_not_change_the_bits_of_a_run() {
    let images = synthetic(1000, 1).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let changed = Augmentation { flip: true, shift: 2, cutout: 5, ..Augmentation::default() };
    let mut references = Vec::new();
    for augmentation in [Augmentation::default(), changed] {
        let config = || SolverConfig { augmentation, ..config() };
        let reference = run(&images, config());
        for threads in [Threads::Pool, Threads::Count(2), Threads::Count(4)] {
            let run = pool.install(|| run(&images, SolverConfig { threads, ..config() }));
            assert!(run == reference, "{threads:?}, {augmentation:?}");
        }
        let other_seed = run(&images, SolverConfig { seed: 1, ..config() });
        assert!(other_seed != reference);
        references.push(reference);
    }
    assert!(references[0] != references[1]);
}

#[test]
fn histories_have_a_loss_an_iteration_and_accuracies_an_epoch() {
    let images = synthetic(1000, 2).unwrap();
    // 800 training pictures: 12 whole batches of 64, and one of 32.
    for (last_batch, batches, seen) in [(LastBatch::Drop, 12, 768), (LastBatch::Keep, 13, 800)] {
        let mut solver = solver(&images, SolverConfig { last_batch, ..config() });
        let mut records: Vec<EpochRecord> = Vec::new();
        let (mut steps, mut pictures) = (0, 0);
        solver
            .train_with(&mut |progress| {
                match progress {
                    Progress::Step { iteration, iterations, images, .. } => {
                        steps += 1;
                        pictures += images;
                        assert_eq!((iteration, iterations), (steps, 3 * batches));
                    }
                    Progress::Epoch(record) => records.push(*record),
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!((steps, pictures), (3 * batches, 3 * seen));
        let history = solver.history();
        assert_eq!(history.loss_history.len(), 3 * batches);
        assert_eq!(history.train_acc_history.len(), 3);
        let accuracies: Vec<f64> = records.iter().map(|record| record.val_accuracy).collect();
        assert_eq!(history.val_acc_history, accuracies);
        let rates: Vec<f64> = records.iter().map(|record| record.learning_rate).collect();
        assert!(rates.iter().zip([0.1, 0.09, 0.081]).all(|(a, b)| (a - b).abs() < 1e-15));
        let mean = history.loss_history[..batches].iter().sum::<f64>() / batches as f64;
        assert!((records[0].loss - mean).abs() < 1e-12);
        let best = solver.best().unwrap();
        let largest = accuracies.iter().copied().fold(0.0, f64::max);
        assert_eq!(best.val_accuracy, largest);
        assert_eq!(best.epoch, 1 + accuracies.iter().position(|&a| a == largest).unwrap());
    }
}

#[test]
fn a_callback_can_stop_the_run() {
    let images = synthetic(500, 3).unwrap();
    let mut solver = solver(&images, config());
    solver
        .train_with(&mut |progress| match progress {
            Progress::Epoch(record) if record.epoch == 2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .unwrap();
    assert_eq!(solver.history().val_acc_history.len(), 2);
}

#[test]
fn a_run_goes_on_after_a_break_as_if_there_had_been_none() {
    let images = synthetic(500, 3).unwrap();
    let whole = run(&images, config());
    let mut solver = solver(&images, config());
    let mut rounds = 0;
    while !solver.is_done() {
        let mut progress = 0;
        // Breaks after every third batch or epoch.
        solver
            .train_with(&mut |_| {
                progress += 1;
                if progress == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        rounds += 1;
    }
    // 3 epochs of 6 batches, each with an accuracy check behind it.
    assert_eq!(rounds, 7);
    assert!((solver.history().clone(), bits(solver.net())) == whole);
}

#[test]
fn patience_ends_a_run_that_gets_no_better() {
    let images = synthetic(500, 3).unwrap();
    // Steps too small to change a prediction.
    let config = SolverConfig { learning_rate: 1e-12, epochs: 9, ..config() };
    let mut patient = solver(&images, SolverConfig { patience: Some(2), ..config.clone() });
    patient.train().unwrap();
    assert!(patient.is_out_of_patience() && patient.is_done());
    assert_eq!(patient.best().unwrap().epoch, 1);
    assert_eq!(patient.history().val_acc_history.len(), 3);
    let mut endless = solver(&images, config);
    endless.train().unwrap();
    assert!(endless.is_done() && !endless.is_out_of_patience());
    assert_eq!(endless.history().val_acc_history.len(), 9);
}

#[test]
fn accuracies_and_best_parameters_are_those_of_the_average() {
    let images = synthetic(1000, 4).unwrap();
    let plain = run(&images, config());
    let mut averaged = solver(&images, SolverConfig { ema_decay: Some(0.98), ..config() });
    averaged.train().unwrap();
    // Training itself is the same.
    assert_eq!(averaged.history().loss_history, plain.0.loss_history);
    assert!(bits(averaged.net()) == plain.1);
    assert!(averaged.history().val_acc_history != plain.0.val_acc_history);
    let mut gone_on = solver(&images, SolverConfig { ema_decay: Some(0.0), ..config() });
    gone_on.train().unwrap();
    assert_eq!(*gone_on.history(), plain.0, "an average that forgets everything");
}

#[test]
fn training_learns_and_the_best_parameters_evaluate_to_their_accuracy() {
    let images = synthetic(2000, 4).unwrap();
    let mut solver = solver(&images, SolverConfig { epochs: 8, ..config() });
    solver.train().unwrap();
    let losses = &solver.history().loss_history;
    assert!(losses[losses.len() - 1] < 0.9 * losses[0], "{} to {}", losses[0], losses[199]);
    let best = solver.best().unwrap();
    assert!(best.val_accuracy > 0.2, "{}", best.val_accuracy);

    let split = Split::new(images.len(), None, None).unwrap();
    let statistics = images.channel_statistics(split.train).unwrap();
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean).unwrap();
    let range =
        split.validation.start * images.features()..split.validation.end * images.features();
    let validation = ImageSet::new(
        images.shape(),
        images.class_names().to_vec(),
        images.pixels()[range].to_vec(),
        images.labels()[split.validation].to_vec(),
    )
    .unwrap();
    let mut results = [1, 7, 64, 1000].map(|batch| {
        let gemm = Gemm::new().unwrap();
        evaluate(best.net, gemm, &validation, &normalization, batch).unwrap()
    });
    assert_eq!(results[0].accuracy(), best.val_accuracy);
    assert_eq!(results[0].classes.iter().map(|class| class.0).sum::<usize>(), results[0].correct);
    results.rotate_left(1);
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "batch size changes the result");
}

#[test]
fn divergence_is_an_error_that_keeps_what_there_was() {
    let images = synthetic(500, 5).unwrap();
    let mut solver = solver(&images, SolverConfig { learning_rate: 1e6, ..config() });
    let error = solver.train().unwrap_err();
    let Error::Diverged { iteration, learning_rate, loss } = error else {
        panic!("{error}");
    };
    assert!(!loss.is_finite());
    let epochs = solver.history().val_acc_history.len();
    assert_eq!(learning_rate, 1e6 * 0.9f64.powi(epochs as i32));
    assert_eq!(solver.history().loss_history.len(), iteration - 1);
    assert!(solver.history().loss_history.iter().all(|loss| loss.is_finite()));
}

#[test]
fn divergence_in_the_last_step_of_an_epoch_is_not_recorded_as_an_epoch() {
    let images = synthetic(500, 5).unwrap();
    // One step for each epoch. The second step's rate is out of all bounds: its own loss is that of
    // the parameters before it.
    let schedule = Curve::EpochDecay { factor: 1e32 }.into();
    for (epochs, learning_rate, recorded) in [(2, 0.05, 1), (3, 0.05, 1), (1, 1e30, 0)] {
        let config = SolverConfig { epochs, batch_size: 400, learning_rate, schedule, ..config() };
        let mut solver = solver(&images, config);
        for _ in 0..2 {
            let error = solver.train().unwrap_err();
            assert!(error.to_string().contains("not finite"), "{error}");
            let Error::Diverged { iteration, learning_rate: rate, loss } = error else {
                panic!("{error}");
            };
            let expected = learning_rate * if recorded == 1 { 1e32 } else { 1.0 };
            assert_eq!((iteration, rate), (recorded + 1, expected));
            let history = solver.history();
            assert_eq!(history.loss_history.last(), Some(&loss));
            assert_eq!(history.loss_history.len(), iteration);
            assert!(history.loss_history.iter().all(|loss| loss.is_finite()));
            assert_eq!(history.val_acc_history.len(), recorded);
            assert_eq!(history.train_acc_history.len(), recorded);
            let best = solver.best();
            assert_eq!(best.map(|best| best.epoch), (recorded == 1).then_some(1));
            if let Some(best) = best {
                let finite = bits(best.net).iter().all(|&bits| f32::from_bits(bits).is_finite());
                assert!(finite, "the best network is not finite");
            }
        }
    }
}

#[test]
fn senseless_settings_are_errors() {
    let images = synthetic(50, 6).unwrap();
    for bad in [
        SolverConfig { epochs: 0, ..config() },
        SolverConfig { batch_size: 0, ..config() },
        SolverConfig { learning_rate: f64::NAN, ..config() },
        SolverConfig { ema_decay: Some(1.0), ..config() },
        SolverConfig { patience: Some(0), ..config() },
        SolverConfig { learning_rate: -0.1, ..config() },
        SolverConfig { schedule: Curve::EpochDecay { factor: 0.0 }.into(), ..config() },
        SolverConfig { optimizer: Optimizer::momentum(1.0), ..config() },
    ] {
        let split = Split::new(images.len(), None, None).unwrap();
        let normalization = Normalization::new(vec![1.0; 3], vec![0.0; 3]).unwrap();
        let net = FullyConnectedNet::<f32>::new(&net_config(&images)).unwrap();
        let data = TrainingData { images: &images, split, normalization };
        let error = Solver::new(net, data, bad.clone()).err().expect("an error");
        assert!(matches!(error, Error::Setting { .. }), "{bad:?}: {error}");
    }
    let shape = ImageShape { channels: 1, height: 2, width: 2 };
    let names = vec!["a".to_owned(), "b".to_owned()];
    let small = ImageSet::new(shape, names, vec![0; 40], vec![0; 10]).unwrap();
    let data = TrainingData {
        images: &small,
        split: Split::new(10, None, None).unwrap(),
        normalization: Normalization::new(vec![1.0], vec![0.0]).unwrap(),
    };
    let net = FullyConnectedNet::<f32>::new(&net_config(&images)).unwrap();
    let error = Solver::new(net, data, config()).err().expect("an error");
    assert!(matches!(error, Error::Shape { expected: (4, 2), found: (3072, 10), .. }), "{error}");
}
