//! `Relu`: `out = max(x, 0)`.

use crate::{
    context::Context,
    error::{Error, Result},
    kernels::{self, Element, ReluGradient},
    nn::{
        elementwise,
        layer::{Backward, Forward, Fusion, Layer, LayerConfig, Needs},
        shape::Shape,
    },
};

/// `out = max(x, 0)`, NaN where x is NaN. Its gradient is 0 at x <= 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relu;

impl Relu {
    pub(super) fn from_config(_config: &LayerConfig) -> Result<Self> {
        Ok(Self)
    }
}

impl<T: Element> Layer<T> for Relu {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("relu")
    }

    fn output_shape(&self, input: Shape) -> Result<Shape> {
        Ok(input)
    }

    fn needs(&self) -> Needs {
        Needs { input: false, output: true }
    }

    fn fusion(&self) -> Fusion {
        Fusion::Relu
    }

    fn forward(&self, context: &Context<T>, pass: Forward<'_, T>) -> Result<()> {
        elementwise::apply(context, kernels::Relu, [pass.x], pass.out)
    }

    fn backward(&self, context: &Context<T>, pass: Backward<'_, T>) -> Result<()> {
        let Some(d_x) = pass.d_x else { return Ok(()) };
        let missing = || Error::setting("out", "nothing", "the output of the forward pass");
        let out = pass.out.ok_or_else(missing)?;
        elementwise::apply(context, ReluGradient { scale: T::ONE }, [out, pass.d_out], d_x)
    }
}
