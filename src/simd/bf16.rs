//! bf16 in vectors of f32: widened, rounded, and in pairs.
//!
//! A vector of pairs has two numbers of bf16 in each lane, the first in the upper half. That is the
//! order in which `vdpbf16ps`, which begins with the odd element of a pair, computes
//! `(sum + first * first') + second * second'`.

use super::{Isa, flushed::Flushed};
use crate::bf16::Bf16;

/// What an instruction set does with bf16.
///
/// All sets round as [`Bf16::from_f32`]. Arithmetic flushes denormal numbers of f32, if the calling
/// thread's setting is [`Denormals::Flush`](super::Denormals::Flush).
///
/// # Safety
/// Loads and stores touch no memory but that which their safety sections name.
pub(crate) unsafe trait Bf16Isa: Isa<f32> {
    /// Pairs, as [`add_products`](Self::add_products) takes them.
    type Operand: Copy;

    /// Pairs that are to be multiplied.
    fn operand(self, pairs: Self::Vector) -> Self::Operand;

    /// `sum`, then the products of the first numbers of pairs, then those of the second: two
    /// multiply-adds, each rounded once.
    fn add_products(self, sum: Self::Vector, a: Self::Operand, b: Self::Operand) -> Self::Vector;

    /// The first `count` numbers from `from` on, widened; the other lanes are 0.
    ///
    /// # Safety
    /// `count <= LANES`, and `from` is valid for reading `count` elements.
    unsafe fn widen(self, from: *const Bf16, count: usize) -> Self::Vector;

    /// Rounds the first `count` lanes, and stores them.
    ///
    /// # Safety
    /// `count <= LANES`, and `to` is valid for writing `count` elements.
    unsafe fn narrow(self, to: *mut Bf16, vector: Self::Vector, count: usize);

    /// Pairs of the lanes of two vectors, rounded.
    fn pair(self, first: Self::Vector, second: Self::Vector) -> Self::Vector;

    /// Pairs of neighboring lanes, rounded: lanes 0 and 1 of `low`, and so on to the last two of
    /// `high`.
    fn pair_neighbors(self, low: Self::Vector, high: Self::Vector) -> Self::Vector;

    /// Pairs of the lanes of two vectors of numbers of bf16.
    fn join(self, first: Self::Vector, second: Self::Vector) -> Self::Vector;

    /// Pairs of neighboring elements, `count` of them from `from` on. A last one alone is paired
    /// with +0; the pairs after it are 0.
    ///
    /// # Safety
    /// `count <= 2 * LANES`, and `from` is valid for reading `count` elements.
    unsafe fn load_neighbors(self, from: *const Bf16, count: usize) -> Self::Vector;

    /// The first numbers of pairs, and the second ones.
    fn unpair(self, pairs: Self::Vector) -> (Self::Vector, Self::Vector);

    /// Denormal numbers as zeros of their sign, whatever the thread's setting.
    fn flush(self, vector: Self::Vector) -> Self::Vector;
}

// SAFETY: memory is touched as the methods say.
unsafe impl Bf16Isa for Flushed {
    type Operand = (Self::Vector, Self::Vector);

