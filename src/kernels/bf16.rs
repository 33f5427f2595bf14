//! Products of bf16 with sums in f32: the chains in each instruction set.
//!
//! ```text
//! sum = start                                           0, beta C, or the bias of the column
//! for p in 0..k, rounded up to a multiple of 2:         past the end both operands are +0
//!     sum = fma(A[i,p], B[p,j], sum)                    in f32
//! ```
//!
//! Every operation takes denormal operands for zeros of their sign, and flushes denormal results.
//! Panels hold pairs of consecutive k, the even one in the upper half: see `simd::bf16`.

#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
use crate::simd::{
    avx2::Avx2,
    avx512::{Avx512, Avx512Bf16},
};
use crate::{
    bf16::Bf16,
    kernels::product::{MultiplyAdd, PanelElement, Types},
    simd::{
        Isa,
        bf16::Bf16Isa,
        flushed::{self, Flushed},
    },
};

/// Products of bf16 operands with a C in f32: `Gemm<Bf16ToF32>`. With a C in bf16, which is rounded
/// once when it is stored, they are `Gemm<Bf16>`.
#[derive(Clone, Copy, Debug)]
pub struct Bf16ToF32;

impl PanelElement for Bf16 {
    type Value = f32;

    #[inline(always)]
    fn value(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn nearest(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Types for Bf16 {
    type Left = Bf16;
    type Right = Bf16;
    type Sum = f32;
    type Output = Bf16;
    const FLUSHES: bool = true;

    fn scaled(factor: f32, value: f32) -> f32 {
        flushed::mul(factor, value)
    }
}

impl Types for Bf16ToF32 {
    type Left = Bf16;
    type Right = Bf16;
    type Sum = f32;
    type Output = f32;
    const FLUSHES: bool = true;

    fn scaled(factor: f32, value: f32) -> f32 {
        flushed::mul(factor, value)
    }
}

/// An element of C.
trait Stored: Copy {
    /// As [`MultiplyAdd::load_c`].
    ///
    /// # Safety
    /// `count <= LANES`, and `count` elements are readable.
    unsafe fn load<S: Bf16Isa>(isa: S, from: *const Self, count: usize) -> S::Vector;

    /// As [`MultiplyAdd::store_c`].
    ///
    /// # Safety
    /// `count <= LANES`, and `count` elements are writable.
    unsafe fn store<S: Bf16Isa>(isa: S, to: *mut Self, vector: S::Vector, count: usize);
}

impl Stored for Bf16 {
    #[inline(always)]
    unsafe fn load<S: Bf16Isa>(isa: S, from: *const Self, count: usize) -> S::Vector {
        // SAFETY: the caller vouches for the elements.
        unsafe { isa.widen(from, count) }
    }
    #[inline(always)]
    unsafe fn store<S: Bf16Isa>(isa: S, to: *mut Self, vector: S::Vector, count: usize) {
        // SAFETY: the caller vouches for the elements.
        unsafe { isa.narrow(to, vector, count) }
    }
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<S: Bf16Isa>(isa: S, from: *const Self, count: usize) -> S::Vector {
        // SAFETY: the caller vouches for the elements.
        unsafe { isa.load_up_to(from, count) }
    }
    #[inline(always)]
    unsafe fn store<S: Bf16Isa>(isa: S, to: *mut Self, vector: S::Vector, count: usize) {
        // A start that no product was added to may be denormal.
        // SAFETY: the caller vouches for the elements.
        unsafe { isa.store_up_to(to, isa.flush(vector), count) }
    }
}

/// Steps of k in a pair.
const STEP: usize = 2;

/// `MultiplyAdd` of a product for instruction sets, by their `Bf16Isa`.
macro_rules! multiply_add {
    ($product:ident: $($set:ident),*) => {$(
        // SAFETY: two fused multiply-adds, one after the other; memory is touched as the methods
        // say.
        unsafe impl MultiplyAdd<$product> for $set {
            type Left = <$set as Bf16Isa>::Operand;
            type Right = <$set as Bf16Isa>::Operand;
            const STEP: usize = STEP;

            #[inline(always)]
            fn zeros(self) -> (Self::Left, Self::Right) {
                let zero = self.operand(Isa::<f32>::splat(self, 0.0));
                (zero, zero)
            }
            #[inline(always)]
            unsafe fn splat_left(self, from: *const Bf16) -> Self::Left {
                // SAFETY: the caller vouches for both elements of the pair.
                let pair = unsafe { from.cast::<f32>().read_unaligned() };
                self.operand(Isa::<f32>::splat(self, pair))
            }
            #[inline(always)]
            unsafe fn load_right(self, from: *const Bf16) -> Self::Right {
                // SAFETY: the caller vouches for the pairs of all lanes.
                self.operand(unsafe { Isa::<f32>::load(self, from.cast()) })
            }
            #[inline(always)]
            unsafe fn load_right_first(self, from: *const Bf16, count: usize) -> Self::Right {
                // SAFETY: the caller vouches for the pairs of `count` lanes.
                self.operand(unsafe { Isa::<f32>::load_first(self, from.cast(), count) })
            }
            #[inline(always)]
            fn accumulate(
                self,
                a: Self::Left,
                b: Self::Right,
                sum: <$set as Isa<f32>>::Vector,
            ) -> <$set as Isa<f32>>::Vector {
                self.add_products(sum, a, b)
            }
            #[inline(always)]
            unsafe fn load_c(
                self,
                from: *const <$product as Types>::Output,
                count: usize,
            ) -> <$set as Isa<f32>>::Vector {
                // SAFETY: the caller vouches for the elements.
                unsafe { Stored::load(self, from, count) }
            }
            #[inline(always)]
            unsafe fn store_c(
                self,
                to: *mut <$product as Types>::Output,
                vector: <$set as Isa<f32>>::Vector,
                count: usize,
            ) {
                // SAFETY: the caller vouches for the elements.
                unsafe { Stored::store(self, to, vector, count) }
            }
        }
    )*};
}

#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
multiply_add!(Bf16: Avx512Bf16, Avx512, Avx2);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
multiply_add!(Bf16ToF32: Avx512Bf16, Avx512, Avx2);
multiply_add!(Bf16: Flushed);
multiply_add!(Bf16ToF32: Flushed);
