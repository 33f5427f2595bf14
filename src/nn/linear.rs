//! `Linear`, an affine map, and `LinearRelu`, the map and ReLU in one pass.

use crate::{
    aligned::AlignedBuf,
    error::{Error, Result},
    gemm::{Epilogue, Finish, Gemm, Operand, Start},
    kernels::Element,
    matrix::{MatMut, MatRef},
    nn::{init::Init, relu::Relu},
};

/// `out = x W + b`, with W (in_features, out_features) and b (out_features).
#[derive(Clone, Debug)]
pub struct Linear<T: Element> {
    weight: AlignedBuf<T>,
    bias: AlignedBuf<T>,
    in_features: usize,
    out_features: usize,
}

/// Where a backward pass puts the gradients of a layer's parameters.
#[derive(Debug)]
pub struct LinearGradient<'a, T: Element> {
    /// Of W: (in_features, out_features).
    pub weight: MatMut<'a, T>,
    /// Of b: (out_features).
    pub bias: &'a mut [T],
}

impl<T: Element> Linear<T> {
    /// A layer of zeros.
    ///
    /// # Errors
    /// [`Error::Setting`] if a size is 0, [`Error::SizeOverflow`] if the weights exceed the
    /// address space.
    pub fn zeros(in_features: usize, out_features: usize) -> Result<Self> {
        for (name, size) in [("in_features", in_features), ("out_features", out_features)] {
            if size == 0 {
                return Err(Error::setting(name, size, "at least 1"));
            }
        }
        let overflow =
            Error::SizeOverflow { what: "weights", rows: in_features, cols: out_features };
        let len = in_features.checked_mul(out_features).ok_or(overflow)?;
        Ok(Self {
            weight: AlignedBuf::zeroed(len)?,
            bias: AlignedBuf::zeroed(out_features)?,
            in_features,
            out_features,
        })
    }

    /// A layer with initial weights for place number `layer` of a network, and biases 0.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros) and [`Init::fill`].
    pub fn new(
        in_features: usize,
        out_features: usize,
        init: Init,
        seed: u64,
        layer: u64,
    ) -> Result<Self> {
        let mut linear = Self::zeros(in_features, out_features)?;
        init.fill(linear.weight_mut(), seed, layer)?;
        Ok(linear)
    }

