//! What to make of logits: probabilities, and the largest of them.

use crate::{
    error::{Error, Result},
    float::Float,
    matrix::MatMut,
};

/// Turns logits, (batch, classes), into probabilities, in place: `exp(logit - largest)` over the
/// sum of these in the row. A row does not depend on the others. Rows with NaN or an infinite
/// largest logit become NaN.
///
/// # Errors
/// [`Error::Setting`] if columns stand apart.
pub fn softmax<T: Float>(mut logits: MatMut<'_, T>) -> Result<()> {
    let (rows, stride) = (logits.rows(), logits.col_stride());
    for i in 0..rows {
        let apart = || Error::setting("column stride", stride, "1: columns side by side");
        let row = logits.row_mut(i).ok_or_else(apart)?;
        let Some(&first) = row.first() else { continue };
        let largest = row.iter().fold(first, |a, &b| if b > a { b } else { a });
        let mut sum = T::ZERO;
        for value in &mut *row {
            *value = (*value - largest).exp();
            sum += *value;
        }
        for value in row {
            *value = *value / sum;
        }
    }
    Ok(())
}

/// The classes with the largest values of one row, best first, into `best`; the first of equals
/// comes first, and NaN last. Where `best` has more places than the row values, those stay.
/// Returns how many were found.
pub fn top_k<T: Float>(row: &[T], best: &mut [(usize, T)]) -> usize {
    rank(row, best, |&(class, _)| class, |class| (class, row[class]))
}

/// As [`top_k`], without the values.
pub fn top_classes<T: Float>(row: &[T], best: &mut [usize]) -> usize {
    rank(row, best, |&class| class, |class| class)
}

/// Ranks classes as entries that name them.
fn rank<T: Float, E>(
    row: &[T],
    best: &mut [E],
    class_of: impl Fn(&E) -> usize,
    entry: impl Fn(usize) -> E,
) -> usize {
    let not_a_number = |value: T| value.partial_cmp(&value).is_none();
    let beats = |a: T, b: T| a > b || (not_a_number(b) && !not_a_number(a));
    let mut found = 0;
    for (class, &value) in row.iter().enumerate() {
        let place = best[..found].iter().position(|other| beats(value, row[class_of(other)]));
        let place = place.unwrap_or(found);
        if place == best.len() {
            continue;
        }
        found = (found + 1).min(best.len());
        best[place..found].rotate_right(1);
        best[place] = entry(class);
    }
    found
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

    #[test]
    fn the_best_come_first_and_nan_last() {
        let row = [1.0f32, f32::NAN, 3.0, f32::NEG_INFINITY, 3.0, 2.0];
        let order = [2, 4, 5, 0, 3, 1];
        for k in 0..=8 {
            let mut best = [(99, 0.0); 8];
            let found = top_k(&row, &mut best[..k]);
            assert_eq!(found, k.min(6));
            assert!(best.iter().map(|&(class, _)| class).take(found).eq(order[..found].to_vec()));
            assert!(best[found..].iter().all(|&(class, _)| class == 99), "{best:?}");
            let mut classes = [99; 8];
            assert_eq!(top_classes(&row, &mut classes[..k]), found);
            assert!(best.iter().map(|&(class, _)| class).eq(classes));
        }
    }
}
