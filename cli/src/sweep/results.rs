//! Results of trials: one line of JSON for each, written after every trial; and the table.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::{Settings, word},
    console::decimal,
    run_dir::RunFiles,
    sweep::Trial,
};
use tilewise::{
    atomic_file,
    error::{Error, Result},
    input_file,
};

const TRIALS: &str = "trials.jsonl";
/// Largest file of records that is read: some 500,000 trials.
const MAX_BYTES: u64 = 256 << 20;

/// A trial that was trained up to some epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) trial: usize,
    /// Epochs that it was trained for, or was to be.
    pub(super) epochs: usize,
    /// What the trial has of its own.
    pub(super) settings: Settings,
    /// Nothing if not even one epoch was finished.
    val_acc: Option<f64>,
    best_epoch: Option<usize>,
    /// At the end, as `loss`.
    train_acc: Option<f64>,
    loss: Option<f64>,
    seconds: f64,
    pub(super) diverged: bool,
    dir: PathBuf,
}

impl Record {
    pub(super) fn new(
        trial: &Trial,
        epochs: usize,
        files: &RunFiles,
        diverged: bool,
        dir: &Path,
    ) -> Self {
        let (best, last) = (files.best(), files.epochs.last());
        Self {
            trial: trial.number,
            epochs,
            settings: trial.own.clone(),
            val_acc: best.map(|epoch| epoch.val_acc),
            best_epoch: best.map(|epoch| epoch.epoch),
            train_acc: last.map(|epoch| epoch.train_acc),
            loss: last.map(|epoch| epoch.loss),
            seconds: files.seconds(),
            diverged,
            dir: dir.to_owned(),
        }
    }

    /// The best validation accuracy; 0 if there is none.
    pub(super) fn val_accuracy(&self) -> f64 {
        self.val_acc.unwrap_or(0.0)
    }

    /// A line for the console.
    pub(super) fn line(&self, trials: usize) -> String {
        let settings: Vec<String> =
            self.settings.iter().map(|(key, value)| format!("{key} {}", word(value))).collect();
        let diverged = if self.diverged { ", diverged" } else { "" };
        let width = trials.to_string().len();
        format!(
            "trial {:width$}/{trials}  val {:.4}  {:.1} s  {}{diverged}",
            self.trial,
            self.val_accuracy(),
            self.seconds,
            settings.join("  "),
        )
    }
}

/// All records of a sweep, and the file that has them.
pub(super) struct Results {
    path: PathBuf,
    records: Vec<Record>,
}

