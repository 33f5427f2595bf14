//! Checkpoints: the complete state of a [`Trainer`] or a [`Solver`] in one file, so that it can
//! resume as if it had never stopped.
//!
//! | tensor | content |
//! |---|---|
//! | `network.<t>`, `average.<t>`, `best.<t>` | parameters and buffers by their names, as `network.0.weight` |
//! | `<slot>.<t>` | the optimizer's slots, named as in [`Optimizer::slot_names`] |
//! | `history.<name>` | losses of iterations and accuracies of epochs |
//!
//! | value | meaning |
//! |---|---|
//! | `kind` | `trainer` or `solver` |
//! | `settings` | every setting that the bits depend on, by name; for a solver also the SHA-256 of its images and labels |
//! | `steps`, `learning_rate` | for a trainer: steps done, and the current learning rate |
//! | `epochs`, `batches` | for a solver: epochs done, and batches done in the next epoch |
//! | `nanoseconds` | for a solver: wall time of these batches |
//!
//! Values that follow from these are not stored: a solver's number of steps and learning rate, the losses
//! of the current epoch, the best epoch. The order of the images, their augmentation and dropout
//! have no state: they are functions of the seed, the epoch, the step and the image.
//!
//! Before anything changes, every value of a file is checked against its range, the trainer or
//! solver, and the other values.
//!
//! [`Optimizer::slot_names`]: crate::train::Optimizer::slot_names

use std::{path::Path, time::Duration};

use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Result},
    io::checkpoint::{self, Checked, Checkpoint, Entry, Expected, Fault, Tensors, Values},
    kernels::Element,
    nn::{Network, Tensor},
    train::{
        identity::{compare, object},
        solver::{Position, Solver},
        trainer::{Pending, Trainer, check_rate},
    },
};

/// What the checkpoint is of: a trainer or a solver.
const TRAINER: &str = "trainer";
const SOLVER: &str = "solver";
/// The largest number of steps that `f64`, which optimizers compute with, can count exactly.
const MOST_STEPS: u64 = 1 << 53;
/// No epoch takes longer.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl<T: Element> Trainer<T> {
    /// Saves the state of training: parameters, buffers, the optimizer's slots, the average, the
    /// number of steps and the current learning rate. The file is replaced atomically.
    ///
    /// # Errors
    /// [`Error::Setting`] if part of a batch was accumulated and not applied; [`Error::Io`] if the
    /// file cannot be written; [`Error::File`] if a parameter is not finite: training could not
    /// continue from it.
    pub fn save_checkpoint(&self, path: &Path) -> Result<()> {
        self.expect_planned()?;
        if let Some(Pending { rows, of, .. }) = self.pending {
            let found = format!("{rows} of {of} rows");
            let expected = "none when a checkpoint is saved; call apply first";
            return Err(Error::setting("accumulated batch", found, expected));
        }
        let state = [
            ("kind", json!(TRAINER)),
            ("settings", Value::Object(object(&self.identity()))),
            ("steps", json!(self.steps)),
            ("learning_rate", json!(self.config.learning_rate)),
        ];
        let state = state.map(|(name, value)| (name.to_owned(), value));
        checkpoint::write(path, state.into_iter().collect(), self.entries(self.steps))
    }

    /// Restores the state that a trainer saved. This trainer must have the same network and settings,
    /// except for threads, batch size and learning rate. Steps on the same batches then have the same
    /// bits as without the interruption. The learning rate becomes that of the checkpoint, and
    /// parts of a batch that were accumulated and not applied are dropped.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Setting`] if it belongs to other settings;
    /// [`Error::File`] if it is not a checkpoint of a trainer, is truncated or altered, or holds a
    /// state that no steps with these settings can reach. The trainer is then unchanged.
    pub fn load_checkpoint(&mut self, path: &Path) -> Result<()> {
        self.expect_planned()?;
        let wrong = |fault: Fault| fault.of(path);
        let settings = self.identity();
        let most = checkpoint::most_bytes(&self.expected(0), &object(&settings));
        let mut file = Checkpoint::read(path, most)?;
        let there = take_settings(&mut file, TRAINER).map_err(wrong)?;
        compare(path, settings, there)?;
        let steps = file.take_count("steps", MOST_STEPS, "the most that can be counted");
        let steps = steps.map_err(wrong)?;
        let rate = file.take("learning_rate", "a finite number, 0 or above", |value| {
            value.as_f64().filter(|&rate| check_rate(rate).is_ok())
        });
        let rate = rate.map_err(wrong)?;
        let tensors = file.tensors(&self.expected(steps)).map_err(wrong)?;
        self.restore(steps, rate, &tensors);
        Ok(())
    }

    /// An error unless the network is the one that the trainer was made with.
    fn expect_planned(&self) -> Result<()> {
        self.plan.expect(self.network.structure())?;
        self.plan.expect_frozen(self.network.parameter_settings())
    }

    /// All tensors after this many steps.
    fn entries(&self, steps: u64) -> Vec<Entry<'_>> {
        let mut entries = of_network("network", &self.network);
        entries.extend(self.average.iter().flat_map(|network| of_network("average", network)));
        for (slot, arena) in self.optimizer.slots() {
            let settings = self.network.parameter_settings();
            for ((tensor, elements), settings) in arena.iter().zip(settings) {
                let values = match slot {
                    _ if steps == 0 || settings.frozen => Values::Zeros,
                    "sum_of_squares" | "mean_square" => Values::Squares,
                    _ => Values::Finite,
                };
                let name = format!("{slot}.{}", tensor.name());
                entries.push(Entry::new(name, tensor.shape(), elements, values));
            }
        }
        entries
    }

    /// The content of a checkpoint after this many steps.
    fn expected(&self, steps: u64) -> Vec<Expected> {
        self.entries(steps).into_iter().map(|entry| entry.expected).collect()
    }

    /// Takes over the checked values.
    fn restore(&mut self, steps: u64, learning_rate: f64, tensors: &Tensors<'_>) {
        restore_network("network", &mut self.network, tensors);
        if let Some(average) = &mut self.average {
            restore_network("average", average, tensors);
        }
        let layout = self.network.parameters().layout();
        for (slot, arena) in self.optimizer.slots_mut() {
            for (number, tensor) in layout.tensors().iter().enumerate() {
                tensors.copy(&format!("{slot}.{}", tensor.name()), arena.tensor_mut(number));
            }
        }
        self.optimizer.set_steps(steps);
        self.steps = steps;
        self.config.learning_rate = learning_rate;
        self.pending = None;
    }
}

