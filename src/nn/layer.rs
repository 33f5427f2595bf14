//! `Layer`: the interface of a layer to networks, plans and everything built on them.

use std::{fmt, sync::Arc};

use crate::{
    context::Context,
    error::{Error, Result},
    kernels::{DropoutMask, Element},
    matrix::{MatMut, MatRef},
    nn::{
        parameters::{Slices, SlicesMut, TensorSpec},
        shape::Shape,
    },
};

/// Whether a pass is for training or evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With dropout; the masks depend on the step.
    Training {
        /// Number of the step, starting at 1.
        step: u64,
    },
    /// Without dropout.
    Evaluation,
}

/// The configuration of a layer, for files and messages: its kind and settings. Layers with equal
/// configurations compute the same.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerConfig {
    /// Name of the kind, such as "linear".
    pub kind: String,
    /// Settings by name.
    pub settings: Vec<(String, Setting)>,
}

/// The value of a layer's setting.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Setting {
    /// A size or a count.
    Count(u64),
    /// A number.
    Number(f64),
    /// A flag.
    Flag(bool),
    /// A text.
    Text(String),
}

impl LayerConfig {
    /// A layer of this kind without settings.
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), settings: Vec::new() }
    }

    /// Adds a size or a count.
    pub fn with_count(self, name: &str, value: usize) -> Self {
        self.with(name, Setting::Count(value as u64))
    }

    /// Adds a number.
    pub fn with_number(self, name: &str, value: f64) -> Self {
        self.with(name, Setting::Number(value))
    }

    /// Adds a setting.
    pub fn with(mut self, name: &str, value: Setting) -> Self {
        self.settings.push((name.to_owned(), value));
        self
    }

    /// A size or a count.
    ///
    /// # Errors
    /// [`Error::Setting`] if the setting is missing or of another type.
    pub fn count(&self, name: &'static str) -> Result<usize> {
        match self.get(name) {
            Some(&Setting::Count(value)) => usize::try_from(value)
                .map_err(|_| Error::setting(name, value, "a size that fits the address space")),
            other => Err(self.wrong(name, other, "a whole number")),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// Same as [`count`](Self::count).
    pub fn number(&self, name: &'static str) -> Result<f64> {
        match self.get(name) {
            Some(&Setting::Number(value)) => Ok(value),
            Some(&Setting::Count(value)) => Ok(value as f64),
            other => Err(self.wrong(name, other, "a number")),
        }
    }

    fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn wrong(&self, name: &'static str, found: Option<&Setting>, expected: &str) -> Error {
        let found = found.map_or("nothing".to_owned(), |value| format!("{value:?}"));
        Error::setting(name, found, format!("{expected} in a layer of the kind {}", self.kind))
    }
}

impl fmt::Display for LayerConfig {
    /// `dropout(probability = 0.1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        for (number, (name, value)) in self.settings.iter().enumerate() {
            let separator = if number == 0 { "(" } else { ", " };
            match value {
                Setting::Count(value) => write!(f, "{separator}{name} = {value}")?,
                Setting::Number(value) => write!(f, "{separator}{name} = {value}")?,
                Setting::Flag(value) => write!(f, "{separator}{name} = {value}")?,
                Setting::Text(value) => write!(f, "{separator}{name} = {value:?}")?,
            }
        }
        f.write_str(if self.settings.is_empty() { "" } else { ")" })
    }
}

/// How a plan may fuse a layer with its neighbors. The layer must compute exactly what the variant
/// says.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fusion {
    /// No fusion: the plan calls the layer's passes.
    Opaque,
    /// `x W + b` with two parameters: W (in, out) and b (out).
    Linear,
    /// `max(x, 0)`.
    Relu,
    /// 0 with a probability, else the value times `1 / (1 - probability)`.
    Dropout {
        /// Probability of a zero.
        probability: f64,
    },
    /// The same values, in a different shape at most.
    Identity,
}

/// Which values of the forward pass a layer's backward pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The input.
    pub input: bool,
    /// The output.
    pub output: bool,
}

/// Memory that a layer needs for batches of up to a given size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerMemory {
    /// Elements that the forward pass saves for the backward pass.
    pub saved: usize,
    /// Bytes of scratch memory for each pass.
    pub scratch: usize,
}

/// The source of a layer's random numbers: a pure function of these fields, so that the backward
/// pass gets the numbers of the forward pass again, on any number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomPlace {
    /// Seed of the network.
    pub seed: u64,
    /// Training step; none in evaluation.
    pub step: Option<u64>,
    /// Index of the layer among those of its kind in the network.
    pub layer: u64,
    /// Index of the first row in the batch, if the batch is computed in parts.
    pub first_row: usize,
}

