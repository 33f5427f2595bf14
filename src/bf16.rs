//! `Bf16`: numbers of 16 bits with the range of f32.

use std::{cmp::Ordering, fmt};

use bytemuck::{Pod, Zeroable};

/// A bfloat16: the upper half of an f32, so 8 bits of precision and the range of f32.
///
/// It has the layout of a `u16`, so slices of it and of the crate `half`'s `bf16` are cast into each
/// other by `bytemuck::cast_slice`. Everything is computed in f32; see `docs/bf16.md`.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub struct Bf16(u16);

// SAFETY: a `u16`, of which 0 is the number 0.
unsafe impl Zeroable for Bf16 {}
// SAFETY: a `u16` in a transparent struct.
unsafe impl Pod for Bf16 {}

impl Bf16 {
    /// 0.
    pub const ZERO: Self = Self(0);
    /// 1.
    pub const ONE: Self = Self(0x3f80);

    /// The number with these bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Its bits.
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// The nearest number, as the instruction `VCVTNEPS2BF16` has it: ties go to even, denormal
    /// numbers become zeros of their sign, NaN stays NaN and becomes quiet.
    pub const fn from_f32(value: f32) -> Self {
        const EXPONENT: u32 = 0x7f80_0000;
        let bits = value.to_bits();
        let half = if bits & !(1 << 31) > EXPONENT {
            bits >> 16 | 0x40
        } else if bits & EXPONENT == 0 {
            bits >> 16 & 0x8000
        } else {
            (bits + 0x7fff + (bits >> 16 & 1)) >> 16
        };
        Self(half as u16)
    }

    /// The same number; also a denormal one.
    pub const fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }

    /// Whether it is NaN.
    pub const fn is_nan(self) -> bool {
        self.to_f32().is_nan()
    }
}

impl From<Bf16> for f32 {
    fn from(value: Bf16) -> Self {
        value.to_f32()
    }
}

/// As numbers: 0 equals -0, and NaN nothing.
impl PartialEq for Bf16 {
    fn eq(&self, other: &Self) -> bool {
        self.to_f32() == other.to_f32()
    }
}

impl PartialOrd for Bf16 {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.to_f32().partial_cmp(&other.to_f32())
    }
}

impl fmt::Debug for Bf16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_f32(), f)
    }
}

impl fmt::Display for Bf16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_f32(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(bits: u32) -> u16 {
        Bf16::from_f32(f32::from_bits(bits)).to_bits()
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest_and_ties_to_even() {
        for (bits, expected) in [
            (0x3f80_0000, 0x3f80),
            (0x3f80_7fff, 0x3f80),
            (0x3f80_8000, 0x3f80),
            (0x3f80_8001, 0x3f81),
            (0x3f81_8000, 0x3f82),
            (0xbf81_8000, 0xbf82),
            // The largest one and infinity.
            (0x7f7f_7fff, 0x7f7f),
            (0x7f7f_8000, 0x7f80),
            (0xff80_0000, 0xff80),
            // The smallest normal ones.
            (0x0080_0000, 0x0080),
            (0x8080_8000, 0x8080),
        ] {
            assert_eq!(rounded(bits), expected, "{bits:08x}");
        }
    }

    #[test]
    fn denormals_become_zeros_of_their_sign() {
        for (bits, expected) in
            [(0, 0), (1, 0), (0x007f_ffff, 0), (0x8000_0000, 0x8000), (0x807f_ffff, 0x8000)]
        {
            assert_eq!(rounded(bits), expected, "{bits:08x}");
        }
    }

    #[test]
    fn nan_becomes_quiet() {
        for (bits, expected) in [
            (0x7f80_0001, 0x7fc0),
            (0xff80_0001, 0xffc0),
            (0x7fff_ffff, 0x7fff),
            (0x7fa5_8000, 0x7fe5),
        ] {
            assert_eq!(rounded(bits), expected, "{bits:08x}");
        }
    }

    #[test]
    fn all_but_denormals_and_signaling_nan_survive_a_trip() {
        for bits in 0..=u16::MAX {
            let there = Bf16::from_bits(bits).to_f32();
            let denormal = there != 0.0 && there.abs() < f32::MIN_POSITIVE;
            if !there.is_nan() && !denormal {
                assert_eq!(Bf16::from_f32(there).to_bits(), bits);
            }
        }
    }
}
