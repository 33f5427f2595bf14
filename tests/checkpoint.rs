//! Checkpoints of training runs: a run resumed from one has the bits of a run that never stopped,
//! and a file that is not whole, or holds what no run can have come to, is refused.
#![cfg(feature = "model-files")]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::ControlFlow,
    path::Path,
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tilewise::{
    Element, Error,
    data::{Augmentation, ImageSet, Normalization, NormalizeMode, Split, synthetic},
    nn::{FullyConnectedNet, Init, NetConfig},
    threads::Threads,
    train::{Curve, History, Optimizer, Schedule, Solver, SolverConfig, TrainingData, WarmUp},
};

/// Batches of an epoch: 160 training images.
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

fn continues_with_the_same_bits<T: Element>(optimizer: Optimizer, stops: &[usize]) {
    let images = images();
    let mut whole = solver::<T>(&images, config(optimizer));
    whole.train().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for &stop in stops {
        let mut first = solver::<T>(&images, config(optimizer));
        advance(&mut first, stop);
        first.save_checkpoint(&file(&dir)).unwrap();
        let threads = Threads::Count(2);
        let iteration = first.iteration();
        let resumed = pool.install(|| {
            let mut second = solver::<T>(&images, SolverConfig { threads, ..config(optimizer) });
            second.load_checkpoint(&file(&dir)).unwrap();
            assert_eq!(second.iteration(), iteration);
            second.train().unwrap();
            outcome(&second)
        });
        assert!(resumed == outcome(&whole), "{optimizer} in {}, stopped after {stop}", T::NAME);
    }
}

#[test]
fn every_optimizer_continues_with_the_same_bits_in_the_middle_of_an_epoch() {
    for name in Optimizer::NAMES {
        continues_with_the_same_bits::<f32>(name.parse().unwrap(), &[BATCHES + 1 + 2]);
    }
    continues_with_the_same_bits::<f64>(Optimizer::adam(), &[BATCHES + 1 + 2]);
}

#[test]
fn a_run_continues_with_the_same_bits_from_any_place() {
    let all: Vec<usize> = (1..=EPOCHS * (BATCHES + 1)).collect();
    continues_with_the_same_bits::<f32>(Optimizer::nesterov(0.9), &all);
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
    // What it comes to, unless a part of a file got into it.
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
        (
            SolverConfig { optimizer: Optimizer::sgd(), ..settings.clone() },
            "optimizer \"sgd\": expected \"adam\"",
        ),
        (SolverConfig { ema_decay: None, ..settings.clone() }, "ema-decay null: expected 0.8"),
        (SolverConfig { patience: Some(3), ..settings.clone() }, "patience 3: expected null"),
        (SolverConfig { validation_samples: Some(39), ..settings.clone() }, "[160,198]"),
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
    assert!(error.to_string().contains("images 199: expected 200"), "{error}");
}

#[test]
fn images_and_labels_of_the_same_statistics_are_told_apart() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    saved(&images, &file(&dir));
    let (features, half) = (images.features(), images.len() / 2);
    let with = |pixels, labels, name: &str| {
        let mut names = images.class_names().to_vec();
        names[0] = name.to_owned();
        ImageSet::new(images.shape(), names, pixels, labels).unwrap()
    };
    let name = &images.class_names()[0];
    let mut pixels = images.pixels().to_vec();
    let (first, second) = pixels.split_at_mut(half * features);
    first[..features].swap_with_slice(&mut second[..features]);
    let mut labels = images.labels().to_vec();
    let other = labels.iter().position(|&label| label != labels[0]).unwrap();
    labels.swap(0, other);
    let sets = [
        ("images", with(pixels, images.labels().to_vec(), name)),
        ("labels", with(images.pixels().to_vec(), labels, name)),
        ("names", with(images.pixels().to_vec(), images.labels().to_vec(), "another")),
    ];
    for (what, set) in &sets {
        let mut solver = solver::<f32>(set, config(Optimizer::adam()));
        let error = solver.load_checkpoint(&file(&dir)).expect_err(what);
        assert!(error.to_string().contains("resumed run = data-sha256"), "{what}: {error}");
    }
    let same = with(images.pixels().to_vec(), images.labels().to_vec(), name);
    solver::<f32>(&same, config(Optimizer::adam())).load_checkpoint(&file(&dir)).unwrap();
}

