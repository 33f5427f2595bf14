//! Products by the crate `matrixmultiply`, with the epilogue as passes of its own.

use crate::{
    error::{Error, Result},
    float::Float,
    gemm::{Epilogue, Finish, Start, shapes::check_shapes},
    kernels::Product,
    matrix::{MatMut, MatRef},
};

/// A product by `matrixmultiply`.
pub(super) fn product<P: Product>(
    alpha: P::Sum,
    a: MatRef<'_, P::Sum>,
    b: MatRef<'_, P::Sum>,
    mut c: MatMut<'_, P::Sum>,
    mut epilogue: Epilogue<'_, P::Sum>,
) -> Result<()> {
    let (m, n, k) = check_shapes(a.shape(), b.shape(), c.shape())?;
    epilogue.check((m, n), c.col_stride())?;
    let depth = if alpha == P::Sum::ZERO { 0 } else { k };
    if epilogue.is_update() {
        let expected = "one that updates weights: tilewise";
        return Err(Error::setting("backend", "matrixmultiply", expected));
    }
    let beta = match epilogue.start {
        Start::Scaled(beta) => beta,
        Start::Bias(bias) => {
            for i in 0..m {
                for (j, &value) in bias.iter().enumerate() {
                    c.set(i, j, value);
                }
            }
            P::Sum::ONE
        }
    };
    if depth > 0 {
        P::matrixmultiply(alpha, a, b, beta, c.reborrow());
    } else {
        // That crate reads A and B also with a factor of 0.
        for i in 0..m {
            for j in 0..n {
                c.set(i, j, if beta == P::Sum::ZERO { P::Sum::ZERO } else { beta * c.get(i, j) });
            }
        }
    }
    epilogue.start_sums(|factor, value| factor * value);
    if let Some(sums) = epilogue.column_sums {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = (0..depth).fold(*sum, |sum, p| sum + b.get(p, j));
        }
    }
    let activation = epilogue.companions.get(0).map(|activation| activation.as_ref());
    let finish = |i: usize, j: usize, sum: P::Sum| match epilogue.finish {
        Finish::Relu => sum.relu(),
        Finish::ReluDropout { mask, .. } if !mask.keeps(i, j) => P::Sum::ZERO,
        Finish::ReluDropout { scale, .. } => sum.relu() * scale,
        Finish::ReluGradient { scale } => match activation {
            Some(activation) if activation.get(i, j) > P::Sum::ZERO => sum * scale,
            _ => P::Sum::ZERO,
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
