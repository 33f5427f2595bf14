//! The same products by other means, selectable wherever tilewise multiplies: to compare with.

use crate::{
    error::{Error, Result},
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
    mut epilogue: Epilogue<'_, T>,
) -> Result<()> {
    let (m, n, k) = check_shapes(a.shape(), b.shape(), c.shape())?;
    epilogue.check((m, n), c.col_stride())?;
    let depth = if alpha == T::ZERO { 0 } else { k };
    if epilogue.is_update() {
        let backend = format!("{:?}", Backend::MatrixMultiply);
        return Err(Error::setting("backend", backend, "one that updates weights: Tilewise"));
    }
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
    epilogue.start_sums();
    if let Some(sums) = epilogue.b_sums {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = (0..depth).fold(*sum, |sum, p| sum + b.get(p, j));
        }
    }
    let finish = |i: usize, j: usize, sum: T| match &epilogue.finish {
        Finish::Relu => sum.relu(),
        Finish::ReluDropout { mask, .. } if !mask.keeps(i, j) => T::ZERO,
        Finish::ReluDropout { scale, .. } => sum.relu() * *scale,
        Finish::Gate { activation, scale } if activation.get(i, j) > T::ZERO => sum * *scale,
        Finish::Gate { .. } => T::ZERO,
        Finish::Store | Finish::Descent { .. } | Finish::Momentum { .. } => sum,
    };
    if !matches!(epilogue.finish, Finish::Store) {
        for i in 0..m {
            for j in 0..n {
                c.set(i, j, finish(i, j, c.get(i, j)));
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