/// A checkpoint taken apart.
#[derive(Clone)]
struct Parts {
    /// Its metadata besides `state`.
    others: HashMap<String, String>,
    state: Map<String, Value>,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Parts {
    fn of(bytes: &[u8]) -> Self {
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let mut others = header.metadata().clone().unwrap();
        let state = others.remove(KEY).unwrap();
        let tensors = SafeTensors::deserialize(bytes).unwrap().tensors().into_iter();
        let tensors = tensors.map(|(name, tensor)| {
            (name, (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()))
        });
        let state = serde_json::from_str(&state).unwrap();
        Self { others, state, tensors: tensors.collect() }
    }

    /// The file, with a valid checksum.
    fn bytes(&self) -> Vec<u8> {
        let mut state = self.state.clone();
        state.insert("sha256".to_owned(), "0".repeat(64).into());
        let mut metadata = self.others.clone();
        metadata.insert(KEY.to_owned(), Value::Object(state).to_string());
        let tensors = self.tensors.iter().map(|(name, (dtype, shape, data))| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let mut bytes = safetensors::serialize(tensors, Some(metadata)).unwrap();
        let zeros = br#"\"sha256\":\"0000"#;
        let at = bytes.windows(zeros.len()).position(|window| window == zeros).unwrap();
        let digest = Sha256::digest(&bytes);
        let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes[at + zeros.len() - 4..][..64].copy_from_slice(digits.as_bytes());
        bytes
    }
}

const KEY: &str = "tilewise-checkpoint";

/// A checkpoint in the middle of the second epoch, its solver, and files to be refused.
struct Attack<'a> {
    path: &'a Path,
    solver: Solver<'a, f32>,
    parts: Parts,
    count: usize,
}

impl<'a> Attack<'a> {
    fn new(images: &'a ImageSet, path: &'a Path, config: SolverConfig) -> Self {
        let mut solver = solver::<f32>(images, config);
        advance(&mut solver, BATCHES + 1 + 2);
        solver.save_checkpoint(path).unwrap();
        let whole = fs::read(path).unwrap();
        let parts = Parts::of(&whole);
        // Taking it apart and putting it together changes nothing by itself.
        fs::write(path, parts.bytes()).unwrap();
        solver.load_checkpoint(path).unwrap();
        Self { path, solver, parts, count: 0 }
    }

    /// The altered checkpoint is an error that says `what`; the file stays.
    fn refused(&mut self, what: &str, alter: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.clone();
        alter(&mut parts);
        let bytes = parts.bytes();
        fs::write(self.path, &bytes).unwrap();
        let error = self.solver.load_checkpoint(self.path).expect_err(what);
        let message = error.to_string();
        assert!(message.contains(what), "{what}: {message}");
        assert!(message.contains(&self.path.display().to_string()), "{what}: {message}");
        assert_eq!(message.lines().count(), 1, "{what}: {message}");
        assert!(message.len() < 1000, "{what}: {message}");
        assert!(fs::read(self.path).unwrap() == bytes, "{what}: the file has changed");
        self.count += 1;
    }
}

/// Values that a JSON entry may be replaced with.
fn extremes() -> Vec<Value> {
    let long = "\u{1b}[31m".repeat(10_000);
    let mut values = vec![json!(null), json!(true), json!("x"), json!(long), json!([]), json!({})];
    values.extend([json!(-1), json!(0), json!(1), json!(4), json!(i64::MIN), json!(u64::MAX)]);
    values.extend([json!(1_000_000), json!(0.5), json!(1e300), json!(-1e300), json!(5e-324)]);
    values
}

#[test]
fn altered_entries_under_a_valid_checksum_are_refused() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let mut attack = Attack::new(&images, &path, config(Optimizer::adam()));
    let expected = {
        let mut copy = solver::<f32>(&images, config(Optimizer::adam()));
        copy.train().unwrap();
        outcome(&copy)
    };
    assert_eq!(attack.parts.state["epochs"], 1);
    assert_eq!(attack.parts.state["batches"], 2);
    let names: Vec<String> = attack.parts.state.keys().cloned().collect();
    for name in names.iter().filter(|name| *name != "sha256") {
        let before = attack.parts.state[name].clone();
        for value in extremes().into_iter().filter(|value| *value != before) {
            // Any time of up to a century that a batch took is possible.
            let fits = value.as_u64().is_some_and(|value| value < u64::MAX);
            if name == "nanoseconds" && fits {
                continue;
            }
            // Other numbers of epochs and batches show in the lengths of the histories.
            let what = match name.as_str() {
                "epochs" if fits && value.as_u64() <= Some(EPOCHS as u64) => "history.",
                "batches" if value == json!(0) => "nanoseconds",
                "batches" if fits && value.as_u64() <= Some(BATCHES as u64) => "history.loss",
                "settings" if value == json!({}) => "its settings lack",
                _ => name,
            };
            attack.refused(what, |parts| parts.state[name] = value);
        }
        let lacks = format!("lacks {name:?}");
        attack.refused(&lacks, |parts| {
            parts.state.remove(name);
        });
        attack.refused(&lacks, |parts| {
            let value = parts.state.remove(name).unwrap();
            parts.state.insert(format!("{name}s"), value);
        });
    }
    attack.refused("\"unknown\"", |parts| {
        parts.state.insert("unknown".to_owned(), json!(1));
    });
    attack.refused("\"other\"", |parts| {
        parts.others.insert("other".to_owned(), String::new());
    });
    // The end of the run is not in the middle of an epoch.
    attack.refused("batches = 1: expected at most 0", |parts| {
        parts.state.extend([("epochs".to_owned(), json!(3)), ("batches".to_owned(), json!(1))]);
    });
    attack.refused("nanoseconds = 1: expected at most 0", |parts| {
        parts
            .state
            .extend([("batches".to_owned(), json!(0)), ("nanoseconds".to_owned(), json!(1))]);
    });
    attack.refused("format 1", |parts| {
        parts.state.insert("format".to_owned(), json!(1));
    });

