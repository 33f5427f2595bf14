//! What the sums of a product start from, and what happens to them before they are stored.

pub use crate::kernels::DropoutMask;
use crate::{
    error::{Error, Result},
    float::Float,
    matrix::{MatMut, MatRef},
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
#[derive(Debug)]
#[non_exhaustive]
pub enum Finish<'a, T: Copy> {
    /// It is stored.
    Store,
    /// `max(sum, 0)` is stored; NaN stays NaN.
    Relu,
    /// `scale * max(sum, 0)` is stored where the mask keeps the element, else 0: a rectifier and
    /// dropout behind it.
    ReluDropout {
        /// What is kept.
        mask: DropoutMask,
        /// Factor of what is kept.
        scale: T,
    },
    /// `scale * sum` is stored where the activation is above 0, else 0: the gradient behind a
    /// rectifier.
    Gate {
        /// Of the same shape as C, with contiguous rows.
        activation: MatRef<'a, T>,
        /// Factor of what passes.
        scale: T,
    },
    /// C holds weights w and the sum is their gradient; a step of gradient descent:
    /// `g = 2 l2 w + sum; w = -learning_rate g + w`, each one multiply-add.
    Descent {
        /// Length of the step.
        learning_rate: T,
        /// Factor of the squared weights in the loss.
        l2: T,
    },
    /// As `Descent`, with a velocity: `v = -learning_rate g + momentum v; w = w + v`, or with
    /// `nesterov` instead `w = w + (-learning_rate g + momentum v)`.
    Momentum {
        /// Of the same shape as C, with contiguous rows; updated.
        velocity: MatMut<'a, T>,
        /// Length of the step.
        learning_rate: T,
        /// Share of the velocity that is kept.
        momentum: T,
        /// Whether w moves by the velocity that the same gradient would make next.
        nesterov: bool,
        /// Factor of the squared weights in the loss.
        l2: T,
    },
}

/// Start and finish of a product's sums, and what is summed on the side.
#[derive(Debug)]
pub struct Epilogue<'a, T: Copy> {
    /// What each sum starts from. For an update of weights it is 0.
    pub start: Start<'a, T>,
    /// What happens to each finished sum.
    pub finish: Finish<'a, T>,
    /// Receives the sums of the columns of B, each from the first row to the last, taken while B
    /// is packed: where B is the gradient of a layer's output, the gradient of its bias. They start
    /// as C does, from a factor times what they hold (0 with a bias). With `alpha == 0` B is not
    /// read.
    pub b_sums: Option<&'a mut [T]>,
}

impl<T: Float> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Self::scaled(T::ZERO)
    }
}

impl<'a, T: Float> Epilogue<'a, T> {
    /// `C = product + beta * C`.
    pub fn scaled(beta: T) -> Self {
        Self { start: Start::Scaled(beta), finish: Finish::Store, b_sums: None }
    }

    /// `C = product + bias`.
    pub fn bias(bias: &'a [T]) -> Self {
        Self { start: Start::Bias(bias), ..Self::default() }
    }

    /// `C = max(product + bias, 0)`.
    pub fn bias_relu(bias: &'a [T]) -> Self {
        Self { start: Start::Bias(bias), finish: Finish::Relu, b_sums: None }
    }

    /// `C = product` where the activation is above 0, else 0.
    pub fn gate(activation: MatRef<'a, T>) -> Self {
        Self { finish: Finish::Gate { activation, scale: T::ONE }, ..Self::default() }
    }

    /// Whether the epilogue treats rows and columns alike.
    pub(super) fn is_symmetric(&self) -> bool {
        matches!(self.start, Start::Scaled(_))
            && matches!(self.finish, Finish::Store | Finish::Relu)
            && self.b_sums.is_none()
    }

    /// Brings the sums of the columns of B to what they start from.
    pub(super) fn start_sums(&mut self) {
        let beta = if let Start::Scaled(beta) = self.start { beta } else { T::ZERO };
        if let Some(sums) = &mut self.b_sums {
            for sum in sums.iter_mut() {
                *sum = if beta == T::ZERO { T::ZERO } else { beta * *sum };
            }
        }
    }

    /// Whether C is updated, so that its sums have nowhere to wait between two blocks.
    pub(super) fn is_update(&self) -> bool {
        matches!(self.finish, Finish::Descent { .. } | Finish::Momentum { .. })
    }

    /// An error unless all operands fit a C of the given shape and column stride.
    pub(super) fn check(&self, shape: (usize, usize), col_stride: isize) -> Result<()> {
        let contiguous = |what: &'static str, stride: isize| {
            if stride == 1 || shape.1 <= 1 {
                Ok(())
            } else {
                Err(Error::setting(what, stride, "1: contiguous rows"))
            }
        };
        let lengths = [
            ("bias", if let Start::Bias(bias) = self.start { Some(bias.len()) } else { None }),
            ("sums of the columns of B", self.b_sums.as_ref().map(|sums| sums.len())),
        ];
        for (what, len) in lengths {
            if let Some(found) = len
                && found != shape.1
            {
                return Err(Error::Length { what, expected: shape.1, found });
            }
        }
        match &self.finish {
            Finish::Store | Finish::Relu | Finish::ReluDropout { .. } => {}
            Finish::Gate { activation, .. } => {
                activation.expect_shape("activation", shape)?;
                contiguous("column stride of the activation", activation.col_stride())?;
            }
            Finish::Momentum { velocity, .. } => {
                velocity.expect_shape("velocity", shape)?;
                contiguous("column stride of the velocity", velocity.col_stride())?;
            }
            Finish::Descent { .. } => {}
        }
        if self.is_update() && !matches!(self.start, Start::Scaled(beta) if beta == T::ZERO) {
            let expected = "0 where C is updated: its sums are a gradient";
            return Err(Error::setting("start", format!("{:?}", self.start), expected));
        }
        if !matches!(self.finish, Finish::Store | Finish::Relu)
            || matches!(self.start, Start::Bias(_))
        {
            contiguous("column stride of C with this epilogue", col_stride)?;
        }
        Ok(())
    }
}
