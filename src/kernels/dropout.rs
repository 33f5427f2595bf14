//! `DropoutMask`: which elements dropout keeps, from a generator that needs no state.

use crate::{float::Float, matrix::MatMut};

/// Which elements of a matrix dropout keeps: a pure function of what the mask was made from, of
/// the row and of the column, so that it is never stored and does not depend on threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutMask {
    key: u64,
    /// Added to every column.
    first_col: u32,
    /// Elements whose random 32-bit number is below it are dropped.
    threshold: u64,
}

impl DropoutMask {
    /// A mask that drops with `probability`, for one layer at one step.
    pub fn new(probability: f64, seed: u64, step: u64, layer: u64) -> Self {
        let key = mix64(mix64(mix64(seed).wrapping_add(step)).wrapping_add(layer));
        let threshold = (probability * (1u64 << 32) as f64) as u64;
        Self { key, first_col: 0, threshold }
    }

    /// Whether element (`row`, `col`) is kept.
    pub fn keeps(self, row: usize, col: usize) -> bool {
        self.keeps_with(self.row_keys(row), col)
    }

    /// The mask of the part from element (`row`, `col`) on, as a mask of its own.
    #[must_use]
    pub(crate) fn starting_at(self, row: usize, col: usize) -> Self {
        let key = self.key.wrapping_add(row as u64);
        Self { key, first_col: self.first_col.wrapping_add(col as u32), ..self }
    }

    /// Keys of one row: the counter goes through both rounds of the generator.
    #[inline(always)]
    fn row_keys(self, row: usize) -> (u32, u32) {
        let key = mix64(self.key.wrapping_add(row as u64));
        (key as u32, (key >> 32) as u32)
    }

    /// 1 for the elements of a row that are kept, from column `col` on, and 0 for the others.
    #[inline(always)]
    pub(crate) fn fill<T: Float>(self, row: usize, col: usize, kept: &mut [T]) {
        let keys = self.row_keys(row);
        for (j, kept) in kept.iter_mut().enumerate() {
            *kept = if self.keeps_with(keys, col + j) { T::ONE } else { T::ZERO };
        }
    }

    #[inline(always)]
    fn keeps_with(self, (first, second): (u32, u32), col: usize) -> bool {
        let col = (col as u32).wrapping_add(self.first_col);
        u64::from(mix32(mix32(col ^ first).wrapping_add(second))) >= self.threshold
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014), on the next state.
#[inline(always)]
fn mix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A 32-bit permutation of low bias: "lowbias32" of Wellons, "Prospecting for hash functions".
#[inline(always)]
fn mix32(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// `x * scale` where the mask keeps an element, else 0, in place. The rows of `x`, which are
/// contiguous, are rows `first_row` and following of the masked matrix.
#[inline(always)]
pub(crate) fn dropout<T: Float>(
    mask: DropoutMask,
    first_row: usize,
    scale: T,
    x: &mut MatMut<'_, T>,
) {
    for i in 0..x.rows() {
        let keys = mask.row_keys(first_row + i);
        let row = x.row_mut(i).expect("contiguous rows");
        for (j, value) in row.iter_mut().enumerate() {
            *value = if mask.keeps_with(keys, j) { *value * scale } else { T::ZERO };
        }
    }
}
