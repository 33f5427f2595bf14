//! Checkpoints of solvers and trainers: training resumed from one has the bits of training that never
//! stopped, and a file that is not whole, or holds what no training can have come to, is refused.
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
    Context, Element, Error, Precision,
    data::{Augmentation, ImageSet, Normalization, NormalizeMode, Split, synthetic},
    matrix::MatRef,
    nn::{
        Backward, CrossEntropy, Fill, Forward, Init, Layer, LayerConfig, MlpConfig, Network,
        ParameterKind, ParameterSettings, Shape, TensorSpec, mlp,
    },
    simd::Denormals,
    threads::Threads,
    train::{
        Curve, History, Optimizer, OptimizerRule, Progress, Schedule, Solver, SolverConfig,
        StepStats, Trainer, TrainerConfig, TrainingData, WarmUp,
    },
};

/// Batches of an epoch: 160 training images.
const BATCHES: usize = 5;
const EPOCHS: usize = 3;

fn images() -> ImageSet {
    synthetic(200, 1).unwrap()
}

/// The same settings in bf16.
fn in_bf16(config: SolverConfig) -> SolverConfig {
    let trainer = config.trainer.clone().with_precision(Some(Precision::Bf16));
    config.with_trainer(trainer)
}

/// Settings of steps that use every kind of state and of randomness.
fn trainer_config(optimizer: Optimizer) -> TrainerConfig {
    TrainerConfig::default()
        .with_batch_size(32)
        .with_optimizer(optimizer)
        .with_learning_rate(0.02)
        .with_loss(CrossEntropy::new(0.1).unwrap())
        .with_l2(1e-4)
        .with_clip_norm(Some(2.0))
        .with_ema_decay(Some(0.8))
}

/// Settings of a run that use every kind of state and of randomness.
fn config(optimizer: Optimizer) -> SolverConfig {
    let augmentation = Augmentation::default().with_flip(true).with_shift(2).with_cutout(4);
    let schedule = Schedule::from(Curve::Cosine { minimum: 0.0 }).with_warm_up(WarmUp::Epochs(0.5));
    SolverConfig::default()
        .with_trainer(trainer_config(optimizer))
        .with_epochs(EPOCHS)
        .with_schedule(schedule)
        .with_augmentation(augmentation)
}

fn network<T: Element>(images: &ImageSet) -> Network<T> {
    let (input, classes) = (images.features(), images.classes());
    let hidden = vec![20, 15];
    mlp(&MlpConfig::default()
        .with_input(input)
        .with_hidden(hidden)
        .with_classes(classes)
        .with_init(Init::He)
        .with_dropout(0.2)
        .with_seed(7))
    .unwrap()
}

fn solver<T: Element>(images: &ImageSet, config: SolverConfig) -> Solver<'_, T> {
    let split = Split::new(images.len(), None, None).unwrap();
    let statistics = images.channel_statistics(split.train.clone()).unwrap();
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean).unwrap();
    Solver::new(network(images), TrainingData { images, split, normalization }, config).unwrap()
}

/// Trains until so many batches and accuracy checks more are done.
fn advance<T: Element>(solver: &mut Solver<'_, T>, count: usize) {
    let mut done = 0;
    let mut on_progress = |_: Progress<'_>| {
        done += 1;
        if done == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    solver.train_with(&mut on_progress).unwrap();
}

/// All parameters and buffers of a network, exactly.
fn values<T: Element>(network: &Network<T>) -> Vec<f64> {
    let tensors = network.parameters().iter().chain(network.buffers().iter());
    tensors.flat_map(|(_, elements)| elements).map(|x| x.to_f64()).collect()
}

/// Everything that a run leaves behind.
fn outcome<T: Element>(solver: &Solver<'_, T>) -> (History, (usize, f64), [Vec<f64>; 2]) {
    let best = solver.best().unwrap();
    let parameters = [values(solver.network()), values(best.network)];
    (solver.history().clone(), (best.epoch, best.val_accuracy), parameters)
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
            let trainer = trainer_config(optimizer).with_threads(threads);
            let mut second = solver::<T>(&images, config(optimizer).with_trainer(trainer));
            second.load_checkpoint(&file(&dir)).unwrap();
            assert_eq!(second.iteration(), iteration);
            second.train().unwrap();
            outcome(&second)
        });
        assert!(resumed == outcome(&whole), "{optimizer} in {}, stopped after {stop}", T::NAME);
    }
}

