//! Vectors of one lane: the scalar definition of what is written for any instruction set, for
//! tests.

use super::Isa;

/// Every CPU has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar {
    /// Whether a multiply-add rounds once.
    pub(crate) fused: bool,
}

macro_rules! impl_scalar {
    ($($t:ident),*) => {$(
        // SAFETY: every CPU has the set; memory is touched as the methods say.
        unsafe impl Isa<$t> for Scalar {
            type Vector = $t;
            const LANES: usize = 1;

            fn splat(self, value: $t) -> $t {
                value
            }
            unsafe fn load(self, from: *const $t) -> $t {
                // SAFETY: the caller vouches for the element.
                unsafe { *from }
            }
            unsafe fn load_first(self, from: *const $t, count: usize) -> $t {
                // SAFETY: the caller vouches for `count` elements.
                if count == 0 { 0.0 } else { unsafe { *from } }
            }
            unsafe fn load_bytes(self, from: *const u8) -> $t {
                // SAFETY: the caller vouches for the byte.
                unsafe { *from }.into()
            }
            fn prefetch(self, _address: *const $t) {}
            unsafe fn store(self, to: *mut $t, vector: $t) {
                // SAFETY: the caller vouches for the element.
                unsafe { *to = vector }
            }
            unsafe fn store_first(self, to: *mut $t, vector: $t, count: usize) {
                if count > 0 {
                    // SAFETY: the caller vouches for `count` elements.
                    unsafe { *to = vector }
                }
            }
            fn transpose(self, _square: &mut [$t]) {}
            fn add(self, a: $t, b: $t) -> $t {
                a + b
            }
            fn mul(self, a: $t, b: $t) -> $t {
                a * b
            }
            fn div(self, a: $t, b: $t) -> $t {
                a / b
            }
            fn sqrt(self, a: $t) -> $t {
                a.sqrt()
            }
            fn mul_add(self, a: $t, b: $t, c: $t) -> $t {
                if self.fused { a.mul_add(b, c) } else { a * b + c }
            }
            fn max(self, a: $t, b: $t) -> $t {
                if a > b { a } else { b }
            }
            fn min(self, a: $t, b: $t) -> $t {
                if a < b { a } else { b }
            }
            fn gate(self, a: $t, gate: $t) -> $t {
                if gate > 0.0 { a } else { 0.0 }
            }
            fn select(self, gate: $t, a: $t, b: $t) -> $t {
                if gate > 0.0 { a } else { b }
            }
            fn low_bits_as_exponent(self, a: $t) -> $t {
                $t::from_bits(a.to_bits() << ($t::MANTISSA_DIGITS - 1))
            }
        }
    )*};
}

impl_scalar!(f32, f64);
