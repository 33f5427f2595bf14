//! Softmax: exponentials of logits, and their sum.

use crate::{
    error::{Error, Result},
    float::Float,
    matrix::MatMut,
};

/// Turns logits, (batch, classes), into probabilities, in place: `exp(logit - largest)` divided by
/// the sum of these in the row. A row does not depend on the others. Rows with NaN or an infinite
/// largest logit become NaN.
///
/// # Errors
/// [`Error::Setting`] if columns are not contiguous.
pub fn softmax<T: Float>(mut logits: MatMut<'_, T>) -> Result<()> {
    let (rows, stride) = (logits.rows(), logits.col_stride());
    for i in 0..rows {
        let apart = || Error::setting("column stride", stride, "1: contiguous columns");
        let row = logits.row_mut(i).ok_or_else(apart)?;
        let Some(largest) = largest(row) else { continue };
        let sum = exponentials(row, largest);
        for value in row {
            *value = *value / sum;
        }
    }
    Ok(())
}

/// The largest logit of a row, none of an empty one; NaN where the first is NaN.
pub(super) fn largest<T: Float>(row: &[T]) -> Option<T> {
    row.iter().copied().reduce(|a, b| if b > a { b } else { a })
}

/// `exp(logit - largest)` in place of each logit, and their sum, added from the first to the last.
pub(super) fn exponentials<T: Float>(row: &mut [T], largest: T) -> T {
    let mut sum = T::ZERO;
    for value in row {
        *value = (*value - largest).exp();
        sum += *value;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_definition() {
        let mut x = [1.0f64, 2.0, 3.0, 1000.0, 1000.0, -1000.0];
        softmax(MatMut::new(&mut x, 2, 3).unwrap()).unwrap();
        let sum: f64 = (1..=3).map(|z| f64::from(z).exp()).sum();
        for (z, found) in (1..=3).zip(x) {
            assert!((found - f64::from(z).exp() / sum).abs() < 1e-15, "{found}");
        }
        assert_eq!(x[3..], [0.5, 0.5, 0.0]);
        assert!(softmax(MatMut::new(&mut x, 2, 3).unwrap().t()).is_err());
    }
}
