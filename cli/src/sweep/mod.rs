//! `tilewise sweep`: trains with many settings, at the same time or one after the other, stops the
//! worse ones early, and resumes after a kill or a signal.

mod plot;
mod results;
mod space;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
};

use crate::{
    config::{Flags, Given, Settings},
    console::{Console, print},
    cores,
    dataset::Origin,
    options,
    run_dir::{RunDir, RunFiles, remove},
    run_lock::{RunLock, SWEEP, TRIAL},
    shutdown::{self, Shutdown},
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

/// Largest file of settings that is read.
const MAX_SETTINGS_BYTES: u64 = 1 << 20;
const TABLE: &str = "sweep.csv";
const PLOT: &str = "sweep.svg";

/// Arguments of `tilewise sweep`: what to try, and the flags of `train` for all trials. `--seed`
/// also seeds the random search, `--out` is needed.
#[derive(Debug, clap::Args)]
pub struct SweepArgs {
    /// Grid search: values of a setting, combined with those of every other grid: lr=0.1,0.2;
    /// widths of several hidden layers are joined by a hyphen: hidden=256,512-256
    #[arg(long, value_name = "FLAG=V,…", help_heading = "Search")]
    grid: Vec<String>,
    /// Random search: range or list to draw a setting from: dropout=0..0.5, lr=log:0.01..1,
    /// hidden=128,256
    #[arg(long, value_name = "FLAG=RANGE", help_heading = "Search")]
    random: Vec<String>,
    /// Number of draws of the random search, for each point of the grid.
    #[arg(long, value_name = "N", default_value = "20", value_parser = options::count,
          help_heading = "Search")]
    trials: usize,
    /// Number of trials that run at the same time, on one thread each; with 1, a trial uses all
    /// threads.
    #[arg(long, value_name = "N", default_value = "1", value_parser = options::threads,
          help_heading = "Search")]
    jobs: usize,
    /// Successive halving: train all trials for few epochs, the better half for twice as many, and
    /// so on.
    #[arg(long, help_heading = "Search")]
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
    lock: &'a RunLock,
    trials: Vec<Trial>,
    origin: Origin,
    data: Cifar10,
    jobs: usize,
    threads: usize,
    shutdown: Shutdown,
}

/// Runs `tilewise sweep`. A signal ends it after the running trials have saved their checkpoints.
///
/// # Errors
/// [`Error::Settings`] if what is to be tried makes no sense, [`Error::File`] if the directory
/// holds another sweep or another process trains in it; as [`train::run`], except that a trial
/// that diverges is a result.
pub fn run(args: &SweepArgs) -> Result<ExitCode> {
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

    let shutdown = Shutdown::on_signals()?;
    let mut console = Console::new(common.quiet);
    let lock = RunLock::take(dir)?;
    let wanted = identity(args, &given);
    let mut results = open(dir, &wanted, &trials, &rungs, common.overwrite)?;
    let origin = common.dataset.find(&console)?;
    let data = origin.load()?;
    let threads = common.threads.unwrap_or_else(|| if args.jobs == 1 { cores() } else { 1 });
    shutdown.begin();
    let sweep = Sweep { lock: &lock, trials, origin, data, jobs: args.jobs, threads, shutdown };
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
        let missing = |trial: &&&Trial| results.get(trial.number, epochs).is_none();
        let missing = left.iter().filter(missing).count();
        if missing > 0 {
            return Ok(shutdown::interrupted(&format!(
                "interrupted with {missing} of {} trials to train to epoch {epochs}; the same \
                 command resumes\n",
                left.len(),
            )));
        }
        if rung + 1 < rungs.len() {
            left = better_half(left, epochs, &results);
        }
    }

    let ranking = results.ranking();
    let write = |name: &str, text: &str| {
        atomic_file::write(&dir.join(name), |file| file.write_all(text.as_bytes()))
    };
    write(TABLE, &results::csv(&names, &ranking))?;
    let drawn = plot::plot(&axes, &ranking);
    write(PLOT, &drawn.map_err(|error| Error::file(dir.join(PLOT), error.to_string()))?)?;
    print(&results::table(&names, &ranking))?;
    print(&format!("written to {}: {TABLE}, {PLOT}, {TRIAL}*\n", dir.display()))?;
    Ok(ExitCode::SUCCESS)
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
        // Of a trial that was killed.
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

