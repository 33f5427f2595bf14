//! `tilewise train`: trains a fully connected network, shows how it goes, and keeps what comes of
//! it.

use std::{
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    cli::{
        console::{Console, print, thousands},
        cores,
        dataset::{DatasetArgs, Origin},
        in_pool, options,
        options::Dtype,
        recipe::{OptimizerArgs, ScheduleArgs},
        run_dir::RunDir,
    },
    data::{Cifar10, Normalization, NormalizeMode, Split},
    error::Result,
    gemm::Gemm,
    kernels::Element,
    nn::{FullyConnectedNet, Init, NetConfig},
    simd::InstructionSet,
    threads::Threads,
    train::{
        EpochRecord, LastBatch, Progress, Solver, SolverConfig, TrainingData, evaluate,
        model_file::ModelInfo,
    },
};

/// Arguments of `tilewise train`.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Widths of the hidden layers, separated by commas.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "512",
          value_parser = options::count)]
    hidden: Vec<usize>,
    /// Passes over the training pictures.
    #[arg(long, value_name = "N", default_value = "20", value_parser = options::count)]
    epochs: usize,
    /// Pictures in a batch.
    #[arg(long, value_name = "N", default_value = "128", value_parser = options::count)]
    batch: usize,
    /// What becomes of the pictures that are left over when an epoch is cut into batches.
    #[arg(long, value_name = "HOW", default_value = "drop", value_parser = options::last_batch())]
    last_batch: LastBatch,
    #[command(flatten)]
    optimizer: OptimizerArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// L2 regularisation: the loss has this much of the sum of all squared weights.
    #[arg(long, value_name = "FACTOR", default_value = "0", allow_negative_numbers = true,
          value_parser = options::not_negative)]
    reg: f64,
    /// Probability of dropping a hidden activation in training.
    #[arg(long, value_name = "SHARE", default_value = "0", allow_negative_numbers = true,
          value_parser = options::share)]
    dropout: f64,
    /// Share of every target that is spread over all classes.
    #[arg(long, value_name = "SHARE", default_value = "0", allow_negative_numbers = true,
          value_parser = options::share)]
    label_smoothing: f64,
    /// Scale gradients down to this norm over all parameters where theirs is larger.
    #[arg(long, value_name = "NORM", allow_negative_numbers = true,
          value_parser = options::positive)]
    clip_norm: Option<f64>,
    /// Standard deviation of the initial weights [default: He et al., by layer]
    #[arg(long, value_name = "STD", allow_negative_numbers = true,
          value_parser = options::positive)]
    weight_scale: Option<f64>,
    /// Seed of the initial weights, of the order of the pictures and of dropout.
    #[arg(long, value_name = "N", default_value = "0",
          value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: u64,
    /// Threads; the result does not depend on them [default: one for each core]
    #[arg(long, value_name = "N", value_parser = options::threads)]
    threads: Option<usize>,
    /// Training pictures: the first of the set [default: all that do not validate]
    #[arg(long, value_name = "N", value_parser = options::count)]
    train_size: Option<usize>,
    /// Validation pictures: the last of the training set [default: 10,000 of CIFAR-10's 50,000]
    #[arg(long, value_name = "N", value_parser = options::count)]
    val_size: Option<usize>,
    /// Training pictures whose accuracy is checked after each epoch.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = options::count)]
    acc_samples: usize,
    /// Validation pictures whose accuracy is checked after each epoch [default: all]
    #[arg(long, value_name = "N", value_parser = options::count)]
    val_samples: Option<usize>,
    /// How pixels become inputs: less the mean of their channel, or also over its deviation.
    #[arg(long, value_name = "HOW", default_value = "mean",
          value_parser = options::normalize_mode())]
    normalize: NormalizeMode,
    /// Precision to compute with.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    /// Directory for the model, the metrics, the settings and the curves.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace an earlier run in --out.
    #[arg(long)]
    overwrite: bool,
    /// Print the result and nothing else.
    #[arg(long)]
    quiet: bool,
}

/// What `config.toml` says: the flags that repeat a run, and what they met.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct RunConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    synthetic: bool,
    hidden: &'a [usize],
    epochs: usize,
    batch: usize,
    last_batch: &'static str,
    #[serde(flatten)]
    optimizer: OptimizerArgs,
    #[serde(flatten)]
    schedule: ScheduleArgs,
    reg: f64,
    dropout: f64,
    label_smoothing: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    clip_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_scale: Option<f64>,
    seed: u64,
    threads: usize,
    train_size: usize,
    val_size: usize,
    acc_samples: usize,
    val_samples: usize,
    normalize: &'static str,
    dtype: &'static str,
    run: Circumstances,
}

