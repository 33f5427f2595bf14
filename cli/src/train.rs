//! `tilewise train`: trains a multilayer perceptron, shows the progress, and writes the results.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    config::{Flags, Given, Settings},
    console::{Console, decimal, print, thousands},
    cores,
    dataset::{DatasetArgs, Origin},
    in_pool,
    network::{HIDDEN, describe, perceptron},
    options, precision,
    recipe::{OptimizerArgs, ScheduleArgs},
    run_dir::{CONFIG, RunDir},
    run_lock::RunLock,
    shutdown::{self, Shutdown},
};
use tilewise::{
    Context, Element, Precision,
    data::{Augmentation, Border, Cifar10, Normalization, NormalizeMode, Split},
    error::{Error, Result},
    io::model::ModelInfo,
    nn::{CrossEntropy, Network},
    simd::InstructionSet,
    threads::Threads,
    train::{
        EpochRecord, Evaluation, LastBatch, Progress, Solver, SolverConfig, TrainerConfig,
        TrainingData, evaluate,
    },
};

/// Arguments of `tilewise train`, in the order of its help; those without a heading come first there.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    #[command(flatten, next_help_heading = "Data")]
    pub(super) dataset: DatasetArgs,
    /// Number of training images, the first of the training set [default: all that are not for
    /// validation]
    #[arg(long, value_name = "N", value_parser = options::count, help_heading = "Data")]
    train_size: Option<usize>,
    /// Number of validation images, the last of the training set [default: 10,000 of CIFAR-10's
    /// 50,000]
    #[arg(long, value_name = "N", value_parser = options::count, help_heading = "Data")]
    val_size: Option<usize>,
    /// Normalization of each channel: subtract the mean, or also divide by the standard deviation.
    #[arg(long, value_name = "HOW", default_value = "mean",
          value_parser = options::normalize_mode(), help_heading = "Data")]
    normalize: NormalizeMode,
    /// Batch size, in images.
    #[arg(long, value_name = "N", default_value = "128", value_parser = options::count,
          help_heading = "Data")]
    batch: usize,
    /// Whether to drop or to keep the last batch of an epoch if it is smaller.
    #[arg(long, value_name = "HOW", default_value = "drop", value_parser = options::last_batch(),
          help_heading = "Data")]
    last_batch: LastBatch,
    /// Number of training images to measure the accuracy on after each epoch.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = options::count,
          help_heading = "Data")]
    acc_samples: usize,
    /// Number of validation images to measure the accuracy on after each epoch [default: all]
    #[arg(long, value_name = "N", value_parser = options::count, help_heading = "Data")]
    val_samples: Option<usize>,

    /// Widths of the hidden layers, separated by commas.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = HIDDEN,
          value_parser = options::count, help_heading = "Model")]
    hidden: Vec<usize>,
    /// Standard deviation of the initial weights [default: He et al., sqrt(2 / inputs) per layer]
    #[arg(long, value_name = "STD", value_parser = options::positive, help_heading = "Model")]
    weight_scale: Option<f64>,
    /// Precision of the computations: bf16 has parameters and sums in f32.
    #[arg(long, value_name = "NAME", alias = "dtype", default_value = "f32",
          value_parser = options::precision(), help_heading = "Model")]
    precision: Precision,

    #[command(flatten, next_help_heading = "Optimizer")]
    optimizer: OptimizerArgs,
    /// Gradient clipping: largest L2 norm of all gradients together [default: no clipping]
    #[arg(long, value_name = "NORM", value_parser = options::positive,
          help_heading = "Optimizer")]
    clip_norm: Option<f64>,
    /// Decay per step of an exponential moving average (EMA) of the parameters, which is then
    /// validated and saved [default: no average]
    #[arg(long, value_name = "DECAY", value_parser = options::fraction,
          help_heading = "Optimizer")]
    ema_decay: Option<f64>,

    /// Number of epochs, passes over the training images.
    #[arg(long, value_name = "N", default_value = "20", value_parser = options::count,
          help_heading = "Schedule")]
    pub(super) epochs: usize,
    #[command(flatten, next_help_heading = "Schedule")]
    schedule: ScheduleArgs,
    /// Early stopping after this many epochs without a better validation accuracy [default: none]
    #[arg(long, value_name = "EPOCHS", value_parser = options::count,
          help_heading = "Schedule")]
    patience: Option<usize>,

    /// L2 regularization: factor of the sum of all squared weights in the loss.
    #[arg(long, value_name = "FACTOR", default_value = "0", value_parser = options::not_negative,
          help_heading = "Regularization")]
    reg: f64,
    /// Probability of dropping an activation of a hidden layer in training.
    #[arg(long, value_name = "P", default_value = "0", value_parser = options::fraction,
          help_heading = "Regularization")]
    dropout: f64,
    /// Label smoothing: weight of the uniform distribution in each target.
    #[arg(long, value_name = "WEIGHT", default_value = "0", value_parser = options::fraction,
          help_heading = "Regularization")]
    label_smoothing: f64,

    /// Flip each training image horizontally with probability 0.5.
    #[arg(long, help_heading = "Augmentation")]
    flip: bool,
    /// Random shift of each training image along both axes: at most this many pixels.
    #[arg(long, value_name = "PIXELS", default_value = "0", value_parser = options::size,
          help_heading = "Augmentation")]
    shift: usize,
    /// Padding of shifted images: the reflected image, or zeros.
    #[arg(long, value_name = "WHAT", default_value = "reflect", value_parser = options::border(),
          help_heading = "Augmentation")]
    border: Border,
    /// Cutout: side, in pixels, of a square of zeros at a random place of each training image.
    #[arg(long, value_name = "PIXELS", default_value = "0", value_parser = options::size,
          help_heading = "Augmentation")]
    cutout: usize,

    /// Directory for the model, the metrics, the settings and the curves [default: nothing is kept]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(super) out: Option<PathBuf>,
    /// Precision of the weights in the model file: bf16 rounds those of an f32 or bf16 run, to half
    /// the size; the test accuracy is that of the rounded weights [default: that of the parameters]
    #[arg(long, value_name = "NAME", value_parser = options::precision(),
          help_heading = "Output")]
    save_precision: Option<Precision>,
    /// Replace an earlier run in --out.
    #[arg(long, help_heading = "Output")]
    pub(super) overwrite: bool,
    /// Print the result and nothing else.
    #[arg(long, help_heading = "Output")]
    pub(super) quiet: bool,
    /// Epochs between checkpoints in --out; Ctrl-C, SIGTERM and SIGHUP save one in any case.
    #[arg(long, value_name = "N", value_parser = options::count, help_heading = "Output")]
    checkpoint_every: Option<usize>,
    /// Resume the run in DIR from its checkpoint, to the same result as without the stop.
    #[arg(long, value_name = "DIR", conflicts_with = "out", help_heading = "Output")]
    resume: Option<PathBuf>,

    /// Seed of the initial weights, the shuffling of the images, augmentation and dropout.
    #[arg(long, value_name = "N", default_value = "0", value_parser = options::seed,
          help_heading = None::<&'static str>)]
    pub(super) seed: u64,
    /// Number of threads; it does not change the result [default: one for each core]
    #[arg(long, value_name = "N", value_parser = options::threads,
          help_heading = None::<&'static str>)]
    pub(super) threads: Option<usize>,
}

