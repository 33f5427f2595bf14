//! `Dropout`: random zeros, from a generator that needs no state.

use crate::{
    error::{Error, Result},
    float::Float,
    gemm::Gemm,
    kernels::{DropoutMask, Element},
    matrix::MatMut,
    nn::elementwise,
};

/// Sets each element to 0 with a probability, and scales those that are kept by
/// `1 / (1 - probability)`, so that their expectation stays (inverted dropout, Srivastava et al.
/// 2014). In evaluation it is not called: it is the identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    probability: f64,
    seed: u64,
}

/// Which mask: it is a pure function of the seed and of this position, so that a backward pass
/// makes the mask of its forward pass again, whatever the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutPosition {
    /// Iteration of the training.
    pub step: u64,
    /// Place of the layer in its network.
    pub layer: u64,
}

impl Dropout {
    /// A layer that drops with `probability`.
    ///
    /// # Errors
    /// [`Error::Setting`] unless `0 <= probability < 1`.
    pub fn new(probability: f64, seed: u64) -> Result<Self> {
        if !(0.0..1.0).contains(&probability) {
            return Err(Error::setting("dropout", probability, "a probability from 0 to below 1"));
        }
        Ok(Self { probability, seed })
    }

    /// The probability of dropping an element.
    pub fn probability(&self) -> f64 {
        self.probability
    }

    /// The factor of what is kept: `1 / (1 - probability)`.
    pub fn scale<T: Float>(&self) -> T {
        T::from_f64(1.0 / (1.0 - self.probability))
    }

    /// What is kept at a position, and nothing where nothing is dropped.
    pub(super) fn mask(&self, position: DropoutPosition) -> Option<DropoutMask> {
        let DropoutPosition { step, layer } = position;
        let mask = DropoutMask::new(self.probability, self.seed, step, layer);
        (self.probability > 0.0).then_some(mask)
    }

    /// `x * scale` where an element is kept, else 0, in place. x is (batch, features), with
    /// contiguous rows.
    ///
    /// # Errors
    /// [`Error::Setting`] if a row is not contiguous.
    pub fn forward<T: Element>(
        &self,
        gemm: &Gemm<T>,
        position: DropoutPosition,
        x: MatMut<'_, T>,
    ) -> Result<()> {
        let Some(mask) = self.mask(position) else { return Ok(()) };
        if x.col_stride() != 1 && x.cols() > 1 {
            return Err(Error::setting("column stride", x.col_stride(), "1: contiguous rows"));
        }
        elementwise::dropout(gemm, mask, self.scale(), x);
        Ok(())
    }

    /// The gradient of the input from that of the output, in place: the same mask and scale.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward<T: Element>(
        &self,
        gemm: &Gemm<T>,
        position: DropoutPosition,
        gradient: MatMut<'_, T>,
    ) -> Result<()> {
        self.forward(gemm, position, gradient)
    }
}
