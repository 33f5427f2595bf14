//! The product as a person would write it: the oracle of the tests and the baseline of the
//! benchmarks.

use crate::{
    error::Result,
    float::Float,
    gemm::{Epilogue, Finish, Start, check_shapes},
    matrix::{MatMut, MatRef},
};

/// How a multiply-add rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Once, as the fused multiply-add of the hardware.
    Once,
    /// After the multiplication and after the addition.
    Twice,
}

/// `C = finish(start + (alpha A) B)`, every element one chain of multiply-adds in the order of k.
///
/// A is (m, k), B (k, n), C (m, n). With [`Rounding::Once`] this defines, to the bit, what every
/// instruction set with a fused multiply-add computes.
///
/// # Errors
/// `Error::Shape` or `Error::Length` if an operand does not fit.
pub fn gemm<T: Float>(
    rounding: Rounding,
    alpha: T,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    mut c: MatMut<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Result<()> {
    let (m, n, k) = check_shapes(a, b, &c)?;
    epilogue.check((m, n), c.col_stride())?;
    let k = if alpha == T::ZERO { 0 } else { k };
    for i in 0..m {
        for j in 0..n {
            let mut sum = match epilogue.start {
                Start::Scaled(beta) if beta == T::ZERO => T::ZERO,
                Start::Scaled(beta) => beta * c.get(i, j),
                Start::Bias(bias) => bias[j],
            };
            for p in 0..k {
                let (a, b) = (alpha * a.get(i, p), b.get(p, j));
                sum = match rounding {
                    Rounding::Once => a.mul_add(b, sum),
                    Rounding::Twice => a * b + sum,
                };
            }
            let value = match epilogue.finish {
                Finish::Store => sum,
                Finish::Relu => sum.relu(),
                Finish::Gate { activation, scale } if activation.get(i, j) > T::ZERO => sum * scale,
                Finish::Gate { .. } => T::ZERO,
            };
            c.set(i, j, value);
        }
    }
    Ok(())
}