    let settings = attack.parts.state["settings"].as_object().unwrap().clone();
    assert!(settings.len() > 30, "{settings:?}");
    for (name, before) in &settings {
        for value in extremes().into_iter().filter(|value| value != before) {
            let what = format!("resumed run = {name} ");
            attack.refused(&what, |parts| parts.state["settings"][name] = value);
        }
        let lacks = format!("its settings lack {name},");
        let remove = |parts: &mut Parts| {
            parts.state["settings"].as_object_mut().unwrap().remove(name).unwrap()
        };
        attack.refused(&lacks, |parts| drop(remove(parts)));
        attack.refused(&lacks, |parts| {
            let value = remove(parts);
            parts.state["settings"][format!("{name}s")] = value;
        });
    }
    attack.refused("its settings have \"another\" = 1", |parts| {
        parts.state["settings"]["another"] = json!(1);
    });
    assert!(attack.count > 700, "{} files", attack.count);
    attack.solver.train().unwrap();
    assert!(outcome(&attack.solver) == expected);
}

#[test]
fn altered_tensors_under_a_valid_checksum_are_refused() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let mut attack = Attack::new(&images, &path, config(Optimizer::adam()));
    let names: Vec<String> = attack.parts.tensors.keys().cloned().collect();
    assert!(names.len() > 25, "{names:?}");
    for name in &names {
        let missing = format!("tensor {name} is missing");
        let tensor = attack.parts.tensors[name].clone();
        let (dtype, shape, data) = &tensor;
        let size = dtype.bitsize() / 8;
        attack.refused(&missing, |parts| drop(parts.tensors.remove(name)));
        attack.refused(&missing, |parts| {
            let tensor = parts.tensors.remove(name).unwrap();
            parts.tensors.insert(format!("{name}0"), tensor);
        });
        let other = if size == 4 { Dtype::I32 } else { Dtype::I64 };
        let [n] = shape[..] else { panic!("{name} {shape:?}") };
        let differs = format!("tensor {name} is ");
        for (dtype, shape, data) in [
            (other, vec![n], data.clone()),
            (*dtype, vec![n, 1], data.clone()),
            (*dtype, vec![], vec![0; size]),
            (*dtype, vec![n - 1], data[size..].to_vec()),
            (*dtype, vec![n + 1], [&data[..], &data[..size]].concat()),
        ] {
            attack.refused(&differs, |parts| {
                parts.tensors.insert(name.clone(), (dtype, shape, data));
            });
        }
        let holds = format!("tensor {name} holds ");
        let squares = name.starts_with("mean_square");
        let history = name.starts_with("history.");
        let infinities: &[f64] = if squares { &[] } else { &[f64::INFINITY] };
        let negative: &[f64] = if squares || history { &[-1e-30, -1.0] } else { &[] };
        let above: &[f64] = if name.ends_with("accuracy") { &[1.000001, 1e30] } else { &[] };
        for &value in
            [f64::NAN, f64::NEG_INFINITY].iter().chain(infinities).chain(negative).chain(above)
        {
            let number = match size {
                4 => (value as f32).to_le_bytes().to_vec(),
                _ => value.to_le_bytes().to_vec(),
            };
            let filled = number.repeat(n);
            let last = [&data[..data.len() - size], &number[..]].concat();
            for data in [filled, last] {
                attack.refused(&holds, |parts| {
                    parts.tensors.insert(name.clone(), (*dtype, vec![n], data));
                });
            }
        }
    }
    attack.refused("tensor \"another\" is none of this run", |parts| {
        parts.tensors.insert("another".to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    assert!(attack.count > 300, "{} files", attack.count);
}

#[test]
fn a_history_that_patience_would_have_ended_is_refused() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let patient = SolverConfig { patience: Some(1), ..config(Optimizer::adam()) };
    let mut attack = Attack::new(&images, &path, patient);
    let position = |parts: &mut Parts, epochs: usize, batches: usize, accuracies: &[f64]| {
        let doubles = |values: &[f64]| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (Dtype::F64, vec![values.len()], bytes)
        };
        for name in ["history.train_accuracy", "history.val_accuracy"] {
            parts.tensors.insert(name.to_owned(), doubles(accuracies));
        }
        let losses = vec![1.0; epochs * BATCHES + batches];
        parts.tensors.insert("history.loss".to_owned(), doubles(&losses));
        let numbers = [("epochs", epochs), ("batches", batches), ("nanoseconds", 0)];
        parts.state.extend(numbers.map(|(name, count)| (name.to_owned(), json!(count))));
    };
    let mut behind = attack.parts.clone();
    attack.refused("out of patience after epoch 2", |parts| position(parts, 2, 1, &[0.5, 0.5]));
    attack
        .refused("out of patience after epoch 2", |parts| position(parts, 3, 0, &[0.5, 0.4, 0.6]));
    // Where it ended, and where it did not.
    for (epochs, batches, accuracies, best) in [
        (2, 0, &[0.5, 0.5][..], (1, 0.5)),
        (2, 1, &[0.5, 0.6], (2, 0.6)),
        (3, 0, &[0.5, 0.6, 0.1], (2, 0.6)),
    ] {
        position(&mut behind, epochs, batches, accuracies);
        fs::write(&path, behind.bytes()).unwrap();
        attack.solver.load_checkpoint(&path).unwrap();
        let found = attack.solver.best().unwrap();
        assert_eq!((found.epoch, found.val_accuracy), best);
        assert_eq!(attack.solver.is_done(), batches == 0, "{epochs} epochs, {batches} batches");
    }
}

