//! AVX-512: 64-byte vectors with masks. Needs `avx512f` alone.

use std::arch::x86_64::*;

use super::Isa;

/// Proof that the CPU has AVX-512F.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU has `avx512f`.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

macro_rules! impl_avx512 {
    (
        $t:ident, $vector:ident, $mask:ident, $lanes:literal, $splat:ident, $load:ident,
        $maskz_load:ident, $store:ident, $mask_store:ident, $add:ident, $mul:ident, $fmadd:ident,
        $max:ident, $cmp:ident, $maskz_mov:ident
    ) => {
        // In all methods, SAFETY of the intrinsics: `self` proves that the CPU has AVX-512F.
        // Masked-off lanes of loads and stores are not accessed.
        impl Isa<$t> for Avx512 {
            type Vector = $vector;
            const LANES: usize = $lanes;

            #[inline(always)]
            fn splat(self, value: $t) -> $vector {
                // SAFETY: see above.
                unsafe { $splat(value) }
            }
            #[inline(always)]
            unsafe fn load(self, from: *const $t) -> $vector {
                // SAFETY: see above; the caller vouches for the memory.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn load_first(self, from: *const $t, count: usize) -> $vector {
                // SAFETY: see above; the caller vouches for the first `count` elements.
                unsafe { $maskz_load(((1u32 << count) - 1) as $mask, from) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $t, vector: $vector) {
                // SAFETY: see above; the caller vouches for the memory.
                unsafe { $store(to, vector) }
            }
            #[inline(always)]
            unsafe fn store_first(self, to: *mut $t, vector: $vector, count: usize) {
                // SAFETY: see above; the caller vouches for the first `count` elements.
                unsafe { $mask_store(to, ((1u32 << count) - 1) as $mask, vector) }
            }
            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $add(a, b) }
            }
            #[inline(always)]
            fn mul(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $mul(a, b) }
            }
            #[inline(always)]
            fn mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $fmadd(a, b, c) }
            }
            #[inline(always)]
            fn relu(self, a: $vector) -> $vector {
                // `max` returns its second operand where either is NaN or both are zero.
                // SAFETY: see above.
                unsafe { $max($splat(0.0), a) }
            }
            #[inline(always)]
            fn gate(self, a: $vector, gate: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $maskz_mov($cmp::<_CMP_GT_OQ>(gate, $splat(0.0)), a) }
            }
        }
    };
}

impl_avx512!(
    f32,
    __m512,
    __mmask16,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_maskz_loadu_ps,
    _mm512_storeu_ps,
    _mm512_mask_storeu_ps,
    _mm512_add_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    _mm512_max_ps,
    _mm512_cmp_ps_mask,
    _mm512_maskz_mov_ps
);
impl_avx512!(
    f64,
    __m512d,
    __mmask8,
    8,
    _mm512_set1_pd,
    _mm512_loadu_pd,
    _mm512_maskz_loadu_pd,
    _mm512_storeu_pd,
    _mm512_mask_storeu_pd,
    _mm512_add_pd,
    _mm512_mul_pd,
    _mm512_fmadd_pd,
    _mm512_max_pd,
    _mm512_cmp_pd_mask,
    _mm512_maskz_mov_pd
);
