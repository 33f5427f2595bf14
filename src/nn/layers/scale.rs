//! `Scale`: `out = factor x`.

use crate::{
    context::Context,
    error::{Error, Result},
    kernels::Element,
    nn::{
        elementwise,
        layer::{Backward, Forward, Layer, LayerConfig, Needs},
        shape::Shape,
    },
};

/// `out = factor x`, with a factor that is not trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    factor: f64,
}

impl Scale {
    /// A layer with this factor.
    ///
    /// # Errors
    /// [`Error::Setting`] unless it is finite.
    pub fn new(factor: f64) -> Result<Self> {
        if !factor.is_finite() {
            return Err(Error::setting("factor of a scale layer", factor, "a finite number"));
        }
        Ok(Self { factor })
    }

    /// The factor.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    pub(super) fn from_config(config: &LayerConfig) -> Result<Self> {
        Self::new(config.number("factor")?)
    }
}

impl<T: Element> Layer<T> for Scale {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("scale").with_number("factor", self.factor)
    }

    fn output_shape(&self, input: Shape) -> Result<Shape> {
        Ok(input)
    }

    fn needs(&self) -> Needs {
        Needs { input: false, output: false }
    }

    fn forward(&self, context: &Context<T>, pass: Forward<'_, T>) -> Result<()> {
        scaled(context, T::from_f64(self.factor), pass.x, pass.out)
    }

    fn backward(&self, context: &Context<T>, pass: Backward<'_, T>) -> Result<()> {
        let Some(d_x) = pass.d_x else { return Ok(()) };
        scaled(context, T::from_f64(self.factor), pass.d_out, d_x)
    }
}

/// `to = factor from`.
fn scaled<T: Element>(
    context: &Context<T>,
    factor: T,
    from: crate::matrix::MatRef<'_, T>,
    to: crate::matrix::MatMut<'_, T>,
) -> Result<()> {
    elementwise::map_rows(context, from, to, &|from, to| {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = factor * from;
        }
    })
}
