//! `Layer`: what a network, its plan and everything above know of a layer.

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

/// Whether a pass is part of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With dropout; the step chooses the masks.
    Training {
        /// Number of the step, from 1.
        step: u64,
    },
    /// Without dropout.
    Evaluation,
}

/// What a layer is, for files and for people: a kind and its settings. Two layers with equal
/// configurations compute the same.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerConfig {
    /// Name of the kind, as "linear".
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
    /// A switch.
    Flag(bool),
    /// A name.
    Text(String),
}

impl LayerConfig {
    /// A layer of this kind without settings.
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), settings: Vec::new() }
    }

    /// The same with a size or a count.
    pub fn with_count(self, name: &str, value: usize) -> Self {
        self.with(name, Setting::Count(value as u64))
    }

    /// The same with a number.
    pub fn with_number(self, name: &str, value: f64) -> Self {
        self.with(name, Setting::Number(value))
    }

    /// The same with a setting.
    pub fn with(mut self, name: &str, value: Setting) -> Self {
        self.settings.push((name.to_owned(), value));
        self
    }

    /// A size or a count.
    ///
    /// # Errors
    /// [`Error::Setting`] if the setting is missing or something else.
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
    /// As [`count`](Self::count).
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

/// What a plan may know of a layer, in order to fuse it with its neighbors. A layer that says so
/// computes exactly what the kind named here does.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fusion {
    /// Nothing: the plan calls its passes.
    Opaque,
    /// `x W + b` with two parameters: W (in, out) and b (out).
    Linear,
    /// `max(x, 0)`.
    Relu,
    /// Zeros with a probability, the rest scaled by `1 / (1 - probability)`.
    Dropout {
        /// Probability of a zero.
        probability: f64,
    },
    /// The same values, in another shape at most.
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

/// Memory of a layer for batches up to a size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerMemory {
    /// Elements that the forward pass leaves for the backward pass.
    pub saved: usize,
    /// Bytes of scratch memory of each pass.
    pub scratch: usize,
}

/// Where a layer's random numbers come from: a pure function of this place, so that a backward pass
/// makes the numbers of its forward pass again, on any number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomPlace {
    /// Seed of the network.
    pub seed: u64,
    /// Step of the training; none in evaluation.
    pub step: Option<u64>,
    /// Place of the layer among those of its kind in the network.
    pub layer: u64,
    /// Number of the batch's first row, where a batch is worked in parts.
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

/// What a layer's forward pass reads and writes.
#[derive(Debug)]
pub struct Forward<'a, T: Element> {
    /// The layer's parameters.
    pub parameters: Slices<'a, T>,
    /// The layer's buffers.
    pub buffers: Slices<'a, T>,
    /// (batch, inputs), columns contiguous.
    pub x: MatRef<'a, T>,
    /// (batch, outputs), columns contiguous.
    pub out: MatMut<'a, T>,
    /// [`LayerMemory::saved`] elements for the backward pass; empty where none follows.
    pub saved: &'a mut [T],
    /// [`LayerMemory::scratch`] bytes or more, on a cache line; `bytemuck::cast_slice_mut` makes
    /// numbers of them.
    pub scratch: &'a mut [u8],
    /// Where random numbers come from.
    pub random: RandomPlace,
}

/// What a layer's backward pass reads and writes.
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
    /// The gradient of the input, (batch, inputs), to be written; none where nobody asks for it.
    pub d_x: Option<MatMut<'a, T>>,
    /// The gradients of the parameters, in their order; empty where one is frozen.
    pub gradients: SlicesMut<'a, T>,
    /// Whether gradients of parameters are added to what is there.
    pub accumulate: bool,
    /// What the forward pass left.
    pub saved: &'a mut [T],
    /// [`LayerMemory::scratch`] bytes or more, on a cache line; `bytemuck::cast_slice_mut` makes
    /// numbers of them.
    pub scratch: &'a mut [u8],
    /// Where random numbers come from: that of the forward pass.
    pub random: RandomPlace,
}

/// Makes a layer from a configuration: [`layers::from_config`](super::layers::from_config) for those
/// of this crate.
pub type MakeLayer<'a, T> = dyn Fn(&LayerConfig) -> Result<Arc<dyn Layer<T>>> + 'a;

/// A layer of a network. It describes; parameters and buffers belong to the network.
///
/// `examples/custom_layer.rs` has a layer of its own. Passes may run on the threads of the context,
/// allocate nothing, and give the same bits on any number of threads, so that networks of them keep
/// the promises of the crate.
pub trait Layer<T: Element>: fmt::Debug + Send + Sync + 'static {
    /// Its kind and settings, from which it can be made again.
    fn config(&self) -> LayerConfig;

    /// The shape of its output.
    ///
    /// # Errors
    /// [`Error::Setting`] if it does not take such inputs.
    fn output_shape(&self, input: Shape) -> Result<Shape>;

    /// Its parameters.
    fn parameters(&self) -> Vec<TensorSpec> {
        Vec::new()
    }

    /// Its buffers: saved with the network and not trained.
    fn buffers(&self) -> Vec<TensorSpec> {
        Vec::new()
    }

    /// What its backward pass reads.
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

    /// What a plan may fuse.
    fn fusion(&self) -> Fusion {
        Fusion::Opaque
    }

    /// Computes the output from the input.
    ///
    /// # Errors
    /// Those of what it computes with.
    fn forward(&self, context: &Context<T>, pass: Forward<'_, T>) -> Result<()>;

    /// Computes the gradients of the input and of the parameters from that of the output.
    ///
    /// # Errors
    /// Those of what it computes with.
    fn backward(&self, context: &Context<T>, pass: Backward<'_, T>) -> Result<()>;
}