impl<T: Element> Solver<'_, T> {
    /// Saves the state of the run. The file is replaced atomically.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; [`Error::File`] if a parameter is not finite: the run
    /// could not resume from it.
    pub fn save_checkpoint(&self, path: &Path) -> Result<()> {
        let Position { epochs, batches, time, .. } = self.position;
        let state = [
            ("kind", json!(SOLVER)),
            ("settings", Value::Object(object(&self.identity()))),
            ("epochs", json!(epochs)),
            ("batches", json!(batches)),
            ("nanoseconds", json!(time.min(CENTURY).as_nanos() as u64)),
        ];
        let state = state.map(|(name, value)| (name.to_owned(), value));
        let mut entries = self.entries(self.trainer.steps());
        for (name, values) in self.history.all() {
            let name = format!("history.{name}");
            let kind = of_history(&name);
            entries.push(Entry::new(name, &[values.len()], values, kind));
        }
        checkpoint::write(path, state.into_iter().collect(), entries)
    }

    /// Restores the state that a solver saved. This solver must have the same network, images and
    /// settings, except for threads. The rest of the run then has the same bits as without the
    /// interruption.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Setting`] if it belongs to other settings
    /// or images; [`Error::File`] if it is not a checkpoint of a solver, is truncated or altered, or
    /// holds a state that no run with these settings can reach. The solver is then unchanged.
    pub fn load_checkpoint(&mut self, path: &Path) -> Result<()> {
        let wrong = |fault: Fault| fault.of(path);
        let settings = self.identity();
        let end = Position { epochs: self.config.epochs, ..Position::default() };
        let most = checkpoint::most_bytes(&self.expected(end), &object(&settings));
        let mut file = Checkpoint::read(path, most)?;
        let there = take_settings(&mut file, SOLVER).map_err(wrong)?;
        compare(path, settings, there)?;
        let position = self.take_position(&mut file).map_err(wrong)?;
        let rate = self.rate_at(position).map_err(wrong)?;
        let tensors = file.tensors(&self.expected(position)).map_err(wrong)?;
        let best = self.check_history(position, &tensors).map_err(wrong)?;
        self.restore(position, rate, best, &tensors);
        Ok(())
    }

    /// The position of the run, if a run with these settings can reach it.
    fn take_position(&self, file: &mut Checkpoint) -> Checked<Position> {
        let all_epochs = self.config.epochs as u64;
        let epochs = file.take_count("epochs", all_epochs, "those of the run")?;
        let (of_epoch, why) = if epochs == all_epochs {
            (0, "because all epochs are done")
        } else {
            (self.batches() as u64, "those of an epoch")
        };
        let batches = file.take_count("batches", of_epoch, why)?;
        let (longest, why) = match batches {
            0 => (0, "because no batch of the epoch is done"),
            _ => (CENTURY.as_nanos() as u64, "a century"),
        };
        let time = Duration::from_nanos(file.take_count("nanoseconds", longest, why)?);
        // No more than the run has, which are a `usize`.
        Ok(Position { epochs: epochs as usize, batches: batches as usize, loss: 0.0, time })
    }

    /// Batches of an epoch.
    fn batches(&self) -> usize {
        self.config.epoch(self.order.indices().len()).0
    }

    /// Steps of a run at this position.
    fn steps_at(&self, position: Position) -> usize {
        position.epochs * self.batches() + position.batches
    }

    /// The learning rate of the last step of a run at this position.
    fn rate_at(&self, position: Position) -> Checked<f64> {
        let rate = match self.steps_at(position) {
            0 => self.config.trainer.learning_rate,
            steps => self.config.rate(steps as u64 - 1, self.batches()),
        };
        let Position { epochs, batches, .. } = position;
        check_rate(rate).map(|()| rate).map_err(|error| {
            let detail = format!("stands at {epochs} epochs and {batches} batches, where {error}");
            Fault::caused(detail, error)
        })
    }

    /// All tensors after this many steps, without the histories.
    fn entries(&self, steps: u64) -> Vec<Entry<'_>> {
        let mut entries = self.trainer.entries(steps);
        entries.extend(of_network("best", &self.best_network));
        entries
    }

    /// The content of a checkpoint of a run at this position.
    fn expected(&self, position: Position) -> Vec<Expected> {
        let steps = self.steps_at(position);
        let entries = self.entries(steps as u64);
        let mut expected: Vec<_> = entries.into_iter().map(|entry| entry.expected).collect();
        for (name, _) in self.history.all() {
            let name = format!("history.{name}");
            let values = of_history(&name);
            let len = if values == Values::Losses { steps } else { position.epochs };
            expected.push(Expected::new::<f64>(name, &[len], values));
        }
        expected
    }

    /// The best epoch, from 1, and its validation accuracy; an error if early stopping would have
    /// ended the run before `position`.
    fn check_history(
        &self,
        position: Position,
        tensors: &Tensors<'_>,
    ) -> Checked<Option<(usize, f64)>> {
        let mut best = None;
        let accuracies = tensors.elements::<f64>("history.val_accuracy");
        for (epoch, accuracy) in (1..).zip(accuracies) {
            if best.is_none_or(|(_, best)| accuracy > best) {
                best = Some((epoch, accuracy));
            }
            let without_better = epoch - best.map_or(0, |(epoch, _)| epoch);
            let more = epoch < position.epochs || position.batches > 0;
            if let Some(patience) = self.config.patience
                && more
                && without_better >= patience
            {
                let detail = format!(
                    "history.val_accuracy has no better value after epoch {}, so that the run was \
                     out of patience after epoch {epoch}; it stands at {} epochs and {} batches",
                    epoch - without_better,
                    position.epochs,
                    position.batches,
                );
                return Err(detail.into());
            }
        }
        Ok(best)
    }

    /// Takes over the checked values.
    fn restore(
        &mut self,
        position: Position,
        learning_rate: f64,
        best: Option<(usize, f64)>,
        tensors: &Tensors<'_>,
    ) {
        self.trainer.restore(self.steps_at(position) as u64, learning_rate, tensors);
        restore_network("best", &mut self.best_network, tensors);
        for (name, values) in self.history.all_mut() {
            // In place: the capacity is that of the whole run.
            values.clear();
            values.extend(tensors.elements::<f64>(&format!("history.{name}")));
        }
        self.best_epoch = best;
        let losses = &self.history.loss_history;
        let of_epoch = &losses[losses.len() - position.batches..];
        let loss = of_epoch.iter().fold(0.0, |sum, loss| sum + loss);
        self.position = Position { loss, ..position };
    }
}

