//! Losses and accuracies of a training run.

use crate::error::{Error, Result};

/// Losses of all iterations and accuracies of all epochs so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The loss of every iteration, L2 term included.
    pub loss_history: Vec<f64>,
    /// After every epoch, the accuracy on some of the training images.
    pub train_acc_history: Vec<f64>,
    /// After every epoch, the accuracy on the validation images.
    pub val_acc_history: Vec<f64>,
}

impl History {
    /// An empty history with room for a whole run, so that it does not allocate later.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if there is not enough memory for the iterations of the run.
    pub(super) fn with_capacity(epochs: usize, iterations: usize) -> Result<Self> {
        let mut history = Self::default();
        let overflow =
            || Error::SizeOverflow { what: "loss history", rows: epochs, cols: iterations };
        let all = epochs.checked_mul(iterations).ok_or_else(overflow)?;
        history.loss_history.try_reserve_exact(all).map_err(|_| overflow())?;
        for accuracies in [&mut history.train_acc_history, &mut history.val_acc_history] {
            accuracies.try_reserve_exact(epochs).map_err(|_| overflow())?;
        }
        Ok(history)
    }

    /// All values by name, for a checkpoint.
    #[cfg(feature = "model-files")]
    pub(super) fn all(&self) -> [(&'static str, &[f64]); 3] {
        [
            ("loss", &self.loss_history),
            ("train_accuracy", &self.train_acc_history),
            ("val_accuracy", &self.val_acc_history),
        ]
    }

    /// Same as [`all`](Self::all), mutable.
    #[cfg(feature = "model-files")]
    pub(super) fn all_mut(&mut self) -> [(&'static str, &mut Vec<f64>); 3] {
        [
            ("loss", &mut self.loss_history),
            ("train_accuracy", &mut self.train_acc_history),
            ("val_accuracy", &mut self.val_acc_history),
        ]
    }
}

/// The results of one epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochRecord {
    /// Number of the epoch, from 1.
    pub epoch: usize,
    /// Iterations since the start of training.
    pub iteration: usize,
    /// Mean of the losses of the epoch's iterations.
    pub loss: f64,
    /// Accuracy on some of the training images after the epoch.
    pub train_accuracy: f64,
    /// Accuracy on the validation images after the epoch.
    pub val_accuracy: f64,
    /// Learning rate of the epoch's last step.
    pub learning_rate: f64,
    /// Wall time of the epoch's training, without the accuracy checks.
    pub seconds: f64,
    /// Training images per second in this time.
    pub images_per_second: f64,
}