#[test]
fn a_run_in_bf16_continues_with_the_same_bits_and_in_no_other_precision() {
    let (images, dir) = (images(), tempfile::tempdir().unwrap());
    let settings = || config(Optimizer::adam());
    let mut whole = solver::<f32>(&images, in_bf16(settings()));
    whole.train().unwrap();
    let mut first = solver::<f32>(&images, in_bf16(settings()));
    advance(&mut first, BATCHES + 3);
    first.save_checkpoint(&file(&dir)).unwrap();
    let mut second = solver::<f32>(&images, in_bf16(settings()));
    second.load_checkpoint(&file(&dir)).unwrap();
    second.train().unwrap();
    assert!(outcome(&second) == outcome(&whole));

    let error = solver::<f32>(&images, settings()).load_checkpoint(&file(&dir)).unwrap_err();
    assert!(matches!(error, Error::Setting { name: "precision", .. }), "{error}");
    assert!(error.to_string().contains("bf16"), "{error}");
    let mut other = solver::<f32>(&images, settings());
    advance(&mut other, 2);
    other.save_checkpoint(&file(&dir)).unwrap();
    let error = second.load_checkpoint(&file(&dir)).unwrap_err();
    assert!(matches!(error, Error::Setting { name: "precision", .. }), "{error}");
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
    let slow = trainer_config(Optimizer::sgd()).with_learning_rate(1e-12);
    let config = config(Optimizer::sgd()).with_trainer(slow).with_patience(Some(2));
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
        let Error::File { path: named, detail, .. } = &error else { panic!("{what}: {error}") };
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
    let (settings, trainer) = (config(Optimizer::adam()), trainer_config(Optimizer::adam()));
    let with = |trainer| settings.clone().with_trainer(trainer);
    let others = [
        (settings.clone().with_epochs(4), "epochs = 4: expected 3, as the checkpoint "),
        (settings.clone().with_seed(1), "seed = 1: expected 0,"),
        (
            with(trainer.clone().with_optimizer(Optimizer::sgd())),
            "optimizer = \"sgd\": expected \"adam\"",
        ),
        (with(trainer.clone().with_ema_decay(None)), "ema_decay = null: expected 0.8"),
        (with(trainer.clone().with_l2(0.5)), "l2 = 0.5: expected 0.0001"),
        (with(trainer.clone().with_batch_size(8)), "batch_size = 8: expected 32"),
        (with(trainer.clone().with_denormals(Denormals::Keep)), "denormals = \"keep\": expected"),
        (settings.clone().with_patience(Some(3)), "patience = 3: expected null"),
        (settings.clone().with_validation_samples(Some(39)), "[160,198]"),
    ];
    for (other, difference) in others {
        let mut solver = solver::<f32>(&images, other);
        let error = solver.load_checkpoint(&path).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
        assert!(error.to_string().contains(difference), "{difference}: {error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    let error = solver::<f64>(&images, settings.clone()).load_checkpoint(&path).unwrap_err();
    assert!(error.to_string().contains("precision = \"f64\": expected \"f32\""), "{error}");
    let fewer = synthetic(199, 1).unwrap();
    let error = solver::<f32>(&fewer, settings).load_checkpoint(&path).unwrap_err();
    assert!(error.to_string().contains("images = 199: expected 200"), "{error}");
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
        assert!(error.to_string().contains("data_sha256 = "), "{what}: {error}");
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

/// What loads checkpoints.
trait Loads {
    fn load(&mut self, path: &Path) -> tilewise::Result<()>;
}

impl<T: Element> Loads for Solver<'_, T> {
    fn load(&mut self, path: &Path) -> tilewise::Result<()> {
        self.load_checkpoint(path)
    }
}

impl<T: Element> Loads for Trainer<T> {
    fn load(&mut self, path: &Path) -> tilewise::Result<()> {
        self.load_checkpoint(path)
    }
}

/// A checkpoint, what saved it, and altered files to be refused.
struct Attack<'a, S> {
    path: &'a Path,
    subject: S,
    parts: Parts,
    count: usize,
}

impl<'a> Attack<'a, Solver<'a, f32>> {
    /// In the middle of the second epoch.
    fn new(images: &'a ImageSet, path: &'a Path, config: SolverConfig) -> Self {
        let mut solver = solver::<f32>(images, config);
        advance(&mut solver, BATCHES + 1 + 2);
        solver.save_checkpoint(path).unwrap();
        Self::on(solver, path)
    }
}

