//! Gradient checks: backward passes against central differences, in f64.

use std::sync::Arc;

use crate::{
    context::Context,
    error::Result,
    matrix::MatRef,
    nn::{
        layer::Mode,
        loss::CrossEntropy,
        network::Network,
        parameters::Arena,
        plan::{Passes, Plan},
        regularization::L2,
    },
};

/// Central differences of `f` at `x`: `(f(x + h e_i) - f(x - h e_i)) / (2 h)` for every i. `x` is
/// restored before this returns.
///
/// # Errors
/// What `f` returns.
pub fn central_differences(
    x: &mut [f64],
    h: f64,
    mut f: impl FnMut(&[f64]) -> Result<f64>,
) -> Result<Vec<f64>> {
    (0..x.len())
        .map(|i| {
            let center = x[i];
            x[i] = center + h;
            let above = f(x)?;
            x[i] = center - h;
            let below = f(x)?;
            x[i] = center;
            Ok((above - below) / (2.0 * h))
        })
        .collect()
}

/// The largest difference of two tensors divided by the largest sum of absolute values of an element:
/// `max |a - b| / max (|a| + |b|)`; 0 where both are 0.
pub fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "tensors to compare");
    let largest =
        |f: fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| f(a, b)).fold(0.0, f64::max);
    let difference = largest(|a, b| (a - b).abs());
    if difference == 0.0 { 0.0 } else { difference / largest(|a, b| a.abs() + b.abs()) }
}

/// The gradient check of one parameter tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterCheck {
    /// The parameter: "0.weight".
    pub name: String,
    /// Elements of the tensor.
    pub len: usize,
    /// Relative error of its gradient; see [`relative_error`].
    pub relative_error: f64,
}

/// Checks the gradients of all parameters of a network that are not frozen against central
/// differences of its loss with step `h` (1e-6 suits losses around 1). `mode` sets dropout.
///
/// x is (batch, inputs). This takes two forward passes for each parameter.
///
/// # Errors
/// Same as [`Plan::loss_and_gradient`].
pub fn check(
    network: &Network<f64>,
    (x, labels): (MatRef<'_, f64>, &[u32]),
    (criterion, l2): (CrossEntropy, L2),
    mode: Mode,
    h: f64,
) -> Result<Vec<ParameterCheck>> {
    let mut network = network.try_clone()?;
    let mut plan = Plan::new(&network, x.rows(), Passes::Gradient, Context::new()?)?;
    plan.loss_and_gradient(&mut network, x, labels, criterion, mode)?;
    l2.add_gradient(&network, &mut plan)?;
    let analytic = plan.gradients().map(Arena::try_clone).transpose()?;
    let analytic = analytic.expect("a plan that stores gradients");
    let mut checks = Vec::new();
    let layout = Arc::clone(network.parameters().layout());
    for (index, tensor) in layout.tensors().iter().enumerate() {
        if network.parameter_settings()[index].frozen {
            continue;
        }
        let mut values = network.parameters().tensor(index).to_vec();
        let numeric = central_differences(&mut values, h, |values| {
            network.parameters_mut().tensor_mut(index).copy_from_slice(values);
            plan.forward(&network, x, mode)?;
            Ok(plan.loss(criterion, labels)? + l2.loss(&network, &mut plan)?)
        })?;
        network.parameters_mut().tensor_mut(index).copy_from_slice(&values);
        checks.push(ParameterCheck {
            name: tensor.name().to_owned(),
            len: values.len(),
            relative_error: relative_error(analytic.tensor(index), &numeric),
        });
    }
    Ok(checks)
}
