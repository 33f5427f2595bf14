//! The portable instruction set over `wide`: 32-byte vectors made of whatever the build's target offers.
//!
//! `wide` picks its instructions at compile time (SSE2, AVX, NEON, WebAssembly or plain scalars),
//! so this instruction set needs no detection and serves every CPU.

use wide::{f32x8, f64x4};

use super::Isa;

/// Every CPU has this instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Portable(());

impl Portable {
    /// For any function.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// Whether `mul_add` rounds once here; where the target has no fused multiply-add it rounds twice.
pub(crate) const FUSED: bool =
    cfg!(any(target_feature = "fma", all(target_arch = "aarch64", target_feature = "neon")));

macro_rules! impl_portable {
    ($t:ident, $vector:ident, $lanes:literal) => {
        // SAFETY: every CPU has the instruction set; memory is touched as the methods say.
        unsafe impl Isa<$t> for Portable {
            type Vector = $vector;
            const LANES: usize = $lanes;

            #[inline(always)]
            fn splat(self, value: $t) -> $vector {
                $vector::splat(value)
            }
            #[inline(always)]
            unsafe fn load(self, from: *const $t) -> $vector {
                // SAFETY: the caller vouches for LANES elements; arrays of them need no more
                // alignment than one.
                $vector::new(unsafe { from.cast::<[$t; $lanes]>().read() })
            }
            #[inline(always)]
            unsafe fn load_first(self, from: *const $t, count: usize) -> $vector {
                let mut lanes = [0.0; $lanes];
                // SAFETY: the caller vouches for the first `count <= LANES` elements.
                unsafe { from.copy_to_nonoverlapping(lanes.as_mut_ptr(), count) };
                $vector::new(lanes)
            }
            #[inline(always)]
            unsafe fn load_bytes(self, from: *const u8) -> $vector {
                // SAFETY: the caller vouches for LANES bytes.
                let bytes = unsafe { from.cast::<[u8; $lanes]>().read() };
                $vector::new(bytes.map(<$t>::from))
            }
            #[inline(always)]
            fn prefetch(self, _address: *const $t) {}
            #[inline(always)]
            unsafe fn store(self, to: *mut $t, vector: $vector) {
                // SAFETY: as for `load`.
                unsafe { to.cast::<[$t; $lanes]>().write(vector.to_array()) }
            }
            #[inline(always)]
            unsafe fn store_first(self, to: *mut $t, vector: $vector, count: usize) {
                // SAFETY: the caller vouches for the first `count <= LANES` elements.
                unsafe { to.copy_from_nonoverlapping(vector.to_array().as_ptr(), count) }
            }
            #[inline(always)]
            fn transpose(self, square: &mut [$vector]) {
                let vectors = <[$vector; $lanes]>::try_from(&*square).expect("a square");
                square.copy_from_slice(&$vector::transpose(vectors));
            }
            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                a + b
            }
            #[inline(always)]
            fn mul(self, a: $vector, b: $vector) -> $vector {
                a * b
            }
            #[inline(always)]
            fn div(self, a: $vector, b: $vector) -> $vector {
                a / b
            }
            #[inline(always)]
            fn sqrt(self, a: $vector) -> $vector {
                a.sqrt()
            }
            #[inline(always)]
            fn mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
                a.mul_add(b, c)
            }
            #[inline(always)]
            fn max(self, a: $vector, b: $vector) -> $vector {
                a.simd_gt(b).select(a, b)
            }
            #[inline(always)]
            fn min(self, a: $vector, b: $vector) -> $vector {
                a.simd_lt(b).select(a, b)
            }
            #[inline(always)]
            fn gate(self, a: $vector, gate: $vector) -> $vector {
                gate.simd_gt($vector::ZERO).select(a, $vector::ZERO)
            }
            #[inline(always)]
            fn select(self, gate: $vector, a: $vector, b: $vector) -> $vector {
                gate.simd_gt($vector::ZERO).select(a, b)
            }
            #[inline(always)]
            fn low_bits_as_exponent(self, a: $vector) -> $vector {
                const MANTISSA: u32 = <$t>::MANTISSA_DIGITS - 1;
                $vector::new(a.to_array().map(|lane| <$t>::from_bits(lane.to_bits() << MANTISSA)))
            }
        }
    };
}

impl_portable!(f32, f32x8, 8);
impl_portable!(f64, f64x4, 4);