impl RandomPlace {
    /// The elements that dropout keeps; none are dropped in evaluation or with probability 0.
    pub fn dropout_mask(&self, probability: f64) -> Option<DropoutMask> {
        let step = self.step.filter(|_| probability > 0.0)?;
        Some(
            DropoutMask::new(probability, self.seed, step, self.layer)
                .starting_at(self.first_row, 0),
        )
    }
}

/// The arguments of a layer's forward pass.
#[derive(Debug)]
pub struct Forward<'a, T: Element> {
    /// The layer's parameters.
    pub parameters: Slices<'a, T>,
    /// The layer's buffers.
    pub buffers: Slices<'a, T>,
    /// (batch, inputs), contiguous columns.
    pub x: MatRef<'a, T>,
    /// (batch, outputs), contiguous columns.
    pub out: MatMut<'a, T>,
    /// [`LayerMemory::saved`] elements for the backward pass; empty if there is none.
    pub saved: &'a mut [T],
    /// [`LayerMemory::scratch`] bytes or more, aligned to a cache line;
    /// `bytemuck::cast_slice_mut` turns them into numbers.
    pub scratch: &'a mut [u8],
    /// The source of random numbers.
    pub random: RandomPlace,
}

/// The arguments of a layer's backward pass.
#[derive(Debug)]
pub struct Backward<'a, T: Element> {
    /// The layer's parameters.
    pub parameters: Slices<'a, T>,
    /// The input of the forward pass, (batch, inputs), if the layer needs it.
    pub x: Option<MatRef<'a, T>>,
    /// The output of the forward pass, (batch, outputs), if the layer needs it.
    pub out: Option<MatRef<'a, T>>,
    /// The gradient of the output, (batch, outputs).
    pub d_out: MatRef<'a, T>,
    /// The gradient of the input, (batch, inputs), to be written; none if it is not needed.
    pub d_x: Option<MatMut<'a, T>>,
    /// The gradients of the parameters, in their order; empty where one is frozen.
    pub gradients: SlicesMut<'a, T>,
    /// Whether to add to the existing gradients of the parameters.
    pub accumulate: bool,
    /// The elements that the forward pass saved.
    pub saved: &'a mut [T],
    /// [`LayerMemory::scratch`] bytes or more, aligned to a cache line;
    /// `bytemuck::cast_slice_mut` turns them into numbers.
    pub scratch: &'a mut [u8],
    /// The source of random numbers: the one of the forward pass.
    pub random: RandomPlace,
}

/// Makes a layer from a configuration: [`layers::from_config`](super::layers::from_config) for those
/// of this crate.
pub type MakeLayer<'a, T> = dyn Fn(&LayerConfig) -> Result<Arc<dyn Layer<T>>> + 'a;

/// A layer of a network: a description only. Parameters and buffers belong to the network.
///
/// `examples/custom_layer.rs` has a custom layer. Passes may run on the threads of the context,
/// allocate nothing, and give the same bits on any number of threads, so that networks of them keep
/// the promises of the crate.
pub trait Layer<T: Element>: fmt::Debug + Send + Sync + 'static {
    /// Its kind and settings, from which the layer can be rebuilt.
    fn config(&self) -> LayerConfig;

    /// The shape of its output.
    ///
    /// # Errors
    /// [`Error::Setting`] if it does not accept this input shape.
    fn output_shape(&self, input: Shape) -> Result<Shape>;

    /// Its parameters.
    fn parameters(&self) -> Vec<TensorSpec> {
        Vec::new()
    }

    /// Its buffers: saved with the network and not trained.
    fn buffers(&self) -> Vec<TensorSpec> {
        Vec::new()
    }

    /// The values that its backward pass reads.
    fn needs(&self) -> Needs {
        Needs { input: true, output: false }
    }

    /// Memory for passes over up to `batch` examples.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if it exceeds the address space.
    fn memory(&self, context: &Context<T>, input: Shape, batch: usize) -> Result<LayerMemory> {
        let _ = (context, input, batch);
        Ok(LayerMemory::default())
    }

    /// How a plan may fuse it.
    fn fusion(&self) -> Fusion {
        Fusion::Opaque
    }

    /// Computes the output from the input.
    ///
    /// # Errors
    /// Those of the functions that it calls.
    fn forward(&self, context: &Context<T>, pass: Forward<'_, T>) -> Result<()>;

    /// Computes the gradients of the input and of the parameters from that of the output.
    ///
    /// # Errors
    /// Those of the functions that it calls.
    fn backward(&self, context: &Context<T>, pass: Backward<'_, T>) -> Result<()>;
}
