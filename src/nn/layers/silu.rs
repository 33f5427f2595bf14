//! `Silu`: `out = x σ(x)`.

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
        math::{Constants, logistic},
    },
};

/// The sigmoid linear unit, also called swish (Elfwing et al. 2017; Ramachandran et al. 2017):
/// `out = x σ(x)` with the logistic function `σ(x) = 1 / (1 + e^-x)`, PyTorch's `nn.SiLU()`. Its
/// gradient is `σ(x) (1 + x σ(-x))`.
///
/// It is -0 at large negative inputs and NaN at minus infinity, as PyTorch's; the gradient is NaN at
/// both infinities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silu;

impl Silu {
    pub(super) fn from_config(_config: &LayerConfig) -> Result<Self> {
        Ok(Self)
    }
}

impl<T: Float + Constants> Map<T, 1> for Silu {
    #[inline(always)]
    fn apply<S: Isa<T>>(self, isa: S, [x]: [S::Vector; 1]) -> S::Vector {
        let (sigma, _) = logistic(isa, x);
        isa.mul(x, sigma)
    }
}

/// The gradient of the input: of the input and the gradient of the output.
#[derive(Clone, Copy)]
struct Gradient;

impl<T: Float + Constants> Map<T, 2> for Gradient {
    #[inline(always)]
    fn apply<S: Isa<T>>(self, isa: S, [x, d_out]: [S::Vector; 2]) -> S::Vector {
        let (sigma, of_minus_x) = logistic(isa, x);
        let slope = isa.mul_add(x, of_minus_x, isa.splat(T::ONE));
        isa.mul(d_out, isa.mul(sigma, slope))
    }
}

impl<T: Element> Layer<T> for Silu {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("silu")
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
