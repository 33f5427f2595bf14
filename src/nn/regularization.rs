//! `L2`: L2 regularization.

use crate::{
    error::{Error, Result},
    kernels::Element,
    nn::{
        elementwise::{add_scaled, sum_of_squares},
        network::{Network, of_kind},
        parameters::ParameterKind,
        plan::Plan,
    },
};

/// L2 regularization: adds this factor times the sum of all squared weights (not biases) to the
/// loss, and so `2 factor w` to the gradient of a weight w.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct L2(f64);

impl L2 {
    /// L2 regularization with this factor; 0 is none.
    ///
    /// # Errors
    /// [`Error::Setting`] unless the factor is finite and not negative.
    pub fn new(factor: f64) -> Result<Self> {
        if !(factor.is_finite() && factor >= 0.0) {
            return Err(Error::setting("l2", factor, "a finite number, 0 or above"));
        }
        Ok(Self(factor))
    }

    /// The factor.
    pub fn factor(self) -> f64 {
        self.0
    }

    /// The term of the loss.
    ///
    /// # Errors
    /// [`Error::OutsidePool`] if the plan has several threads and the calling one is in no rayon pool.
    pub fn loss<T: Element>(self, network: &Network<T>, plan: &mut Plan<T>) -> Result<f64> {
        if self.0 == 0.0 {
            return Ok(0.0);
        }
        let context = *plan.context();
        let mut squares = 0.0;
        for index in of_kind(network, ParameterKind::Weight) {
            let w = network.parameters().tensor(index);
            squares += sum_of_squares(&context, w, plan.partial_sums())?;
        }
        Ok(self.0 * squares)
    }

    /// Adds the gradient of the term to the gradients of the plan, if it stores them.
    ///
    /// # Errors
    /// Same as [`loss`](Self::loss).
    pub fn add_gradient<T: Element>(self, network: &Network<T>, plan: &mut Plan<T>) -> Result<()> {
        if self.0 == 0.0 {
            return Ok(());
        }
        let context = *plan.context();
        let factor = T::from_f64(2.0 * self.0);
        let Some((gradients, _)) = plan.gradients_and_partial_sums() else { return Ok(()) };
        for index in of_kind(network, ParameterKind::Weight) {
            let w = network.parameters().tensor(index);
            add_scaled(&context, factor, w, gradients.tensor_mut(index))?;
        }
        Ok(())
    }
}
