//! Training runs: histories, reproducibility over threads and instruction sets, divergence.

use std::ops::ControlFlow;

use tilewise::{
    Context, Error,
    data::{Augmentation, ImageSet, ImageShape, Normalization, NormalizeMode, Split, synthetic},
    nn::{Init, MlpConfig, Network, mlp},
    threads::Threads,
    train::{
        Curve, EpochRecord, History, LastBatch, Optimizer, Progress, Solver, SolverConfig,
        TrainerConfig, TrainingData, evaluate,
    },
};

fn trainer_config() -> TrainerConfig {
    TrainerConfig::default().with_batch_size(64).with_learning_rate(0.1).with_l2(1e-4)
}

fn config() -> SolverConfig {
    let config = SolverConfig::default().with_trainer(trainer_config()).with_epochs(3);
    config.with_schedule(Curve::EpochDecay { factor: 0.9 }.into())
}

fn network(images: &ImageSet) -> Network<f32> {
    let config = MlpConfig::default()
        .with_input(images.features())
        .with_hidden(vec![50, 30])
        .with_classes(images.classes())
        .with_init(Init::He)
        .with_dropout(0.1)
        .with_seed(5);
    mlp(&config).unwrap()
}

fn solver(images: &ImageSet, config: SolverConfig) -> Solver<'_, f32> {
    let split = Split::new(images.len(), None, None).unwrap();
    let statistics = images.channel_statistics(split.train.clone()).unwrap();
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean).unwrap();
    let data = TrainingData { images, split, normalization };
    Solver::new(network(images), data, config).unwrap()
}

/// History and all final parameters, as bits.
fn run(images: &ImageSet, config: SolverConfig) -> (History, Vec<u32>) {
    let mut solver = solver(images, config);
    solver.train().unwrap();
    (solver.history().clone(), bits(solver.network()))
}

fn bits(network: &Network<f32>) -> Vec<u32> {
    let tensors = network.parameters().iter();
    tensors.flat_map(|(_, values)| values).map(|value| value.to_bits()).collect()
}

#[test]
fn threads_do_not_change_the_bits_of_a_run() {
    let images = synthetic(1000, 1).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let changed = Augmentation::default().with_flip(true).with_shift(2).with_cutout(5);
    let mut references = Vec::new();
    for augmentation in [Augmentation::default(), changed] {
        let config = || config().with_augmentation(augmentation);
        let reference = run(&images, config());
        for threads in [Threads::Pool, Threads::Count(2), Threads::Count(4)] {
            let config = config().with_trainer(trainer_config().with_threads(threads));
            let run = pool.install(|| run(&images, config));
            assert!(run == reference, "{threads:?}, {augmentation:?}");
        }
        let other_seed = run(&images, config().with_seed(1));
        assert!(other_seed != reference);
        references.push(reference);
    }
    assert!(references[0] != references[1]);
}

#[test]
fn histories_have_a_loss_an_iteration_and_accuracies_an_epoch() {
    let images = synthetic(1000, 2).unwrap();
    // 800 training images: 12 whole batches of 64, and one of 32.
    for (last_batch, batches, seen) in [(LastBatch::Drop, 12, 768), (LastBatch::Keep, 13, 800)] {
        let mut solver = solver(&images, config().with_last_batch(last_batch));
        let mut records: Vec<EpochRecord> = Vec::new();
        let (mut steps, mut all) = (0, 0);
        solver
            .train_with(&mut |progress| {
                match progress {
                    Progress::Step { iteration, iterations, images, .. } => {
                        steps += 1;
                        all += images;
                        assert_eq!((iteration, iterations), (steps, 3 * batches));
                    }
                    Progress::Epoch(record) => records.push(*record),
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!((steps, all), (3 * batches, 3 * seen));
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
fn a_run_continues_after_a_break_as_if_there_had_been_none() {
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
    assert!((solver.history().clone(), bits(solver.network())) == whole);
}

#[test]
fn patience_ends_a_run_that_gets_no_better() {
    let images = synthetic(500, 3).unwrap();
    // Steps too small to change a prediction.
    let config = config().with_epochs(9).with_trainer(trainer_config().with_learning_rate(1e-12));
    let mut patient = solver(&images, config.clone().with_patience(Some(2)));
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
    let with_decay = |decay| config().with_trainer(trainer_config().with_ema_decay(Some(decay)));
    let mut averaged = solver(&images, with_decay(0.98));
    averaged.train().unwrap();
    // Training itself is the same.
    assert_eq!(averaged.history().loss_history, plain.0.loss_history);
    assert!(bits(averaged.network()) == plain.1);
    assert!(averaged.history().val_acc_history != plain.0.val_acc_history);
    let mut forgetful = solver(&images, with_decay(0.0));
    forgetful.train().unwrap();
    assert_eq!(*forgetful.history(), plain.0, "an average that forgets everything");
}

#[test]
fn training_learns_and_the_best_parameters_evaluate_to_their_accuracy() {
    let images = synthetic(2000, 4).unwrap();
    let mut solver = solver(&images, config().with_epochs(8));
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
        let context = Context::new().unwrap();
        evaluate(best.network, context, &validation, &normalization, batch).unwrap()
    });
    assert_eq!(results[0].accuracy(), best.val_accuracy);
    assert_eq!(results[0].classes.iter().map(|class| class.0).sum::<usize>(), results[0].correct);
    results.rotate_left(1);
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "batch size changes the result");
}

#[test]
fn divergence_is_an_error_that_keeps_what_there_was() {
    let images = synthetic(500, 5).unwrap();
    let config = config().with_trainer(trainer_config().with_learning_rate(1e6));
    let mut solver = solver(&images, config);
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
        let trainer = trainer_config().with_batch_size(400).with_learning_rate(learning_rate);
        let config = config().with_trainer(trainer).with_epochs(epochs).with_schedule(schedule);
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
                let finite =
                    bits(best.network).iter().all(|&bits| f32::from_bits(bits).is_finite());
                assert!(finite, "the best network is not finite");
            }
        }
    }
}

#[test]
fn senseless_settings_are_errors() {
    let images = synthetic(50, 6).unwrap();
    for bad in [
        config().with_epochs(0),
        config().with_trainer(trainer_config().with_batch_size(0)),
        config().with_trainer(trainer_config().with_learning_rate(f64::NAN)),
        config().with_trainer(trainer_config().with_ema_decay(Some(1.0))),
        config().with_patience(Some(0)),
        config().with_trainer(trainer_config().with_learning_rate(-0.1)),
        config().with_schedule(Curve::EpochDecay { factor: 0.0 }.into()),
        config().with_trainer(trainer_config().with_optimizer(Optimizer::momentum(1.0))),
    ] {
        let split = Split::new(images.len(), None, None).unwrap();
        let normalization = Normalization::new(vec![1.0; 3], vec![0.0; 3]).unwrap();
        let data = TrainingData { images: &images, split, normalization };
        let error = Solver::new(network(&images), data, bad.clone()).err().expect("an error");
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
    let error = Solver::new(network(&images), data, config()).err().expect("an error");
    assert!(matches!(error, Error::Shape { expected: (4, 2), found: (3072, 10), .. }), "{error}");
}