/// Flags allowed with `--resume`: those that do not change the result of the run.
const BESIDE_RESUME: [&str; 4] = ["resume", "threads", "quiet", "checkpoint-every"];

/// The content of `config.toml`: the flags that repeat a run, and its environment.
#[derive(Serialize)]
struct RunConfig {
    #[serde(flatten)]
    settings: Settings,
    run: Circumstances,
}

/// The environment of a run, besides its flags.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Circumstances {
    version: &'static str,
    instruction_set: String,
    fused_multiply_add: bool,
    data_set: String,
    test_size: usize,
}

/// A network to be trained.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) args: &'a TrainArgs,
    /// All settings, as `args` have them.
    pub(super) settings: &'a Settings,
    /// Where `data` comes from.
    pub(super) origin: &'a Origin,
    pub(super) data: &'a Cifar10,
    /// Threads to train with.
    pub(super) threads: usize,
    /// Epoch to stop after, leaving a checkpoint; the learning rates are those of the whole run.
    pub(super) stop_after: Option<usize>,
    /// The output directory, if the caller owns it.
    pub(super) lock: Option<&'a RunLock>,
    /// Whether to resume from the checkpoint in the output directory, which the caller owns.
    pub(super) resume: bool,
    /// Says when the run is to stop.
    pub(super) shutdown: &'a Shutdown,
}

