//! Vectors: the trait `Isa` that every kernel is written against, and one implementation for
//! each instruction set.
//!
//! A value of a token type (`Avx512`, `Avx2`, `Portable`) proves that the CPU has the instruction
//! set, so the arithmetic below is safe to call; only memory access is `unsafe`. Tokens come from
//! `detect`, which looks at the CPU, and from `new`, which is compiled for the instruction set, so
//! that safe code can call it only in functions that are compiled for it too: those that
//! `kernels::stamp` makes. All methods are `#[inline(always)]`: they compile to the set's
//! instructions once they are inlined into such a function.
//!
//! With `RUSTFLAGS="--cfg tilewise_portable"` the portable instruction set is the only one, and nothing of the
//! crate is of one architecture. That leaves the dependencies: `wide` takes the instructions that
//! the build's target has for certain; `chacha20`, below `rand`, detects more at run time unless
//! `--cfg chacha20_backend="soft"` is given too, to the same numbers.

mod amx;
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
pub(crate) mod avx2;
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
pub(crate) mod avx512;
pub(crate) mod bf16;
mod caches;
mod denormals;
mod detect;
pub(crate) mod flushed;
pub(crate) mod math;
pub(crate) mod portable;
#[cfg(test)]
pub(crate) mod scalar;

pub use amx::Amx;
pub use caches::Caches;
pub use denormals::Denormals;
pub use detect::InstructionSet;

use crate::float::Float;

/// Lanes of the widest vector of any set.
pub(crate) const MAX_LANES: usize = 16;

/// One instruction set's vectors of `T`.
///
/// # Safety
/// A value exists only where the CPU has the instruction set. Loads and stores touch no memory but that which
/// their safety sections name; a vector has `LANES` lanes, `MAX_LANES` at most.
pub unsafe trait Isa<T: Float>: Copy + Send + Sync + 'static {
    /// A vector of [`LANES`](Self::LANES) elements.
    type Vector: Copy;
    /// Elements in a vector.
    const LANES: usize;

    /// All lanes `value`.
    fn splat(self, value: T) -> Self::Vector;

    /// `LANES` elements from `from` on, at any alignment.
    ///
    /// # Safety
    /// `from` is valid for reading `LANES` elements.
    unsafe fn load(self, from: *const T) -> Self::Vector;

    /// The first `count` lanes from `from` on; the others are 0 and their memory is not touched.
    ///
    /// # Safety
    /// `count <= LANES`, and `from` is valid for reading `count` elements.
    unsafe fn load_first(self, from: *const T, count: usize) -> Self::Vector;

    /// `LANES` bytes from `from` on, as numbers from 0 to 255.
    ///
    /// # Safety
    /// `from` is valid for reading `LANES` bytes.
    unsafe fn load_bytes(self, from: *const u8) -> Self::Vector;

    /// Asks for the cache line at `address`, which may be anything: nothing is read as far as the
    /// program can tell, and no address faults. It comes from wrapping arithmetic.
    fn prefetch(self, address: *const T);

    /// Stores all lanes, at any alignment.
    ///
    /// # Safety
    /// `to` is valid for writing `LANES` elements.
    unsafe fn store(self, to: *mut T, vector: Self::Vector);

    /// Stores the first `count` lanes and does not touch the memory of the others.
    ///
    /// # Safety
    /// `count <= LANES`, and `to` is valid for writing `count` elements.
    unsafe fn store_first(self, to: *mut T, vector: Self::Vector, count: usize);

    /// As `load_first`; a plain load where `count` is `LANES`.
    ///
    /// # Safety
    /// `count <= LANES`, and `from` is valid for reading `count` elements.
    #[inline(always)]
    unsafe fn load_up_to(self, from: *const T, count: usize) -> Self::Vector {
        // SAFETY: the caller vouches for the elements.
        unsafe { if count == Self::LANES { self.load(from) } else { self.load_first(from, count) } }
    }

    /// As `store_first`; a plain store where `count` is `LANES`.
    ///
    /// # Safety
    /// `count <= LANES`, and `to` is valid for writing `count` elements.
    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut T, vector: Self::Vector, count: usize) {
        // SAFETY: the caller vouches for the elements.
        unsafe {
            if count == Self::LANES {
                self.store(to, vector);
            } else {
                self.store_first(to, vector, count);
            }
        }
    }

    /// A square of `LANES` vectors, transposed: lane j of vector i becomes lane i of vector j.
    fn transpose(self, square: &mut [Self::Vector]);

    /// `a + b`.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`.
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a / b`.
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The square root, rounded once as IEEE 754 says.
    fn sqrt(self, a: Self::Vector) -> Self::Vector;
    /// `a * b + c`, rounded once (twice in a portable build without fused multiply-add).
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a` where `a > b`, else `b`: also where one of them is NaN, or both are zeros.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a` where `a < b`, else `b`: also where one of them is NaN, or both are zeros.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// 0 where `a < 0`, else `a`: NaN stays NaN.
    #[inline(always)]
    fn relu(self, a: Self::Vector) -> Self::Vector {
        self.max(self.splat(T::ZERO), a)
    }
    /// `a` where `gate > 0`, else 0.
    fn gate(self, a: Self::Vector, gate: Self::Vector) -> Self::Vector;
    /// `a` where `gate > 0`, else `b`.
    fn select(self, gate: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The lowest bits of `a` as exponent, with the sign bit above it and a mantissa of zeros: the
    /// bits of each lane, shifted left by the width of the mantissa.
    fn low_bits_as_exponent(self, a: Self::Vector) -> Self::Vector;
}

/// Work that is written for any instruction set. [`Element::run`](crate::kernels::Element::run)
/// compiles it for each of them.
pub trait Work<T: Float> {
    /// What comes out.
    type Output;

    /// Does the work. It is marked `#[inline(always)]`, and so is all that it calls with vectors,
    /// because it is compiled for the instruction set of the function that it is inlined into.
    fn run<S: Isa<T>>(self, isa: S) -> Self::Output;
}
