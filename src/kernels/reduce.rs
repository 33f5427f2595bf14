//! Reductions, each with one fixed order of additions.

use crate::{
    float::Float,
    simd::{Isa, Work},
};

/// Partial sums of [`SumOfSquares`]: element i goes to sum i mod 16, whatever the vector width.
const SUMS: usize = 16;

/// Sum of squares in one fixed order: element i is added to partial sum i mod 16, then
/// neighbouring partial sums are added pairwise until one is left.
pub(crate) struct SumOfSquares<'a, T>(pub(crate) &'a [T]);

impl<T: Float> Work<T> for SumOfSquares<'_, T> {
    type Output = T;

    #[inline(always)]
    fn run<S: Isa<T>>(self, isa: S) -> T {
        let Self(x) = self;
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
}