    /// Columns of the input.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Columns of the output.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// W: (in_features, out_features).
    pub fn weight(&self) -> MatRef<'_, T> {
        MatRef::new(&self.weight, self.in_features, self.out_features).expect("dense weights")
    }

    /// W: (in_features, out_features).
    pub fn weight_mut(&mut self) -> MatMut<'_, T> {
        MatMut::new(&mut self.weight, self.in_features, self.out_features).expect("dense weights")
    }

    /// b: (out_features).
    pub fn bias(&self) -> &[T] {
        &self.bias
    }

    /// b: (out_features).
    pub fn bias_mut(&mut self) -> &mut [T] {
        &mut self.bias
    }

    /// W, row after row, and b.
    pub(crate) fn parameters(&self) -> [&[T]; 2] {
        [&self.weight, &self.bias]
    }

    /// W, row after row, and b.
    pub(crate) fn parameters_mut(&mut self) -> [&mut [T]; 2] {
        [&mut self.weight, &mut self.bias]
    }

    /// Bytes of scratch memory that the passes over `batch` rows need.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if that exceeds the address space.
    pub fn scratch_bytes(&self, gemm: &Gemm<T>, batch: usize) -> Result<usize> {
        let (input, output) = (self.in_features, self.out_features);
        let forward = gemm.scratch_bytes(batch, output, input)?;
        let d_weight = gemm.scratch_bytes(input, output, batch)?;
        let d_x = gemm.scratch_bytes(batch, input, output)?;
        Ok(forward.max(d_weight).max(d_x))
    }

    /// `out = x W + b`. x is (batch, in), out is (batch, out).
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Length`] if an operand or `scratch` does not fit.
    pub fn forward<'a>(
        &self,
        gemm: &Gemm<T>,
        x: impl Into<Operand<'a, T>>,
        out: MatMut<'_, T>,
        scratch: &mut [u8],
    ) -> Result<()> {
        self.forward_finish(gemm, x.into(), out, Finish::Store, scratch)
    }

    /// `out = finish(x W + b)` in one pass.
    pub(super) fn forward_finish(
        &self,
        gemm: &Gemm<T>,
        x: Operand<'_, T>,
        out: MatMut<'_, T>,
        finish: Finish<T>,
        scratch: &mut [u8],
    ) -> Result<()> {
        let epilogue = Epilogue { finish, ..Epilogue::bias(&self.bias) };
        gemm.run(T::ONE, x, self.weight(), out, epilogue, scratch)
    }

    /// Gradients of the parameters, and of the input if `d_x` is given:
    /// `dW = xᵀ d_out`, `db = ` column sums of `d_out`, `d_x = epilogue(d_out Wᵀ)`.
    ///
    /// x is (batch, in), d_out (batch, out) with contiguous rows, d_x (batch, in).
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Length`] if an operand or `scratch` does not fit;
    /// [`Error::Setting`] if x was packed before.
    pub fn backward<'a>(
        &self,
        gemm: &Gemm<T>,
        x: impl Into<Operand<'a, T>>,
        d_out: MatRef<'_, T>,
        gradient: LinearGradient<'_, T>,
        d_x: Option<(MatMut<'_, T>, Epilogue<'_, T>)>,
        scratch: &mut [u8],
    ) -> Result<()> {
        if let Some((d_x, epilogue)) = d_x {
            self.backward_input(gemm, d_out, d_x, epilogue, scratch)?;
        }
        let start = Start::Scaled(T::ZERO);
        self.backward_parameters(gemm, x.into(), d_out, gradient, start, scratch)
    }

    /// `d_x = epilogue(d_out Wᵀ)`.
    pub(super) fn backward_input(
        &self,
        gemm: &Gemm<T>,
        d_out: MatRef<'_, T>,
        d_x: MatMut<'_, T>,
        epilogue: Epilogue<'_, T>,
        scratch: &mut [u8],
    ) -> Result<()> {
        gemm.run(T::ONE, d_out, self.weight().t(), d_x, epilogue, scratch)
    }

    /// `dW = xᵀ d_out`, `db = ` column sums of `d_out`, both from `start`.
    pub(super) fn backward_parameters(
        &self,
        gemm: &Gemm<T>,
        x: Operand<'_, T>,
        d_out: MatRef<'_, T>,
        gradient: LinearGradient<'_, T>,
        start: Start<'_, T>,
        scratch: &mut [u8],
    ) -> Result<()> {
        self.check_gradient(x.shape().0, d_out, gradient.bias)?;
        let sums = Epilogue { start, column_sums: Some(gradient.bias), ..Epilogue::default() };
        gemm.run(T::ONE, x.t()?, d_out, gradient.weight, sums, scratch)
    }

    /// `W = epilogue(xᵀ d_out)`, an update of the weights by their gradient in one pass, and
    /// `db = ` column sums of `d_out`.
    pub(super) fn backward_update(
        &mut self,
        gemm: &Gemm<T>,
        x: Operand<'_, T>,
        d_out: MatRef<'_, T>,
        d_bias: &mut [T],
        epilogue: Epilogue<'_, T>,
        scratch: &mut [u8],
    ) -> Result<()> {
        self.check_gradient(x.shape().0, d_out, d_bias)?;
        let epilogue = Epilogue { column_sums: Some(d_bias), ..epilogue };
        gemm.run(T::ONE, x.t()?, d_out, self.weight_mut(), epilogue, scratch)
    }

    fn check_gradient(&self, batch: usize, d_out: MatRef<'_, T>, d_bias: &[T]) -> Result<()> {
        let (expected, found) = (self.out_features, d_bias.len());
        if found != expected {
            return Err(Error::Length { what: "gradient of the bias", expected, found });
        }
        d_out.expect_shape("gradient of the output", (batch, expected))
    }
}

/// `out = max(x W + b, 0)`: a [`Linear`] layer whose ReLU costs no pass of its own.
#[derive(Clone, Debug)]
pub struct LinearRelu<T: Element>(pub Linear<T>);

impl<T: Element> LinearRelu<T> {
    /// `out = max(x W + b, 0)`. x is (batch, in), out is (batch, out).
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward<'a>(
        &self,
        gemm: &Gemm<T>,
        x: impl Into<Operand<'a, T>>,
        out: MatMut<'_, T>,
        scratch: &mut [u8],
    ) -> Result<()> {
        self.0.forward_finish(gemm, x.into(), out, Finish::Relu, scratch)
    }

    /// As [`Linear::backward`], behind ReLU: `d_out` is first set to 0, in place, where
    /// `out`, the result of the forward pass from `x`, is not above 0.
    ///
    /// # Errors
    /// As [`Linear::backward`].
    pub fn backward(
        &self,
        gemm: &Gemm<T>,
        (x, out): (MatRef<'_, T>, MatRef<'_, T>),
        mut d_out: MatMut<'_, T>,
        gradient: LinearGradient<'_, T>,
        d_x: Option<(MatMut<'_, T>, Epilogue<'_, T>)>,
        scratch: &mut [u8],
    ) -> Result<()> {
        Relu.backward(gemm, out, d_out.reborrow())?;
        self.0.backward(gemm, x, d_out.as_ref(), gradient, d_x, scratch)
    }
}
