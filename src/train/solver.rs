//! `Solver`: epochs of shuffled batches, updates, accuracy checks, and the best parameters.

#[cfg(feature = "model-files")]
use std::sync::OnceLock;
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use crate::{
    config::with_fields,
    data::{Augmentation, EpochOrder, ImageSet, Normalization, Split},
    error::{Error, Result},
    kernels::Element,
    nn::Network,
    train::{
        evaluate::Evaluation,
        feed::Feed,
        history::{EpochRecord, History},
        schedule::Schedule,
        trainer::{StepStats, Trainer, TrainerConfig},
    },
};

/// Images, their split, and their normalization.
#[derive(Clone, Debug)]
pub struct TrainingData<'a> {
    /// Training and validation images.
    pub images: &'a ImageSet,
    /// Which of them are for training and which for validation.
    pub split: Split,
    /// The map from bytes to inputs.
    pub normalization: Normalization,
}

/// What to do with the last batch of an epoch if it is smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastBatch {
    /// Drop it: an update from a few images is noisy. A training set smaller than a batch is still
    /// one batch.
    #[default]
    Drop,
    /// Keep it.
    Keep,
}

/// Settings of a training run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SolverConfig {
    /// Settings of the steps. A training set smaller than `batch_size` is one batch; the learning
    /// rate is the base rate of the schedule. With an average of the parameters, accuracies
    /// and best parameters are those of the average.
    pub trainer: TrainerConfig,
    /// Passes over the training images.
    pub epochs: usize,
    /// What to do with the last batch of an epoch if it is smaller.
    pub last_batch: LastBatch,
    /// How the learning rate changes from step to step.
    pub schedule: Schedule,
    /// Augmentation of the training images.
    pub augmentation: Augmentation,
    /// Early stopping after this many epochs without a better validation accuracy.
    pub patience: Option<usize>,
    /// Number of training images, chosen at random, to measure the accuracy on after each epoch.
    pub train_accuracy_samples: usize,
    /// Number of validation images, the first ones, to measure the accuracy on after each epoch;
    /// all if `None`.
    pub validation_samples: Option<usize>,
    /// Seed of the order of the images.
    pub seed: u64,
}

impl Default for SolverConfig {
    fn default() -> Self {
        Self {
            trainer: TrainerConfig::default(),
            epochs: 10,
            last_batch: LastBatch::default(),
            schedule: Schedule::default(),
            augmentation: Augmentation::default(),
            patience: None,
            train_accuracy_samples: 1000,
            validation_samples: None,
            seed: 0,
        }
    }
}

with_fields! {
    SolverConfig {
        trainer with_trainer: TrainerConfig,
        epochs with_epochs: usize,
        last_batch with_last_batch: LastBatch,
        schedule with_schedule: Schedule,
        augmentation with_augmentation: Augmentation,
        patience with_patience: Option<usize>,
        train_accuracy_samples with_train_accuracy_samples: usize,
        validation_samples with_validation_samples: Option<usize>,
        seed with_seed: u64,
    }
}

impl SolverConfig {
    fn check(&self) -> Result<()> {
        if self.epochs == 0 {
            return Err(Error::setting("epochs", 0, "at least 1"));
        }
        let TrainerConfig { batch_size, learning_rate, .. } = self.trainer;
        if batch_size == 0 {
            return Err(Error::setting("batch_size", 0, "at least 1"));
        }
        if !(learning_rate.is_finite() && learning_rate > 0.0) {
            return Err(Error::setting("learning_rate", learning_rate, "a finite number above 0"));
        }
        if self.patience == Some(0) {
            return Err(Error::setting("patience", 0, "at least 1 epoch"));
        }
        self.schedule.check(learning_rate)
    }

    /// Number of batches and of images in an epoch over `images` training images.
    pub(super) fn epoch(&self, images: usize) -> (usize, usize) {
        let batch = self.trainer.batch_size.min(images);
        match self.last_batch {
            LastBatch::Drop => (images / batch, images / batch * batch),
            LastBatch::Keep => (images.div_ceil(batch), images),
        }
    }

    /// The learning rate of a step, from 0, in epochs of this many batches.
    pub(super) fn rate(&self, step: u64, batches: usize) -> f64 {
        let iterations = batches * self.epochs;
        let base = self.trainer.learning_rate;
        self.schedule.rate(base, step, batches as u64, iterations as u64)
    }
}