/// What a run met, beside its flags.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Circumstances {
    version: &'static str,
    instruction_set: String,
    fused_multiply_add: bool,
    data_set: String,
    test_size: usize,
}

/// Runs `tilewise train`.
///
/// # Errors
/// What a setting, the data set or the output directory refuses, and
/// [`Error::Diverged`](crate::Error::Diverged); in that case what there is has been written.
pub fn run(args: &TrainArgs) -> Result<()> {
    match args.dtype {
        Dtype::F32 => run_with::<f32>(args),
        Dtype::F64 => run_with::<f64>(args),
    }
}

fn run_with<T: Element>(args: &TrainArgs) -> Result<()> {
    let console = Console::new(args.quiet);
    let origin = args.dataset.find(&console)?;
    let data = origin.load()?;
    let val_size = args.val_size.or(origin.validation_size());
    let split = Split::new(data.train.len(), args.train_size, val_size)?;
    in_pool(args.threads, || train::<T>(args, &origin, &data, split, console))
}

/// Trains inside of a pool.
fn train<T: Element>(
    args: &TrainArgs,
    origin: &Origin,
    data: &Cifar10,
    split: Split,
    mut console: Console,
) -> Result<()> {
    let pictures = &data.train;
    let statistics = pictures.channel_statistics(split.train.clone())?;
    let normalization = Normalization::from_statistics(&statistics, args.normalize)?;
    let net = FullyConnectedNet::<T>::new(&NetConfig {
        input: pictures.features(),
        hidden: args.hidden.clone(),
        classes: pictures.classes(),
        init: args.weight_scale.map_or(Init::He, |std| Init::Normal { std }),
        l2: args.reg,
        dropout: args.dropout,
        seed: args.seed,
    })?;
    let (optimizer, optimizer_flags) = args.optimizer.settle()?;
    let (schedule, schedule_flags) = args.schedule.settle()?;
    let flags = (optimizer_flags, schedule_flags);
    let run_config = run_config(args, flags, T::NAME, origin, data, &split)?;
    console.line(introduction(&net, &run_config))?;
    let training = split.train.len();
    if args.batch > training {
        console.line(format_args!(
            "--batch {} exceeds the {training} training pictures: each epoch is one batch of all",
            args.batch
        ))?;
    }
    let solver_config = SolverConfig {
        epochs: args.epochs,
        batch_size: args.batch,
        last_batch: args.last_batch,
        optimizer,
        learning_rate: args.schedule.lr,
        schedule,
        label_smoothing: args.label_smoothing,
        clip_norm: args.clip_norm,
        train_accuracy_samples: args.acc_samples,
        validation_samples: args.val_samples,
        seed: args.seed,
        threads: Threads::Pool,
    };
    let info = ModelInfo {
        normalization: Some(normalization.clone()),
        class_names: pictures.class_names().to_vec(),
    };
    let training_data =
        TrainingData { images: pictures, split, normalization: normalization.clone() };
    let mut solver = Solver::new(net, training_data, solver_config)?;
    let mut dir = match &args.out {
        Some(path) => Some(RunDir::open(path, args.overwrite)?),
        None => None,
    };
    if let Some(dir) = &dir {
        dir.begin(&run_config)?;
    }

    let images = args.epochs * images_per_epoch(training, args.batch, args.last_batch);
    console.start_bar(images as u64);
    let begin = Instant::now();
    let trained = watch(&mut solver, args.epochs, &console, dir.as_mut());
    let time = begin.elapsed();
    console.finish_bar();
    let kept = dir.as_ref().map_or(Ok(()), |dir| keep(&solver, dir, &info));
    if let (Err(_), Err(second)) = (&trained, &kept) {
        eprintln!("error: {second}");
    }
    trained.and(kept)?;

    let mut result = String::new();
    if let Some(best) = solver.best() {
        let (accuracy, epoch) = (best.val_accuracy, best.epoch);
        result += &format!("best validation accuracy {accuracy:.4} (epoch {epoch})\n");
        if let Some(test) = &data.test {
            let gemm = Gemm::new()?.threads(Threads::Pool);
            let evaluation = evaluate(best.net, gemm, test, &normalization, args.batch)?;
            let (accuracy, images) = (evaluation.accuracy(), evaluation.images);
            result += &format!("test accuracy {accuracy:.4} ({images} pictures)\n");
        }
    }
    result += &timing(time, images);
    if let Some(dir) = &dir {
        result += &format!("written to {}: {}\n", dir.path().display(), dir.files().join(", "));
    }
    print(&result)?;
    if dir.is_none() {
        console
            .line("nothing is kept; --out runs/NAME keeps model, metrics, settings and curves")?;
    }
    Ok(())
}

