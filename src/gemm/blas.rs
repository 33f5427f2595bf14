//! Products in the shape of BLAS, on raw pointers: with the signature of the crate
//! `matrixmultiply`, so that a user of it swaps one import.
//!
//! ```text
//! C = alpha A B + beta C,    A (m, k), B (k, n), C (m, n)
//! element (i, j) of X stands at x + i * rsx + j * csx
//! ```

use crate::{
    error::Result,
    gemm::{Epilogue, Gemm, operand::Lines},
    kernels::{Element, Source},
    matrix::{MatMut, MatRef},
    threads::Threads,
};

/// `C = alpha A B + beta C` of raw operands, as [`sgemm`]. With `alpha == 0` the pointers to A and
/// B may be anything.
///
/// # Errors
/// [`Error::IsaUnavailable`](crate::Error::IsaUnavailable) if `TILEWISE_ISA` names an instruction
/// set that is not available; [`Error::SizeOverflow`](crate::Error::SizeOverflow) if there is no
/// scratch memory; [`Error::OutsidePool`](crate::Error::OutsidePool) if the threads are more than
/// the calling one and it is in no rayon pool. C is as it was.
///
/// # Safety
/// As for [`sgemm`].
pub(crate) unsafe fn product<T: Element>(
    threads: Threads,
    (m, k, n): (usize, usize, usize),
    alpha: T,
    a: (*const T, isize, isize),
    b: (*const T, isize, isize),
    beta: T,
    c: (*mut T, isize, isize),
) -> Result<()> {
    // SAFETY: the caller vouches for the operands.
    let (a, b, c) = unsafe {
        (
            MatRef::from_raw(a.0, (m, k), (a.1, a.2)),
            MatRef::from_raw(b.0, (k, n), (b.1, b.2)),
            MatMut::from_raw(c.0, (m, n), (c.1, c.2)),
        )
    };
    let gemm = Gemm::<T>::new()?.with_threads(threads);
    let depth = if alpha == T::ZERO { 0 } else { k };
    let a = Lines::Source(Source::Matrix(a, alpha));
    let b = Lines::Source(Source::Matrix(b.t(), T::ONE));
    let mut scratch = gemm.scratch(m, n, depth)?;
    gemm.execute(depth, a, b, c, Epilogue::scaled(beta), &mut scratch)
}

macro_rules! blas {
    ($name:ident, $with:ident, $t:ident) => {
        /// `C = alpha A B + beta C` on the calling thread.
        ///
        /// A is (m, k), B (k, n), C (m, n); `rs` and `cs` are the elements from one row and from
        /// one column to the next, of any sign. With `beta == 0` C is not read, with
        /// `alpha == 0` neither A nor B. Scratch memory is allocated for the call.
        ///
        /// # Safety
        /// - All elements of A and B are readable, those of C readable and writable.
        /// - The elements of C are distinct, and none is an element of A or B.
        ///
        /// # Panics
        /// If `TILEWISE_ISA` names an instruction set that is not available, or the sizes exceed
        /// the address space.
        #[expect(clippy::too_many_arguments, reason = "the shape of BLAS")]
        pub unsafe fn $name(
            m: usize,
            k: usize,
            n: usize,
            alpha: $t,
            a: *const $t,
            rsa: isize,
            csa: isize,
            b: *const $t,
            rsb: isize,
            csb: isize,
            beta: $t,
            c: *mut $t,
            rsc: isize,
            csc: isize,
        ) {
            let threads = Threads::Caller;
            // SAFETY: the caller's promises are passed on.
            unsafe { $with(threads, m, k, n, alpha, a, rsa, csa, b, rsb, csb, beta, c, rsc, csc) }
        }

        /// The same, divided among threads.
        ///
        /// # Safety
        /// As without `threads`.
        ///
        /// # Panics
        /// As without `threads`, and if `threads` are more than the calling one and it is in no rayon
        /// pool.
        #[expect(clippy::too_many_arguments, reason = "the shape of BLAS")]
        pub unsafe fn $with(
            threads: Threads,
            m: usize,
            k: usize,
            n: usize,
            alpha: $t,
            a: *const $t,
            rsa: isize,
            csa: isize,
            b: *const $t,
            rsb: isize,
            csb: isize,
            beta: $t,
            c: *mut $t,
            rsc: isize,
            csc: isize,
        ) {
            let (a, b, c) = ((a, rsa, csa), (b, rsb, csb), (c, rsc, csc));
            // SAFETY: the caller's promises are passed on.
            let result = unsafe { product(threads, (m, k, n), alpha, a, b, beta, c) };
            if let Err(error) = result {
                panic!("{error}");
            }
        }
    };
}

blas!(sgemm, sgemm_with, f32);
blas!(dgemm, dgemm_with, f64);
