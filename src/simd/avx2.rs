//! AVX2 with fused multiply-add: 32-byte vectors. Needs `avx2` and `fma`.

use std::arch::x86_64::*;

use super::Isa;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The proof, if the CPU has AVX2 and FMA.
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }

    /// For functions that are compiled for the instruction set: the compiler lets no others call it
    /// outside of `unsafe`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(crate) fn new() -> Self {
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
        $store:ident, $store_first:ident, $add:ident, $mul:ident, $div:ident, $sqrt:ident, $fmadd:ident, $max:ident,
        $min:ident, $cmp:ident, $and:ident, $blend:ident, $shift:ident, $to_bits:ident, $of_bits:ident,
        $transpose:ident, $load_bytes:ident
    ) => {
        // In all methods, SAFETY of the intrinsics: `self` proves that the CPU has AVX2 and FMA.
        // Masked-off lanes of loads and stores are not accessed.
        // SAFETY: a value comes from detection, or from code that may only run where the CPU has
        // the set.
        unsafe impl Isa<$t> for Avx2 {
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
            unsafe fn load_bytes(self, from: *const u8) -> $vector {
                // SAFETY: see above; the caller vouches for the bytes.
                unsafe { $load_bytes(from) }
            }
            #[inline(always)]
            fn prefetch(self, address: *const $t) {
                // SAFETY: a prefetch reads nothing as far as the program can tell, and never faults;
                // the CPU has it, because it has AVX.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $t, vector: $vector) {
                // SAFETY: see above; the caller vouches for the memory.
                unsafe { $store(to, vector) }
            }
            #[inline(always)]
            unsafe fn store_first(self, to: *mut $t, vector: $vector, count: usize) {
                // SAFETY: see above; the caller vouches for the first `count <= LANES` elements.
                unsafe { $store_first(to, vector, count) }
            }
            #[inline(always)]
            fn transpose(self, square: &mut [$vector]) {
                // SAFETY: see above.
                unsafe { $transpose(square.try_into().expect("a square of vectors")) }
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
            fn div(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $div(a, b) }
            }
            #[inline(always)]
            fn sqrt(self, a: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $sqrt(a) }
            }
            #[inline(always)]
            fn mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $fmadd(a, b, c) }
            }
            #[inline(always)]
            fn max(self, a: $vector, b: $vector) -> $vector {
                // The instruction has the second operand where one is NaN or both are zeros.
                // SAFETY: see above.
                unsafe { $max(a, b) }
            }
            #[inline(always)]
            fn min(self, a: $vector, b: $vector) -> $vector {
                // As `max`.
                // SAFETY: see above.
                unsafe { $min(a, b) }
            }
            #[inline(always)]
            fn gate(self, a: $vector, gate: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $and(a, $cmp::<_CMP_GT_OQ>(gate, $splat(0.0))) }
            }
            #[inline(always)]
            fn select(self, gate: $vector, a: $vector, b: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $blend(b, a, $cmp::<_CMP_GT_OQ>(gate, $splat(0.0))) }
            }
            #[inline(always)]
            fn low_bits_as_exponent(self, a: $vector) -> $vector {
                const MANTISSA: i32 = <$t>::MANTISSA_DIGITS as i32 - 1;
                // SAFETY: see above.
                unsafe { $of_bits($shift::<MANTISSA>($to_bits(a))) }
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
    store_first_f32,
    _mm256_add_ps,
    _mm256_mul_ps,
    _mm256_div_ps,
    _mm256_sqrt_ps,
    _mm256_fmadd_ps,
    _mm256_max_ps,
    _mm256_min_ps,
    _mm256_cmp_ps,
    _mm256_and_ps,
    _mm256_blendv_ps,
    _mm256_slli_epi32,
    _mm256_castps_si256,
    _mm256_castsi256_ps,
    transpose_f32,
    load_bytes_f32
);
impl_avx2!(
    f64,
    __m256d,
    4,
    _mm256_set1_pd,
    _mm256_loadu_pd,
    _mm256_maskload_pd,
    _mm256_storeu_pd,
    store_first_f64,
    _mm256_add_pd,
    _mm256_mul_pd,
    _mm256_div_pd,
    _mm256_sqrt_pd,
    _mm256_fmadd_pd,
    _mm256_max_pd,
    _mm256_min_pd,
    _mm256_cmp_pd,
    _mm256_and_pd,
    _mm256_blendv_pd,
    _mm256_slli_epi64,
    _mm256_castpd_si256,
    _mm256_castsi256_pd,
    transpose_f64,
    load_bytes_f64
);