/// The result of a training run.
pub(super) struct Outcome {
    /// Epoch and validation accuracy of the best network.
    best: Option<(usize, f64)>,
    /// The test results of that network, with its weights as they are saved.
    test: Option<Evaluation>,
    /// Whether saving rounds weights that the run computes with as they are.
    is_rounded: bool,
    /// Wall time of the training, accuracy checks included.
    time: Duration,
    /// Images that were seen in it.
    images: u64,
    /// Why training ended.
    end: End,
    /// Names of the files in the output directory.
    files: Vec<&'static str>,
}

/// Why training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All epochs are done.
    Finished,
    /// Early stopping after this many epochs.
    OutOfPatience { patience: usize, epochs: usize },
    /// The epoch is done that the job was to stop after.
    Paused,
    /// By the user, in this epoch.
    Interrupted { epoch: usize },
}

/// Runs `tilewise train`.
///
/// # Errors
/// What a setting, the configuration, the data set or the output directory refuses, and
/// [`Error::Diverged`]; in that case what there is has been written.
pub fn run(given: &Given<TrainArgs>) -> Result<ExitCode> {
    let mut settings = given.settings()?;
    let resumed = settings.get("resume").and_then(toml::Value::as_str).map(PathBuf::from);
    let mut lock = None;
    if let Some(dir) = &resumed {
        // What is no run is not locked: a lock leaves a file.
        let is_run = dir.join(CONFIG).exists();
        lock = is_run.then(|| RunLock::take(dir)).transpose()?;
        settings = resumed_settings(dir, &settings)?;
    }
    let (args, settings) = parse(&settings)?;
    // What is not kept needs no ending of its own.
    let shutdown = if args.out.is_some() { Shutdown::on_signals()? } else { Shutdown::default() };
    let mut console = Console::new(args.quiet);
    let origin = args.dataset.find(&console)?;
    let data = origin.load()?;
    shutdown.begin();
    let job = Job {
        args: &args,
        settings: &settings,
        origin: &origin,
        data: &data,
        threads: args.threads.unwrap_or_else(cores),
        stop_after: None,
        lock: lock.as_ref(),
        resume: resumed.is_some(),
        shutdown: &shutdown,
    };
    let outcome = train(job, &mut console)?;
    let text = outcome.text(args.out.as_deref());
    if outcome.is_interrupted() {
        return Ok(shutdown::interrupted(&text));
    }
    print(&text)?;
    if args.out.is_none() {
        console
            .line("nothing is kept; --out runs/NAME keeps model, metrics, settings and curves")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings of the run in `dir`, with the flags given with `--resume`.
///
/// # Errors
/// [`Error::Io`] or [`Error::File`] if they cannot be read, [`Error::Settings`] if a flag was given
/// that would change the run.
fn resumed_settings(dir: &Path, given: &Settings) -> Result<Settings> {
    if let Some(other) = given.keys().find(|key| !BESIDE_RESUME.contains(&key.as_str())) {
        let detail = format!(
            "--resume cannot be used with --{other}: the run continues with the settings in its \
             {CONFIG}, beside which only --{} can be given",
            BESIDE_RESUME[1..].join(", --"),
        );
        return Err(Error::Settings { detail });
    }
    let flags = Flags::<TrainArgs>::new();
    let mut settings = flags.merge(given, flags.read(&dir.join(CONFIG))?);
    settings.remove("resume");
    settings.insert("out".into(), dir.to_string_lossy().into_owned().into());
    Ok(settings)
}

/// The arguments with these settings, and all settings that repeat the run.
///
/// # Errors
/// [`Error::Settings`] if they do not go together.
pub(super) fn parse(settings: &Settings) -> Result<(TrainArgs, Settings)> {
    Flags::new().parse(settings).map_err(|detail| Error::Settings { detail })
}

/// Trains, in a pool of the job's own.
///
/// # Errors
/// Same as [`run`].
pub(super) fn train(job: Job<'_>, console: &mut Console) -> Result<Outcome> {
    in_pool(Some(job.threads), || match job.args.precision {
        Precision::F32 | Precision::Bf16 => train_with::<f32>(job, console),
        Precision::F64 => train_with::<f64>(job, console),
    })
}

/// Trains inside of a pool.
fn train_with<T: Element>(job: Job<'_>, console: &mut Console) -> Result<Outcome> {
    let Job { args, origin, data, .. } = job;
    let saved = args.save_precision.map_or_else(|| T::NAME.parse(), Ok)?;
    if !saved.fits::<T>() {
        let expected = if Precision::F64.fits::<T>() { "f64" } else { "f32 or bf16" };
        let expected = format!("{expected} with --precision {}", args.precision);
        return Err(Error::setting("save_precision", saved, expected));
    }
    let images = &data.train;
    let val_size = args.val_size.or(origin.validation_size());
    let split = Split::new(images.len(), args.train_size, val_size)?;
    let statistics = images.channel_statistics(split.train.clone())?;
    let normalization = Normalization::from_statistics(&statistics, args.normalize)?;
    let sizes = (images.features(), images.classes());
    let network = perceptron::<T>(sizes, &args.hidden, args.dropout, args.weight_scale, args.seed)?;
    let (optimizer, optimizer_flags) = args.optimizer.settle()?;
    let (schedule, schedule_flags) = args.schedule.settle()?;
    let run_config = run_config(job, (&optimizer_flags, &schedule_flags), &split)?;
    console.line(introduction(&network, &split, job, &run_config.run))?;
    if let Some(note) = precision::note(args.precision)? {
        console.line(note)?;
    }
    let training = split.train.len();
    if args.batch > training {
        console.line(format_args!(
            "--batch {} exceeds the {training} training images: each epoch is one batch of all",
            args.batch
        ))?;
    }
    let trainer = TrainerConfig::default()
        .with_batch_size(args.batch)
        .with_optimizer(optimizer)
        .with_learning_rate(args.schedule.lr)
        .with_loss(CrossEntropy::new(args.label_smoothing)?)
        .with_l2(args.reg)
        .with_clip_norm(args.clip_norm)
        .with_ema_decay(args.ema_decay)
        .with_precision(Some(args.precision))
        .with_threads(Threads::Pool);
    let solver_config = SolverConfig::default()
        .with_trainer(trainer)
        .with_epochs(args.epochs)
        .with_last_batch(args.last_batch)
        .with_schedule(schedule)
        .with_augmentation(
            Augmentation::default()
                .with_flip(args.flip)
                .with_shift(args.shift)
                .with_border(args.border)
                .with_cutout(args.cutout),
        )
        .with_patience(args.patience)
        .with_train_accuracy_samples(args.acc_samples)
        .with_validation_samples(args.val_samples)
        .with_seed(args.seed);
    let info = ModelInfo::default()
        .with_normalization(Some(normalization.clone()))
        .with_precision(Some(args.precision))
        .with_class_names(images.class_names().to_vec());
    let training_data = TrainingData { images, split, normalization: normalization.clone() };
    let mut solver = Solver::new(network, training_data, solver_config)?;
    let images_per_epoch = images_per_epoch(training, args.batch, args.last_batch);
    let taken = match (&args.out, job.lock) {
        (Some(path), None) => Some(RunLock::take(path)?),
        _ => None,
    };
    let mut dir = match job.lock.or(taken.as_ref()) {
        Some(lock) if job.resume => {
            let batches = images_per_epoch.div_ceil(args.batch);
            let dir = RunDir::resume(lock, batches, |checkpoint| {
                solver.load_checkpoint(checkpoint)?;
                Ok(solver.history().clone())
            })?;
            console.line(format_args!("resuming after iteration {}", solver.iteration()))?;
            Some(dir)
        }
        Some(lock) => {
            let dir = RunDir::open(lock, args.overwrite)?;
            dir.begin(&run_config)?;
            Some(dir)
        }
        None => None,
    };

    console.start_bar((args.epochs * images_per_epoch) as u64);
    let begin = Instant::now();
    let mut seen = 0;
    let trained = watch(&mut solver, job, console, dir.as_mut(), &mut seen);
    let time = begin.elapsed();
    console.finish_bar();
    let kept = dir.as_ref().map_or(Ok(()), |dir| keep(&solver, dir, (&info, saved)));
    if let (Err(_), Err(second)) = (&trained, &kept) {
        crate::console::error(second);
    }
    let end = trained?;
    kept?;
    if let (Some(dir), End::Finished | End::OutOfPatience { .. }) = (&dir, end) {
        dir.remove_checkpoint()?;
    }

    // Products in bf16 round weights the same way.
    let is_rounded = dir.is_some() && saved != args.precision && args.precision != Precision::Bf16;
    let test = match (solver.best(), &data.test) {
        (Some(best), Some(test)) => {
            let rounded =
                dir.as_ref().filter(|_| is_rounded).map(RunDir::saved_model).transpose()?;
            let network = rounded.as_ref().unwrap_or(best.network);
            let context = Context::on(Threads::Pool)?.with_precision(args.precision)?;
            Some(evaluate(network, context, test, &normalization, args.batch)?)
        }
        _ => None,
    };
    let best = solver.best().map(|best| (best.epoch, best.val_accuracy));
    Ok(Outcome {
        best,
        test,
        is_rounded,
        time,
        images: seen,
        end,
        files: dir.map_or(vec![], |dir| dir.files()),
    })
}

impl Outcome {
    /// Whether a signal ended training before its end.
    pub(super) fn is_interrupted(&self) -> bool {
        matches!(self.end, End::Interrupted { .. })
    }

    /// The lines that a run ends with.
    fn text(&self, dir: Option<&Path>) -> String {
        let mut text = String::new();
        match (self.end, dir) {
            (End::Interrupted { epoch }, Some(dir)) => {
                let dir = dir.display();
                text += &format!(
                    "interrupted in epoch {epoch}; tilewise train --resume {dir} continues\n"
                );
            }
            (End::Interrupted { epoch }, None) => {
                text += &format!("interrupted in epoch {epoch}\n");
            }
            (End::OutOfPatience { patience, epochs }, _) => {
                text += &format!(
                    "stopped after epoch {epochs}: no better validation accuracy in {}\n",
                    plural(patience, "epoch"),
                );
            }
            (End::Finished | End::Paused, _) => {}
        }
        if let Some((epoch, accuracy)) = self.best {
            text += &format!("best validation accuracy {accuracy:.4} (epoch {epoch})\n");
        }
        if let Some(test) = &self.test {
            let (accuracy, images) = (test.accuracy(), test.images);
            let rounded = if self.is_rounded { "; weights rounded to bf16, as saved" } else { "" };
            text += &format!("test accuracy {accuracy:.4} ({images} images{rounded})\n");
        }
        text += &timing(self.time, self.images);
        if let Some(dir) = dir {
            text += &format!("written to {}: {}\n", dir.display(), self.files.join(", "));
        }
        text
    }
}

/// Trains, shows and records the progress, and saves checkpoints. Counts the images in `seen`.
fn watch<T: Element>(
    solver: &mut Solver<'_, T>,
    job: Job<'_>,
    console: &Console,
    mut dir: Option<&mut RunDir<'_>>,
    seen: &mut u64,
) -> Result<End> {
    let Job { args, shutdown, stop_after, .. } = job;
    let epochs = args.epochs;
    let is_paused = |done: usize| stop_after.is_some_and(|last| last <= done && done < epochs);
    // A sweep was killed between this checkpoint and its record of the trial.
    if is_paused(solver.history().val_acc_history.len()) {
        return Ok(End::Paused);
    }
    // What an earlier part of the run has seen.
    let before = (solver.iteration() * args.batch) as u64;
    while !solver.is_done() {
        // What to do after the batch or the epoch at which training paused: nothing, or save a
        // checkpoint and perhaps end.
        let mut pause = Ok(None);
        let mut shown = Ok(());
        solver.train_with(&mut |progress| {
            let stop = shutdown.is_requested();
            pause = match progress {
                Progress::Step { epoch, loss, images, .. } => {
                    *seen += images as u64;
                    let bar = || format!("epoch {epoch}/{epochs}  loss {}", decimal(loss, 4));
                    console.progress(before + *seen, bar);
                    Ok(stop.then_some(Some(End::Interrupted { epoch })))
                }
                Progress::Epoch(record) => {
                    let EpochRecord { epoch, .. } = *record;
                    let recorded = dir.as_mut().map_or(Ok(()), |dir| dir.epoch(record));
                    if recorded.is_ok() {
                        shown = console.line(epoch_line(record, epochs));
                    }
                    let due =
                        args.checkpoint_every.is_some_and(|every| epoch.is_multiple_of(every));
                    recorded.map(|()| match epoch {
                        _ if stop => Some(Some(End::Interrupted { epoch })),
                        _ if is_paused(epoch) => Some(Some(End::Paused)),
                        // A closed terminal or a full disk behind standard output ends the run, and
                        // must not lose it.
                        _ => (due || shown.is_err()).then_some(None),
                    })
                }
            };
            if matches!(pause, Ok(None)) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let pause = pause?;
        if let (Some(_), Some(dir)) = (pause, &dir) {
            dir.checkpoint(|path| solver.save_checkpoint(path))?;
        }
        match pause {
            // The signal came after the last step: nothing is left to be interrupted.
            Some(Some(End::Interrupted { .. })) if solver.is_done() => {}
            Some(Some(end)) => return Ok(end),
            _ => shown?,
        }
    }
    let done = solver.history().val_acc_history.len();
    Ok(match args.patience {
        Some(patience) if solver.is_out_of_patience() && done < epochs => {
            End::OutOfPatience { patience, epochs: done }
        }
        _ => End::Finished,
    })
}

/// Writes the best network, as far as there is one, and the curves.
fn keep<T: Element>(
    solver: &Solver<'_, T>,
    dir: &RunDir,
    (info, weights): (&ModelInfo, Precision),
) -> Result<()> {
    if let Some(best) = solver.best() {
        dir.model(best.network, info, weights)?;
    }
    dir.curves(solver.history())
}

fn run_config(
    job: Job<'_>,
    recipe: (&OptimizerArgs, &ScheduleArgs),
    split: &Split,
) -> Result<RunConfig> {
    let Job { args, origin, data, .. } = job;
    let instruction_set = InstructionSet::preferred()?;
    let mut settings = job.settings.clone();
    let unwritable = |error: toml::ser::Error| Error::file(CONFIG, error.to_string());
    settings.extend(Settings::try_from(recipe.0).map_err(unwritable)?);
    settings.extend(Settings::try_from(recipe.1).map_err(unwritable)?);
    match origin.dir() {
        Some(dir) => settings.insert("data".into(), dir.to_string_lossy().into_owned().into()),
        None => settings.insert("synthetic".into(), true.into()),
    };
    let (training, validation) = (split.train.len(), split.validation.len());
    for (key, count) in [
        ("threads", job.threads),
        ("train-size", training),
        ("val-size", validation),
        ("val-samples", args.val_samples.unwrap_or(validation)),
    ] {
        // What is counted here is in memory.
        settings.insert(key.into(), (count as i64).into());
    }
    // In the order of the flags.
    let (_, settings) = parse(&settings)?;
    Ok(RunConfig {
        settings,
        run: Circumstances {
            version: env!("CARGO_PKG_VERSION"),
            instruction_set: instruction_set.to_string(),
            fused_multiply_add: instruction_set.is_fused(),
            data_set: origin.to_string(),
            test_size: data.test.as_ref().map_or(0, |test| test.len()),
        },
    })
}

/// Images that make up the batches of an epoch.
fn images_per_epoch(training: usize, batch: usize, last_batch: LastBatch) -> usize {
    match last_batch {
        LastBatch::Drop if training > batch => training - training % batch,
        _ => training,
    }
}

fn introduction<T: Element>(
    network: &Network<T>,
    split: &Split,
    job: Job<'_>,
    run: &Circumstances,
) -> String {
    format!(
        "training {} ({} parameters, {}) on {}: {} train, {} validate; {}, {}",
        describe(network),
        thousands(network.parameter_count() as f64),
        job.args.precision,
        run.data_set,
        thousands(split.train.len() as f64),
        thousands(split.validation.len() as f64),
        run.instruction_set,
        plural(job.threads, "thread"),
    )
}

fn epoch_line(record: &EpochRecord, epochs: usize) -> String {
    let width = epochs.to_string().len();
    format!(
        "epoch {:width$}/{epochs}  loss {}  train {:.4}  val {:.4}  lr {}  {:.2} s  {} images/s",
        record.epoch,
        decimal(record.loss, 4),
        record.train_accuracy,
        record.val_accuracy,
        decimal(record.learning_rate, 5),
        record.seconds,
        thousands(record.images_per_second),
    )
}

fn timing(time: Duration, images: u64) -> String {
    let seconds = time.as_secs_f64();
    let rate = thousands(images as f64 / seconds);
    format!("training time {seconds:.2} s ({rate} images/s, accuracy checks included)\n")
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