#[test]
fn parameters_that_are_not_finite_are_not_saved() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let far = SolverConfig {
        learning_rate: 1e300,
        schedule: Schedule::default(),
        clip_norm: None,
        ..config(Optimizer::sgd())
    };
    let mut solver = solver::<f32>(&images, far);
    advance(&mut solver, 1);
    let error = solver.save_checkpoint(&file(&dir)).unwrap_err();
    assert!(error.to_string().contains("not saved: tensor net.0 holds "), "{error}");
    assert!(!file(&dir).exists());
}

#[test]
fn only_regular_files_of_a_fitting_size_are_read() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let mut solver = solver::<f32>(&images, config(Optimizer::sgd()));
    let mut refuse = |path: &Path, what: &str| {
        let error = solver.load_checkpoint(path).unwrap_err();
        assert!(error.to_string().contains(what), "{}: {error}", path.display());
    };
    refuse(dir.path(), "not a regular file");
    #[cfg(unix)]
    refuse(Path::new("/dev/zero"), "not a regular file");
    // A terabyte without a block on the disk.
    let sparse = fs::File::create(file(&dir)).unwrap();
    sparse.set_len(1 << 40).unwrap();
    refuse(&file(&dir), "1099511627776 bytes, expected at most");
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let mut solver = solver::<f32>(&images, config(Optimizer::sgd()));
    let error = solver.load_checkpoint(&file(&dir)).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == file(&dir)), "{error}");
}
