//! AVX-512: 64-byte vectors with masks. Needs `avx512f` alone; or `avx512bf16` and what comes with it,
//! whose vectors are the same.

use std::arch::x86_64::*;

use super::Isa;

/// Proof that the CPU has AVX-512F.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The proof, if the CPU has AVX-512F.
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")).then_some(Self(()))
    }

    /// For functions that are compiled for the instruction set: the compiler lets no others call it
    /// outside of `unsafe`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// Proof that the CPU has AVX512-BF16, and AVX-512F, BW and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(());

impl Avx512Bf16 {
    /// The proof, if the CPU has them.
    pub(crate) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16");
        all.then_some(Self(()))
    }

    /// For functions that are compiled for the instruction set: the compiler lets no others call it
    /// outside of `unsafe`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(crate) fn new() -> Self {
        Self(())
    }
}

macro_rules! impl_avx512 {
    (
        $token:ident, $t:ident, $vector:ident, $mask:ident, $lanes:literal, $splat:ident, $load:ident,
        $maskz_load:ident, $store:ident, $mask_store:ident, $add:ident, $mul:ident, $div:ident, $sqrt:ident, $fmadd:ident,
        $max:ident, $min:ident, $cmp:ident, $maskz_mov:ident, $blend:ident, $shift:ident, $to_bits:ident,
        $of_bits:ident, $transpose:ident, $load_bytes:ident
    ) => {
        // In all methods, SAFETY of the intrinsics: `self` proves that the CPU has AVX-512F.
        // Masked-off lanes of loads and stores are not accessed.
        // SAFETY: a value comes from detection, or from code that may only run where the CPU has
        // the set.
        unsafe impl Isa<$t> for $token {
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
                // SAFETY: see above; the caller vouches for the first `count` elements.
                unsafe { $mask_store(to, ((1u32 << count) - 1) as $mask, vector) }
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
                unsafe { $maskz_mov($cmp::<_CMP_GT_OQ>(gate, $splat(0.0)), a) }
            }
            #[inline(always)]
            fn select(self, gate: $vector, a: $vector, b: $vector) -> $vector {
                // SAFETY: see above.
                unsafe { $blend($cmp::<_CMP_GT_OQ>(gate, $splat(0.0)), b, a) }
            }
            #[inline(always)]
            fn low_bits_as_exponent(self, a: $vector) -> $vector {
                const MANTISSA: u32 = <$t>::MANTISSA_DIGITS - 1;
                // SAFETY: see above.
                unsafe { $of_bits($shift::<MANTISSA>($to_bits(a))) }
            }
        }
    };
}

macro_rules! impl_avx512_f32 {
    ($($token:ident),*) => {$(
        impl_avx512!(
            $token,
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
            _mm512_div_ps,
            _mm512_sqrt_ps,
            _mm512_fmadd_ps,
            _mm512_max_ps,
            _mm512_min_ps,
            _mm512_cmp_ps_mask,
            _mm512_maskz_mov_ps,
            _mm512_mask_blend_ps,
            _mm512_slli_epi32,
            _mm512_castps_si512,
            _mm512_castsi512_ps,
            transpose_f32,
            load_bytes_f32
        );
    )*};
}

impl_avx512_f32!(Avx512, Avx512Bf16);
impl_avx512!(
    Avx512,
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
    _mm512_div_pd,
    _mm512_sqrt_pd,
    _mm512_fmadd_pd,
    _mm512_max_pd,
    _mm512_min_pd,
    _mm512_cmp_pd_mask,
    _mm512_maskz_mov_pd,
    _mm512_mask_blend_pd,
    _mm512_slli_epi64,
    _mm512_castpd_si512,
    _mm512_castsi512_pd,
    transpose_f64,
    load_bytes_f64
);

/// Transposes 16 x 16: pairs, then fours within 16-byte quarters, then the quarters.
///
/// # Safety
/// The CPU has `avx512f`.
#[inline(always)]
unsafe fn transpose_f32(r: &mut [__m512; 16]) {
    let mut t = *r;
    for i in 0..4 {
        let [a, b, c, d] = [r[4 * i], r[4 * i + 1], r[4 * i + 2], r[4 * i + 3]];
        // SAFETY: the caller vouches for AVX-512F.
        unsafe {
            let ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
            let ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
            let cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
            let cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
            t[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low));
            t[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low));
            t[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
            t[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
        }
    }
    for j in 0..4 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe {
            let low_01 = _mm512_shuffle_f32x4::<0x44>(t[j], t[4 + j]);
            let high_01 = _mm512_shuffle_f32x4::<0xee>(t[j], t[4 + j]);
            let low_23 = _mm512_shuffle_f32x4::<0x44>(t[8 + j], t[12 + j]);
            let high_23 = _mm512_shuffle_f32x4::<0xee>(t[8 + j], t[12 + j]);
            r[j] = _mm512_shuffle_f32x4::<0x88>(low_01, low_23);
            r[4 + j] = _mm512_shuffle_f32x4::<0xdd>(low_01, low_23);
            r[8 + j] = _mm512_shuffle_f32x4::<0x88>(high_01, high_23);
            r[12 + j] = _mm512_shuffle_f32x4::<0xdd>(high_01, high_23);
        }
    }
}

/// Transposes 8 x 8: pairs, then the 16-byte quarters.
///
/// # Safety
/// The CPU has `avx512f`.
#[inline(always)]
unsafe fn transpose_f64(r: &mut [__m512d; 8]) {
    let mut t = *r;
    for i in 0..4 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe {
            t[2 * i] = _mm512_unpacklo_pd(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_pd(r[2 * i], r[2 * i + 1]);
        }
    }
    for j in 0..2 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe {
            let low_01 = _mm512_shuffle_f64x2::<0x44>(t[j], t[2 + j]);
            let high_01 = _mm512_shuffle_f64x2::<0xee>(t[j], t[2 + j]);
            let low_23 = _mm512_shuffle_f64x2::<0x44>(t[4 + j], t[6 + j]);
            let high_23 = _mm512_shuffle_f64x2::<0xee>(t[4 + j], t[6 + j]);
            r[j] = _mm512_shuffle_f64x2::<0x88>(low_01, low_23);
            r[2 + j] = _mm512_shuffle_f64x2::<0xdd>(low_01, low_23);
            r[4 + j] = _mm512_shuffle_f64x2::<0x88>(high_01, high_23);
            r[6 + j] = _mm512_shuffle_f64x2::<0xdd>(high_01, high_23);
        }
    }
}

/// # Safety
/// The CPU has `avx512f`, and `from` is valid for reading 16 bytes.
#[inline(always)]
unsafe fn load_bytes_f32(from: *const u8) -> __m512 {
    // SAFETY: the caller vouches for both.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
}

/// # Safety
/// The CPU has `avx512f`, and `from` is valid for reading 8 bytes.
#[inline(always)]
unsafe fn load_bytes_f64(from: *const u8) -> __m512d {
    // SAFETY: the caller vouches for both; AVX-512F comes with AVX2.
    unsafe { _mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
}
