//! Products by the crate `matrixmultiply`, with the epilogue as passes of its own.

use crate::{
    error::{Error, Result},
    gemm::{Backend, Epilogue, Finish, Start, shapes::check_shapes},
    kernels::Element,
    matrix::{MatMut, MatRef},
};

/// A product by `matrixmultiply`.
pub(super) fn product<T: Element>(
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
    if depth > 0 {
        T::matrixmultiply(alpha, a, b, beta, c.reborrow());
    } else {
        // That crate reads A and B also with a factor of 0.
        for i in 0..m {
            for j in 0..n {
                c.set(i, j, if beta == T::ZERO { T::ZERO } else { beta * c.get(i, j) });
            }
        }
    }
    epilogue.start_sums();
    if let Some(sums) = epilogue.column_sums {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = (0..depth).fold(*sum, |sum, p| sum + b.get(p, j));
        }
    }
    let activation = epilogue.companions.get(0).map(|activation| activation.as_ref());
    let finish = |i: usize, j: usize, sum: T| match epilogue.finish {
        Finish::Relu => sum.relu(),
        Finish::ReluDropout { mask, .. } if !mask.keeps(i, j) => T::ZERO,
        Finish::ReluDropout { scale, .. } => sum.relu() * scale,
        Finish::ReluGradient { scale } => match activation {
            Some(activation) if activation.get(i, j) > T::ZERO => sum * scale,
            _ => T::ZERO,
        },
        Finish::Store | Finish::Update(_) => sum,
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
