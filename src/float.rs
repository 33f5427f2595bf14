//! The scalar arithmetic that the crate needs from an element type.

use std::{
    fmt::{Debug, Display},
    ops::{Add, AddAssign, Div, Mul, Neg, Sub},
};

/// `f32` or `f64`: the operations that views, normalization and reference code need.
///
/// Sealed, because kernels exist for these two types only.
pub trait Float:
    sealed::Sealed
    + bytemuck::Pod
    + Default
    + PartialOrd
    + Debug
    + Display
    + Send
    + Sync
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The type's name: "f32" or "f64".
    const NAME: &'static str;

    /// The nearest value.
    fn from_f64(value: f64) -> Self;
    /// The same value in double precision.
    fn to_f64(self) -> f64;
    /// `self * a + b`, rounded once, on every machine.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// Whether it is neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// Square root.
    fn sqrt(self) -> Self;
    /// e to the power of `self`, with the same bits on every platform.
    fn exp(self) -> Self;
    /// Natural logarithm, with the same bits on every platform.
    fn ln(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;

    /// 0 if `self < 0`, else `self`, as every kernel computes it: NaN stays NaN.
    #[inline(always)]
    fn relu(self) -> Self {
        if self < Self::ZERO { Self::ZERO } else { self }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

macro_rules! impl_float {
    ($($t:ident, $exp:ident, $ln:ident;)*) => {$(
        impl Float for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NAME: &'static str = stringify!($t);

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }
            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                $t::mul_add(self, a, b)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                $t::is_finite(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                libm::$exp(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                libm::$ln(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $t::abs(self)
            }
        }
    )*};
}

impl_float! {
    f32, expf, logf;
    f64, exp, log;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A FNV-1a hash of the bits of numbers.
    fn hash(values: impl Iterator<Item = u64>) -> u64 {
        values.flat_map(u64::to_le_bytes).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    }

    /// The same on every platform: no function of the system's library is used.
    #[test]
    fn functions_have_the_bits_that_they_had() {
        let places = || (0..4000).map(|i| (f64::from(i) - 2000.0) / 23.0);
        let exp = hash(places().map(|x| Float::exp(x).to_bits()));
        let exp_f32 = hash(places().map(|x| u64::from(Float::exp(x as f32).to_bits())));
        let ln = hash(places().map(|x| Float::ln(x.abs() + 1e-3).to_bits()));
        let ln_f32 = hash(places().map(|x| u64::from(Float::ln(x.abs() as f32 + 1e-3).to_bits())));
        assert_eq!(
            [exp, exp_f32, ln, ln_f32],
            [
                10_771_638_011_029_256_760,
                18_387_253_094_043_983_551,
                7_165_595_312_694_347_555,
                7_895_256_868_816_762_615
            ]
        );
    }

    #[test]
    fn functions_are_close_to_those_of_the_system() {
        for i in 0..4000 {
            let x = (f64::from(i) - 2000.0) / 23.0;
            assert!((Float::exp(x) / x.exp() - 1.0).abs() < 1e-15, "exp({x})");
            let y = x.abs() + 1e-3;
            assert!((Float::ln(y) - y.ln()).abs() < 1e-15 * (1.0 + y.ln().abs()), "ln({y})");
        }
    }
}
