//! Checkpoints of training runs: what goes on from one has the bits of a run that never stopped,
//! and a file that is not whole is refused.
#![cfg(feature = "model-files")]

use std::{fs, ops::ControlFlow, path::Path};

use tempfile::TempDir;
use tilewise::{
    Element, Error,
    data::{Augmentation, ImageSet, Normalization, NormalizeMode, Split, synthetic},
    nn::{FullyConnectedNet, Init, NetConfig},
    threads::Threads,
    train::{Curve, History, Optimizer, Schedule, Solver, SolverConfig, TrainingData, WarmUp},
};

/// Batches of an epoch: 160 training pictures.
const BATCHES: usize = 5;
const EPOCHS: usize = 3;

fn images() -> ImageSet {
    synthetic(200, 1).unwrap()
}

/// Settings that use every kind of state and of randomness.
fn config(optimizer: Optimizer) -> SolverConfig {
    SolverConfig {
        epochs: EPOCHS,
        batch_size: 32,
        optimizer,
        learning_rate: 0.02,
        schedule: Schedule { curve: Curve::Cosine { minimum: 0.0 }, warm_up: WarmUp::Epochs(0.5) },
        augmentation: Augmentation { flip: true, shift: 2, cutout: 4, ..Augmentation::default() },
        label_smoothing: 0.1,
        clip_norm: Some(2.0),
        ema_decay: Some(0.8),
        threads: Threads::Caller,
        ..SolverConfig::default()
    }
}

fn net<T: Element>(images: &ImageSet) -> FullyConnectedNet<T> {
    let hidden = vec![20, 15];
    let (input, classes) = (images.features(), images.classes());
    let config =
        NetConfig { input, hidden, classes, init: Init::He, l2: 1e-4, dropout: 0.2, seed: 7 };
    FullyConnectedNet::new(&config).unwrap()
}

fn solver<T: Element>(images: &ImageSet, config: SolverConfig) -> Solver<'_, T> {
    let split = Split::new(images.len(), None, None).unwrap();
    let statistics = images.channel_statistics(split.train.clone()).unwrap();
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean).unwrap();
    Solver::new(net(images), TrainingData { images, split, normalization }, config).unwrap()
}

/// Trains until so many batches and accuracy checks more are done.
fn advance<T: Element>(solver: &mut Solver<'_, T>, count: usize) {
    let mut done = 0;
    let mut on_progress = |_: tilewise::train::Progress<'_>| {
        done += 1;
        if done == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    solver.train_with(&mut on_progress).unwrap();
}

/// Everything that a run leaves behind.
fn outcome<T: Element>(solver: &Solver<'_, T>) -> (History, (usize, f64), Vec<Vec<f64>>) {
    let best = solver.best().unwrap();
    let layers = [solver.net(), best.net].into_iter().flat_map(|net| net.layers());
    let parameters = layers.map(|layer| {
        let rows = (0..layer.in_features()).flat_map(|i| layer.weight().row(i).unwrap());
        rows.chain(layer.bias()).map(|x| x.to_f64()).collect()
    });
    (solver.history().clone(), (best.epoch, best.val_accuracy), parameters.collect())
}

fn file(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("checkpoint.safetensors")
}

fn goes_on_with_the_same_bits<T: Element>(optimizer: Optimizer, stops: &[usize]) {
    let images = images();
    let mut whole = solver::<T>(&images, config(optimizer));
    whole.train().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for &stop in stops {
        let mut first = solver::<T>(&images, config(optimizer));
        advance(&mut first, stop);
        first.save_checkpoint(&file(&dir)).unwrap();
        let threads = Threads::Count(2);
        let mut second = solver::<T>(&images, SolverConfig { threads, ..config(optimizer) });
        second.load_checkpoint(&file(&dir)).unwrap();
        assert_eq!(second.iteration(), first.iteration());
        second.train().unwrap();
        let same = outcome(&second) == outcome(&whole);
        assert!(same, "{optimizer} in {}, stopped after {stop}", T::NAME);
    }
}

#[test]
fn every_rule_goes_on_with_the_same_bits_in_the_middle_of_an_epoch() {
    for name in Optimizer::NAMES {
        goes_on_with_the_same_bits::<f32>(name.parse().unwrap(), &[BATCHES + 1 + 2]);
    }
    goes_on_with_the_same_bits::<f64>(Optimizer::adam(), &[BATCHES + 1 + 2]);
}

