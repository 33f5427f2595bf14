//! `RunDir`: the directory of a training run, whose files are each written whole or not at all.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::plots;
use tilewise::{
    Element, atomic_file,
    error::{Error, Result},
    input_file,
    nn::FullyConnectedNet,
    train::{
        EpochRecord, History,
        model_file::{self, ModelInfo},
    },
};

/// The settings.
pub(super) const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const MODEL: &str = "model.safetensors";
const CURVES: &str = "curves.svg";
const CHECKPOINT: &str = "checkpoint.safetensors";
/// Largest file of settings or metrics that is read: some 300,000 epochs.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// A table in the settings that tells what the run met. It sets nothing.
pub(super) const CIRCUMSTANCES: &str = "run";
/// All files of a run, in the order in which they are written.
const FILES: [&str; 5] = [CONFIG, METRICS, CHECKPOINT, MODEL, CURVES];

/// Where a training run leaves its files.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
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

/// What a training run left behind, as far as it is text.
#[derive(Clone, Debug)]
pub(super) struct RunFiles {
    /// The flags that repeat the run.
    pub(super) settings: toml::Table,
    /// What the run met.
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
        let epoch = |(number, line): (usize, &str)| {
            serde_json::from_str(line)
                .map_err(|error| Error::file(&path, format!("line {}: {error}", number + 1)))
        };
        let epochs = text.lines().enumerate().map(epoch).collect::<Result<_>>()?;
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

impl RunDir {
    /// Makes the directory where it is missing and checks that files can be written there. An
    /// earlier run in it stays as it is until [`begin`](Self::begin).
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be made or written, [`Error::File`] if it holds
    /// files of an earlier run and `overwrite` is not set.
    pub(super) fn open(path: &Path, overwrite: bool) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        for name in FILES {
            let file = path.join(name);
            if !overwrite && file.try_exists().map_err(Error::io("read", &file))? {
                let detail = format!(
                    "holds {name} of an earlier run; --overwrite replaces that run, another --out \
                     keeps it"
                );
                return Err(Error::file(path, detail));
            }
        }
        atomic_file::check_writable(path)?;
        Ok(Self { path: path.to_owned(), metrics: String::new() })
    }

    /// The directory of a run that goes on from its checkpoint, which `load` reads: it returns how
    /// many epochs were done then. The metrics of later ones are taken back.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read or written, [`Error::File`] if there is no
    /// checkpoint or the metrics have fewer epochs; what `load` returns.
    pub(super) fn resume(path: &Path, load: impl FnOnce(&Path) -> Result<usize>) -> Result<Self> {
        let checkpoint = path.join(CHECKPOINT);
        if !checkpoint.try_exists().map_err(Error::io("read", &checkpoint))? {
            let detail = format!(
                "holds no {CHECKPOINT}: its run has come to its end, or was stopped before the \
                 first (see --checkpoint-every)"
            );
            return Err(Error::file(path, detail));
        }
        let epochs = load(&checkpoint)?;
        let file = path.join(METRICS);
        let text = input_file::read_text(&file, MAX_TEXT_BYTES)?;
        let lines: Vec<&str> = text.split_inclusive('\n').take(epochs).collect();
        if lines.len() < epochs {
            let detail = format!("has {} epochs, the checkpoint {epochs}", lines.len());
            return Err(Error::file(file, detail));
        }
        let dir = Self { path: path.to_owned(), metrics: lines.concat() };
        dir.write_metrics()?;
        Ok(dir)
    }

    /// Removes the files of an earlier run and writes the settings of this one.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be removed or written.
    pub(super) fn begin(&self, config: &impl Serialize) -> Result<()> {
        for name in FILES {
            remove(self.path.join(name))?;
        }
        let path = self.path.join(CONFIG);
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
            .map_err(|error| unwritable(&self.path.join(METRICS), &error))?;
        self.metrics.push_str(&line);
        self.metrics.push('\n');
        self.write_metrics()
    }

    fn write_metrics(&self) -> Result<()> {
        let path = self.path.join(METRICS);
        atomic_file::write(&path, |file| file.write_all(self.metrics.as_bytes()))
    }

    /// Writes the network.
    ///
    /// # Errors
    /// Those of [`model_file::save`].
    pub(super) fn model<T: Element>(
        &self,
        net: &FullyConnectedNet<T>,
        info: &ModelInfo,
    ) -> Result<()> {
        model_file::save(&self.path.join(MODEL), net, info)
    }

    /// Writes a checkpoint with `save`, which is given its path.
    ///
    /// # Errors
    /// What `save` returns.
    pub(super) fn checkpoint(&self, save: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        save(&self.path.join(CHECKPOINT))
    }

    /// Removes the checkpoint of a run that is over, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be removed.
    pub(super) fn remove_checkpoint(&self) -> Result<()> {
        remove(self.path.join(CHECKPOINT))
    }

    /// Whether there is a checkpoint to go on from.
    pub(super) fn has_checkpoint(path: &Path) -> bool {
        path.join(CHECKPOINT).exists()
    }

    /// Draws the history.
    ///
    /// # Errors
    /// [`Error::Io`] if the picture cannot be written, [`Error::File`] if it cannot be drawn.
    pub(super) fn curves(&self, history: &History) -> Result<()> {
        let path = self.path.join(CURVES);
        let picture = plots::curves(history).map_err(|error| unwritable(&path, &error))?;
        atomic_file::write(&path, |file| file.write_all(picture.as_bytes()))
    }

    /// Names of the run's files that are there.
    pub(super) fn files(&self) -> Vec<&'static str> {
        FILES.into_iter().filter(|name| self.path.join(name).exists()).collect()
    }
}

/// Removes a file if it is there.
fn remove(file: PathBuf) -> Result<()> {
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