/// Trains, and passes on how it goes to the console and the directory.
fn watch<T: Element>(
    solver: &mut Solver<'_, T>,
    epochs: usize,
    console: &Console,
    mut dir: Option<&mut RunDir>,
) -> Result<()> {
    let mut seen = 0;
    let mut failure = Ok(());
    let trained = solver.train_with(&mut |progress| {
        let passed_on = match progress {
            Progress::Step { epoch, loss, images, .. } => {
                seen += images as u64;
                console.progress(seen, || format!("epoch {epoch}/{epochs}  loss {loss:.4}"));
                Ok(())
            }
            Progress::Epoch(record) => {
                let recorded = dir.as_mut().map_or(Ok(()), |dir| dir.epoch(record));
                recorded.and_then(|()| console.line(epoch_line(record, epochs)))
            }
        };
        if passed_on.is_ok() {
            return ControlFlow::Continue(());
        }
        failure = passed_on;
        ControlFlow::Break(())
    });
    trained.and(failure)
}

/// Writes the best network, as far as there is one, and the curves.
fn keep<T: Element>(solver: &Solver<'_, T>, dir: &RunDir, info: &ModelInfo) -> Result<()> {
    if let Some(best) = solver.best() {
        dir.model(best.net, info)?;
    }
    dir.curves(solver.history())
}

fn run_config<'a>(
    args: &'a TrainArgs,
    (optimizer, schedule): (OptimizerArgs, ScheduleArgs),
    dtype: &'static str,
    origin: &Origin,
    data: &Cifar10,
    split: &Split,
) -> Result<RunConfig<'a>> {
    let instruction_set = InstructionSet::preferred()?;
    let validation = split.validation.len();
    Ok(RunConfig {
        data: origin.dir().map(|dir| dir.to_string_lossy().into_owned()),
        synthetic: origin.dir().is_none(),
        hidden: &args.hidden,
        epochs: args.epochs,
        batch: args.batch,
        last_batch: options::last_batch_name(args.last_batch),
        optimizer,
        schedule,
        reg: args.reg,
        dropout: args.dropout,
        label_smoothing: args.label_smoothing,
        clip_norm: args.clip_norm,
        weight_scale: args.weight_scale,
        seed: args.seed,
        threads: args.threads.unwrap_or_else(cores),
        train_size: split.train.len(),
        val_size: validation,
        acc_samples: args.acc_samples,
        val_samples: args.val_samples.unwrap_or(validation),
        normalize: args.normalize.name(),
        dtype,
        run: Circumstances {
            version: env!("CARGO_PKG_VERSION"),
            instruction_set: instruction_set.to_string(),
            fused_multiply_add: instruction_set.is_fused(),
            data_set: origin.to_string(),
            test_size: data.test.as_ref().map_or(0, |test| test.len()),
        },
    })
}

/// Pictures that make up the batches of an epoch.
fn images_per_epoch(training: usize, batch: usize, last_batch: LastBatch) -> usize {
    match last_batch {
        LastBatch::Drop if training > batch => training - training % batch,
        _ => training,
    }
}

fn introduction<T: Element>(net: &FullyConnectedNet<T>, config: &RunConfig<'_>) -> String {
    let dims: Vec<String> = net.dims().iter().map(usize::to_string).collect();
    format!(
        "training {} ({} parameters, {}) on {}: {} train, {} validate; {}, {}",
        dims.join("-"),
        thousands(net.parameter_count() as f64),
        config.dtype,
        config.run.data_set,
        thousands(config.train_size as f64),
        thousands(config.val_size as f64),
        config.run.instruction_set,
        plural(config.threads, "thread"),
    )
}

fn epoch_line(record: &EpochRecord, epochs: usize) -> String {
    let width = epochs.to_string().len();
    format!(
        "epoch {:width$}/{epochs}  loss {:.4}  train {:.4}  val {:.4}  lr {:.5}  {:.2} s  {} images/s",
        record.epoch,
        record.loss,
        record.train_accuracy,
        record.val_accuracy,
        record.learning_rate,
        record.seconds,
        thousands(record.images_per_second),
    )
}

fn timing(time: Duration, images: usize) -> String {
    let seconds = time.as_secs_f64();
    let rate = thousands(images as f64 / seconds);
    format!("training time {seconds:.2} s ({rate} images/s, accuracy checks included)\n")
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