/// The parameters and buffers of a network, whose names follow `kind`.
fn of_network<'a, T: Element>(kind: &str, network: &'a Network<T>) -> Vec<Entry<'a>> {
    let tensors = network.parameters().iter().chain(network.buffers().iter());
    let entry = |(tensor, elements): (&Tensor, &'a [T])| {
        let name = format!("{kind}.{}", tensor.name());
        Entry::new(name, tensor.shape(), elements, Values::Finite)
    };
    tensors.map(entry).collect()
}

/// Same as [`of_network`], mutable.
fn restore_network<T: Element>(kind: &str, network: &mut Network<T>, tensors: &Tensors<'_>) {
    let (parameters, buffers) = network.arenas_mut();
    for arena in [parameters, buffers] {
        let layout = arena.layout().clone();
        for (number, tensor) in layout.tensors().iter().enumerate() {
            tensors.copy(&format!("{kind}.{}", tensor.name()), arena.tensor_mut(number));
        }
    }
}

/// The valid values of a history.
fn of_history(name: &str) -> Values {
    if name == "history.loss" { Values::Losses } else { Values::Accuracies }
}

/// The settings of a checkpoint of this kind.
fn take_settings(file: &mut Checkpoint, kind: &str) -> Checked<Map<String, Value>> {
    let expected = format!("{kind:?}; a checkpoint is loaded by what saved it");
    file.take("kind", &expected, |value| (value == kind).then_some(()))?;
    file.take("settings", "an object of settings", |value| match value {
        Value::Object(settings) => Some(settings),
        _ => None,
    })
}
