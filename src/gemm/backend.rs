//! The same products by other means, selectable wherever tilewise multiplies: to compare with.

use crate::{
    error::Result,
    gemm::{Epilogue, Finish, Start, check_shapes, naive},
    kernels::Element,
    matrix::{MatMut, MatRef},
};

/// Who computes the products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// This crate's kernels.
    #[default]
    Tilewise,
    /// The crate `matrixmultiply` on the calling thread, with the epilogue as passes of its own.
    /// Its sums are not in one fixed order, so its bits differ.
    MatrixMultiply,
    /// Three loops on the calling thread, two roundings for each multiply-add.
    Naive,
}

/// A product by `matrixmultiply`.
pub(super) fn matrixmultiply<T: Element>(
    alpha: T,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    mut c: MatMut<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Result<()> {
    let (m, n, _) = check_shapes(a, b, &c)?;
    epilogue.check((m, n), c.col_stride())?;
    let beta = match epilogue.start {
        Start::Scaled(beta) => beta,
        Start::Bias(bias) => {
            for i in 0..m {
                for (j, &value) in bias.iter().enumerate() {
                    c.set(i, j, value);
                }
            }
            T::ONE
        }
    };
    T::matrixmultiply(alpha, a, b, beta, c.reborrow());
    match epilogue.finish {
        Finish::Store => {}
        Finish::Relu => {
            for i in 0..m {
                for j in 0..n {
                    c.set(i, j, c.get(i, j).relu());
                }
            }
        }
        Finish::Gate { activation, scale } => {
            for i in 0..m {
                for j in 0..n {
                    let open = activation.get(i, j) > T::ZERO;
                    c.set(i, j, if open { c.get(i, j) * scale } else { T::ZERO });
                }
            }
        }
    }
    Ok(())
}

/// A product by three loops.
pub(super) fn naive<T: Element>(
    alpha: T,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    c: MatMut<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Result<()> {
    naive::gemm(naive::Rounding::Twice, alpha, a, b, c, epilogue)
}