/// The results in a directory: none in a new one, those so far of the same sweep. `rungs` are the
/// epochs after which its trials are recorded.
fn open(
    dir: &Path,
    wanted: &Settings,
    trials: &[Trial],
    rungs: &[usize],
    overwrite: bool,
) -> Result<Results> {
    if let Some(name) = RunDir::file_in(dir)? {
        let detail = format!("holds {name} of a training run; choose another --out");
        return Err(Error::file(dir, detail));
    }
    atomic_file::check_writable(dir)?;
    let path = dir.join(SWEEP);
    let is_there = path.try_exists().map_err(Error::io("read", &path))?;
    if is_there && !overwrite {
        let found = input_file::read_text(&path, MAX_SETTINGS_BYTES)?;
        if found.parse::<Settings>().is_ok_and(|found| found == *wanted) {
            return Results::read(dir, trials, rungs);
        }
        let detail = "holds another sweep; --overwrite replaces it, another --out keeps it";
        return Err(Error::file(dir, detail));
    }
    // First no results, then no trials, then another sweep: a kill in between leaves the earlier
    // sweep with less done, and never results of trials that are not there.
    let results = Results::new(dir)?;
    if is_there {
        for trial in trial_dirs(dir)? {
            fs::remove_dir_all(&trial).map_err(Error::io("remove", &trial))?;
        }
        for name in [TABLE, PLOT] {
            remove(dir.join(name))?;
        }
    }
    atomic_file::write(&path, |file| file.write_all(wanted.to_string().as_bytes()))?;
    Ok(results)
}

/// What [`SWEEP`] says: all that the results depend on.
fn identity(args: &SweepArgs, given: &Settings) -> Settings {
    let mut identity = given.clone();
    // None of these changes a result.
    identity.retain(|key, _| {
        !["out", "overwrite", "quiet", "threads", "checkpoint-every"].contains(&key)
    });
    let list = |texts: &[String]| toml::Value::from(texts.to_vec());
    for (key, value) in [
        ("grid", list(&args.grid)),
        ("random", list(&args.random)),
        ("trials", (args.trials as i64).into()),
        ("halving", args.halving.into()),
    ] {
        identity.insert(key.into(), value);
    }
    identity
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
    /// Trains what is not in the results, up to the end of epoch `epochs` or to a signal.
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
                let next = lock(&queue).next().filter(|_| !self.shutdown.is_requested());
                let Some(trial) = next.filter(|_| lock(&state).1.is_ok()) else { return };
                let trained = self.train_one(trial, epochs);
                let (results, outcome) = &mut *lock(&state);
                let recorded = trained.and_then(|record| {
                    let Some(record) = record else { return Ok(()) };
                    let line = record.line(self.trials.len());
                    results.add(record)?;
                    console.line(line)
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

    /// Trains up to the end of epoch `epochs`. No record if a signal came first.
    fn train_one(&self, trial: &Trial, epochs: usize) -> Result<Option<Record>> {
        let (args, settings) = train::parse(&trial.all)?;
        let dir = args.out.as_deref().unwrap_or(self.lock.path());
        let lock = self.lock.take_trial(dir)?;
        // What somebody has trained further by hand, or whose metrics are damaged, is trained anew.
        let resume = RunDir::has_checkpoint(dir)
            && RunFiles::read(dir).is_ok_and(|files| files.epochs.len() <= epochs);
        let job = Job {
            args: &args,
            settings: &settings,
            origin: &self.origin,
            data: &self.data,
            threads: self.threads,
            stop_after: Some(epochs),
            lock: Some(&lock),
            resume,
            shutdown: &self.shutdown,
        };
        let diverged = match train::train(job, &mut Console::new(true)) {
            Ok(outcome) if outcome.is_interrupted() => return Ok(None),
            Ok(_) => false,
            Err(Error::Diverged { .. }) => true,
            Err(error) => return Err(error),
        };
        Ok(Some(Record::new(trial, epochs, &RunFiles::read(dir)?, diverged, dir)))
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