impl<'a, S: Loads> Attack<'a, S> {
    /// With the checkpoint that was saved as `path`.
    fn on(mut subject: S, path: &'a Path) -> Self {
        let parts = Parts::of(&fs::read(path).unwrap());
        // Taking it apart and putting it together changes nothing by itself.
        fs::write(path, parts.bytes()).unwrap();
        subject.load(path).unwrap();
        Self { path, subject, parts, count: 0 }
    }

    /// The altered checkpoint is an error that says `what`; the file stays.
    fn refused(&mut self, what: &str, alter: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.clone();
        alter(&mut parts);
        let bytes = parts.bytes();
        fs::write(self.path, &bytes).unwrap();
        let error = self.subject.load(self.path).expect_err(what);
        let message = error.to_string();
        assert!(message.contains(what), "{what}: {message}");
        assert!(message.contains(&self.path.display().to_string()), "{what}: {message}");
        assert_eq!(message.lines().count(), 1, "{what}: {message}");
        assert!(message.len() < 1000, "{what}: {message}");
        assert!(fs::read(self.path).unwrap() == bytes, "{what}: the file has changed");
        self.count += 1;
    }

    /// Settings of other values, of other names, missing ones and others.
    fn alter_settings(&mut self) {
        let settings = self.parts.state["settings"].as_object().unwrap().clone();
        assert!(settings.len() > 30, "{settings:?}");
        for (key, before) in &settings {
            // `frozen.0.weight` is shown as `frozen = true of 0.weight`.
            let (name, of) = key.split_once('.').unwrap_or((key, ""));
            for value in extremes().into_iter().filter(|value| value != before) {
                let what = format!("{name} = ");
                self.refused(&what, |parts| parts.state["settings"][key] = value.clone());
                self.refused(of, |parts| parts.state["settings"][key] = value);
            }
            let lacks = format!("its settings lack {key},");
            let remove = |parts: &mut Parts| {
                parts.state["settings"].as_object_mut().unwrap().remove(key).unwrap()
            };
            self.refused(&lacks, |parts| drop(remove(parts)));
            self.refused(&lacks, |parts| {
                let value = remove(parts);
                parts.state["settings"][format!("{key}s")] = value;
            });
        }
        self.refused("its settings have \"another\" = 1", |parts| {
            parts.state["settings"]["another"] = json!(1);
        });
    }

