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
    c: MatMut<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Result<()> {
    match rounding {
        Rounding::Once => loops(T::mul_add, alpha, a, b, c, epilogue),
        Rounding::Twice => loops(|a, b, c| a * b + c, alpha, a, b, c, epilogue),
    }
}

/// The three loops, with a given way to compute `a * b + c`.
fn loops<T: Float>(
    multiply_add: impl Fn(T, T, T) -> T,
    alpha: T,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    mut c: MatMut<'_, T>,
    mut epilogue: Epilogue<'_, T>,
) -> Result<()> {
    let (m, n, k) = check_shapes(a.shape(), b.shape(), c.shape())?;
    epilogue.check((m, n), c.col_stride())?;
    let depth = if alpha == T::ZERO { 0 } else { k };
    epilogue.start_sums();
    if let Some(sums) = epilogue.b_sums {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = (0..depth).fold(*sum, |sum, p| sum + b.get(p, j));
        }
    }
    for i in 0..m {
        for j in 0..n {
            let start = match epilogue.start {
                Start::Scaled(beta) if beta == T::ZERO => T::ZERO,
                Start::Scaled(beta) => beta * c.get(i, j),
                Start::Bias(bias) => bias[j],
            };
            let mut sum = start;
            for p in 0..depth {
                sum = multiply_add(alpha * a.get(i, p), b.get(p, j), sum);
            }
            let value = match &mut epilogue.finish {
                Finish::Store => sum,
                Finish::Relu => sum.relu(),
                Finish::ReluDropout { mask, scale } => {
                    if mask.keeps(i, j) {
                        sum.relu() * *scale
                    } else {
                        T::ZERO
                    }
                }
                Finish::Gate { activation, scale } => {
                    if activation.get(i, j) > T::ZERO {
                        sum * *scale
                    } else {
                        T::ZERO
                    }
                }
                Finish::Descent { learning_rate, l2 } => {
                    let w = c.get(i, j);
                    multiply_add(-*learning_rate, multiply_add(*l2 + *l2, w, sum), w)
                }
                Finish::Momentum { velocity, learning_rate, momentum, nesterov, l2 } => {
                    let w = c.get(i, j);
                    let gradient = multiply_add(*l2 + *l2, w, sum);
                    let kept = *momentum * velocity.get(i, j);
                    let new = multiply_add(-*learning_rate, gradient, kept);
                    velocity.set(i, j, new);
                    let next = multiply_add(-*learning_rate, gradient, *momentum * new);
                    w + if *nesterov { next } else { new }
                }
            };
            c.set(i, j, value);
        }
    }
    Ok(())
}
