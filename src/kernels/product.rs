//! The element types of a product, and the arithmetic of its chains in one instruction set.
//!
//! What another type of operands brings, in a file of its own: its [`PanelElement`], its
//! [`Types`], its [`MultiplyAdd`] for each instruction set, and the functions that pack its
//! panels. bf16, for one, has panels of `Bf16`, sums in f32, C in either, and chains that take two
//! steps of k at a time: [`MultiplyAdd::STEP`] is 2, and a panel holds pairs of consecutive k. The
//! tiles, the blocks, the epilogues and everything in `gemm` are those of here.

use std::fmt;

use bytemuck::Pod;

use crate::{float::Float, simd::Isa};

/// What panels of an operand hold: elements to which values are rounded while they are packed.
pub trait PanelElement: Pod + Send + Sync + PartialEq + fmt::Debug {
    /// The type of the sums of its products, which holds every element exactly.
    type Value: Float;

    /// The value of an element.
    fn value(self) -> Self::Value;

    /// The element nearest to a value.
    fn nearest(value: Self::Value) -> Self;
}

/// The element types of a product `C = A B`.
pub trait Types: Copy + Send + Sync + 'static {
    /// Of A: in panels, and in place.
    type Left: PanelElement<Value = Self::Sum>;
    /// Of B: in panels, and in place.
    type Right: PanelElement<Value = Self::Sum>;
    /// Of the sums, and of what they start from.
    type Sum: Float;
    /// Of C, and of the companions of the epilogue. Updates need that of the sums.
    type Output: Pod + Send + Sync;
    /// Whether denormal numbers are flushed, in operands, sums and results, whatever the setting of
    /// the calling thread.
    const FLUSHES: bool = false;

    /// `factor * value`, as the kernels compute it.
    #[doc(hidden)]
    fn scaled(factor: Self::Sum, value: Self::Sum) -> Self::Sum {
        factor * value
    }
}

impl<T: Float> Types for T {
    type Left = T;
    type Right = T;
    type Sum = T;
    type Output = T;
}

impl<T: Float> PanelElement for T {
    type Value = T;

    #[inline(always)]
    fn value(self) -> T {
        self
    }
    #[inline(always)]
    fn nearest(value: T) -> T {
        value
    }
}

/// The arithmetic of the chains of a product, with vectors of its sums.
///
/// # Safety
/// `accumulate` is, for every lane, one chain of `STEP` multiply-adds in the order of k, each
/// rounded as `mul_add` of the sums; the loads and stores touch no memory but what they say.
pub(crate) unsafe trait MultiplyAdd<P: Types>: Isa<P::Sum> {
    /// `STEP` elements of one row of A, for all lanes.
    type Left: Copy;
    /// `STEP` elements of each of `LANES` columns of B.
    type Right: Copy;
    /// Steps of k that are taken at a time; in panels their elements are contiguous.
    const STEP: usize;

    /// Zeros.
    fn zeros(self) -> (Self::Left, Self::Right);

    /// The `STEP` elements from `from` on.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn splat_left(self, from: *const P::Left) -> Self::Left;

    /// The elements of `LANES` columns, from `from` on.
    ///
    /// # Safety
    /// `LANES * STEP` elements are readable.
    unsafe fn load_right(self, from: *const P::Right) -> Self::Right;

    /// The elements of the first `count` columns; the others are 0.
    ///
    /// # Safety
    /// `count <= LANES`, and `count * STEP` elements are readable.
    unsafe fn load_right_first(self, from: *const P::Right, count: usize) -> Self::Right;

    /// `sum`, then the products.
    fn accumulate(self, a: Self::Left, b: Self::Right, sum: Self::Vector) -> Self::Vector;

    /// `count` elements of C; the other lanes are 0.
    ///
    /// # Safety
    /// `count <= LANES`, and they are readable.
    unsafe fn load_c(self, from: *const P::Output, count: usize) -> Self::Vector;

    /// Stores `count` elements of C.
    ///
    /// # Safety
    /// `count <= LANES`, and they are writable.
    unsafe fn store_c(self, to: *mut P::Output, vector: Self::Vector, count: usize);
}

// SAFETY: one `mul_add` a step, and the loads and stores of the set.
unsafe impl<S, T> MultiplyAdd<T> for S
where
    S: Isa<T>,
    T: Float + Types<Left = T, Right = T, Sum = T, Output = T>,
{
    type Left = S::Vector;
    type Right = S::Vector;
    const STEP: usize = 1;

    #[inline(always)]
    fn zeros(self) -> (S::Vector, S::Vector) {
        (self.splat(T::ZERO), self.splat(T::ZERO))
    }
    #[inline(always)]
    unsafe fn splat_left(self, from: *const T) -> S::Vector {
        // SAFETY: the caller vouches for the element.
        self.splat(unsafe { *from })
    }
    #[inline(always)]
    unsafe fn load_right(self, from: *const T) -> S::Vector {
        // SAFETY: the caller vouches for the elements.
        unsafe { self.load(from) }
    }
    #[inline(always)]
    unsafe fn load_right_first(self, from: *const T, count: usize) -> S::Vector {
        // SAFETY: the caller vouches for the elements.
        unsafe { self.load_first(from, count) }
    }
    #[inline(always)]
    fn accumulate(self, a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector {
        self.mul_add(a, b, sum)
    }
    #[inline(always)]
    unsafe fn load_c(self, from: *const T, count: usize) -> S::Vector {
        // SAFETY: the caller vouches for the elements.
        unsafe { self.load_up_to(from, count) }
    }
    #[inline(always)]
    unsafe fn store_c(self, to: *mut T, vector: S::Vector, count: usize) {
        // SAFETY: the caller vouches for the elements.
        unsafe { self.store_up_to(to, vector, count) }
    }
}
