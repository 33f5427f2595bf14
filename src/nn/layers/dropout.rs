//! `Dropout`: random zeros, from a generator that needs no state.

use crate::{
    context::Context,
    error::{Error, Result},
    float::Float,
    kernels::Element,
    matrix::{MatMut, MatRef},
    nn::{
        elementwise,
        layer::{Backward, Forward, Fusion, Layer, LayerConfig, Needs, RandomPlace},
        shape::Shape,
    },
};

/// Sets each element to 0 with a probability, and scales those that are kept by
/// `1 / (1 - probability)`, which keeps their expectation (inverted dropout, Srivastava et al.
/// 2014). In evaluation it is the identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    probability: f64,
}

impl Dropout {
    /// A layer that drops with `probability`.
    ///
    /// # Errors
    /// [`Error::Setting`] unless `0 <= probability < 1`.
    pub fn new(probability: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&probability) {
            return Err(Error::setting("dropout", probability, "a probability from 0 to below 1"));
        }
        Ok(Self { probability })
    }

    /// The probability of dropping an element.
    pub fn probability(&self) -> f64 {
        self.probability
    }

    /// The factor of kept elements: `1 / (1 - probability)`.
    pub fn scale<T: Float>(&self) -> T {
        T::from_f64(1.0 / (1.0 - self.probability))
    }

    pub(super) fn from_config(config: &LayerConfig) -> Result<Self> {
        Self::new(config.number("probability")?)
    }

    /// `to = from`, then zeros and scaling in `to`.
    fn apply<T: Element>(
        self,
        context: &Context<T>,
        random: RandomPlace,
        from: MatRef<'_, T>,
        mut to: MatMut<'_, T>,
    ) -> Result<()> {
        elementwise::map_rows(context, from, to.reborrow(), &|from, to| to.copy_from_slice(from))?;
        match random.dropout_mask(self.probability) {
            Some(mask) => elementwise::dropout(context, mask, self.scale(), to),
            None => Ok(()),
        }
    }
}

impl<T: Element> Layer<T> for Dropout {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("dropout").with_number("probability", self.probability)
    }

    fn output_shape(&self, input: Shape) -> Result<Shape> {
        Ok(input)
    }

    fn needs(&self) -> Needs {
        Needs { input: false, output: false }
    }

    fn fusion(&self) -> Fusion {
        Fusion::Dropout { probability: self.probability }
    }

    fn forward(&self, context: &Context<T>, pass: Forward<'_, T>) -> Result<()> {
        self.apply(context, pass.random, pass.x, pass.out)
    }

    /// The gradient of the input is that of the output with the same mask and scale.
    fn backward(&self, context: &Context<T>, pass: Backward<'_, T>) -> Result<()> {
        let Some(d_x) = pass.d_x else { return Ok(()) };
        self.apply(context, pass.random, pass.d_out, d_x)
    }
}
