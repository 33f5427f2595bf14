//! Element-wise work, and the reductions, each with one fixed order of additions.

use crate::{float::Float, matrix::MatMut, simd::Isa};

/// Partial sums of [`sum_of_squares`]: element i goes to sum i mod 16, whatever the vector width.
const SUMS: usize = 16;

/// `out = max(x, 0)`.
///
/// # Safety
/// `x` and `out` are equally long.
#[inline(always)]
pub(crate) unsafe fn relu<S: Isa<T>, T: Float>(isa: S, x: &[T], out: &mut [T]) {
    let mut at = 0;
    while at < x.len() {
        let count = S::LANES.min(x.len() - at);
        // SAFETY: `count` elements are left in both slices.
        unsafe {
            isa.store_up_to(
                out.as_mut_ptr().add(at),
                isa.relu(isa.load_up_to(x.as_ptr().add(at), count)),
                count,
            )
        };
        at += S::LANES;
    }
}

/// `x` where `gate > 0`, else 0, in place.
///
/// # Safety
/// `gate` and `x` are equally long.
#[inline(always)]
pub(crate) unsafe fn gate<S: Isa<T>, T: Float>(isa: S, gate: &[T], x: &mut [T]) {
    let mut at = 0;
    while at < x.len() {
        let count = S::LANES.min(x.len() - at);
        // SAFETY: `count` elements are left in both slices.
        unsafe {
            let passed = isa.gate(
                isa.load_up_to(x.as_ptr().add(at), count),
                isa.load_up_to(gate.as_ptr().add(at), count),
            );
            isa.store_up_to(x.as_mut_ptr().add(at), passed, count);
        }
        at += S::LANES;
    }
}

/// `y = factor * x + y`, each element one multiply-add.
///
/// # Safety
/// `x` and `y` are equally long.
#[inline(always)]
pub(crate) unsafe fn add_scaled<S: Isa<T>, T: Float>(isa: S, factor: T, x: &[T], y: &mut [T]) {
    let factor = isa.splat(factor);
    let mut at = 0;
    while at < y.len() {
        let count = S::LANES.min(y.len() - at);
        // SAFETY: `count` elements are left in both slices.
        unsafe {
            let sum = isa.mul_add(
                factor,
                isa.load_up_to(x.as_ptr().add(at), count),
                isa.load_up_to(y.as_ptr().add(at), count),
            );
            isa.store_up_to(y.as_mut_ptr().add(at), sum, count);
        }
        at += S::LANES;
    }
}

/// Sum of squares in one fixed order: element i is added to partial sum i mod 16, then
/// neighbouring partial sums are added pairwise until one is left.
///
/// # Safety
/// None beyond the instruction set.
#[inline(always)]
pub(crate) unsafe fn sum_of_squares<S: Isa<T>, T: Float>(isa: S, x: &[T]) -> T {
    let zero = isa.splat(T::ZERO);
    // As many vectors as make up SUMS lanes; 4 is the number for the narrowest set.
    let vectors = SUMS / S::LANES;
    let mut sums = [zero; 4];
    let mut at = 0;
    while at < x.len() {
        for sum in &mut sums[..vectors] {
            if at < x.len() {
                let count = S::LANES.min(x.len() - at);
                // SAFETY: `count` elements are left; lanes beyond them are 0.
                let value = unsafe { isa.load_up_to(x.as_ptr().add(at), count) };
                *sum = isa.mul_add(value, value, *sum);
                at += S::LANES;
            }
        }
    }
    let mut partial = [T::ZERO; SUMS];
    for (v, &sum) in sums[..vectors].iter().enumerate() {
        // SAFETY: `vectors * LANES == SUMS`.
        unsafe { isa.store(partial.as_mut_ptr().add(v * S::LANES), sum) };
    }
    let mut len = SUMS;
    while len > 1 {
        len /= 2;
        for i in 0..len {
            partial[i] = partial[2 * i] + partial[2 * i + 1];
        }
    }
    partial[0]
}

/// Which elements of a matrix dropout keeps: a pure function of what the mask was made from, of
/// the row and of the column, so that it is never stored and does not depend on threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutMask {
    key: u64,
    /// Elements whose random 32-bit number is below it are dropped.
    threshold: u64,
}

impl DropoutMask {
    /// A mask that drops with `probability`, for one layer at one step.
    pub fn new(probability: f64, seed: u64, step: u64, layer: u64) -> Self {
        let key = mix64(mix64(mix64(seed).wrapping_add(step)).wrapping_add(layer));
        let threshold = (probability * (1u64 << 32) as f64) as u64;
        Self { key, threshold }
    }

    /// Whether element (`row`, `col`) is kept.
    pub fn keeps(self, row: usize, col: usize) -> bool {
        self.keeps_with(self.row_keys(row), col)
    }

    /// The mask of row `first` and following, as a mask of its own.
    pub(crate) fn below(self, first: usize) -> Self {
        Self { key: self.key.wrapping_add(first as u64), ..self }
    }

    /// Keys of one row: the counter goes through both rounds of the generator.
    #[inline(always)]
    fn row_keys(self, row: usize) -> (u32, u32) {
        let key = mix64(self.key.wrapping_add(row as u64));
        (key as u32, (key >> 32) as u32)
    }

    /// 1 for the elements of a row that are kept, from column `first_col` on, and 0 for the others.
    #[inline(always)]
    pub(crate) fn fill<T: Float>(self, row: usize, first_col: usize, kept: &mut [T]) {
        let keys = self.row_keys(row);
        for (j, kept) in kept.iter_mut().enumerate() {
            *kept = if self.keeps_with(keys, first_col + j) { T::ONE } else { T::ZERO };
        }
    }

    #[inline(always)]
    fn keeps_with(self, (first, second): (u32, u32), col: usize) -> bool {
        u64::from(mix32(mix32(col as u32 ^ first).wrapping_add(second))) >= self.threshold
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014), on the next state.
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