    /// Tensors of other types, shapes, names and values, missing ones and others.
    fn alter_tensors(&mut self) {
        for (name, tensor) in self.parts.tensors.clone() {
            let missing = format!("tensor {name} is missing");
            let (dtype, shape, data) = &tensor;
            let size = dtype.bitsize() / 8;
            self.refused(&missing, |parts| drop(parts.tensors.remove(&name)));
            self.refused(&missing, |parts| {
                let tensor = parts.tensors.remove(&name).unwrap();
                parts.tensors.insert(format!("{name}0"), tensor);
            });
            let other = if size == 4 { Dtype::I32 } else { Dtype::I64 };
            let row = data.len() / shape[0];
            let rows = |rows: usize| [&[rows], &shape[1..]].concat();
            let mut turned = shape.clone();
            turned.reverse();
            let differs = format!("tensor {name} is ");
            for (dtype, shape, data) in [
                (other, shape.clone(), data.clone()),
                (*dtype, [&shape[..], &[1]].concat(), data.clone()),
                (
                    *dtype,
                    if turned == *shape { vec![1, data.len() / size] } else { turned },
                    data.clone(),
                ),
                (*dtype, vec![], vec![0; size]),
                (*dtype, rows(shape[0] - 1), data[row..].to_vec()),
                (*dtype, rows(shape[0] + 1), [&data[..], &data[..row]].concat()),
            ] {
                self.refused(&differs, |parts| {
                    parts.tensors.insert(name.clone(), (dtype, shape, data));
                });
            }
            let holds = format!("tensor {name} holds ");
            let squares = name.starts_with("mean_square");
            let history = name.starts_with("history.");
            let infinities: &[f64] = if squares { &[] } else { &[f64::INFINITY] };
            let negative: &[f64] = if squares || history { &[-1e-30, -1.0] } else { &[] };
            let above: &[f64] = if name.ends_with("accuracy") { &[1.000001, 1e30] } else { &[] };
            let always = [f64::NAN, f64::NEG_INFINITY];
            for &value in always.iter().chain(infinities).chain(negative).chain(above) {
                let number = match size {
                    4 => (value as f32).to_le_bytes().to_vec(),
                    _ => value.to_le_bytes().to_vec(),
                };
                let filled = number.repeat(data.len() / size);
                let last = [&data[..data.len() - size], &number[..]].concat();
                for data in [filled, last] {
                    self.refused(&holds, |parts| {
                        parts.tensors.insert(name.clone(), (*dtype, shape.clone(), data));
                    });
                }
            }
        }
        self.refused("tensor \"another\" is none of this run", |parts| {
            parts.tensors.insert("another".to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
        });
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
    attack.refused("a checkpoint of format 2, and this version reads format 3", |parts| {
        parts.state.insert("format".to_owned(), json!(2));
    });
    attack.refused("kind = \"trainer\": expected \"solver\"", |parts| {
        parts.state.insert("kind".to_owned(), json!("trainer"));
    });

    attack.alter_settings();
    assert!(attack.count > 700, "{} files", attack.count);
    attack.subject.train().unwrap();
    assert!(outcome(&attack.subject) == expected);
}

#[test]
fn altered_tensors_under_a_valid_checksum_are_refused() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let mut attack = Attack::new(&images, &path, config(Optimizer::adam()));
    assert!(attack.parts.tensors.len() > 25);
    attack.alter_tensors();
    assert!(attack.count > 300, "{} files", attack.count);
}

#[test]
fn a_history_that_patience_would_have_ended_is_refused() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let patient = config(Optimizer::adam()).with_patience(Some(1));
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
        attack.subject.load_checkpoint(&path).unwrap();
        let found = attack.subject.best().unwrap();
        assert_eq!((found.epoch, found.val_accuracy), best);
        assert_eq!(attack.subject.is_done(), batches == 0, "{epochs} epochs, {batches} batches");
    }
}

#[test]
fn parameters_that_are_not_finite_are_not_saved() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let far = trainer_config(Optimizer::sgd()).with_learning_rate(1e300).with_clip_norm(None);
    let far = config(Optimizer::sgd()).with_trainer(far).with_schedule(Schedule::default());
    let mut solver = solver::<f32>(&images, far);
    advance(&mut solver, 1);
    let error = solver.save_checkpoint(&file(&dir)).unwrap_err();
    assert!(error.to_string().contains("not saved: tensor network.0.weight holds "), "{error}");
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

#[test]
fn a_resumed_epoch_is_recorded_with_the_learning_rate_of_its_last_step() {
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    let mut records = Vec::new();
    for resumed in [false, true] {
        let mut solver = solver::<f32>(&images, config(Optimizer::sgd()));
        if resumed {
            // All batches of the first epoch are done, its accuracies are not.
            let mut first = self::solver::<f32>(&images, config(Optimizer::sgd()));
            advance(&mut first, BATCHES);
            first.save_checkpoint(&file(&dir)).unwrap();
            solver.load_checkpoint(&file(&dir)).unwrap();
        }
        let mut record = None;
        let mut on_progress = |progress: Progress<'_>| match progress {
            Progress::Step { .. } => ControlFlow::Continue(()),
            Progress::Epoch(epoch) => {
                record = Some((epoch.epoch, epoch.loss, epoch.learning_rate));
                ControlFlow::Break(())
            }
        };
        solver.train_with(&mut on_progress).unwrap();
        records.push(record.unwrap());
    }
    assert_eq!(records[0], records[1]);
}

