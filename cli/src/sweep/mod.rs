//! `tilewise sweep`: trains with many settings, side by side or one after the other, drops those
//! that fall behind, and goes on after a kill with what is left to do.

mod plot;
mod results;
mod space;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, atomic::AtomicBool},
};

use crate::{
    config::{Flags, Given, Settings},
    console::{Console, print},
    cores,
    dataset::Origin,
    options,
    run_dir::{RunDir, RunFiles},
    train::{self, Job, TrainArgs},
};
use tilewise::{
    atomic_file,
    data::Cifar10,
    error::{Error, Result},
    input_file,
};

use results::{Record, Results};
use space::{Axis, Draws};

/// Says which sweep a directory holds.
const SWEEP: &str = "sweep.toml";
/// Largest such file that is read.
const MAX_SETTINGS_BYTES: u64 = 1 << 20;
const TABLE: &str = "sweep.csv";
const PICTURE: &str = "sweep.svg";
/// What directories of trials begin with.
const TRIAL: &str = "trial-";

/// Arguments of `tilewise sweep`: what to try, and the flags of `train` for all trials. `--seed`
/// also chooses the random settings, `--out` is needed.
#[derive(Debug, clap::Args)]
pub struct SweepArgs {
    /// Values of a setting, each to be combined with those of the others: lr=0.1,0.2; the widths
    /// of several hidden layers are joined: hidden=256,512-256
    #[arg(long, value_name = "FLAG=V,…")]
    grid: Vec<String>,
    /// Range or values to draw a setting from: dropout=0..0.5, lr=log:0.01..1, hidden=128,256
    #[arg(long, value_name = "FLAG=RANGE")]
    random: Vec<String>,
    /// Draws of the random settings, for each point of the grid.
    #[arg(long, value_name = "N", default_value = "20", value_parser = options::count)]
    trials: usize,
    /// Trials at a time, each on one thread; a single one has all threads.
    #[arg(long, value_name = "N", default_value = "1", value_parser = options::threads)]
    jobs: usize,
    /// Successive halving: train all for few epochs, the better half for twice as many, and so on.
    #[arg(long)]
    halving: bool,
    #[command(flatten)]
    train: Given<TrainArgs>,
}

impl SweepArgs {
    /// The text of an error, with settings named as they were given.
    pub(super) fn message(&self, error: &Error) -> String {
        self.train.message(error)
    }
}

/// Settings to train with.
struct Trial {
    /// From 1.
    number: usize,
    /// What is its own.
    own: Settings,
    /// With what all have in common.
    all: Settings,
}

/// What all trials share.
struct Sweep<'a> {
    dir: &'a Path,
    trials: Vec<Trial>,
    origin: Origin,
    data: Cifar10,
    jobs: usize,
    threads: usize,
}

/// Runs `tilewise sweep`.
///
/// # Errors
/// [`Error::Settings`] if what is to be tried makes no sense, [`Error::File`] if the directory
/// holds another sweep; as [`train::run`], except that a trial that diverges is a result.
pub fn run(args: &SweepArgs) -> Result<()> {
    let given = args.train.settings()?;
    if given.contains_key("resume") {
        let detail = "--resume cannot be used with a sweep: run the same command again to \
                      continue it";
        return Err(Error::Settings { detail: detail.into() });
    }
    let (common, _) = train::parse(&given)?;
    let dir = common.out.as_deref();
    let missing =
        || Error::Settings { detail: "--out DIR is missing, the directory for the trials".into() };
    let dir = dir.ok_or_else(missing)?;
    let flags = Flags::new();
    let axes = axes(args, &flags)?;
    let draws = Draws { seed: common.seed, trials: args.trials };
    let trials = trials(dir, &axes, draws, &given, &flags)?;
    let rungs = rungs(trials.len(), common.epochs, args.halving);

    let mut console = Console::new(common.quiet);
    let mut results = open(dir, args, &given, common.overwrite)?;
    let origin = common.dataset.find(&console)?;
    let data = origin.load()?;
    let threads = common.threads.unwrap_or_else(|| if args.jobs == 1 { cores() } else { 1 });
    let sweep = Sweep { dir, trials, origin, data, jobs: args.jobs, threads };
    let names: Vec<&str> = axes.iter().map(|axis| axis.key.as_str()).collect();
    console.line(format_args!(
        "{} trials of {}; {} at a time; {} of them trained before",
        sweep.trials.len(),
        names.join(", "),
        sweep.jobs,
        results.trials().count(),
    ))?;
    let mut left: Vec<&Trial> = sweep.trials.iter().collect();
    for (rung, &epochs) in rungs.iter().enumerate() {
        if rungs.len() > 1 {
            console.line(format_args!("{} trials to epoch {epochs}", left.len()))?;
        }
        results = sweep.train(&left, epochs, results, &mut console)?;
        if rung + 1 < rungs.len() {
            left = better_half(left, epochs, &results);
        }
    }

    let ranking = results.ranking();
    let write = |name: &str, text: &str| {
        atomic_file::write(&dir.join(name), |file| file.write_all(text.as_bytes()))
    };
    write(TABLE, &results::csv(&names, &ranking))?;
    let picture = plot::picture(&axes, &ranking);
    write(PICTURE, &picture.map_err(|error| Error::file(dir.join(PICTURE), error.to_string()))?)?;
    print(&results::table(&names, &ranking))?;
    print(&format!("written to {}: {TABLE}, {PICTURE}, {TRIAL}*\n", dir.display()))
}

