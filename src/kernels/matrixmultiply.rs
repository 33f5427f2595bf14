//! A safe door to the crate `matrixmultiply`: baseline of the benchmarks and second oracle.

use crate::matrix::{MatMut, MatRef};

macro_rules! door {
    ($name:ident, $t:ident) => {
        /// `C = alpha A B + beta C`; the shapes must fit.
        pub(super) fn $name(
            alpha: $t,
            a: MatRef<'_, $t>,
            b: MatRef<'_, $t>,
            beta: $t,
            mut c: MatMut<'_, $t>,
        ) {
            let (m, n) = c.shape();
            let k = a.cols();
            assert_eq!((a.rows(), b.shape()), (m, (k, n)), "operands of a product");
            // SAFETY: the views' elements lie in their slices, C is exclusive and does not
            // overlap itself, and the shapes fit.
            unsafe {
                matrixmultiply::$name(
                    m,
                    k,
                    n,
                    alpha,
                    a.as_ptr(),
                    a.row_stride(),
                    a.col_stride(),
                    b.as_ptr(),
                    b.row_stride(),
                    b.col_stride(),
                    beta,
                    c.as_mut_ptr(),
                    c.row_stride(),
                    c.col_stride(),
                )
            }
        }
    };
}

door!(sgemm, f32);
door!(dgemm, f64);