    #[inline(always)]
    fn operand(self, pairs: Self::Vector) -> Self::Operand {
        self.unpair(pairs)
    }
    #[inline(always)]
    fn add_products(self, sum: Self::Vector, a: Self::Operand, b: Self::Operand) -> Self::Vector {
        self.mul_add(a.1, b.1, self.mul_add(a.0, b.0, sum))
    }
    #[inline(always)]
    unsafe fn widen(self, from: *const Bf16, count: usize) -> Self::Vector {
        let mut lanes = self.splat(0.0);
        for (i, lane) in lanes.0.iter_mut().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` elements.
            *lane = u32::from(unsafe { from.add(i).read() }.to_bits()) << 16;
        }
        lanes
    }
    #[inline(always)]
    unsafe fn narrow(self, to: *mut Bf16, vector: Self::Vector, count: usize) {
        for (i, bits) in vector.0.into_iter().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` elements.
            unsafe { to.add(i).write(Bf16::from_f32(f32::from_bits(bits))) };
        }
    }
    #[inline(always)]
    fn pair(self, first: Self::Vector, mut second: Self::Vector) -> Self::Vector {
        for (second, first) in second.0.iter_mut().zip(first.0) {
            *second = pair(first, *second);
        }
        second
    }
    #[inline(always)]
    fn pair_neighbors(self, low: Self::Vector, high: Self::Vector) -> Self::Vector {
        let mut pairs = self.splat(0.0);
        let numbers = [low.0, high.0];
        let numbers = numbers.as_flattened().chunks_exact(2);
        for (to, numbers) in pairs.0.iter_mut().zip(numbers) {
            *to = pair(numbers[0], numbers[1]);
        }
        pairs
    }
    #[inline(always)]
    fn join(self, first: Self::Vector, mut second: Self::Vector) -> Self::Vector {
        for (second, first) in second.0.iter_mut().zip(first.0) {
            *second = first | *second >> 16;
        }
        second
    }
    #[inline(always)]
    unsafe fn load_neighbors(self, from: *const Bf16, count: usize) -> Self::Vector {
        let mut pairs = self.splat(0.0);
        for i in 0..count {
            // SAFETY: the caller vouches for `count` elements.
            let element = u32::from(unsafe { from.add(i).read() }.to_bits());
            pairs.0[i / 2] |= if i % 2 == 0 { element << 16 } else { element };
        }
        pairs
    }
    #[inline(always)]
    fn unpair(self, pairs: Self::Vector) -> (Self::Vector, Self::Vector) {
        let (mut first, mut second) = (pairs, pairs);
        first.0 = pairs.0.map(|pair| pair & 0xffff_0000);
        second.0 = pairs.0.map(|pair| pair << 16);
        (first, second)
    }
    #[inline(always)]
    fn flush(self, mut vector: Self::Vector) -> Self::Vector {
        vector.0 = vector.0.map(super::flushed::flush_bits);
        vector
    }
}

/// A pair of two numbers, by their bits.
#[inline(always)]
fn pair(first: u32, second: u32) -> u32 {
    let round = |bits| u32::from(Bf16::from_f32(f32::from_bits(bits)).to_bits());
    round(first) << 16 | round(second)
}

#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
mod x86 {
    use std::arch::x86_64::*;

    use super::Bf16Isa;
    use crate::{
        bf16::Bf16,
        simd::{
            Isa, MAX_LANES,
            avx2::Avx2,
            avx512::{Avx512, Avx512Bf16},
        },
    };

    const EXPONENT: i32 = 0x7f80_0000;
    const UPPER: i32 = 0xffff_0000_u32 as i32;
    const QUIET: i32 = 0x0040_0000;
    /// Below half a unit of the last place that stays.
    const BELOW_HALF: i32 = 0x7fff;

