//! `RunDir`: the directory of a training run, whose files are each written atomically.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    plots,
    run_lock::{RunLock, SWEEP},
};
use tilewise::{
    Element, Precision, atomic_file,
    error::{Error, Result},
    input_file,
    io::model::{self, ModelInfo},
    nn::Network,
    train::{EpochRecord, History},
};

/// The settings.
pub(super) const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const MODEL: &str = "model.safetensors";
const CURVES: &str = "curves.svg";
const CHECKPOINT: &str = "checkpoint.safetensors";
/// Largest file of settings or metrics that is read: some 300,000 epochs.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// A table in the settings with the environment of the run. It sets nothing.
pub(super) const CIRCUMSTANCES: &str = "run";
/// All files of a run, in the order in which they are written.
const FILES: [&str; 5] = [CONFIG, METRICS, CHECKPOINT, MODEL, CURVES];

/// The files of a training run, in a directory that it has locked.
#[derive(Debug)]
pub(super) struct RunDir<'l> {
    lock: &'l RunLock,
    /// The lines of `metrics.jsonl` so far.
    metrics: String,
}

/// A line of `metrics.jsonl`: an [`EpochRecord`] under the names that files have for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Metrics {
    pub(super) epoch: usize,
    pub(super) iteration: usize,
    pub(super) loss: f64,
    pub(super) train_acc: f64,
    pub(super) val_acc: f64,
    pub(super) lr: f64,
    pub(super) seconds: f64,
    pub(super) images_per_s: f64,
}

/// The text files of a training run.
#[derive(Clone, Debug)]
pub(super) struct RunFiles {
    /// The flags that repeat the run.
    pub(super) settings: toml::Table,
    /// The environment of the run.
    pub(super) circumstances: toml::Table,
    /// All epochs that were finished.
    pub(super) epochs: Vec<Metrics>,
    /// Where the best network is, if there is one.
    pub(super) model: Option<PathBuf>,
}

impl RunFiles {
    /// Reads a run's directory.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::File`] if one is not what `train` writes.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            let text = input_file::read_text(&path, MAX_TEXT_BYTES)?;
            Ok((path, text))
        };
        let (path, text) = read(CONFIG)?;
        let mut settings: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            Error::file(&path, format!("no settings of a run: {}", error.message()))
        })?;
        let circumstances = match settings.remove(CIRCUMSTANCES) {
            Some(toml::Value::Table(table)) => table,
            _ => toml::Table::new(),
        };
        let (path, text) = read(METRICS)?;
        let epochs = Epochs::parse(&text);
        if let Some(error) = epochs.error {
            return Err(Error::file(path, error));
        }
        let epochs = epochs.records.into_iter().map(|(record, _)| record).collect();
        let model = Some(dir.join(MODEL)).filter(|path| path.exists());
        Ok(Self { settings, circumstances, epochs, model })
    }

    /// The epoch of the best validation accuracy; the first of equals.
    pub(super) fn best(&self) -> Option<&Metrics> {
        self.epochs.iter().reduce(|a, b| if b.val_acc > a.val_acc { b } else { a })
    }

    /// Wall time of the training, without the accuracy checks.
    pub(super) fn seconds(&self) -> f64 {
        // An empty sum is -0.
        self.epochs.iter().map(|epoch| epoch.seconds).sum::<f64>() + 0.0
    }
}

/// The lines of `metrics.jsonl`.
struct Epochs<'a> {
    /// The whole ones, as records and as they are written, up to the first that is none.
    records: Vec<(Metrics, &'a str)>,
    /// What is wrong with the line after them, with its number; nothing at the end of the file.
    error: Option<String>,
    /// Whether that line is the last and was cut: it does not end.
    is_cut: bool,
}

impl<'a> Epochs<'a> {
    /// Reads lines up to the first that is not the record of its epoch. A whole last record needs
    /// no end of line.
    fn parse(text: &'a str) -> Self {
        let mut epochs = Self { records: Vec::new(), error: None, is_cut: false };
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            let record = serde_json::from_str(line).map_err(|error| error.to_string());
            let record = record.and_then(|record: Metrics| match record.epoch {
                epoch if epoch == number => Ok(record),
                epoch => Err(format!("epoch {epoch}, expected epoch {number}")),
            });
            match record {
                Ok(record) => epochs.records.push((record, line.trim_end())),
                Err(error) => {
                    epochs.error = Some(format!("line {number}: {error}"));
                    epochs.is_cut = !line.ends_with('\n');
                    break;
                }
            }
        }
        epochs
    }
}