/// A network with residual blocks, one in the other, and parameters with settings of their own.
fn residual<T: Element>(inputs: usize, classes: usize) -> Network<T> {
    let mut network = Network::builder(Shape::Features(inputs))
        .linear(16)
        .relu()
        .residual(|block| block.linear(16).relu().residual(|block| block.linear(16)).dropout(0.3))
        .linear(classes)
        .seed(3)
        .build()
        .unwrap();
    let mut set = |name: &str, change: &dyn Fn(&mut ParameterSettings)| {
        let index = network.parameters().layout().index(name).unwrap();
        let mut settings = network.parameter_settings()[index];
        change(&mut settings);
        network.set_parameter_settings(name, settings).unwrap();
    };
    set("0.weight", &|settings| settings.frozen = true);
    set("2.0.weight", &|settings| settings.learning_rate_factor = 0.5);
    set("2.2.0.bias", &|settings| settings.weight_decay_factor = 2.0);
    network
}

#[test]
fn a_solver_of_a_residual_network_with_a_frozen_parameter_continues_with_the_same_bits() {
    let images = images();
    let split = Split::new(images.len(), None, None).unwrap();
    let statistics = images.channel_statistics(split.train.clone()).unwrap();
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean).unwrap();
    let optimizer = Optimizer::momentum(0.9).with_weight_decay(1e-3);
    let with = |network| {
        let (split, normalization) = (split.clone(), normalization.clone());
        let data = TrainingData { images: &images, split, normalization };
        Solver::<f32>::new(network, data, config(optimizer)).unwrap()
    };
    let network = || residual::<f32>(images.features(), images.classes());
    let mut whole = with(network());
    whole.train().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut first = with(network());
    advance(&mut first, BATCHES + 1 + 3);
    first.save_checkpoint(&file(&dir)).unwrap();
    let mut second = with(network());
    second.load_checkpoint(&file(&dir)).unwrap();
    second.train().unwrap();
    assert!(outcome(&second) == outcome(&whole));
    let frozen = |network: &Network<f32>| network.parameters().get("0.weight").unwrap().to_vec();
    assert_eq!(frozen(second.network()), frozen(&network()));

    let mut thawed = network();
    let index = thawed.parameters().layout().index("0.weight").unwrap();
    let settings = thawed.parameter_settings()[index].with_frozen(false);
    thawed.set_parameter_settings("0.weight", settings).unwrap();
    let (features, classes) = (images.features(), images.classes());
    let other = || Network::builder(Shape::Features(features)).linear(16).relu();
    let flat = other().linear(16).linear(classes).seed(3).build().unwrap();
    let short = other().linear(classes).seed(3).build().unwrap();
    for (network, what) in [
        (thawed, "frozen = false of 0.weight: expected true, as the checkpoint "),
        (
            flat,
            "layer = {\"in_features\":16,\"kind\":\"linear\",\"out_features\":16} of 2: expected \
                {\"residual\":[{\"in_features\":16,",
        ),
        (
            short,
            "layer = {\"in_features\":16,\"kind\":\"linear\",\"out_features\":10} of 2: expected",
        ),
    ] {
        let error = with(network).load_checkpoint(&file(&dir)).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

/// Batches of the caller's: rows and labels of images.
struct Batches<T> {
    x: Vec<T>,
    labels: Vec<u32>,
    features: usize,
}

impl<T: Element> Batches<T> {
    const ROWS: usize = 25;

    fn new(images: &ImageSet) -> Self {
        let pixels = images.pixels().iter();
        let x = pixels.map(|&pixel| T::from_f64(f64::from(pixel) / 255.0 - 0.5)).collect();
        Self { x, labels: images.labels().to_vec(), features: images.features() }
    }

    /// Some rows of batch number `number`.
    fn rows(&self, number: usize, rows: std::ops::Range<usize>) -> (MatRef<'_, T>, &[u32]) {
        let first = number * Self::ROWS;
        let rows = first + rows.start..first + rows.end;
        let x = &self.x[rows.start * self.features..rows.end * self.features];
        (MatRef::new(x, rows.len(), self.features).unwrap(), &self.labels[rows])
    }

    fn step(&self, trainer: &mut Trainer<T>, number: usize) -> StepStats {
        let (x, labels) = self.rows(number, 0..Self::ROWS);
        let stats = trainer.step(x, labels).unwrap();
        StepStats { times: Default::default(), ..stats }
    }
}

/// Everything that steps leave in a trainer.
fn state<T: Element>(trainer: &Trainer<T>) -> (u64, f64, Vec<Vec<f64>>) {
    let mut all = vec![values(trainer.network())];
    all.extend(trainer.average().map(values));
    let slots = trainer.optimizer().slots();
    all.extend(slots.map(|(_, arena)| {
        arena.iter().flat_map(|(_, elements)| elements).map(|x| x.to_f64()).collect()
    }));
    (trainer.steps(), trainer.config().learning_rate, all)
}

/// Steps before the checkpoint, and of the whole.
const STOP: usize = 3;
const STEPS: usize = 7;

fn a_trainer_continues<T: Element>(images: &ImageSet, optimizer: Optimizer, config: TrainerConfig) {
    let batches = Batches::<T>::new(images);
    let dir = tempfile::tempdir().unwrap();
    let what = format!("{optimizer:?} in {} with {config:?}", T::NAME);
    let networks = [network(images), residual(images.features(), images.classes())];
    for network in networks {
        let config = config.clone().with_optimizer(optimizer);
        let mut whole = Trainer::new(network.try_clone().unwrap(), config.clone()).unwrap();
        let mut stats = Vec::new();
        for number in 0..STEPS {
            if number == STOP {
                whole.save_checkpoint(&file(&dir)).unwrap();
            }
            whole.set_learning_rate(0.01 / (1 + number.min(STOP - 1)) as f64).unwrap();
            stats.push(batches.step(&mut whole, number));
        }
        // What may differ, does; and the trainer has steps behind it that it forgets.
        let other = config.with_batch_size(64).with_learning_rate(0.5).with_store_gradients(true);
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let other = other.clone().with_threads(Threads::Count(threads));
            pool.install(|| {
                let mut resumed = Trainer::new(network.try_clone().unwrap(), other).unwrap();
                batches.step(&mut resumed, 0);
                resumed.load_checkpoint(&file(&dir)).unwrap();
                assert_eq!(resumed.steps(), STOP as u64);
                for (number, stats) in stats.iter().enumerate().skip(STOP) {
                    let found = batches.step(&mut resumed, number);
                    assert_eq!(found, *stats, "{what}, {threads} threads, step {number}");
                }
                assert!(state(&resumed) == state(&whole), "{what}, {threads} threads");
            });
        }
    }
}

