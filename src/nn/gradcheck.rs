//! Gradient checks: backward passes against central differences, in f64.

use crate::{
    error::Result,
    gemm::Gemm,
    matrix::MatRef,
    nn::{FullyConnectedNet, Mode, Workspace},
};

/// Central differences of `f` at `x`: `(f(x + h e_i) - f(x - h e_i)) / (2 h)` for every i. `x` is
/// as before when this returns.
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

/// The largest difference of two tensors over the largest sum of absolute values at one place:
/// `max |a - b| / max (|a| + |b|)`; 0 where both are 0.
pub fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "tensors to compare");
    let largest =
        |f: fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| f(a, b)).fold(0.0, f64::max);
    let difference = largest(|a, b| (a - b).abs());
    if difference == 0.0 { 0.0 } else { difference / largest(|a, b| a.abs() + b.abs()) }
}

/// The check of one parameter tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterCheck {
    /// Number of the layer and what it is: "layer 0 weight".
    pub name: String,
    /// Elements of the tensor.
    pub len: usize,
    /// Relative error of its gradient; see [`relative_error`].
    pub relative_error: f64,
}

/// Checks the gradients of all parameters of a network against central differences of its loss
/// with step `h` (1e-6 is right for losses around 1), with dropout as `mode` says.
///
/// x is (batch, input). Cost: two forward passes for each parameter.
///
/// # Errors
/// As [`FullyConnectedNet::loss_and_gradient`].
pub fn check_net(
    net: &FullyConnectedNet<f64>,
    x: MatRef<'_, f64>,
    labels: &[u8],
    mode: Mode,
    h: f64,
) -> Result<Vec<ParameterCheck>> {
    let mut net = net.clone();
    let mut workspace = net.workspace(Gemm::new()?, x.rows())?;
    net.loss_and_gradient(x, &mut workspace, labels, mode)?;
    let mut checks = Vec::new();
    for layer in 0..net.layers().len() {
        for (tensor, what) in ["weight", "bias"].into_iter().enumerate() {
            let analytic = workspace.gradient(layer)[tensor].to_vec();
            let mut values = net.layers()[layer].parameters()[tensor].to_vec();
            let numeric = central_differences(&mut values, h, |values| {
                net.layers_mut()[layer].parameters_mut()[tensor].copy_from_slice(values);
                loss(&net, x, &mut workspace, labels, mode)
            })?;
            net.layers_mut()[layer].parameters_mut()[tensor].copy_from_slice(&values);
            checks.push(ParameterCheck {
                name: format!("layer {layer} {what}"),
                len: values.len(),
                relative_error: relative_error(&analytic, &numeric),
            });
        }
    }
    Ok(checks)
}

fn loss(
    net: &FullyConnectedNet<f64>,
    x: MatRef<'_, f64>,
    workspace: &mut Workspace<f64>,
    labels: &[u8],
    mode: Mode,
) -> Result<f64> {
    net.forward(x, workspace, mode)?;
    net.loss(workspace, labels)
}