/// The progress of a run.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A batch is done.
    Step {
        /// Epoch, from 1.
        epoch: usize,
        /// Iteration since the start of training, from 1.
        iteration: usize,
        /// Iterations of the whole run.
        iterations: usize,
        /// Loss of the batch.
        loss: f64,
        /// Images of the batch.
        images: usize,
    },
    /// An epoch is done.
    Epoch(&'a EpochRecord),
}

/// The parameters with the best validation accuracy.
#[derive(Clone, Copy, Debug)]
pub struct Best<'a, T: Element> {
    /// Their epoch, from 1.
    pub epoch: usize,
    /// Their validation accuracy, from 0 to 1.
    pub val_accuracy: f64,
    /// A network with these parameters.
    pub network: &'a Network<T>,
}

/// Trains a network on a set of images, by a [`Trainer`]. After construction nothing is allocated.
/// It runs on the calling thread; with [`TrainerConfig::threads`], on the rayon pool in which it is
/// constructed and used: `pool.install(|| Solver::new(...)?.train())`.
pub struct Solver<'a, T: Element> {
    pub(super) trainer: Trainer<T>,
    pub(super) config: SolverConfig,
    pub(super) feed: Feed<'a, T>,
    pub(super) order: EpochOrder,
    pub(super) validation: Vec<u32>,
    evaluation: Evaluation,
    pub(super) history: History,
    pub(super) best_network: Network<T>,
    pub(super) best_epoch: Option<(usize, f64)>,
    pub(super) position: Position,
    /// SHA-256 of the images and labels, computed for the first checkpoint.
    #[cfg(feature = "model-files")]
    pub(super) data_digest: OnceLock<String>,
}

/// The position of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    /// Number of finished epochs.
    pub(super) epochs: usize,
    /// Number of finished batches in the next epoch.
    pub(super) batches: usize,
    /// Sum of the losses of these batches.
    pub(super) loss: f64,
    /// Wall time that they took.
    pub(super) time: Duration,
}

impl<'a, T: Element> Solver<'a, T> {
    /// Plans a run.
    ///
    /// # Errors
    /// [`Error::Setting`] if a setting is invalid, [`Error::Shape`] if the network does not
    /// fit the images, [`Error::IsaUnavailable`] if `TILEWISE_ISA` names an instruction set that
    /// is not available.
    pub fn new(network: Network<T>, data: TrainingData<'a>, config: SolverConfig) -> Result<Self> {
        config.check()?;
        let TrainingData { images, split, normalization } = data;
        let expected = (images.features(), images.classes());
        let found = (network.in_features(), network.classes());
        if expected != found {
            let what = "inputs x classes of a network for these images";
            return Err(Error::Shape { what, expected, found });
        }
        for part in [&split.train, &split.validation] {
            if part.is_empty() || part.end > images.len() {
                let expected = format!("some of the {} images", images.len());
                return Err(Error::setting("split", format!("{part:?}"), expected));
            }
        }
        let batch_size = config.trainer.batch_size.min(split.train.len());
        let (batches, _) = config.epoch(split.train.len());
        let samples = config.validation_samples.unwrap_or(usize::MAX);
        let validation = split.validation.clone().take(samples.max(1));
        let settings = config.trainer.clone().with_batch_size(batch_size);
        Ok(Self {
            history: History::with_capacity(config.epochs, batches)?,
            best_network: network.try_clone()?,
            best_epoch: None,
            feed: Feed::new(images, &normalization, batch_size)?.with_augmentation(
                config.augmentation,
                &normalization,
                config.seed,
            )?,
            order: EpochOrder::new(split.train, config.seed)?,
            validation: validation.map(|index| index as u32).collect(),
            evaluation: Evaluation::new(images.classes()),
            trainer: Trainer::new(network, settings)?,
            config,
            position: Position::default(),
            #[cfg(feature = "model-files")]
            data_digest: OnceLock::new(),
        })
    }

    /// Trains all epochs, or until early stopping.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss is no longer finite, and training stops before the update;
    /// or when the parameters, or the logits of the images whose accuracy is checked, are not
    /// finite at the end of an epoch, which is then not recorded. History and best parameters of
    /// what came before are kept. [`Error::OutsidePool`] if there are several threads and the calling
    /// one is in no rayon pool.
    pub fn train(&mut self) -> Result<()> {
        self.train_with(&mut |_| ControlFlow::Continue(()))
    }