/// What is varied: the grid's settings, then the random ones.
fn axes(args: &SweepArgs, flags: &Flags<TrainArgs>) -> Result<Vec<Axis>> {
    let mut axes: Vec<Axis> = Vec::new();
    let texts = args.grid.iter().map(|text| ("grid", text));
    for (name, text) in texts.chain(args.random.iter().map(|text| ("random", text))) {
        let wrong = |detail: String| Error::Settings { detail: format!("--{name} {detail}") };
        let axis = if name == "grid" { Axis::grid(text, flags) } else { Axis::random(text, flags) };
        let axis = axis.map_err(wrong)?;
        let key = &axis.key;
        if axes.iter().any(|other| other.key == *key) {
            return Err(wrong(format!("{key}: given twice; expected each setting once")));
        }
        if args.halving && key == "epochs" {
            return Err(wrong("epochs: cannot be varied with --halving".into()));
        }
        axes.push(axis);
    }
    if axes.is_empty() {
        let detail = "nothing to vary: expected at least one --grid or --random".into();
        return Err(Error::Settings { detail });
    }
    Ok(axes)
}

/// All trials, their settings checked.
fn trials(
    dir: &Path,
    axes: &[Axis],
    draws: Draws,
    given: &Settings,
    flags: &Flags<TrainArgs>,
) -> Result<Vec<Trial>> {
    let points = space::points(axes, draws, flags);
    let points = points.map_err(|detail| Error::Settings { detail })?;
    let width = points.len().to_string().len().max(3);
    let trial = |(number, own): (usize, Settings)| {
        let mut all = flags.merge(&own, given.clone());
        let out = dir.join(format!("{TRIAL}{number:0width$}")).to_string_lossy().into_owned();
        all.insert("out".into(), out.into());
        // Of a trial that was broken off.
        all.insert("overwrite".into(), true.into());
        train::parse(&all)?;
        Ok(Trial { number, own, all })
    };
    (1..).zip(points).map(trial).collect()
}

/// Epochs after which trials are compared, the last of them all epochs.
fn rungs(trials: usize, epochs: usize, halving: bool) -> Vec<usize> {
    let halvings = if halving { trials.max(1).ilog2() } else { 0 };
    let mut rungs: Vec<usize> = (0..=halvings).rev().map(|i| (epochs >> i).max(1)).collect();
    rungs.dedup();
    rungs
}

/// The better half of those that have come to `epochs` and did not diverge.
fn better_half<'t>(trials: Vec<&'t Trial>, epochs: usize, results: &Results) -> Vec<&'t Trial> {
    let keep = trials.len().div_ceil(2);
    let accuracy = |trial: &Trial| {
        let record = results.get(trial.number, epochs).filter(|record| !record.diverged)?;
        Some(record.val_accuracy())
    };
    let mut ranked: Vec<_> =
        trials.into_iter().filter_map(|trial| Some((accuracy(trial)?, trial))).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.truncate(keep);
    ranked.into_iter().map(|(_, trial)| trial).collect()
}

