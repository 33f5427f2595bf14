//! `RunDir`: the directory of a training run, whose files are each written whole or not at all.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    atomic_file,
    cli::plots,
    error::{Error, Result},
    kernels::Element,
    nn::FullyConnectedNet,
    train::{
        EpochRecord, History,
        model_file::{self, ModelInfo},
    },
};

pub(super) const CONFIG: &str = "config.toml";
pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const MODEL: &str = "model.safetensors";
const CURVES: &str = "curves.svg";
/// All files of a run, in the order in which they are written.
const FILES: [&str; 4] = [CONFIG, METRICS, MODEL, CURVES];

/// Where a training run leaves its files.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    /// The lines of `metrics.jsonl` so far.
    metrics: String,
}

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
struct Metrics {
    epoch: usize,
    iteration: usize,
    loss: f64,
    train_acc: f64,
    val_acc: f64,
    lr: f64,
    seconds: f64,
    images_per_s: f64,
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

    /// Removes the files of an earlier run and writes the settings of this one.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be removed or written.
    pub(super) fn begin(&self, config: &impl Serialize) -> Result<()> {
        for name in FILES {
            let file = self.path.join(name);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", file)(error));
                }
                _ => {}
            }
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

fn unwritable(path: &Path, error: &dyn Display) -> Error {
    Error::file(path, format!("not written: {error}"))
}
