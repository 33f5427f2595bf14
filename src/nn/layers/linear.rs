//! `Linear`: `out = x W + b`.

use crate::{
    context::Context,
    error::{Error, Result},
    float::Float,
    gemm::{Epilogue, Start},
    kernels::{Element, PanelElement},
    matrix::{MatMut, MatRef},
    nn::{
        init::Init,
        layer::{Backward, Forward, Fusion, Layer, LayerConfig, LayerMemory, Needs},
        parameters::{Fill, ParameterKind, TensorSpec},
        shape::Shape,
    },
};

/// `out = x W + b`, with W (in_features, out_features), stored by rows, and b (out_features).
/// A PyTorch state dict has W as (out_features, in_features).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    in_features: usize,
    out_features: usize,
    init: Init,
}

impl Linear {
    /// Index of W among the layer's parameters.
    pub(crate) const WEIGHT: usize = 0;
    /// Index of b among the layer's parameters.
    pub(crate) const BIAS: usize = 1;

    /// A layer with He initialization (He et al. 2015) and biases 0.
    ///
    /// # Errors
    /// [`Error::Setting`] if a size is 0.
    pub fn new(in_features: usize, out_features: usize) -> Result<Self> {
        for (name, size) in [("in_features", in_features), ("out_features", out_features)] {
            if size == 0 {
                return Err(Error::setting(name, size, "at least 1"));
            }
        }
        Ok(Self { in_features, out_features, init: Init::He })
    }

    /// Sets the initialization of the weights.
    pub fn with_init(self, init: Init) -> Self {
        Self { init, ..self }
    }

    /// Columns of the input.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Columns of the output.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    pub(super) fn from_config(config: &LayerConfig) -> Result<Self> {
        Self::new(config.count("in_features")?, config.count("out_features")?)
    }

    fn weight<'a, T: Element>(&self, elements: &'a [T]) -> Result<MatRef<'a, T>> {
        MatRef::new(elements, self.in_features, self.out_features)
    }
}

impl<T: Element> Layer<T> for Linear {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("linear")
            .with_count("in_features", self.in_features)
            .with_count("out_features", self.out_features)
    }

    fn output_shape(&self, input: Shape) -> Result<Shape> {
        if input == Shape::Features(self.in_features) {
            return Ok(Shape::Features(self.out_features));
        }
        let count = self.in_features;
        let expected = format!("{count} features; a flatten layer makes features of images");
        Err(Error::setting("input of a linear layer", input, expected))
    }

    fn parameters(&self) -> Vec<TensorSpec> {
        let (input, output) = (self.in_features, self.out_features);
        let weight = Fill::Random(self.init);
        vec![
            TensorSpec::new("weight", &[input, output], ParameterKind::Weight, weight)
                .with_exchange(&[1, 0]),
            TensorSpec::new("bias", &[output], ParameterKind::Bias, Fill::Constant(0.0)),
        ]
    }

    fn needs(&self) -> Needs {
        Needs { input: true, output: false }
    }

    fn memory(&self, context: &Context<T>, _input: Shape, batch: usize) -> Result<LayerMemory> {
        let (gemm, input, output) = (context.gemm(), self.in_features, self.out_features);
        let forward = gemm.scratch_bytes(batch, output, input)?;
        let d_weight = gemm.scratch_bytes(input, output, batch)?;
        let d_x = gemm.scratch_bytes(batch, input, output)?;
        Ok(LayerMemory { saved: 0, scratch: forward.max(d_weight).max(d_x) })
    }

    fn fusion(&self) -> Fusion {
        Fusion::Linear
    }

    fn forward(&self, context: &Context<T>, pass: Forward<'_, T>) -> Result<()> {
        let Forward { parameters, x, out, scratch, .. } = pass;
        let weight = self.weight(parameters.get(Self::WEIGHT))?;
        let epilogue = Epilogue::bias(parameters.get(Self::BIAS));
        context.gemm().run(T::ONE, x, weight, out, epilogue, scratch)
    }

    fn backward(&self, context: &Context<T>, pass: Backward<'_, T>) -> Result<()> {
        let Backward { parameters, x, d_out, d_x, mut gradients, accumulate, scratch, .. } = pass;
        let gemm = context.gemm();
        if let Some(d_x) = d_x {
            let weight = self.weight(parameters.get(Self::WEIGHT))?;
            gemm.run(T::ONE, d_out, weight.t(), d_x, Epilogue::default(), scratch)?;
        }
        let x = x.ok_or_else(|| Error::setting("x", "nothing", "the input of the forward pass"))?;
        let start = if accumulate { T::ONE } else { T::ZERO };
        if !gradients.get_mut(Self::BIAS).is_empty() {
            sum_columns(d_out, gradients.get_mut(Self::BIAS), accumulate);
        }
        let weight = gradients.get_mut(Self::WEIGHT);
        if weight.is_empty() {
            return Ok(());
        }
        let d_weight = MatMut::new(weight, self.in_features, self.out_features)?;
        let epilogue = Epilogue { start: Start::Scaled(start), ..Epilogue::default() };
        gemm.run(T::ONE, x.t(), d_out, d_weight, epilogue, scratch)
    }
}

/// Sums of columns, each from the first row to the last: the order in which a product sums the
/// columns of its right operand.
pub(crate) fn sum_columns<E: PanelElement>(
    x: MatRef<'_, E>,
    sums: &mut [E::Value],
    accumulate: bool,
) {
    if !accumulate {
        sums.fill(E::Value::ZERO);
    }
    for i in 0..x.rows() {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum += x.get(i, j).value();
        }
    }
}
