//! f32 with denormal numbers flushed to zero, in software: on vectors that any CPU computes with the
//! bits of x86-64's flushing (`Denormals::Flush`) and of AVX512-BF16. It is exact, and slow.
//!
//! Operands that are denormal become zeros of their sign. A result is rounded to 24 bits as if the
//! exponent had no lower end; what is then below the smallest normal number becomes a zero.

use super::Isa;

/// Every CPU has this instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Flushed(());

impl Flushed {
    /// For any function.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// The bits of eight numbers. Numbers would do, but for the pairs of bf16 that vectors hold too:
/// some targets make signaling NaN quiet where they copy a number.
#[derive(Clone, Copy)]
pub(crate) struct Lanes(pub(super) [u32; LANES]);

pub(super) const LANES: usize = 8;

const SIGN: u32 = 1 << 31;
const EXPONENT: u32 = 0x7f80_0000;

/// The bits of a number, or of a zero of its sign if it is denormal.
#[inline(always)]
pub(super) fn flush_bits(bits: u32) -> u32 {
    if bits & EXPONENT == 0 { bits & SIGN } else { bits }
}

/// The number, or a zero of its sign if it is denormal.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    f32::from_bits(flush_bits(x.to_bits()))
}

/// The nearest number, flushed.
#[inline(always)]
fn round(x: f64) -> f32 {
    const LEAST: f64 = f32::MIN_POSITIVE as f64;
    // Half a unit in the last of 24 bits below the smallest normal number: from there on up the
    // rounding reaches it, ties being even.
    const ROUNDS_UP: f64 = LEAST - LEAST / (1 << 25) as f64;
    let size = x.abs();
    if size < ROUNDS_UP {
        0f32.copysign(x as f32)
    } else if size < LEAST {
        f32::MIN_POSITIVE.copysign(x as f32)
    } else {
        x as f32
    }
}

/// `a + b` of numbers that a product or a sum of f32 are, for [`round`]: where the sum of f64 is
/// inexact its last bit is odd, so that rounding once more has the result of rounding once
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using
/// rounding to odd", 2008).
#[inline(always)]
fn odd_sum(a: f64, b: f64) -> f64 {
    let sum = a + b;
    // The exact error of the sum (Knuth's TwoSum).
    let of_b = sum - a;
    let error = (a - (sum - of_b)) + (b - of_b);
    let bits = sum.to_bits();
    if error == 0.0 || error.is_nan() || bits & 1 == 1 {
        return sum;
    }
    let away = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if away { bits + 1 } else { bits - 1 })
}

/// `a * b + c`, rounded once.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    let [a, b, c] = [a, b, c].map(|x| f64::from(flush(x)));
    // 48 bits: exact.
    round(odd_sum(a * b, c))
}

/// `a * b`.
#[inline(always)]
pub(crate) fn mul(a: f32, b: f32) -> f32 {
    round(f64::from(flush(a)) * f64::from(flush(b)))
}

impl Lanes {
    /// The last lane.
    #[cfg(test)]
    pub(crate) fn last(self) -> f32 {
        f32::from_bits(self.0[LANES - 1])
    }

    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self(self.0.map(|bits| f(f32::from_bits(flush_bits(bits))).to_bits()))
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut lanes = self.0;
        for (a, b) in lanes.iter_mut().zip(other.0) {
            let (x, y) = (f32::from_bits(flush_bits(*a)), f32::from_bits(flush_bits(b)));
            *a = f(x, y).to_bits();
        }
        Self(lanes)
    }
}

