//! The element types of a product, and the arithmetic of its chains in one instruction set.
//!
//! What another type of operands brings, in a file of its own: its [`Types`], and its
//! [`MultiplyAdd`] for each instruction set. bf16, for one, has panels of `Bf16`, sums in f32, C in
//! either, and chains that take two steps of k at a time: [`MultiplyAdd::STEP`] is 2, a panel holds
//! pairs of neighboring k, the even one in the upper half, and an odd depth is filled up with a
//! pair whose other half is 0. Packing pairs is a second file, in `kernels/pack/`: its sources
//! deliver f32 (matrices of f32, bytes), which are rounded as pairs are stored. The tiles, the
//! blocks and the epilogues are those of here.

use bytemuck::Pod;

use crate::{float::Float, simd::Isa};

/// The element types of a product `C = A B`.
pub trait Types: Copy + Send + Sync + 'static {
    /// Of panels of A, and of an A in place.
    type Left: Pod;
    /// Of panels of B, and of a B in place.
    type Right: Pod;
    /// Of the sums, of what they start from, and of the companions.
    type Sum: Float;
    /// Of C. Updates need that of the sums.
    type Output: Pod;
}

impl Types for f32 {
    type Left = f32;
    type Right = f32;
    type Sum = f32;
    type Output = f32;
}

impl Types for f64 {
    type Left = f64;
    type Right = f64;
    type Sum = f64;
    type Output = f64;
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
    /// Steps of k that are taken at a time; in panels their elements are neighbors.
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

    /// `sum` and the products behind it.
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