#[test]
fn a_trainer_continues_with_the_same_bits() {
    let images = images();
    let plain = TrainerConfig::default().with_batch_size(25);
    let all = trainer_config(Optimizer::sgd());
    let mut optimizers: Vec<Optimizer> =
        Optimizer::NAMES.iter().map(|name| name.parse().unwrap()).collect();
    optimizers.push(OptimizerRule::RmsProp { decay: 0.9, epsilon: 1e-8, momentum: 0.5 }.into());
    optimizers.push(Optimizer::nesterov(0.9).with_weight_decay(1e-3));
    for optimizer in optimizers {
        for config in [&plain, &all] {
            a_trainer_continues::<f32>(&images, optimizer, config.clone());
            a_trainer_continues::<f64>(&images, optimizer, config.clone());
        }
    }
}

#[test]
fn a_batch_that_is_being_accumulated_is_applied_before_a_checkpoint_and_dropped_by_one() {
    let images = images();
    let batches = Batches::<f32>::new(&images);
    let dir = tempfile::tempdir().unwrap();
    let config = trainer_config(Optimizer::adam());
    let mut trainer = Trainer::new(network::<f32>(&images), config).unwrap();
    batches.step(&mut trainer, 0);
    trainer.save_checkpoint(&file(&dir)).unwrap();
    let before = fs::read(file(&dir)).unwrap();
    let accumulate = |trainer: &mut Trainer<f32>, rows| {
        let (x, labels) = batches.rows(1, rows);
        trainer.accumulate(x, labels, 25).unwrap();
    };
    accumulate(&mut trainer, 0..10);
    let error = trainer.save_checkpoint(&file(&dir)).unwrap_err().to_string();
    assert!(error.contains("accumulated batch = 10 of 25 rows"), "{error}");
    assert!(error.contains("call apply first"), "{error}");
    assert!(fs::read(file(&dir)).unwrap() == before);
    // Parts of other parameters would not make a batch.
    trainer.load_checkpoint(&file(&dir)).unwrap();
    assert!(trainer.apply().is_err());
    accumulate(&mut trainer, 0..15);
    accumulate(&mut trainer, 15..25);
    assert!(trainer.save_checkpoint(&file(&dir)).is_err(), "a whole batch that is not applied");
    trainer.apply().unwrap();
    trainer.save_checkpoint(&file(&dir)).unwrap();
    let config = trainer_config(Optimizer::adam());
    let mut other = Trainer::new(network::<f32>(&images), config).unwrap();
    other.load_checkpoint(&file(&dir)).unwrap();
    assert!(state(&other) == state(&trainer));
    assert_eq!(batches.step(&mut other, 2), batches.step(&mut trainer, 2));
}

