//! The speed limit: multiply-adds on registers alone.

use std::hint::black_box;

use crate::{
    float::Float,
    kernels::product::{MultiplyAdd, PanelElement, Types},
    simd::MAX_LANES,
};

/// Runs `CHAINS` independent chains of `steps` multiply-adds on whole vectors and returns a number
/// that depends on all of them.
///
/// `CHAINS` is at least latency times units (4 x 2 on today's x86 cores), and few enough for the
/// chains and two constants to stay in registers.
///
/// # Safety
/// None beyond the instruction set.
#[inline(always)]
pub(crate) unsafe fn multiply_adds<S: MultiplyAdd<P>, P: Types, const CHAINS: usize>(
    isa: S,
    steps: usize,
) -> P::Sum {
    let number = |value| P::Sum::from_f64(value);
    let left = black_box([P::Left::nearest(number(0.5)); MAX_STEP]);
    let right = black_box([P::Right::nearest(number(1.0)); MAX_STEP * MAX_LANES]);
    // SAFETY: no set takes more than MAX_STEP steps and MAX_LANES lanes at a time.
    let (a, b) = unsafe { (isa.splat_left(left.as_ptr()), isa.load_right(right.as_ptr())) };
    let mut chains = [isa.splat(black_box(number(1.0))); CHAINS];
    for _ in 0..steps {
        for chain in &mut chains {
            *chain = isa.accumulate(a, b, *chain);
        }
    }
    let sum = chains.into_iter().fold(isa.splat(number(0.0)), |a, b| isa.add(a, b));
    let mut lanes = [number(0.0); MAX_LANES];
    // SAFETY: no vector has more than MAX_LANES lanes.
    unsafe { isa.store(lanes.as_mut_ptr(), sum) };
    lanes[0]
}

/// Steps of k that any set takes at a time, at most.
const MAX_STEP: usize = 2;
