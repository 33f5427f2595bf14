//! Update rules: how parameters follow their gradients.

mod sgd;

pub use sgd::Sgd;

use crate::{
    error::Result,
    gemm::Gemm,
    kernels::Element,
    nn::{FullyConnectedNet, Workspace},
};

/// An update rule, with whatever state it keeps for each parameter tensor.
pub trait Optimizer<T: Element>: Send {
    /// The rule's usual name.
    fn name(&self) -> &'static str;

    /// Makes the state for parameter tensors of these lengths; called once, before training.
    /// Afterwards the rule must not allocate.
    ///
    /// # Errors
    /// `Error::Setting` if a setting makes no sense.
    fn prepare(&mut self, lengths: &[usize]) -> Result<()>;

    /// Updates parameter tensor number `index` with its gradient, of equal length. Work may be
    /// divided among the threads of `gemm`.
    fn update(
        &mut self,
        gemm: &Gemm<T>,
        index: usize,
        parameters: &mut [T],
        gradient: &[T],
        learning_rate: f64,
    );
}

/// Updates all parameters of a network with the gradients of its last backward pass.
pub fn update<T: Element>(
    optimizer: &mut dyn Optimizer<T>,
    net: &mut FullyConnectedNet<T>,
    workspace: &Workspace<T>,
    learning_rate: f64,
) {
    for (l, layer) in net.layers_mut().iter_mut().enumerate() {
        let pairs = layer.parameters_mut().into_iter().zip(workspace.gradient(l));
        for (tensor, (parameters, gradient)) in pairs.enumerate() {
            let index = 2 * l + tensor;
            optimizer.update(workspace.gemm(), index, parameters, gradient, learning_rate);
        }
    }
}