    /// Trains until all epochs are done, early stopping, or `on_progress` breaks off. Another call
    /// continues with the next batch, to the same bits as without the break.
    ///
    /// # Errors
    /// Same as [`train`](Self::train).
    pub fn train_with(
        &mut self,
        on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        while !self.is_done() {
            if self.train_epoch(on_progress)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Whether all epochs are done or early stopping has ended the run.
    pub fn is_done(&self) -> bool {
        self.position.epochs >= self.config.epochs || self.is_out_of_patience()
    }

    /// Whether early stopping ends the run: too many epochs without a better validation accuracy.
    pub fn is_out_of_patience(&self) -> bool {
        let best = self.best_epoch.map_or(0, |(epoch, _)| epoch);
        self.config.patience.is_some_and(|patience| self.position.epochs - best >= patience)
    }

    /// Trains the rest of the epoch.
    fn train_epoch(
        &mut self,
        on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let tasks = self.trainer.plan().context().tasks()?;
        let epoch = self.position.epochs + 1;
        let begin = Instant::now();
        let before = self.position.time;
        self.order.shuffle(epoch as u64);
        let (batches, images) = self.config.epoch(self.order.indices().len());
        let iterations = batches * self.config.epochs;
        let rest = self.order.batches(self.config.trainer.batch_size).take(batches);
        for batch in rest.skip(self.position.batches) {
            let rate = self.config.rate(self.trainer.steps(), batches);
            self.trainer.set_learning_rate(rate)?;
            let (x, labels) = self.feed.training_batch(batch, epoch as u64, tasks)?;
            let StepStats { loss, rows, .. } = self.trainer.step(x, labels)?;
            self.history.loss_history.push(loss);
            self.position.batches += 1;
            self.position.loss += loss;
            self.position.time = before.saturating_add(begin.elapsed());
            let iteration = self.iteration();
            let step = Progress::Step { epoch, iteration, iterations, loss, images: rows };
            if on_progress(step).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let samples = self.config.train_accuracy_samples.clamp(1, images);
        // Before anything is recorded: an epoch that ends with numbers that are not finite has no
        // accuracy, and its network cannot be the best.
        let diverged = Error::Diverged {
            iteration: self.iteration(),
            learning_rate: self.trainer.config().learning_rate,
            loss: self.history.loss_history.last().copied().unwrap_or(f64::NAN),
        };
        let (network, plan) = self.trainer.network_and_plan();
        if !network.is_finite() {
            return Err(diverged);
        }
        let train_indices = &self.order.indices()[..samples];
        let [train_accuracy, val_accuracy] = {
            let mut accuracy = |indices: &[u32]| {
                let feed = &mut self.feed;
                match self.evaluation.run(network, plan, feed, indices, &mut |_, _| ()) {
                    Err(Error::NotFinite { .. }) => Ok(None),
                    evaluated => evaluated.map(|()| Some(self.evaluation.accuracy())),
                }
            };
            match (accuracy(train_indices)?, accuracy(&self.validation)?) {
                (Some(train), Some(validation)) => [train, validation],
                _ => return Err(diverged),
            }
        };
        self.history.train_acc_history.push(train_accuracy);
        self.history.val_acc_history.push(val_accuracy);
        if self.best_epoch.is_none_or(|(_, best)| val_accuracy > best) {
            self.best_epoch = Some((epoch, val_accuracy));
            let (network, _) = self.trainer.network_and_plan();
            self.best_network.copy_parameters(network)?;
        }
        let Position { loss, time, .. } = self.position;
        self.position = Position { epochs: epoch, ..Position::default() };
        let seconds = time.as_secs_f64();
        let record = EpochRecord {
            epoch,
            iteration: self.iteration(),
            loss: loss / batches as f64,
            train_accuracy,
            val_accuracy,
            learning_rate: self.trainer.config().learning_rate,
            seconds,
            images_per_second: images as f64 / seconds,
        };
        Ok(on_progress(Progress::Epoch(&record)))
    }

    /// Steps since the start of training.
    pub fn iteration(&self) -> usize {
        self.trainer.steps() as usize
    }

    /// Losses and accuracies so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The network with its current parameters.
    pub fn network(&self) -> &Network<T> {
        self.trainer.network()
    }

    /// The parameters with the best validation accuracy so far; none before the end of the first
    /// epoch.
    pub fn best(&self) -> Option<Best<'_, T>> {
        let (epoch, val_accuracy) = self.best_epoch?;
        Some(Best { epoch, val_accuracy, network: &self.best_network })
    }
}