/// The results in a directory: none in a new one, those so far of the same sweep.
fn open(dir: &Path, args: &SweepArgs, given: &Settings, overwrite: bool) -> Result<Results> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    atomic_file::check_writable(dir)?;
    let path = dir.join(SWEEP);
    let mut wanted = given.clone();
    // None of these changes a result.
    wanted.retain(|key, _| {
        !["out", "overwrite", "quiet", "threads", "checkpoint-every"].contains(&key)
    });
    let list = |texts: &[String]| toml::Value::from(texts.to_vec());
    for (key, value) in [
        ("grid", list(&args.grid)),
        ("random", list(&args.random)),
        ("trials", (args.trials as i64).into()),
        ("halving", args.halving.into()),
    ] {
        wanted.insert(key.into(), value);
    }
    let wanted = wanted.to_string();
    let is_there = path.try_exists().map_err(Error::io("read", &path))?;
    if is_there && !overwrite {
        let found = input_file::read_text(&path, MAX_SETTINGS_BYTES)?;
        if found == wanted {
            return Results::read(dir);
        }
        let detail = "holds another sweep; --overwrite replaces it, another --out keeps it";
        return Err(Error::file(dir, detail));
    }
    let earlier = if is_there { trial_dirs(dir)? } else { Vec::new() };
    for trial in earlier {
        fs::remove_dir_all(&trial).map_err(Error::io("remove", &trial))?;
    }
    let results = Results::new(dir)?;
    atomic_file::write(&path, |file| file.write_all(wanted.as_bytes()))?;
    Ok(results)
}

/// The directories of trials.
fn trial_dirs(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let is_trial = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.is_dir() && name.is_some_and(|name| name.starts_with(TRIAL))
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_trial).collect())
}

impl Sweep<'_> {
    /// Trains what is not in the results, up to the end of epoch `epochs`.
    fn train(
        &self,
        trials: &[&Trial],
        epochs: usize,
        results: Results,
        console: &mut Console,
    ) -> Result<Results> {
        let missing = |trial: &&Trial| results.get(trial.number, epochs).is_none();
        let queue: Vec<&Trial> = trials.iter().copied().filter(missing).collect();
        let queue = Mutex::new(queue.into_iter());
        let state = Mutex::new((results, Ok(())));
        let console = &*console;
        let work = || {
            loop {
                let next = lock(&queue).next();
                let Some(trial) = next.filter(|_| lock(&state).1.is_ok()) else { return };
                let trained = self.train_one(trial, epochs);
                let (results, outcome) = &mut *lock(&state);
                let recorded = trained.and_then(|record| {
                    console.line(record.line(self.trials.len()))?;
                    results.add(record)
                });
                if outcome.is_ok() {
                    *outcome = recorded;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.jobs {
                scope.spawn(work);
            }
            work();
        });
        let (results, outcome) =
            state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        outcome.map(|()| results)
    }

    fn train_one(&self, trial: &Trial, epochs: usize) -> Result<Record> {
        let (args, settings) = train::parse(&trial.all)?;
        let job = Job {
            args: &args,
            settings: &settings,
            origin: &self.origin,
            data: &self.data,
            threads: self.threads,
            stop_after: Some(epochs),
            resume: args.out.as_deref().is_some_and(RunDir::has_checkpoint),
            interrupted: &AtomicBool::new(false),
        };
        let diverged = match train::train(job, &mut Console::new(true)) {
            Ok(_) => false,
            Err(Error::Diverged { .. }) => true,
            Err(error) => return Err(error),
        };
        let dir = args.out.as_deref().unwrap_or(self.dir);
        Ok(Record::new(trial, epochs, &RunFiles::read(dir)?, diverged, dir))
    }
}

/// A lock that does not care whether another thread has panicked: the scope passes that on.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_double_up_to_all_epochs() {
        assert_eq!(rungs(8, 16, true), [2, 4, 8, 16]);
        assert_eq!(rungs(9, 20, true), [2, 5, 10, 20]);
        assert_eq!(rungs(100, 4, true), [1, 2, 4]);
        assert_eq!(rungs(1, 5, true), [5]);
        assert_eq!(rungs(8, 16, false), [16]);
    }
}