#[test]
fn altered_checkpoints_of_trainers_under_a_valid_checksum_are_refused() {
    let images = images();
    let batches = Batches::<f32>::new(&images);
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let network = || residual::<f32>(images.features(), images.classes());
    let trainer = || Trainer::new(network(), trainer_config(Optimizer::adam())).unwrap();
    let mut saved = trainer();
    saved.save_checkpoint(&path).unwrap();
    let begin = Parts::of(&fs::read(&path).unwrap());
    for number in 0..STOP {
        batches.step(&mut saved, number);
    }
    saved.save_checkpoint(&path).unwrap();
    let before = state(&saved);
    let mut attack = Attack::on(saved, &path);
    let expected: Vec<&str> =
        vec!["format", "kind", "learning_rate", "settings", "sha256", "steps"];
    assert_eq!(attack.parts.state.keys().collect::<Vec<_>>(), expected);
    for name in ["format", "kind", "learning_rate", "settings", "steps"] {
        let original = attack.parts.state[name].clone();
        for value in extremes().into_iter().filter(|value| *value != original) {
            let number = value.as_f64().filter(|&number| number >= 0.0);
            let what = match name {
                // Any rate, and any number of steps, are possible.
                "learning_rate" if number.is_some() => continue,
                "steps" if value.as_u64().is_some_and(|steps| (1..1 << 53).contains(&steps)) => {
                    continue;
                }
                "steps" if value == json!(0) => "tensor mean.",
                "settings" if value == json!({}) => "its settings lack",
                _ => name,
            };
            attack.refused(what, |parts| parts.state[name] = value);
        }
        let lacks = format!("lacks {name:?}");
        attack.refused(&lacks, |parts| {
            let value = parts.state.remove(name).unwrap();
            parts.state.insert(format!("{name}s"), value);
        });
    }
    attack.refused("\"unknown\"", |parts| {
        parts.state.insert("unknown".to_owned(), json!(1));
    });
    attack.refused("kind = \"solver\": expected \"trainer\"", |parts| {
        parts.state.insert("kind".to_owned(), json!("solver"));
    });
    attack.alter_settings();
    attack.alter_tensors();
    // No step changes what is kept for a frozen parameter, and nothing is kept before the first.
    for slot in ["mean", "mean_square"] {
        let name = format!("{slot}.0.weight");
        attack.refused(&format!("tensor {name} holds 1 at [0, 0]: expected 0"), |parts| {
            let (_, _, data) = parts.tensors.get_mut(&name).unwrap();
            data[..4].copy_from_slice(&1f32.to_le_bytes());
        });
        let name = format!("{slot}.3.bias");
        attack.refused(&format!("tensor {name} holds "), |parts| {
            let tensor = parts.tensors[&name].clone();
            *parts = begin.clone();
            parts.tensors.insert(name, tensor);
        });
    }
    assert!(attack.count > 1000, "{} files", attack.count);
    assert!(state(&attack.subject) == before);
    fs::write(&path, begin.bytes()).unwrap();
    attack.subject.load_checkpoint(&path).unwrap();
    assert!(state(&attack.subject) == state(&trainer()));

    // What stands in the file must be in the trainer as well.
    let mut trainer = trainer();
    *trainer.network_mut() = self::network(&images);
    for error in [trainer.load_checkpoint(&path), trainer.save_checkpoint(&path)] {
        assert!(error.unwrap_err().to_string().starts_with("network of a plan = "));
    }
}