#[test]
fn a_run_goes_on_with_the_same_bits_from_any_place() {
    let all: Vec<usize> = (1..=EPOCHS * (BATCHES + 1)).collect();
    goes_on_with_the_same_bits::<f32>(Optimizer::nesterov(0.9), &all);
}

#[test]
fn patience_counts_over_an_interruption() {
    let images = images();
    let config =
        SolverConfig { learning_rate: 1e-12, patience: Some(2), ..config(Optimizer::sgd()) };
    let dir = tempfile::tempdir().unwrap();
    let mut first = solver::<f32>(&images, config.clone());
    advance(&mut first, 2 * (BATCHES + 1));
    first.save_checkpoint(&file(&dir)).unwrap();
    let mut second = solver::<f32>(&images, config);
    second.load_checkpoint(&file(&dir)).unwrap();
    second.train().unwrap();
    assert!(second.is_out_of_patience());
    assert_eq!(second.history().val_acc_history.len(), 3);
}

/// A checkpoint of a run, and a solver that it fits.
fn saved<'a>(images: &'a ImageSet, path: &Path) -> Solver<'a, f32> {
    let mut solver = solver::<f32>(images, config(Optimizer::adam()));
    advance(&mut solver, 2);
    solver.save_checkpoint(path).unwrap();
    solver
}

#[test]
fn truncated_and_altered_files_are_refused_and_change_nothing() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let mut stopped = saved(&images, &path);
    let whole = fs::read(&path).unwrap();
    // What it would go on to if a part of the file got into it.
    let expected = {
        let mut copy = solver::<f32>(&images, config(Optimizer::adam()));
        advance(&mut copy, 2);
        copy.train().unwrap();
        outcome(&copy)
    };
    let refuse = |solver: &mut Solver<'_, f32>, bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let error = solver.load_checkpoint(&path).expect_err(what);
        let Error::File { path: named, detail } = &error else { panic!("{what}: {error}") };
        assert_eq!((named, error.to_string().lines().count()), (&path, 1), "{what}");
        detail.clone()
    };
    for len in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        let what = format!("cut to {len}");
        let detail = refuse(&mut stopped, &whole[..len], &what);
        assert!(detail.contains("checksum"), "{what}: {detail}");
    }
    // Every byte of the beginning, and some of the rest.
    for at in (0..2000).chain((2000..whole.len()).step_by(whole.len() / 200)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        refuse(&mut stopped, &bytes, &format!("byte {at} altered"));
    }
    let longer = [&whole[..], b"x"].concat();
    refuse(&mut stopped, &longer, "a byte too many");
    refuse(&mut stopped, b"PK\x03\x04 another format", "another format");
    stopped.train().unwrap();
    assert!(outcome(&stopped) == expected);
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_the_difference() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    saved(&images, &path);
    let settings = config(Optimizer::adam());
    let others = [
        (SolverConfig { epochs: 4, ..settings.clone() }, "epochs 4: expected 3"),
        (SolverConfig { seed: 1, ..settings.clone() }, "seed 1"),
        (SolverConfig { optimizer: Optimizer::sgd(), ..settings.clone() }, "Sgd"),
        (SolverConfig { ema_decay: None, ..settings.clone() }, "None"),
    ];
    for (other, difference) in others {
        let mut solver = solver::<f32>(&images, other);
        let error = solver.load_checkpoint(&path).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
        assert!(error.to_string().contains(difference), "{difference}: {error}");
    }
    let error = solver::<f64>(&images, settings.clone()).load_checkpoint(&path).unwrap_err();
    assert!(error.to_string().contains("precision \"f64\": expected \"f32\""), "{error}");
    let fewer = synthetic(199, 1).unwrap();
    let error = solver::<f32>(&fewer, settings).load_checkpoint(&path).unwrap_err();
    assert!(error.to_string().contains("199 of"), "{error}");
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let mut solver = solver::<f32>(&images, config(Optimizer::sgd()));
    let error = solver.load_checkpoint(&file(&dir)).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == file(&dir)), "{error}");
}
