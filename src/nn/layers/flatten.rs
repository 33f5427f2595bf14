//! `Flatten`: an image as features.

use crate::{
    context::Context,
    error::Result,
    kernels::Element,
    nn::{
        elementwise,
        layer::{Backward, Forward, Fusion, Layer, LayerConfig, Needs},
        shape::Shape,
    },
};

/// The values of an image as features, in the same order. A plan moves no data for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flatten;

impl Flatten {
    pub(super) fn from_config(_config: &LayerConfig) -> Result<Self> {
        Ok(Self)
    }
}

impl<T: Element> Layer<T> for Flatten {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("flatten")
    }

    fn output_shape(&self, input: Shape) -> Result<Shape> {
        Ok(Shape::Features(input.features()))
    }

    fn needs(&self) -> Needs {
        Needs { input: false, output: false }
    }

    fn fusion(&self) -> Fusion {
        Fusion::Identity
    }

    fn forward(&self, context: &Context<T>, pass: Forward<'_, T>) -> Result<()> {
        elementwise::map_rows(context, pass.x, pass.out, &|x, out| out.copy_from_slice(x))
    }

    fn backward(&self, context: &Context<T>, pass: Backward<'_, T>) -> Result<()> {
        let Some(d_x) = pass.d_x else { return Ok(()) };
        elementwise::map_rows(context, pass.d_out, d_x, &|d_out, d_x| d_x.copy_from_slice(d_out))
    }
}