/// Stores the first `count` lanes, in pieces: the instruction with a mask takes a dozen cycles and
/// more on AMD's CPUs.
///
/// # Safety
/// The CPU has `avx`, `count <= 8`, and `to` is valid for writing `count` elements.
#[inline(always)]
unsafe fn store_first_f32(mut to: *mut f32, vector: __m256, count: usize) {
    // SAFETY: the caller vouches for both.
    unsafe {
        if count == 8 {
            return _mm256_storeu_ps(to, vector);
        }
        let mut rest = _mm256_castps256_ps128(vector);
        if count & 4 != 0 {
            _mm_storeu_ps(to, rest);
            rest = _mm256_extractf128_ps::<1>(vector);
            to = to.add(4);
        }
        if count & 2 != 0 {
            _mm_storel_pd(to.cast(), _mm_castps_pd(rest));
            rest = _mm_movehl_ps(rest, rest);
            to = to.add(2);
        }
        if count & 1 != 0 {
            _mm_store_ss(to, rest);
        }
    }
}

/// As [`store_first_f32`].
///
/// # Safety
/// The CPU has `avx`, `count <= 4`, and `to` is valid for writing `count` elements.
#[inline(always)]
unsafe fn store_first_f64(mut to: *mut f64, vector: __m256d, count: usize) {
    // SAFETY: the caller vouches for both.
    unsafe {
        if count == 4 {
            return _mm256_storeu_pd(to, vector);
        }
        let mut rest = _mm256_castpd256_pd128(vector);
        if count & 2 != 0 {
            _mm_storeu_pd(to, rest);
            rest = _mm256_extractf128_pd::<1>(vector);
            to = to.add(2);
        }
        if count & 1 != 0 {
            _mm_store_sd(to, rest);
        }
    }
}

/// Transposes 8 x 8: pairs, then fours within 16-byte halves, then the halves.
///
/// # Safety
/// The CPU has `avx`.
#[inline(always)]
unsafe fn transpose_f32(r: &mut [__m256; 8]) {
    let mut t = *r;
    for i in 0..2 {
        let [a, b, c, d] = [r[4 * i], r[4 * i + 1], r[4 * i + 2], r[4 * i + 3]];
        // SAFETY: the caller vouches for AVX.
        unsafe {
            let ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
            let ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
            let cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
            let cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
            t[4 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low));
            t[4 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low));
            t[4 * i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
            t[4 * i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
        }
    }
    for j in 0..4 {
        // SAFETY: the caller vouches for AVX.
        unsafe {
            r[j] = _mm256_permute2f128_ps::<0x20>(t[j], t[4 + j]);
            r[4 + j] = _mm256_permute2f128_ps::<0x31>(t[j], t[4 + j]);
        }
    }
}

/// Transposes 4 x 4: pairs, then the 16-byte halves.
///
/// # Safety
/// The CPU has `avx`.
#[inline(always)]
unsafe fn transpose_f64(r: &mut [__m256d; 4]) {
    // SAFETY: the caller vouches for AVX.
    unsafe {
        let low_01 = _mm256_unpacklo_pd(r[0], r[1]);
        let high_01 = _mm256_unpackhi_pd(r[0], r[1]);
        let low_23 = _mm256_unpacklo_pd(r[2], r[3]);
        let high_23 = _mm256_unpackhi_pd(r[2], r[3]);
        r[0] = _mm256_permute2f128_pd::<0x20>(low_01, low_23);
        r[1] = _mm256_permute2f128_pd::<0x20>(high_01, high_23);
        r[2] = _mm256_permute2f128_pd::<0x31>(low_01, low_23);
        r[3] = _mm256_permute2f128_pd::<0x31>(high_01, high_23);
    }
}

/// # Safety
/// The CPU has `avx2`, and `from` is valid for reading 8 bytes.
#[inline(always)]
unsafe fn load_bytes_f32(from: *const u8) -> __m256 {
    // SAFETY: the caller vouches for both.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
}

/// # Safety
/// The CPU has `avx2`, and `from` is valid for reading 4 bytes.
#[inline(always)]
unsafe fn load_bytes_f64(from: *const u8) -> __m256d {
    // SAFETY: the caller vouches for both.
    unsafe {
        let bytes = from.cast::<i32>().read_unaligned();
        _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes)))
    }
}