impl Results {
    /// Begins a file without records.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let results = Self { path: dir.join(TRIALS), records: Vec::new() };
        results.write()?;
        Ok(results)
    }

    /// Reads the records of a sweep that was begun, of these trials after these epochs. A last
    /// line that was cut is dropped: its trial is trained again.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be read, [`Error::File`] if they are not those of the sweep.
    pub(super) fn read(dir: &Path, trials: &[Trial], rungs: &[usize]) -> Result<Self> {
        let path = dir.join(TRIALS);
        let text = input_file::read_text(&path, MAX_BYTES)?;
        let mut results = Self { path, records: Vec::new() };
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            let wrong = match serde_json::from_str(line) {
                Ok(record) => match results.check(&record, trials, rungs) {
                    Ok(()) => {
                        results.records.push(record);
                        continue;
                    }
                    Err(detail) => detail,
                },
                Err(_) if !line.ends_with('\n') => continue,
                Err(error) => error.to_string(),
            };
            let detail =
                format!("line {number}: {wrong}; remove the line to train its trial again");
            return Err(Error::file(&results.path, detail));
        }
        Ok(results)
    }

    /// Checks that a record is one of the sweep, beside those so far.
    fn check(&self, record: &Record, trials: &[Trial], rungs: &[usize]) -> Result<(), String> {
        let Record { trial: number, epochs, settings, .. } = record;
        let Some(trial) = trials.iter().find(|trial| trial.number == *number) else {
            return Err(format!("trial {number}, expected one from 1 to {}", trials.len()));
        };
        if trial.own != *settings {
            return Err(format!("trial {number} has other settings than the sweep gives it"));
        }
        if !rungs.contains(epochs) {
            return Err(format!("trial {number} after {epochs} epochs, expected one of {rungs:?}"));
        }
        if self.get(*number, *epochs).is_some() {
            return Err(format!("a second record of trial {number} after {epochs} epochs"));
        }
        Ok(())
    }

    /// Adds a record, on disk as well.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub(super) fn add(&mut self, record: Record) -> Result<()> {
        self.records.push(record);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let refused = |error| Error::file(&self.path, format!("not written: {error}"));
        let lines = self.records.iter().map(serde_json::to_string);
        let lines = lines.collect::<serde_json::Result<Vec<_>>>().map_err(refused)?;
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        atomic_file::write(&self.path, |file| file.write_all(text.as_bytes()))
    }

    /// The record of a trial at a rung.
    pub(super) fn get(&self, trial: usize, epochs: usize) -> Option<&Record> {
        self.records.iter().find(|record| (record.trial, record.epochs) == (trial, epochs))
    }

    /// What is known of each trial: its record with the most epochs.
    pub(super) fn trials(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| {
            let same = self.records.iter().filter(|other| other.trial == record.trial);
            same.map(|other| other.epochs).max() == Some(record.epochs)
        })
    }

    /// The trials, the best first; of equals the one with the smaller number.
    pub(super) fn ranking(&self) -> Vec<&Record> {
        let mut ranking: Vec<&Record> = self.trials().collect();
        ranking.sort_by_key(|record| record.trial);
        ranking.sort_by(|a, b| b.val_accuracy().total_cmp(&a.val_accuracy()));
        ranking
    }
}

/// The columns of a record after those of its settings, as texts.
const COLUMNS: [&str; 7] =
    ["epochs", "val_acc", "best_epoch", "train_acc", "loss", "seconds", "diverged"];

fn columns(record: &Record) -> [String; 7] {
    let number = |number: Option<f64>| number.map_or_else(String::new, |x| decimal(x, 4));
    [
        record.epochs.to_string(),
        number(record.val_acc),
        record.best_epoch.map_or_else(String::new, |epoch| epoch.to_string()),
        number(record.train_acc),
        number(record.loss),
        format!("{:.2}", record.seconds),
        record.diverged.to_string(),
    ]
}

/// All that is known of a trial, in the order of the columns.
fn row(keys: &[&str], record: &Record) -> Vec<String> {
    let setting = |key: &&str| record.settings.get(*key).map(word).unwrap_or_default();
    let own = keys.iter().map(setting);
    [record.trial.to_string()].into_iter().chain(own).chain(columns(record)).collect()
}

/// The trials as comma-separated values (RFC 4180), with a header.
pub(super) fn csv(keys: &[&str], ranking: &[&Record]) -> String {
    let quoted = |text: &str| match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let line = |fields: &[String]| {
        let fields: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
        fields.join(",") + "\n"
    };
    let head = ["trial"].iter().chain(keys).chain(&COLUMNS).chain(&["dir"]);
    let mut text = line(&head.map(|&name| name.to_owned()).collect::<Vec<_>>());
    for record in ranking {
        let mut fields = row(keys, record);
        fields.push(record.dir.display().to_string());
        text += &line(&fields);
    }
    text
}

/// The trials for people, the best first.
pub(super) fn table(keys: &[&str], ranking: &[&Record]) -> String {
    let head = ["trial"].iter().chain(keys).chain(&COLUMNS).map(|&name| name.to_owned());
    let mut rows: Vec<Vec<String>> = vec![head.collect()];
    rows.extend(ranking.iter().map(|record| row(keys, record)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..rows[0].len()).map(|c| width(c).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  "));
    }
    text
}
