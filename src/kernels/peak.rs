//! The speed limit: multiply-adds on registers alone.

use std::hint::black_box;

use crate::{float::Float, simd::Isa};

/// Runs `CHAINS` independent chains of `steps` multiply-adds on whole vectors and returns a number
/// that depends on all of them.
///
/// `CHAINS` is at least latency times units (4 x 2 on today's x86 cores), and few enough for the
/// chains and two constants to stay in registers.
///
/// # Safety
/// None beyond the instruction set.
#[inline(always)]
pub(crate) unsafe fn multiply_adds<S: Isa<T>, T: Float, const CHAINS: usize>(
    isa: S,
    steps: usize,
) -> T {
    let factor = isa.splat(black_box(T::from_f64(0.5)));
    let addend = isa.splat(black_box(T::ONE));
    let mut chains = [addend; CHAINS];
    for _ in 0..steps {
        for chain in &mut chains {
            *chain = isa.mul_add(*chain, factor, addend);
        }
    }
    let sum = chains.into_iter().fold(addend, |a, b| isa.add(a, b));
    let mut lanes = [T::ZERO; 16];
    // SAFETY: no vector has more than 16 lanes.
    unsafe { isa.store(lanes.as_mut_ptr(), sum) };
    lanes[0]
}