impl Metrics {
    /// Checks a record against the history of a run with `batches` iterations in an epoch.
    ///
    /// # Errors
    /// What differs.
    fn check(&self, history: &History, batches: usize) -> Result<(), String> {
        let (before, end) = ((self.epoch - 1) * batches, self.epoch * batches);
        let losses = history.loss_history.get(before..end).unwrap_or(&[]);
        let loss = losses.iter().fold(0.0, |sum, loss| sum + loss) / batches as f64;
        let accuracy = |all: &[f64]| all.get(self.epoch - 1).copied().unwrap_or(f64::NAN);
        for (name, here, there) in [
            ("iteration", self.iteration as f64, end as f64),
            ("loss", self.loss, loss),
            ("train_acc", self.train_acc, accuracy(&history.train_acc_history)),
            ("val_acc", self.val_acc, accuracy(&history.val_acc_history)),
        ] {
            if here != there {
                return Err(format!("{name} is {here}, in the checkpoint {there}"));
            }
        }
        Ok(())
    }
}

impl<'l> RunDir<'l> {
    /// A new run in the directory. An earlier run in it stays as it is until
    /// [`begin`](Self::begin).
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be written, [`Error::File`] if it holds files of an
    /// earlier run and `overwrite` is not set, or a sweep.
    pub(super) fn open(lock: &'l RunLock, overwrite: bool) -> Result<Self> {
        let path = lock.path();
        let sweep = path.join(SWEEP);
        if sweep.try_exists().map_err(Error::io("read", sweep))? {
            return Err(Error::file(path, "holds a sweep; choose another --out"));
        }
        if let Some(name) = Self::file_in(path)?.filter(|_| !overwrite) {
            let detail = format!(
                "holds {name} of an earlier run; --overwrite replaces that run, another --out \
                 keeps it"
            );
            return Err(Error::file(path, detail));
        }
        atomic_file::check_writable(path)?;
        Ok(Self { lock, metrics: String::new() })
    }