/// Adds a buffer to its input.
#[derive(Debug)]
struct Shifted(Vec<&'static str>);

impl<T: Element> Layer<T> for Shifted {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("shifted")
    }

    fn output_shape(&self, input: Shape) -> tilewise::Result<Shape> {
        Ok(input)
    }

    fn buffers(&self) -> Vec<TensorSpec> {
        let spec = |name: &&'static str| {
            TensorSpec::new(name, &[1], ParameterKind::Bias, Fill::Constant(0.5))
        };
        self.0.iter().map(spec).collect()
    }

    fn forward(&self, _: &Context<T>, mut pass: Forward<'_, T>) -> tilewise::Result<()> {
        let shift = pass.buffers.get(0)[0];
        for row in 0..pass.x.rows() {
            let (from, to) = (pass.x.row(row).unwrap(), pass.out.row_mut(row).unwrap());
            for (to, &from) in to.iter_mut().zip(from) {
                *to = from + shift;
            }
        }
        Ok(())
    }

    fn backward(&self, _: &Context<T>, pass: Backward<'_, T>) -> tilewise::Result<()> {
        let Some(mut d_x) = pass.d_x else { return Ok(()) };
        for row in 0..pass.d_out.rows() {
            d_x.row_mut(row).unwrap().copy_from_slice(pass.d_out.row(row).unwrap());
        }
        Ok(())
    }
}

#[test]
fn buffers_are_part_of_a_checkpoint() {
    let images = images();
    let batches = Batches::<f32>::new(&images);
    let dir = tempfile::tempdir().unwrap();
    let network = |names: &[&'static str]| {
        let builder = Network::<f32>::builder(Shape::Features(images.features()));
        builder.linear(8).layer(Shifted(names.to_vec())).relu().linear(10).build()
    };
    let trainer = || {
        let config = trainer_config(Optimizer::momentum(0.9));
        Trainer::new(network(&["shift"]).unwrap(), config).unwrap()
    };
    let mut first = trainer();
    first.network_mut().buffers_mut().get_mut("1.shift").unwrap()[0] = 0.25;
    batches.step(&mut first, 0);
    first.save_checkpoint(&file(&dir)).unwrap();
    let mut second = trainer();
    second.load_checkpoint(&file(&dir)).unwrap();
    assert_eq!(second.network().buffers().get("1.shift").unwrap(), [0.25]);
    assert_eq!(batches.step(&mut second, 1), batches.step(&mut first, 1));
    assert!(state(&second) == state(&first));
    first.network_mut().buffers_mut().get_mut("1.shift").unwrap()[0] = f32::NAN;
    let error = first.save_checkpoint(&file(&dir)).unwrap_err().to_string();
    assert!(error.contains("not saved: tensor network.1.shift holds NaN at [0]"), "{error}");
    // A file knows tensors by their names alone.
    let error = network(&["shift", "shift"]).unwrap_err().to_string();
    assert!(error.contains("tensor name = shift: expected a name of its own"), "{error}");
}
