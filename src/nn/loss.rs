//! `CrossEntropy`: the mean softmax cross-entropy of a batch and its gradient, in one pass over
//! the logits.

use crate::{
    error::{Error, Result},
    float::Float,
    matrix::{MatMut, MatRef},
    nn::softmax::{exponentials, largest},
};

/// The mean over a batch of `-sum_j target_j ln softmax(logits)_j`. Without smoothing the target
/// is 1 at the label and 0 elsewhere; with smoothing s it is `1 - s + s / classes` at the label
/// and `s / classes` elsewhere (Szegedy et al. 2016).
///
/// A row's loss does not depend on the other rows; they are added up in f64 from the first to the
/// last. Shapes: logits and gradient (batch, classes), labels and row losses (batch).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    label_smoothing: f64,
}

impl CrossEntropy {
    /// A loss with this label smoothing; 0 is none.
    ///
    /// # Errors
    /// [`Error::Setting`] unless `0 <= label_smoothing < 1`.
    pub fn new(label_smoothing: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&label_smoothing) {
            let expected = "a number from 0 to below 1";
            return Err(Error::setting("label_smoothing", label_smoothing, expected));
        }
        Ok(Self { label_smoothing })
    }

    /// The label smoothing; 0 is none.
    pub fn label_smoothing(self) -> f64 {
        self.label_smoothing
    }

    /// The mean loss, and that of each row.
    ///
    /// # Errors
    /// [`Error::Length`] if an operand does not fit, [`Error::Label`] if a label is out of range,
    /// [`Error::Setting`] if the elements of a row are not contiguous.
    pub fn forward<T: Float>(
        self,
        logits: MatRef<'_, T>,
        labels: &[u32],
        row_losses: &mut [T],
    ) -> Result<f64> {
        self.run(logits, labels, None, labels.len(), row_losses)
    }

    /// The mean loss, that of each row, and the gradient of the mean with respect to the logits:
    /// `(softmax(logits) - target) / batch`.
    ///
    /// # Errors
    /// Same as [`forward`](Self::forward), and [`Error::Shape`] if the gradient does not fit.
    pub fn forward_backward<T: Float>(
        self,
        logits: MatRef<'_, T>,
        labels: &[u32],
        gradient: MatMut<'_, T>,
        row_losses: &mut [T],
    ) -> Result<f64> {
        self.part_backward(logits, labels, gradient, labels.len(), row_losses)
    }

    /// Same as [`forward_backward`](Self::forward_backward) for part of a batch of `of` rows: the
    /// gradient is that of the mean over the whole batch.
    pub(super) fn part_backward<T: Float>(
        self,
        logits: MatRef<'_, T>,
        labels: &[u32],
        gradient: MatMut<'_, T>,
        of: usize,
        row_losses: &mut [T],
    ) -> Result<f64> {
        gradient.expect_shape("gradient of the logits", logits.shape())?;
        self.run(logits, labels, Some(gradient), of, row_losses)
    }

    fn run<T: Float>(
        self,
        logits: MatRef<'_, T>,
        labels: &[u32],
        mut gradient: Option<MatMut<'_, T>>,
        of: usize,
        row_losses: &mut [T],
    ) -> Result<f64> {
        let (batch, classes) = logits.shape();
        for (what, found) in [("labels", labels.len()), ("row losses", row_losses.len())] {
            if found != batch {
                return Err(Error::Length { what, expected: batch, found });
            }
        }
        for (row, &label) in labels.iter().enumerate() {
            if label as usize >= classes {
                return Err(Error::Label { label, row, classes });
            }
        }
        let apart = || Error::setting("logits", "non-contiguous rows", "contiguous rows");
        for (i, (&label, row_loss)) in labels.iter().zip(&mut *row_losses).enumerate() {
            let logits = logits.row(i).ok_or_else(apart)?;
            let gradient = match &mut gradient {
                Some(gradient) => Some(gradient.row_mut(i).ok_or_else(apart)?),
                None => None,
            };
            *row_loss = self.row(logits, label as usize, gradient, of);
        }
        let total: f64 = row_losses.iter().map(|loss| loss.to_f64()).sum();
        Ok(total / (batch.max(1) as f64))
    }

    /// The loss of one row, and its gradient.
    fn row<T: Float>(self, logits: &[T], label: usize, gradient: Option<&mut [T]>, of: usize) -> T {
        let largest = largest(logits).expect("a label names a class");
        let smoothed = T::from_f64(self.label_smoothing / logits.len() as f64);
        let at_label = T::from_f64(1.0 - self.label_smoothing);
        let sum = match gradient {
            None => {
                // The order in which `exponentials` adds.
                let terms = logits.iter().map(|&logit| (logit - largest).exp());
                terms.fold(T::ZERO, |sum, term| sum + term)
            }
            Some(gradient) => {
                gradient.copy_from_slice(logits);
                let sum = exponentials(gradient, largest);
                let count = T::from_f64(of as f64);
                for (j, value) in gradient.iter_mut().enumerate() {
                    let hit = if j == label { at_label } else { T::ZERO };
                    *value = (*value / sum - (hit + smoothed)) / count;
                }
                sum
            }
        };
        let mut expected = logits[label] - largest;
        if self.label_smoothing > 0.0 {
            let mut all = T::ZERO;
            for &logit in logits {
                all += logit - largest;
            }
            expected = at_label * expected + smoothed * all;
        }
        sum.ln() - expected
    }
}