    /// The first `count` elements, then zeros.
    ///
    /// # Safety
    /// `count <= MAX_LANES`, and `from` is valid for reading `count` elements.
    #[inline(always)]
    unsafe fn first(from: *const Bf16, count: usize) -> [Bf16; MAX_LANES] {
        let mut elements = [Bf16::ZERO; MAX_LANES];
        for (i, element) in elements.iter_mut().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` elements.
            *element = unsafe { from.add(i).read() };
        }
        elements
    }

    /// `count` elements, two in a lane, then zeros.
    ///
    /// # Safety
    /// `count <= 2 * LANES`, and `from` is valid for reading `count` elements.
    #[inline(always)]
    unsafe fn load_elements<S: Isa<f32>>(isa: S, from: *const Bf16, count: usize) -> S::Vector {
        // SAFETY: the caller vouches for `count` elements. The instructions of these sets need no
        // alignment.
        unsafe {
            if count == 2 * S::LANES {
                isa.load(from.cast())
            } else if count.is_multiple_of(2) {
                isa.load_first(from.cast(), count / 2)
            } else {
                let mut elements = [Bf16::ZERO; 2 * MAX_LANES];
                for (i, element) in elements.iter_mut().enumerate().take(count) {
                    *element = from.add(i).read();
                }
                isa.load(elements.as_ptr().cast())
            }
        }
    }

    /// Writes the first `count` elements.
    ///
    /// # Safety
    /// `count <= MAX_LANES`, and `to` is valid for writing `count` elements.
    #[inline(always)]
    unsafe fn write_first(to: *mut Bf16, elements: &[Bf16; MAX_LANES], count: usize) {
        for (i, &element) in elements.iter().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` elements.
            unsafe { to.add(i).write(element) };
        }
    }

    /// Rounded numbers, in the upper halves; the lower ones are 0.
    ///
    /// # Safety
    /// The CPU has `avx512f`.
    #[inline(always)]
    unsafe fn round_512(vector: __m512) -> __m512i {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe {
            let bits = _mm512_castps_si512(vector);
            let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(last, _mm512_set1_epi32(BELOW_HALF));
            let rounded = _mm512_add_epi32(bits, half);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(vector, vector);
            let rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(QUIET));
            let tiny = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(EXPONENT));
            let sign = _mm512_set1_epi32(i32::MIN);
            let rounded = _mm512_mask_and_epi32(rounded, tiny, bits, sign);
            _mm512_and_si512(rounded, _mm512_set1_epi32(UPPER))
        }
    }

    // SAFETY: in all methods, the token proves that the CPU has AVX-512F; memory is touched as the
    // methods say.
    unsafe impl Bf16Isa for Avx512 {
        type Operand = (__m512, __m512);

        #[inline(always)]
        fn operand(self, pairs: __m512) -> Self::Operand {
            self.unpair(pairs)
        }
        #[inline(always)]
        fn add_products(self, sum: __m512, a: Self::Operand, b: Self::Operand) -> __m512 {
            Isa::<f32>::mul_add(self, a.1, b.1, Isa::<f32>::mul_add(self, a.0, b.0, sum))
        }
        #[inline(always)]
        unsafe fn widen(self, from: *const Bf16, count: usize) -> __m512 {
            // SAFETY: the CPU has AVX-512F; the caller vouches for `count` elements.
            unsafe {
                let elements = if count == 16 {
                    _mm256_loadu_si256(from.cast())
                } else {
                    _mm256_loadu_si256(first(from, count).as_ptr().cast())
                };
                let wide = _mm512_cvtepu16_epi32(elements);
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn narrow(self, to: *mut Bf16, vector: __m512, count: usize) {
            // SAFETY: the CPU has AVX-512F; the caller vouches for `count` elements.
            unsafe {
                let halves = _mm512_srli_epi32::<16>(round_512(vector));
                let elements = _mm512_cvtepi32_epi16(halves);
                if count == 16 {
                    _mm256_storeu_si256(to.cast(), elements);
                } else {
                    let mut all = [Bf16::ZERO; MAX_LANES];
                    _mm256_storeu_si256(all.as_mut_ptr().cast(), elements);
                    write_first(to, &all, count);
                }
            }
        }
        #[inline(always)]
        fn pair(self, first: __m512, second: __m512) -> __m512 {
            // SAFETY: the CPU has AVX-512F.
            unsafe {
                let second = _mm512_srli_epi32::<16>(round_512(second));
                _mm512_castsi512_ps(_mm512_or_si512(round_512(first), second))
            }
        }
        #[inline(always)]
        fn pair_neighbors(self, low: __m512, high: __m512) -> __m512 {
            // SAFETY: the CPU has AVX-512F.
            unsafe {
                let even =
                    _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
                let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
                let first = _mm512_permutex2var_ps(low, even, high);
                self.pair(first, _mm512_permutex2var_ps(low, odd, high))
            }
        }
        #[inline(always)]
        fn join(self, first: __m512, second: __m512) -> __m512 {
            // SAFETY: the CPU has AVX-512F.
            unsafe { join_512(first, second) }
        }
        #[inline(always)]
        unsafe fn load_neighbors(self, from: *const Bf16, count: usize) -> __m512 {
            // SAFETY: the CPU has AVX-512F; the caller vouches for `count` elements.
            unsafe { swap_512(load_elements(self, from, count)) }
        }
        #[inline(always)]
        fn unpair(self, pairs: __m512) -> (__m512, __m512) {
            // SAFETY: the CPU has AVX-512F.
            unsafe { unpair_512(pairs) }
        }
        #[inline(always)]
        fn flush(self, vector: __m512) -> __m512 {
            // SAFETY: the CPU has AVX-512F.
            unsafe { flush_512(vector) }
        }
    }

    /// # Safety
    /// The CPU has `avx512f`.
    #[inline(always)]
    unsafe fn join_512(first: __m512, second: __m512) -> __m512 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe {
            let second = _mm512_srli_epi32::<16>(_mm512_castps_si512(second));
            _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(first), second))
        }
    }

    /// # Safety
    /// The CPU has `avx512f`.
    #[inline(always)]
    unsafe fn swap_512(pairs: __m512) -> __m512 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { _mm512_castsi512_ps(_mm512_rol_epi32::<16>(_mm512_castps_si512(pairs))) }
    }

    /// # Safety
    /// The CPU has `avx512f`.
    #[inline(always)]
    unsafe fn unpair_512(pairs: __m512) -> (__m512, __m512) {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe {
            let pairs = _mm512_castps_si512(pairs);
            let first = _mm512_and_si512(pairs, _mm512_set1_epi32(UPPER));
            let second = _mm512_slli_epi32::<16>(pairs);
            (_mm512_castsi512_ps(first), _mm512_castsi512_ps(second))
        }
    }

    /// # Safety
    /// The CPU has `avx512f`.
    #[inline(always)]
    unsafe fn flush_512(vector: __m512) -> __m512 {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe {
            let bits = _mm512_castps_si512(vector);
            let tiny = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(EXPONENT));
            let sign = _mm512_set1_epi32(i32::MIN);
            _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, tiny, bits, sign))
        }
    }

    // SAFETY: in all methods, the token proves that the CPU has AVX512-BF16, BW and VL; memory is
    // touched as the methods say.
    unsafe impl Bf16Isa for Avx512Bf16 {
        type Operand = __m512;

        #[inline(always)]
        fn operand(self, pairs: __m512) -> __m512 {
            pairs
        }
        #[inline(always)]
        fn add_products(self, sum: __m512, a: __m512, b: __m512) -> __m512 {
            // SAFETY: the CPU has AVX512-BF16.
            unsafe { _mm512_dpbf16_ps(sum, pairs_512(a), pairs_512(b)) }
        }
        #[inline(always)]
        unsafe fn widen(self, from: *const Bf16, count: usize) -> __m512 {
            // SAFETY: the CPU has AVX-512BW and VL; the caller vouches for `count` elements, and
            // masked-off ones are not accessed.
            unsafe {
                let elements = if count == 16 {
                    _mm256_loadu_si256(from.cast())
                } else {
                    _mm256_maskz_loadu_epi16(first_16(count), from.cast())
                };
                let wide = _mm512_cvtepu16_epi32(elements);
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn narrow(self, to: *mut Bf16, vector: __m512, count: usize) {
            // SAFETY: the CPU has AVX512-BF16, BW and VL; the caller vouches for `count` elements,
            // and masked-off ones are not accessed.
            unsafe {
                let elements = bits_256(_mm512_cvtneps_pbh(vector));
                if count == 16 {
                    _mm256_storeu_si256(to.cast(), elements);
                } else {
                    _mm256_mask_storeu_epi16(to.cast(), first_16(count), elements);
                }
            }
        }
        #[inline(always)]
        fn pair(self, first: __m512, second: __m512) -> __m512 {
            // SAFETY: the CPU has AVX512-BF16 and BW.
            unsafe {
                // Words 0 to 15 are the second ones.
                let words = bits_512(_mm512_cvtne2ps_pbh(first, second));
                let order = _mm512_set_epi16(
                    31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                    5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
                );
                _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, words))
            }
        }
        #[inline(always)]
        fn pair_neighbors(self, low: __m512, high: __m512) -> __m512 {
            // SAFETY: the CPU has AVX512-BF16.
            unsafe {
                let words = bits_512(_mm512_cvtne2ps_pbh(high, low));
                swap_512(_mm512_castsi512_ps(words))
            }
        }
        #[inline(always)]
        fn join(self, first: __m512, second: __m512) -> __m512 {
            // SAFETY: the CPU has AVX-512F.
            unsafe { join_512(first, second) }
        }
        #[inline(always)]
        unsafe fn load_neighbors(self, from: *const Bf16, count: usize) -> __m512 {
            // SAFETY: the CPU has AVX-512F; the caller vouches for `count` elements.
            unsafe { swap_512(load_elements(self, from, count)) }
        }
        #[inline(always)]
        fn unpair(self, pairs: __m512) -> (__m512, __m512) {
            // SAFETY: the CPU has AVX-512F.
            unsafe { unpair_512(pairs) }
        }
        #[inline(always)]
        fn flush(self, vector: __m512) -> __m512 {
            // SAFETY: the CPU has AVX-512F.
            unsafe { flush_512(vector) }
        }
    }

    /// The mask of the first `count` of 16 lanes.
    #[inline(always)]
    fn first_16(count: usize) -> __mmask16 {
        ((1u32 << count) - 1) as __mmask16
    }

    /// The bits of 16 numbers of bf16.
    #[inline(always)]
    fn bits_256(numbers: __m256bh) -> __m256i {
        // SAFETY: both types are 32 bytes of plain data.
        unsafe { std::mem::transmute::<__m256bh, __m256i>(numbers) }
    }

    /// The bits of 32 numbers of bf16.
    #[inline(always)]
    fn bits_512(numbers: __m512bh) -> __m512i {
        // SAFETY: both types are 64 bytes of plain data.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(numbers) }
    }

    /// 32 numbers of bf16.
    #[inline(always)]
    fn pairs_512(bits: __m512) -> __m512bh {
        // SAFETY: both types are 64 bytes of plain data.
        unsafe { std::mem::transmute::<__m512, __m512bh>(bits) }
    }

    /// As [`round_512`].
    ///
    /// # Safety
    /// The CPU has `avx2`.
    #[inline(always)]
    unsafe fn round_256(vector: __m256) -> __m256i {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            let bits = _mm256_castps_si256(vector);
            let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(last, _mm256_set1_epi32(BELOW_HALF));
            let rounded = _mm256_add_epi32(bits, half);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(QUIET));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(vector, vector));
            let rounded = _mm256_blendv_epi8(rounded, quiet, nan);
            let rounded = flushed_256(bits, rounded);
            _mm256_and_si256(rounded, _mm256_set1_epi32(UPPER))
        }
    }

    /// `other` where `bits` are of a normal number; a zero of its sign where not.
    ///
    /// # Safety
    /// The CPU has `avx2`.
    #[inline(always)]
    unsafe fn flushed_256(bits: __m256i, other: __m256i) -> __m256i {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            let exponent = _mm256_and_si256(bits, _mm256_set1_epi32(EXPONENT));
            let tiny = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
            let sign = _mm256_and_si256(bits, _mm256_set1_epi32(i32::MIN));
            _mm256_blendv_epi8(other, sign, tiny)
        }
    }

    // SAFETY: in all methods, the token proves that the CPU has AVX2; memory is touched as the
    // methods say.
    unsafe impl Bf16Isa for Avx2 {
        type Operand = (__m256, __m256);

        #[inline(always)]
        fn operand(self, pairs: __m256) -> Self::Operand {
            self.unpair(pairs)
        }
        #[inline(always)]
        fn add_products(self, sum: __m256, a: Self::Operand, b: Self::Operand) -> __m256 {
            Isa::<f32>::mul_add(self, a.1, b.1, Isa::<f32>::mul_add(self, a.0, b.0, sum))
        }
        #[inline(always)]
        unsafe fn widen(self, from: *const Bf16, count: usize) -> __m256 {
            // SAFETY: the CPU has AVX2; the caller vouches for `count` elements.
            unsafe {
                let elements = if count == 8 {
                    _mm_loadu_si128(from.cast())
                } else {
                    _mm_loadu_si128(first(from, count).as_ptr().cast())
                };
                let wide = _mm256_cvtepu16_epi32(elements);
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn narrow(self, to: *mut Bf16, vector: __m256, count: usize) {
            // SAFETY: the CPU has AVX2; the caller vouches for `count` elements.
            unsafe {
                let halves = _mm256_srli_epi32::<16>(round_256(vector));
                // Eight words from the four of each 16-byte half.
                let twice = _mm256_packus_epi32(halves, halves);
                let packed = _mm256_permute4x64_epi64::<0b1000>(twice);
                let elements = _mm256_castsi256_si128(packed);
                if count == 8 {
                    _mm_storeu_si128(to.cast(), elements);
                } else {
                    let mut all = [Bf16::ZERO; MAX_LANES];
                    _mm_storeu_si128(all.as_mut_ptr().cast(), elements);
                    write_first(to, &all, count);
                }
            }
        }
        #[inline(always)]
        fn pair(self, first: __m256, second: __m256) -> __m256 {
            // SAFETY: the CPU has AVX2.
            unsafe {
                let second = _mm256_srli_epi32::<16>(round_256(second));
                _mm256_castsi256_ps(_mm256_or_si256(round_256(first), second))
            }
        }
        #[inline(always)]
        fn pair_neighbors(self, low: __m256, high: __m256) -> __m256 {
            // SAFETY: the CPU has AVX2.
            unsafe {
                // Within 16-byte halves; then the quarters are put in order.
                let first = _mm256_shuffle_ps::<0b1000_1000>(low, high);
                let second = _mm256_shuffle_ps::<0b1101_1101>(low, high);
                let pairs = _mm256_castps_pd(self.pair(first, second));
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0b1101_1000>(pairs))
            }
        }
        #[inline(always)]
        fn join(self, first: __m256, second: __m256) -> __m256 {
            // SAFETY: the CPU has AVX2.
            unsafe {
                let second = _mm256_srli_epi32::<16>(_mm256_castps_si256(second));
                _mm256_or_ps(first, _mm256_castsi256_ps(second))
            }
        }
        #[inline(always)]
        unsafe fn load_neighbors(self, from: *const Bf16, count: usize) -> __m256 {
            // SAFETY: the CPU has AVX2; the caller vouches for `count` elements.
            unsafe {
                let elements = _mm256_castps_si256(load_elements(self, from, count));
                let up = _mm256_slli_epi32::<16>(elements);
                let down = _mm256_srli_epi32::<16>(elements);
                _mm256_castsi256_ps(_mm256_or_si256(up, down))
            }
        }
        #[inline(always)]
        fn unpair(self, pairs: __m256) -> (__m256, __m256) {
            // SAFETY: the CPU has AVX2.
            unsafe {
                let pairs = _mm256_castps_si256(pairs);
                let first = _mm256_and_si256(pairs, _mm256_set1_epi32(UPPER));
                let second = _mm256_slli_epi32::<16>(pairs);
                (_mm256_castsi256_ps(first), _mm256_castsi256_ps(second))
            }
        }
        #[inline(always)]
        fn flush(self, vector: __m256) -> __m256 {
            // SAFETY: the CPU has AVX2.
            unsafe {
                let bits = _mm256_castps_si256(vector);
                _mm256_castsi256_ps(flushed_256(bits, bits))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

    use super::*;
    use crate::simd::{Denormals, MAX_LANES};

    /// Calls a function with the token of every set that the CPU has, and the set's name.
    macro_rules! on_every_set {
        ($function:ident) => {{
            $function(Flushed::new(), "portable");
            #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
            {
                use crate::simd::{
                    avx2::Avx2,
                    avx512::{Avx512, Avx512Bf16},
                };
                Avx2::detect().map(|isa| $function(isa, "avx2"));
                Avx512::detect().map(|isa| $function(isa, "avx512"));
                Avx512Bf16::detect().map(|isa| $function(isa, "avx512bf16"));
            }
        }};
    }

    /// The lanes of a vector, as bits.
    fn bits<S: Bf16Isa>(isa: S, vector: S::Vector) -> Vec<u32> {
        let mut lanes = [0u32; MAX_LANES];
        // SAFETY: no vector has more than MAX_LANES lanes.
        unsafe { isa.store(lanes.as_mut_ptr().cast(), vector) };
        lanes[..S::LANES].to_vec()
    }

    /// A vector of the first lanes.
    fn vector<S: Bf16Isa>(isa: S, lanes: &[u32; MAX_LANES]) -> S::Vector {
        // SAFETY: no vector has more than MAX_LANES lanes.
        unsafe { isa.load(lanes.as_ptr().cast()) }
    }

    /// The lower halves with which every upper half is tried.
    const LOWER: [u32; 10] = [0, 1, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xaaaa, 0x5555, 0xfffe, 0xffff];

    /// Also shows that `Bf16::from_f32` is what VCVTNEPS2BF16 does, which AVX512-BF16 uses.
    fn rounds<S: Bf16Isa>(isa: S, set: &str) {
        let rounded = |bits: u32| Bf16::from_f32(f32::from_bits(bits)).to_bits();
        let pair =
            |first: u32, second: u32| u32::from(rounded(first)) << 16 | u32::from(rounded(second));
        for upper in 0..1u32 << 16 {
            let first: [u32; MAX_LANES] =
                std::array::from_fn(|i| upper << 16 | LOWER[i % LOWER.len()]);
            // Others beside them, so that lanes cannot be exchanged.
            let second: [u32; MAX_LANES] =
                std::array::from_fn(|i| first[i].rotate_left(7 + i as u32) ^ i as u32);
            let (a, b) = (vector(isa, &first), vector(isa, &second));
            let expected: Vec<u32> =
                first.iter().zip(&second).take(S::LANES).map(|(&a, &b)| pair(a, b)).collect();
            assert_eq!(bits(isa, isa.pair(a, b)), expected, "{set} {upper:04x}");

            let all = [&first[..S::LANES], &second[..S::LANES]].concat();
            let expected: Vec<u32> = all.chunks(2).map(|two| pair(two[0], two[1])).collect();
            assert_eq!(bits(isa, isa.pair_neighbors(a, b)), expected, "{set} {upper:04x}");

            let count = upper as usize % (S::LANES + 1);
            let mut stored = [Bf16::from_bits(0x1234); MAX_LANES + 1];
            // SAFETY: there is room for all lanes.
            unsafe { isa.narrow(stored.as_mut_ptr(), b, count) };
            for (i, found) in stored.iter().enumerate() {
                let expected = if i < count { rounded(second[i]) } else { 0x1234 };
                assert_eq!(found.to_bits(), expected, "{set} {upper:04x} {i} of {count}");
            }
        }
    }

    #[test]
    fn every_set_rounds_as_one_number_is_rounded() {
        on_every_set!(rounds);
    }

    fn takes_apart<S: Bf16Isa>(isa: S, set: &str) {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for count in (0..=S::LANES).cycle().take(1000) {
            let elements: [Bf16; 2 * MAX_LANES] =
                std::array::from_fn(|_| Bf16::from_bits(rng.random()));
            // SAFETY: there are more elements than lanes.
            let wide = bits(isa, unsafe { isa.widen(elements.as_ptr(), count) });
            for (i, found) in wide.into_iter().enumerate() {
                let expected = if i < count { u32::from(elements[i].to_bits()) << 16 } else { 0 };
                assert_eq!(found, expected, "{set} {i} of {count}");
            }
            // An address that is no multiple of 4.
            let some = rng.random_range(0..2 * S::LANES);
            // SAFETY: there are more elements.
            let pairs = unsafe { isa.load_neighbors(elements.as_ptr().add(1), some) };
            let (first, second) = isa.unpair(pairs);
            let halves = [bits(isa, first), bits(isa, second)];
            for (i, found) in halves[0].iter().zip(&halves[1]).enumerate() {
                let element = |i: usize| match i < some {
                    true => elements[i + 1].to_f32().to_bits(),
                    false => 0,
                };
                assert_eq!(found, (&element(2 * i), &element(2 * i + 1)), "{set} {i} of {some}");
            }
            assert_eq!(bits(isa, isa.join(first, second)), bits(isa, pairs), "{set}");
            let flushed = halves[1].iter().map(|&x| crate::simd::flushed::flush_bits(x));
            assert!(flushed.eq(bits(isa, isa.flush(second))), "{set}");
        }
    }

    #[test]
    fn every_set_widens_and_takes_pairs_apart() {
        on_every_set!(takes_apart);
    }

    /// Numbers of bf16 of one kind.
    fn element(rng: &mut ChaCha8Rng, kind: usize) -> u32 {
        const EDGES: [u32; 16] = [
            0, 0x8000, 1, 0x8001, 0x7f80, 0xff80, 0x7fc0, 0xff81, 0x80, 0x8080, 0x3f80, 0xbf80,
            0x7f7f, 0xff7f, 0x7f, 0x807f,
        ];
        let any: u32 = rng.random::<u32>() & 0xffff;
        match kind {
            0 => any,
            // Products about the smallest normal number.
            1 => any & 0x807f | rng.random_range(60..68) << 7,
            2 => EDGES[rng.random_range(0..EDGES.len())],
            // Smaller ones, which decide how a sum of that size is rounded.
            3 => any & 0x807f | rng.random_range(48..60) << 7,
            _ => any & 0x807f | rng.random_range(120..134) << 7,
        }
    }

    /// The number that a sum begins with, for products of the same kind.
    fn start(rng: &mut ChaCha8Rng, kind: usize) -> u32 {
        const EDGES: [u32; 13] = [
            0,
            1 << 31,
            1,
            0x8000_0001,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0x0080_0000,
            0x8080_0000,
            0x3f80_0000,
            0x7f7f_ffff,
            0xff7f_ffff,
            0x007f_ffff,
        ];
        let any: u32 = rng.random();
        match kind {
            0 => any,
            1 => any & 0x81ff_ffff,
            2 => EDGES[rng.random_range(0..EDGES.len())],
            3 => any & (1 << 31) | rng.random_range(0x007f_ffff..0x0080_0002),
            _ => any & 0x807f_ffff | rng.random_range(120..134) << 23,
        }
    }

    /// The products of a set against those of the scalar, in software.
    fn multiplies<S: Bf16Isa>(isa: S, set: &str) {
        let _flush = Denormals::Flush.scope();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut tiny = 0;
        for case in 0..60_000 {
            let kind = case % 5;
            let mut pairs = || -> [u32; MAX_LANES] {
                std::array::from_fn(|_| element(&mut rng, kind) << 16 | element(&mut rng, kind))
            };
            let (a, b) = (pairs(), pairs());
            let sum: [u32; MAX_LANES] = std::array::from_fn(|_| start(&mut rng, kind));
            let operand = |pairs| isa.operand(vector(isa, pairs));
            let found = isa.add_products(vector(isa, &sum), operand(&a), operand(&b));
            for (i, found) in bits(isa, found).into_iter().enumerate() {
                let expected = crate::simd::flushed::tests::add_products(sum[i], a[i], b[i]);
                let nan = f32::from_bits(found).is_nan() && f32::from_bits(expected).is_nan();
                assert!(
                    found == expected || nan,
                    "{set}: {:08x} + {:08x} {:08x}: {found:08x}, not {expected:08x}",
                    sum[i],
                    a[i],
                    b[i]
                );
                tiny += usize::from(found & 0x7fff_ffff == 0x0080_0000);
            }
        }
        assert!(tiny > 1000, "{set}: {tiny} results are the smallest normal number");
    }

    #[test]
    fn every_set_multiplies_with_the_bits_of_software() {
        on_every_set!(multiplies);
    }
}
