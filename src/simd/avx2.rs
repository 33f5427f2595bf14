//! AVX2 with fused multiply-add: 32-byte vectors. Needs `avx2` and `fma`.

use std::arch::x86_64::*;

use super::Isa;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU has `avx2` and `fma`.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// A sliding window over this array gives the mask of the first `count` lanes.
static MASK_WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The mask of the first `bytes / 4` 32-bit lanes.
///
/// # Safety
/// The CPU has `avx`, and `words <= 8`.
#[inline(always)]
unsafe fn first_words(words: usize) -> __m256i {
    // SAFETY: the window of 8 words starts at 8 - words, which is inside the 16-word array.
    unsafe { _mm256_loadu_si256(MASK_WINDOW.as_ptr().add(8 - words).cast()) }
}

macro_rules! impl_avx2 {
    (
        $t:ident, $vector:ident, $lanes:literal, $splat:ident, $load:ident, $mask_load:ident,
        $store:ident, $mask_store:ident, $add:ident, $mul:ident, $fmadd:ident, $max:ident,
        $cmp:ident, $and:ident
    ) => {
        // In all methods, SAFETY of the intrinsics: `self` proves that the CPU has AVX2 and FMA.
        // Masked-off lanes of loads and stores are not accessed.
        impl Isa<$t> for Avx2 {
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
                // SAFETY: see above; the caller vouches for the first `count <= LANES` elements.
                unsafe { $mask_load(from, first_words(count * (8 / $lanes))) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $t, vector: $vector) {
                // SAFETY: see above; the caller vouches for the memory.
                unsafe { $store(to, vector) }
            }
            #[inline(always)]
            unsafe fn store_first(self, to: *mut $t, vector: $vector, count: usize) {
                // SAFETY: see above; the caller vouches for the first `count <= LANES` elements.
                unsafe { $mask_store(to, first_words(count * (8 / $lanes)), vector) }
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
                unsafe { $and(a, $cmp::<_CMP_GT_OQ>(gate, $splat(0.0))) }
            }
        }
    };
}

impl_avx2!(
    f32,
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_maskload_ps,
    _mm256_storeu_ps,
    _mm256_maskstore_ps,
    _mm256_add_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps,
    _mm256_max_ps,
    _mm256_cmp_ps,
    _mm256_and_ps
);
impl_avx2!(
    f64,
    __m256d,
    4,
    _mm256_set1_pd,
    _mm256_loadu_pd,
    _mm256_maskload_pd,
    _mm256_storeu_pd,
    _mm256_maskstore_pd,
    _mm256_add_pd,
    _mm256_mul_pd,
    _mm256_fmadd_pd,
    _mm256_max_pd,
    _mm256_cmp_pd,
    _mm256_and_pd
);
