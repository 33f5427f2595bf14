//! `Relu`: the rectifier.

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
    /// `out = max(x, 0)`. Both are (batch, features) with their columns side by side.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, [`Error::Setting`] if a column stride is not 1, or the
    /// threads of `gemm` are more than the calling one and it is in no rayon pool.
    pub fn forward<T: Element>(
        &self,
        gemm: &Gemm<T>,
        x: MatRef<'_, T>,
        mut out: MatMut<'_, T>,
    ) -> Result<()> {
        out.expect_shape("output of a rectifier", x.shape())?;
        gemm.tasks()?;
        for i in 0..x.rows() {
            let apart = || columns_apart(x.col_stride());
            let row = x.row(i).ok_or_else(apart)?;
            gemm.kernels().relu(row, out.row_mut(i).ok_or_else(apart)?);
        }
        Ok(())
    }

    /// The gradient of the input from that of the output, in place: 0 where `activation`, the
    /// input or the output of the forward pass, is not above 0. Both are (batch, features) with
    /// their columns side by side.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, [`Error::Setting`] if a column stride is not 1, or the
    /// threads of `gemm` are more than the calling one and it is in no rayon pool.
    pub fn backward<T: Element>(
        &self,
        gemm: &Gemm<T>,
        activation: MatRef<'_, T>,
        mut gradient: MatMut<'_, T>,
    ) -> Result<()> {
        gradient.expect_shape("gradient of a rectifier", activation.shape())?;
        gemm.tasks()?;
        for i in 0..activation.rows() {
            let apart = || columns_apart(activation.col_stride());
            let row = activation.row(i).ok_or_else(apart)?;
            gemm.kernels().gate(row, gradient.row_mut(i).ok_or_else(apart)?);
        }
        Ok(())
    }
}

fn columns_apart(stride: isize) -> Error {
    Error::setting("column stride", stride, "1: columns side by side")
}
