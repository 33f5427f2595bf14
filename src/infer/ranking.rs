//! Ranking: the classes of the largest logits.

use crate::float::Float;

/// The class with the largest value of a row; the first of equals, NaN last, 0 of an empty row.
pub(crate) fn best_class<T: Float>(row: &[T]) -> usize {
    let mut best = [0];
    top_classes(row, &mut best);
    best[0]
}

/// The classes with the largest values of one row, best first, into `best`; the first of equals
/// comes first, and NaN last. Where `best` has more places than the row values, those stay.
/// Returns how many were found.
pub fn top_k<T: Float>(row: &[T], best: &mut [(usize, T)]) -> usize {
    rank(row, best, |&(class, _)| class, |class| (class, row[class]))
}

/// Same as [`top_k`], without the values.
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