// SAFETY: every CPU has the instruction set; memory is touched as the methods say.
unsafe impl Isa<f32> for Flushed {
    type Vector = Lanes;
    const LANES: usize = LANES;

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        Lanes([value.to_bits(); LANES])
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Lanes {
        // SAFETY: the caller vouches for LANES elements; arrays need no more alignment than one.
        Lanes(unsafe { from.cast::<[u32; LANES]>().read() })
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> Lanes {
        let mut lanes = [0; LANES];
        // SAFETY: the caller vouches for the first `count <= LANES` elements.
        unsafe { from.cast::<u32>().copy_to_nonoverlapping(lanes.as_mut_ptr(), count) };
        Lanes(lanes)
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Lanes {
        // SAFETY: the caller vouches for LANES bytes.
        let bytes = unsafe { from.cast::<[u8; LANES]>().read() };
        Lanes(bytes.map(|byte| f32::from(byte).to_bits()))
    }
    #[inline(always)]
    fn prefetch(self, _address: *const f32) {}
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: Lanes) {
        // SAFETY: as for `load`.
        unsafe { to.cast::<[u32; LANES]>().write(vector.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, vector: Lanes, count: usize) {
        // SAFETY: the caller vouches for the first `count <= LANES` elements.
        unsafe { to.cast::<u32>().copy_from_nonoverlapping(vector.0.as_ptr(), count) }
    }
    #[inline(always)]
    fn transpose(self, square: &mut [Lanes]) {
        for i in 0..LANES {
            for j in 0..i {
                let upper = square[j].0[i];
                square[j].0[i] = square[i].0[j];
                square[i].0[j] = upper;
            }
        }
    }
    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        a.zip(b, |a, b| round(odd_sum(a.into(), b.into())))
    }
    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        a.zip(b, mul)
    }
    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        // f64 has more than twice the bits of f32: rounding twice is rounding once.
        a.zip(b, |a, b| round(f64::from(a) / f64::from(b)))
    }
    #[inline(always)]
    fn sqrt(self, a: Lanes) -> Lanes {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        let mut lanes = c.0;
        for ((c, a), b) in lanes.iter_mut().zip(a.0).zip(b.0) {
            *c = mul_add(f32::from_bits(a), f32::from_bits(b), f32::from_bits(*c)).to_bits();
        }
        Lanes(lanes)
    }
    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        a.zip(b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        a.zip(b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn gate(self, a: Lanes, gate: Lanes) -> Lanes {
        a.zip(gate, |a, gate| if gate > 0.0 { a } else { 0.0 })
    }
    #[inline(always)]
    fn select(self, gate: Lanes, a: Lanes, b: Lanes) -> Lanes {
        let mut lanes = b.0;
        for ((lane, a), gate) in lanes.iter_mut().zip(a.0).zip(gate.0) {
            *lane = if f32::from_bits(flush_bits(gate)) > 0.0 { a } else { *lane };
        }
        Lanes(lanes)
    }
    #[inline(always)]
    fn low_bits_as_exponent(self, a: Lanes) -> Lanes {
        Lanes(a.0.map(|bits| bits << (f32::MANTISSA_DIGITS - 1)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `sum`, then the products of the upper halves and of the lower ones, by its bits.
    pub(in crate::simd) fn add_products(sum: u32, a: u32, b: u32) -> u32 {
        let halves = |pair: u32| [pair & 0xffff_0000, pair << 16].map(f32::from_bits);
        let (a, b) = (halves(a), halves(b));
        let first = mul_add(a[0], b[0], f32::from_bits(sum));
        mul_add(a[1], b[1], first).to_bits()
    }

    #[test]
    fn results_are_flushed_as_if_they_were_rounded_to_24_bits() {
        let least = f32::MIN_POSITIVE;
        let unit = 2f32.powi(-63);
        // An exact product far below the last bit of `least`, taken from it.
        let less = |units: f32| mul_add(-unit, units * 2f32.powi(-88), least);
        assert_eq!(less(0.99), least, "below half a unit");
        assert_eq!(less(1.0), least, "a tie");
        assert_eq!(less(1.01), 0.0, "above it");
        assert_eq!(less(2.0), 0.0, "which IEEE 754 rounds up");
        assert_eq!(mul_add(unit, 1.01 * 2f32.powi(-88), -least).to_bits(), 1 << 31);
    }

    #[test]
    fn denormal_operands_are_zeros_of_their_sign() {
        let small = f32::from_bits(0x0070_0000);
        assert_eq!(mul(small, 1e30), 0.0);
        assert_eq!(mul(-small, 1e30).to_bits(), 1 << 31);
        assert_eq!(mul_add(1.0, 2.0, small), 2.0);
        assert!(mul(small, f32::INFINITY).is_nan());
    }
}
