//! Stochastic gradient descent.

use crate::{error::Result, gemm::Gemm, kernels::Element, nn::add_scaled, train::optim::Optimizer};

/// Plain stochastic gradient descent (Robbins and Monro 1951): `w = w - lr g`, each element one
/// multiply-add.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sgd;

impl<T: Element> Optimizer<T> for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn prepare(&mut self, _lengths: &[usize]) -> Result<()> {
        Ok(())
    }

    fn update(
        &mut self,
        gemm: &Gemm<T>,
        _index: usize,
        parameters: &mut [T],
        gradient: &[T],
        learning_rate: f64,
    ) {
        add_scaled(gemm, T::from_f64(-learning_rate), gradient, parameters);
    }
}
