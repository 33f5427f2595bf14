//! Parameters: descriptions of tensors, their places in an arena, and the arena.
//!
//! All parameters of a network are in one aligned block; each tensor starts on a cache line.
//! Gradients, the slots of an optimizer and averages are arenas of the same layout.

use std::{ops::Range, sync::Arc};

use crate::{
    aligned::{ALIGNMENT, AlignedBuf},
    config::with_fields,
    error::{Error, Result},
    kernels::Element,
    nn::init::Init,
};

/// The role of a parameter. L2 regularization and weight decay apply only to weights, unless
/// [`ParameterSettings`] say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParameterKind {
    /// A weight: factors of inputs.
    Weight,
    /// A bias: a summand.
    Bias,
    /// A factor for each channel, as in a normalization layer.
    Scale,
}

/// The initial values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fill {
    /// The same value for all elements.
    Constant(f64),
    /// Random values; the first axis of the shape is fan-in, the last is fan-out.
    Random(Init),
}

/// A layer's description of one of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its name within the layer: "weight", "bias", ...
    pub name: &'static str,
    /// Its shape in memory, the last axis contiguous.
    pub shape: Vec<usize>,
    /// Its role.
    pub kind: ParameterKind,
    /// Its initial values.
    pub fill: Fill,
    /// The order of axes in a PyTorch state dict: axis `i` there is axis `exchange[i]` here. Empty:
    /// the same order.
    pub exchange: Vec<usize>,
}

impl TensorSpec {
    /// A tensor with the axes of PyTorch.
    pub fn new(name: &'static str, shape: &[usize], kind: ParameterKind, fill: Fill) -> Self {
        Self { name, shape: shape.to_vec(), kind, fill, exchange: Vec::new() }
    }

    /// Sets the order of axes in a PyTorch state dict: axis `i` there is axis `exchange[i]` here.
    pub fn with_exchange(self, exchange: &[usize]) -> Self {
        Self { exchange: exchange.to_vec(), ..self }
    }
}

/// A tensor of a network: a parameter, or a buffer that is saved and not trained.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: String,
    spec: TensorSpec,
    range: Range<usize>,
}

impl PartialEq for Tensor {
    /// Whether they are the same tensor at the same place. Initial values are not compared: those of
    /// a network from a file are unknown.
    fn eq(&self, other: &Self) -> bool {
        let TensorSpec { name: _, shape, kind, fill: _, exchange } = &self.spec;
        let theirs = &other.spec;
        self.name == other.name
            && self.range == other.range
            && (shape, kind, exchange) == (&theirs.shape, &theirs.kind, &theirs.exchange)
    }
}

impl Tensor {
    /// Its name in the network: "0.weight".
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape in memory, the last axis contiguous.
    pub fn shape(&self) -> &[usize] {
        &self.spec.shape
    }

    /// Its role.
    pub fn kind(&self) -> ParameterKind {
        self.spec.kind
    }

    /// The layer's description of it.
    pub fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Its place in an arena.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

/// How one parameter is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ParameterSettings {
    /// Factor of the learning rate.
    pub learning_rate_factor: f64,
    /// Factor of the optimizer's weight decay: 1 for weights, 0 for others.
    pub weight_decay_factor: f64,
    /// Whether it is not trained.
    pub frozen: bool,
}

with_fields! {
    ParameterSettings {
        learning_rate_factor with_learning_rate_factor: f64,
        weight_decay_factor with_weight_decay_factor: f64,
        frozen with_frozen: bool,
    }
}

impl Default for ParameterSettings {
    /// The usual settings of a weight.
    fn default() -> Self {
        Self::of(ParameterKind::Weight)
    }
}

impl ParameterSettings {
    /// The usual settings of a kind of parameter.
    pub fn of(kind: ParameterKind) -> Self {
        let weight_decay_factor = if kind == ParameterKind::Weight { 1.0 } else { 0.0 };
        Self { learning_rate_factor: 1.0, weight_decay_factor, frozen: false }
    }

    /// # Errors
    /// [`Error::Setting`] if a factor is negative or not finite.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, factor) in [
            ("learning_rate_factor", self.learning_rate_factor),
            ("weight_decay_factor", self.weight_decay_factor),
        ] {
            if !(factor.is_finite() && factor >= 0.0) {
                return Err(Error::setting(name, factor, "a finite number, 0 or above"));
            }
        }
        Ok(())
    }
}

/// The tensors of an arena and their places.
#[derive(Debug, Default, PartialEq)]
pub struct TensorLayout {
    tensors: Vec<Tensor>,
    /// The layout of these tensors.
    ranges: Vec<Range<usize>>,
    len: usize,
}

impl TensorLayout {
    /// Adds a tensor of the layer `layer` on the next cache line, for elements of `size` bytes.
    pub(crate) fn push(&mut self, layer: &str, spec: TensorSpec, size: usize) -> Result<()> {
        let name = format!("{layer}.{}", spec.name);
        let overflow = || Error::SizeOverflow { what: "parameters", rows: 1, cols: usize::MAX };
        let mut axes = spec.shape.iter();
        let len = axes.try_fold(1usize, |len, &axis| len.checked_mul(axis)).ok_or_else(overflow)?;
        let start = self.len.checked_next_multiple_of(ALIGNMENT / size).ok_or_else(overflow)?;
        self.len = start.checked_add(len).ok_or_else(overflow)?;
        self.tensors.push(Tensor { name, spec, range: start..self.len });
        self.ranges.push(start..self.len);
        Ok(())
    }

