//! `Relu`: the rectified linear unit.

use crate::{
    error::{Error, Result},
    gemm::Gemm,
    kernels::Element,
    matrix::{MatMut, MatRef},
};

/// `out = max(x, 0)`; NaN stays NaN. Its gradient is 1 where `x > 0` and 0 elsewhere, also at 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Relu;

impl Relu {
    /// `out = max(x, 0)`. Both are (batch, features) with contiguous rows.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, [`Error::Setting`] if a row is not contiguous.
    pub fn forward<T: Element>(
        &self,
        gemm: &Gemm<T>,
        x: MatRef<'_, T>,
        mut out: MatMut<'_, T>,
    ) -> Result<()> {
        out.expect_shape("output of ReLU", x.shape())?;
        for i in 0..x.rows() {
            let problem = || not_contiguous(x.col_stride());
            let row = x.row(i).ok_or_else(problem)?;
            gemm.kernels().relu(row, out.row_mut(i).ok_or_else(problem)?);
        }
        Ok(())
    }

    /// The gradient of the input from that of the output, in place: 0 where `activation`, the
    /// input or the output of the forward pass, is not above 0. Both are (batch, features) with
    /// contiguous rows.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, [`Error::Setting`] if a row is not contiguous.
    pub fn backward<T: Element>(
        &self,
        gemm: &Gemm<T>,
        activation: MatRef<'_, T>,
        mut gradient: MatMut<'_, T>,
    ) -> Result<()> {
        gradient.expect_shape("gradient of ReLU", activation.shape())?;
        for i in 0..activation.rows() {
            let problem = || not_contiguous(activation.col_stride());
            let row = activation.row(i).ok_or_else(problem)?;
            gemm.kernels().gate(row, gradient.row_mut(i).ok_or_else(problem)?);
        }
        Ok(())
    }
}

fn not_contiguous(stride: isize) -> Error {
    Error::setting("column stride", stride, "1: contiguous rows")
}
