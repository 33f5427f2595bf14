//! Element-wise work, and the reductions, each with one fixed order of additions.

use crate::{float::Float, kernels::update::Average, simd::Isa};

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
/// neighboring partial sums are added pairwise until one is left.
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

/// `average = keep average + take x`.
///
/// # Safety
/// `x` and `average` are equally long.
#[inline(always)]
pub(crate) unsafe fn move_average<S: Isa<T>, T: Float>(
    isa: S,
    factors: Average<T>,
    x: &[T],
    average: &mut [T],
) {
    let mut at = 0;
    while at < average.len() {
        let count = S::LANES.min(average.len() - at);
        // SAFETY: `count` elements are left in both slices.
        unsafe {
            let next = factors.next(
                isa,
                isa.load_up_to(average.as_ptr().add(at), count),
                isa.load_up_to(x.as_ptr().add(at), count),
            );
            isa.store_up_to(average.as_mut_ptr().add(at), next, count);
        }
        at += S::LANES;
    }
}
