//! What the sums of a product start from, and what happens to them before they are stored.

use crate::{
    error::{Error, Result},
    float::Float,
    matrix::MatRef,
};

/// What each sum starts from.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a, T: Copy> {
    /// `factor * C`. A factor of 0 never reads C: what stood there, NaN included, has no effect.
    Scaled(T),
    /// One value for each column; C is not read.
    Bias(&'a [T]),
}

/// What happens to each finished sum.
#[derive(Clone, Copy, Debug)]
pub enum Finish<'a, T: Copy> {
    /// It is stored.
    Store,
    /// `max(sum, 0)` is stored; NaN stays NaN.
    Relu,
    /// `scale * sum` is stored where the activation is above 0, else 0: the gradient behind a
    /// rectifier.
    Gate {
        /// Of the same shape as C, its columns side by side.
        activation: MatRef<'a, T>,
        /// Factor of what passes.
        scale: T,
    },
}

/// Start and finish of a product's sums.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a, T: Copy> {
    /// What each sum starts from.
    pub start: Start<'a, T>,
    /// What happens to each finished sum.
    pub finish: Finish<'a, T>,
}

impl<T: Float> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Self::scaled(T::ZERO)
    }
}

impl<'a, T: Float> Epilogue<'a, T> {
    /// `C = product + beta * C`.
    pub fn scaled(beta: T) -> Self {
        Self { start: Start::Scaled(beta), finish: Finish::Store }
    }

    /// `C = product + bias`.
    pub fn bias(bias: &'a [T]) -> Self {
        Self { start: Start::Bias(bias), finish: Finish::Store }
    }

    /// `C = max(product + bias, 0)`.
    pub fn bias_relu(bias: &'a [T]) -> Self {
        Self { start: Start::Bias(bias), finish: Finish::Relu }
    }

    /// `C = product` where the activation is above 0, else 0.
    pub fn gate(activation: MatRef<'a, T>) -> Self {
        Self { start: Start::Scaled(T::ZERO), finish: Finish::Gate { activation, scale: T::ONE } }
    }

    /// Whether the epilogue treats rows and columns alike.
    pub(super) fn is_symmetric(&self) -> bool {
        matches!(self.start, Start::Scaled(_)) && !matches!(self.finish, Finish::Gate { .. })
    }

    /// An error unless all operands fit a C of the given shape and column stride.
    pub(super) fn check(&self, shape: (usize, usize), col_stride: isize) -> Result<()> {
        let side_by_side = |what: &'static str, stride: isize| {
            if stride == 1 || shape.1 <= 1 {
                Ok(())
            } else {
                Err(Error::setting(what, stride, "1: columns side by side"))
            }
        };
        if let Start::Bias(bias) = self.start {
            if bias.len() != shape.1 {
                return Err(Error::Length { what: "bias", expected: shape.1, found: bias.len() });
            }
            side_by_side("column stride of C with a bias", col_stride)?;
        }
        if let Finish::Gate { activation, .. } = self.finish {
            activation.expect_shape("activation", shape)?;
            side_by_side("column stride of the activation", activation.col_stride())?;
            side_by_side("column stride of C with an activation", col_stride)?;
        }
        Ok(())
    }
}