    /// The tensors in their order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The place of the tensor `name`.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|tensor| tensor.name == name)
    }

    /// The place of the tensor `name`.
    ///
    /// # Errors
    /// [`Error::Setting`] with all names if there is no such tensor.
    pub(crate) fn require(&self, name: &str) -> Result<usize> {
        self.index(name).ok_or_else(|| {
            let names: Vec<&str> = self.tensors.iter().map(Tensor::name).collect();
            Error::setting("parameter", name, format!("one of {}", names.join(", ")))
        })
    }
}

/// A value for every element of every tensor of a layout, in one aligned block.
#[derive(Debug)]
pub struct Arena<T: Element> {
    layout: Arc<TensorLayout>,
    block: AlignedBuf<T>,
}

impl<T: Element> Arena<T> {
    /// An arena of zeros.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] with the shape of the largest tensor if there is not enough memory.
    pub(crate) fn zeros(layout: Arc<TensorLayout>) -> Result<Self> {
        let block = AlignedBuf::zeroed(layout.len).map_err(|_| {
            let largest = layout.tensors.iter().max_by_key(|tensor| tensor.len());
            let (rows, len) = largest.map_or((1, layout.len), |tensor| match tensor.shape() {
                [rows, _, ..] => (*rows, tensor.len()),
                _ => (1, tensor.len()),
            });
            Error::SizeOverflow { what: "parameters", rows, cols: len / rows.max(1) }
        })?;
        Ok(Self { block, layout })
    }

    /// A copy.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if there is not enough memory.
    pub fn try_clone(&self) -> Result<Self> {
        let mut copy = Self::zeros(Arc::clone(&self.layout))?;
        copy.block.copy_from_slice(&self.block);
        Ok(copy)
    }

    /// A copy in which some tensors are empty.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if there is not enough memory.
    pub(crate) fn without(&self, numbers: &[usize]) -> Result<Self> {
        let mut layout = TensorLayout::default();
        for (number, tensor) in self.layout.tensors.iter().enumerate() {
            let start = layout.len.next_multiple_of(ALIGNMENT / size_of::<T>());
            let len = if numbers.contains(&number) { 0 } else { tensor.len() };
            layout.len = start + len;
            layout.ranges.push(start..start + len);
            layout.tensors.push(Tensor { range: start..start + len, ..tensor.clone() });
        }
        let mut copy = Self::zeros(Arc::new(layout))?;
        for number in 0..self.layout.tensors.len() {
            if !numbers.contains(&number) {
                copy.tensor_mut(number).copy_from_slice(self.tensor(number));
            }
        }
        Ok(copy)
    }

    /// The tensors and their places.
    pub fn layout(&self) -> &Arc<TensorLayout> {
        &self.layout
    }

    /// The elements of the tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&[T]> {
        self.layout.index(name).map(|index| self.tensor(index))
    }

    /// The elements of the tensor called `name`, mutable.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut [T]> {
        self.layout.index(name).map(|index| self.tensor_mut(index))
    }

    /// The elements of tensor number `index`.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn tensor(&self, index: usize) -> &[T] {
        &self.block[self.layout.tensors[index].range()]
    }

    /// The elements of tensor number `index`, mutable.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn tensor_mut(&mut self, index: usize) -> &mut [T] {
        &mut self.block[self.layout.tensors[index].range()]
    }

    /// All tensors with their elements.
    pub fn iter(&self) -> impl Iterator<Item = (&Tensor, &[T])> {
        self.layout.tensors.iter().map(|tensor| (tensor, &self.block[tensor.range()]))
    }

    /// Copies all elements of an arena of the same layout.
    ///
    /// # Errors
    /// [`Error::Setting`] if its layout is different.
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        if self.layout != other.layout {
            let expected = "tensors of the same names and shapes";
            return Err(Error::setting("parameters", "of another network", expected));
        }
        self.block.copy_from_slice(&other.block);
        Ok(())
    }

    /// Size of the memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.block[..])
    }

    /// The elements from the first tensor of a layer to its last.
    pub(crate) fn region_mut(&mut self, range: Range<usize>) -> &mut [T] {
        &mut self.block[range]
    }

    /// The tensors numbered `range`: those of one layer, for its passes.
    ///
    /// # Panics
    /// If there are no such tensors.
    pub fn slices(&self, range: Range<usize>) -> Slices<'_, T> {
        Slices { block: &self.block, ranges: &self.layout.ranges[range] }
    }

    /// The tensors numbered `range`, mutable.
    ///
    /// # Panics
    /// If there are no such tensors.
    pub fn slices_mut(&mut self, range: Range<usize>) -> SlicesMut<'_, T> {
        SlicesMut { block: &mut self.block, ranges: &self.layout.ranges[range] }
    }
}

/// The tensors of one layer, in its own order.
#[derive(Clone, Copy, Debug)]
pub struct Slices<'a, T> {
    pub(crate) block: &'a [T],
    pub(crate) ranges: &'a [Range<usize>],
}

impl<'a, T> Slices<'a, T> {
    /// The elements of the layer's tensor number `index`.
    ///
    /// # Panics
    /// If the layer has no such tensor.
    pub fn get(&self, index: usize) -> &'a [T] {
        &self.block[self.ranges[index].clone()]
    }
}

/// The tensors of one layer, mutable, in its own order.
#[derive(Debug)]
pub struct SlicesMut<'a, T> {
    pub(crate) block: &'a mut [T],
    pub(crate) ranges: &'a [Range<usize>],
}

impl<T> SlicesMut<'_, T> {
    /// The elements of the layer's tensor number `index`.
    ///
    /// # Panics
    /// If the layer has no such tensor.
    pub fn get_mut(&mut self, index: usize) -> &mut [T] {
        &mut self.block[self.ranges[index].clone()]
    }

    /// Reborrows the tensors for a shorter lifetime.
    pub fn reborrow(&mut self) -> SlicesMut<'_, T> {
        SlicesMut { block: self.block, ranges: self.ranges }
    }
}