    /// The name of a file of a run in a directory, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub(super) fn file_in(path: &Path) -> Result<Option<&'static str>> {
        for name in FILES {
            let file = path.join(name);
            if file.try_exists().map_err(Error::io("read", file))? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The directory of a run that continues from its checkpoint, which `load` reads: it returns
    /// the history up to then, of which an epoch has `batches` iterations. The metrics must be those
    /// of that history. Those of later epochs are removed, whole or cut.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read or written, [`Error::File`] if there is no
    /// checkpoint or the metrics are not those of its epochs; what `load` returns.
    pub(super) fn resume(
        lock: &'l RunLock,
        batches: usize,
        load: impl FnOnce(&Path) -> Result<History>,
    ) -> Result<Self> {
        let path = lock.path();
        let checkpoint = path.join(CHECKPOINT);
        if !checkpoint.try_exists().map_err(Error::io("read", &checkpoint))? {
            let detail = format!(
                "holds no {CHECKPOINT}: its run has come to its end, or was stopped before the \
                 first (see --checkpoint-every)"
            );
            return Err(Error::file(path, detail));
        }
        let history = load(&checkpoint)?;
        let done = history.val_acc_history.len();
        let file = path.join(METRICS);
        let text = input_file::read(&file, MAX_TEXT_BYTES)?;
        let refused = |detail: &dyn Display| {
            let detail = format!(
                "{detail}; put back the file that belongs to {CHECKPOINT}, or start again with \
                 --overwrite"
            );
            Error::file(&file, detail)
        };
        let text = str::from_utf8(&text).map_err(|error| {
            let before = &text[..error.valid_up_to()];
            let number = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
            refused(&format_args!("line {number}: not UTF-8"))
        })?;
        let epochs = Epochs::parse(text);
        let records = epochs.records.get(..done);
        if let Some(error) = &epochs.error
            && !(epochs.is_cut && records.is_some())
        {
            return Err(refused(error));
        }
        let Some(records) = records else {
            let found = epochs.records.len();
            return Err(refused(&format_args!(
                "line {}: missing, the checkpoint has {done} epochs",
                found + 1
            )));
        };
        let mut metrics = String::new();
        for (record, line) in records {
            let checked = record.check(&history, batches);
            checked.map_err(|error| refused(&format_args!("line {}: {error}", record.epoch)))?;
            metrics.push_str(line);
            metrics.push('\n');
        }
        let dir = Self { lock, metrics };
        dir.write_metrics()?;
        Ok(dir)
    }

    /// Removes the files of an earlier run and writes the settings of this one.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be removed or written.
    pub(super) fn begin(&self, config: &impl Serialize) -> Result<()> {
        for name in FILES {
            remove(self.lock.path().join(name))?;
        }
        let path = self.lock.path().join(CONFIG);
        let config = toml::to_string(config).map_err(|error| unwritable(&path, &error))?;
        atomic_file::write(&path, |file| file.write_all(config.as_bytes()))?;
        self.write_metrics()
    }

    /// Adds an epoch to the metrics.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written.
    pub(super) fn epoch(&mut self, record: &EpochRecord) -> Result<()> {
        let line = Metrics {
            epoch: record.epoch,
            iteration: record.iteration,
            loss: record.loss,
            train_acc: record.train_accuracy,
            val_acc: record.val_accuracy,
            lr: record.learning_rate,
            seconds: record.seconds,
            images_per_s: record.images_per_second,
        };
        let line = serde_json::to_string(&line)
            .map_err(|error| unwritable(&self.lock.path().join(METRICS), &error))?;
        self.metrics.push_str(&line);
        self.metrics.push('\n');
        self.write_metrics()
    }

    fn write_metrics(&self) -> Result<()> {
        let path = self.lock.path().join(METRICS);
        atomic_file::write(&path, |file| file.write_all(self.metrics.as_bytes()))
    }

    /// Writes the network, with weights in `weights`.
    ///
    /// # Errors
    /// Those of [`model::save_in`].
    pub(super) fn model<T: Element>(
        &self,
        network: &Network<T>,
        info: &ModelInfo,
        weights: Precision,
    ) -> Result<()> {
        model::save_in(&self.lock.path().join(MODEL), network, info, weights)
    }

    /// Reads the best network back, with its weights as they are saved.
    pub(super) fn saved_model<T: Element>(&self) -> Result<Network<T>> {
        model::load(&self.lock.path().join(MODEL)).map(|(network, _)| network)
    }

    /// Writes a checkpoint with `save`, which is given its path.
    ///
    /// # Errors
    /// What `save` returns.
    pub(super) fn checkpoint(&self, save: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        save(&self.lock.path().join(CHECKPOINT))
    }

    /// Removes the checkpoint of a run that is over, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be removed.
    pub(super) fn remove_checkpoint(&self) -> Result<()> {
        remove(self.lock.path().join(CHECKPOINT))
    }

    /// Whether there is a checkpoint to resume from.
    pub(super) fn has_checkpoint(path: &Path) -> bool {
        path.join(CHECKPOINT).exists()
    }

    /// Draws the history.
    ///
    /// # Errors
    /// [`Error::Io`] if the image cannot be written, [`Error::File`] if it cannot be drawn.
    pub(super) fn curves(&self, history: &History) -> Result<()> {
        let path = self.lock.path().join(CURVES);
        let image = plots::curves(history).map_err(|error| unwritable(&path, &error))?;
        atomic_file::write(&path, |file| file.write_all(image.as_bytes()))
    }

    /// Names of the run's files that are there.
    pub(super) fn files(&self) -> Vec<&'static str> {
        FILES.into_iter().filter(|name| self.lock.path().join(name).exists()).collect()
    }
}

/// Removes a file if it is there.
///
/// # Errors
/// [`Error::Io`] if it cannot be removed.
pub(super) fn remove(file: PathBuf) -> Result<()> {
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", file)(error))
        }
        _ => Ok(()),
    }
}

fn unwritable(path: &Path, error: &dyn Display) -> Error {
    Error::file(path, format!("not written: {error}"))
}
