//! Mean softmax cross-entropy and its gradient.

use crate::{
    error::{Error, Result},
    float::Float,
    matrix::{MatMut, MatRef},
};

/// The mean over the batch of `-ln softmax(logits)[label]`, and, if `gradient` is given, its
/// gradient `(softmax(logits) - one_hot(label)) / batch`.
///
/// logits and gradient are (batch, classes). A row's loss, in `row_losses`, does not depend on
/// the other rows; they are added up in f64 from the first to the last.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Length`] if an operand does not fit, [`Error::Label`] if a label
/// names no class.
pub fn softmax_cross_entropy<T: Float>(
    logits: MatRef<'_, T>,
    labels: &[u8],
    mut gradient: Option<MatMut<'_, T>>,
    row_losses: &mut [T],
) -> Result<f64> {
    let (batch, classes) = logits.shape();
    for (what, found) in [("labels", labels.len()), ("row losses", row_losses.len())] {
        if found != batch {
            return Err(Error::Length { what, expected: batch, found });
        }
    }
    if let Some(gradient) = &gradient {
        gradient.expect_shape("gradient of the logits", (batch, classes))?;
    }
    for (row, &label) in labels.iter().enumerate() {
        if usize::from(label) >= classes {
            return Err(Error::Label { label, row, classes });
        }
    }
    let count = T::from_f64(batch as f64);
    for (i, (&label, row_loss)) in labels.iter().zip(&mut *row_losses).enumerate() {
        let label = usize::from(label);
        let logit = |j| logits.get(i, j);
        let largest = (1..classes).map(logit).fold(logit(0), |a, b| if b > a { b } else { a });
        let mut sum = T::ZERO;
        for j in 0..classes {
            let exponential = (logit(j) - largest).exp();
            sum += exponential;
            if let Some(gradient) = &mut gradient {
                gradient.set(i, j, exponential);
            }
        }
        *row_loss = sum.ln() - (logit(label) - largest);
        if let Some(gradient) = &mut gradient {
            for j in 0..classes {
                let target = if j == label { T::ONE } else { T::ZERO };
                gradient.set(i, j, (gradient.get(i, j) / sum - target) / count);
            }
        }
    }
    let total: f64 = row_losses.iter().map(|loss| loss.to_f64()).sum();
    Ok(total / (batch.max(1) as f64))
}
