//! `Gelu`: `out = x Φ(x)`.

use crate::{
    context::Context,
    error::{Error, Result},
    float::Float,
    kernels::{Element, Map},
    nn::{
        elementwise,
        layer::{Backward, Forward, Layer, LayerConfig, Needs},
        shape::Shape,
    },
    simd::{
        Isa,
        math::{Constants, normal},
    },
};

/// The Gaussian error linear unit (Hendrycks and Gimpel 2016), `out = x Φ(x)` with the distribution
/// function Φ of the standard normal distribution: PyTorch's `nn.GELU()`, not its approximation by
/// tanh. Its gradient is `Φ(x) + x φ(x)`.
///
/// Negative inputs keep their digits: the result is small, not the difference of large numbers. It
/// is -0 at large negative inputs and NaN at minus infinity, as PyTorch's; the gradient is NaN at
/// both infinities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gelu;

impl Gelu {
    pub(super) fn from_config(_config: &LayerConfig) -> Result<Self> {
        Ok(Self)
    }
}

impl<T: Float + Constants> Map<T, 1> for Gelu {
    #[inline(always)]
    fn apply<S: Isa<T>>(self, isa: S, [x]: [S::Vector; 1]) -> S::Vector {
        let (distribution, _) = normal(isa, x);
        isa.mul(x, distribution)
    }
}

/// The gradient of the input: of the input and the gradient of the output.
#[derive(Clone, Copy)]
struct Gradient;

impl<T: Float + Constants> Map<T, 2> for Gradient {
    #[inline(always)]
    fn apply<S: Isa<T>>(self, isa: S, [x, d_out]: [S::Vector; 2]) -> S::Vector {
        let (distribution, density) = normal(isa, x);
        isa.mul(d_out, isa.mul_add(x, density, distribution))
    }
}

impl<T: Element> Layer<T> for Gelu {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("gelu")
    }

    fn output_shape(&self, input: Shape) -> Result<Shape> {
        Ok(input)
    }

    fn needs(&self) -> Needs {
        Needs { input: true, output: false }
    }

    fn forward(&self, context: &Context<T>, pass: Forward<'_, T>) -> Result<()> {
        elementwise::apply(context, *self, [pass.x], pass.out)
    }

    fn backward(&self, context: &Context<T>, pass: Backward<'_, T>) -> Result<()> {
        let Some(d_x) = pass.d_x else { return Ok(()) };
        let missing = || Error::setting("x", "nothing", "the input of the forward pass");
        elementwise::apply(context, Gradient, [pass.x.ok_or_else(missing)?, pass.d_out], d_x)
    }
}
