//! `Network`: a list of layers with residual blocks, and the arenas of its parameters and buffers.

use std::{fmt, ops::Range, sync::Arc};

use crate::{
    error::{Error, Result},
    kernels::Element,
    matrix::MatMut,
    nn::{
        init::Init,
        layer::{Layer, LayerConfig, MakeLayer},
        layers::{Dropout, Flatten, Gelu, Linear, Relu, Scale, Silu},
        parameters::{
            Arena, Fill, ParameterKind, ParameterSettings, Tensor, TensorLayout, TensorSpec,
        },
        shape::Shape,
    },
};

/// A network: a sequence of layers and residual blocks, with their parameters.
///
/// ```
/// use tilewise::nn::{Network, Shape};
///
/// let network = Network::<f32>::builder(Shape::Features(8))
///     .linear(16)
///     .relu()
///     .residual(|block| block.linear(16).relu())
///     .linear(3)
///     .seed(1)
///     .build()?;
/// assert_eq!(network.output_shape(), Shape::Features(3));
/// assert_eq!(network.parameters().get("0.weight").unwrap().len(), 8 * 16);
/// assert!(network.parameters().get("2.0.bias").is_some());
/// # Ok::<(), tilewise::Error>(())
/// ```
pub struct Network<T: Element> {
    structure: Arc<Structure<T>>,
    parameters: Arena<T>,
    buffers: Arena<T>,
    settings: Vec<ParameterSettings>,
}

/// The structure of a network, without its parameters.
#[derive(Clone)]
pub(crate) struct Structure<T: Element> {
    pub(crate) input: Shape,
    pub(crate) output: Shape,
    pub(crate) seed: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) layers: Vec<Placed<T>>,
    pub(crate) parameters: Arc<TensorLayout>,
    buffers: Arc<TensorLayout>,
}

/// A part of a network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    /// The layer with this index.
    Layer(usize),
    /// `out = x + nodes(x)`.
    Residual(Vec<Node>),
}

/// A layer at its place in the network.
#[derive(Clone)]
pub(crate) struct Placed<T: Element> {
    /// Its indices, starting from the network: "3" or "3.0".
    pub(crate) name: String,
    pub(crate) layer: Arc<dyn Layer<T>>,
    pub(crate) config: LayerConfig,
    pub(crate) input: Shape,
    pub(crate) output: Shape,
    /// Its parameters, as indices in the arena.
    pub(crate) parameters: Range<usize>,
    /// Its buffers, as indices in the arena.
    pub(crate) buffers: Range<usize>,
    /// The number of layers of its kind before it.
    pub(crate) of_kind: u64,
}

impl<T: Element> Structure<T> {
    /// Whether the other computes the same, given the same parameters.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.input == other.input
                && self.nodes == other.nodes
                && self.layers.len() == other.layers.len()
                && self.layers.iter().zip(&other.layers).all(|(a, b)| a.config == b.config)
                && self.parameters == other.parameters
                && self.buffers == other.buffers)
    }

    /// `3072 features -> linear(...) -> relu -> ...`.
    fn describe(&self, nodes: &[Node], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, node) in nodes.iter().enumerate() {
            if number > 0 {
                f.write_str(" -> ")?;
            }
            match node {
                Node::Layer(index) => write!(f, "{}", self.layers[*index].config)?,
                Node::Residual(block) => {
                    f.write_str("residual(")?;
                    self.describe(block, f)?;
                    f.write_str(")")?;
                }
            }
        }
        Ok(())
    }
}

impl<T: Element> fmt::Debug for Structure<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> ", self.input)?;
        self.describe(&self.nodes, f)
    }
}

impl<T: Element> fmt::Display for Network<T> {
    /// The shape of an example and the layers: `32x32x3 -> flatten -> linear(...) -> relu -> ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.structure, f)
    }
}

impl<T: Element> fmt::Debug for Network<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({:?}, {} parameters)", self.structure, self.parameter_count())
    }
}

impl<T: Element> Network<T> {
    /// Starts a network for examples of this shape.
    pub fn builder(input: Shape) -> NetworkBuilder<T> {
        let shape = checked("input of a network", input);
        NetworkBuilder { input, seed: 0, list: List { parts: Vec::new(), shape } }
    }

    /// A network from the configurations of its layers, as in a file, with all parameters 0. `make`
    /// makes a layer from a configuration; [`layers::from_config`](super::layers::from_config)
    /// makes those of this crate.
    ///
    /// # Errors
    /// The errors of `make`; [`Error::Setting`] if a layer does not accept the output of the layer
    /// before it.
    pub fn from_config(
        input: Shape,
        config: &[NodeConfig],
        make: &MakeLayer<'_, T>,
    ) -> Result<Self> {
        fn parts<T: Element>(
            config: &[NodeConfig],
            make: &MakeLayer<'_, T>,
        ) -> Result<Vec<Part<T>>> {
            let part = |node: &NodeConfig| {
                Ok(match node {
                    NodeConfig::Layer(config) => Part::Layer(make(config)?),
                    NodeConfig::Residual(block) => Part::Residual(parts(block, make)?),
                })
            };
            config.iter().map(part).collect()
        }
        Self::assemble(input, &parts(config, make)?, 0, false)
    }

    /// The configurations of the layers.
    pub fn config(&self) -> Vec<NodeConfig> {
        fn config<T: Element>(structure: &Structure<T>, nodes: &[Node]) -> Vec<NodeConfig> {
            let node = |node: &Node| match node {
                Node::Layer(index) => NodeConfig::Layer(structure.layers[*index].config.clone()),
                Node::Residual(block) => NodeConfig::Residual(config(structure, block)),
            };
            nodes.iter().map(node).collect()
        }
        config(&self.structure, &self.structure.nodes)
    }

    fn assemble(input: Shape, parts: &[Part<T>], seed: u64, fill: bool) -> Result<Self> {
        checked("input of a network", input)?;
        let mut assembly = Assembly {
            layers: Vec::new(),
            parameters: TensorLayout::default(),
            buffers: TensorLayout::default(),
        };
        let (nodes, output) = assembly.add(parts, "", input)?;
        let Assembly { layers, parameters, buffers } = assembly;
        let (parameters, buffers) = (Arc::new(parameters), Arc::new(buffers));
        let kinds = parameters.tensors().iter().map(Tensor::kind);
        let mut network = Self {
            settings: kinds.map(ParameterSettings::of).collect(),
            parameters: Arena::zeros(Arc::clone(&parameters))?,
            buffers: Arena::zeros(Arc::clone(&buffers))?,
            structure: Arc::new(Structure {
                input,
                output,
                seed,
                nodes,
                layers,
                parameters,
                buffers,
            }),
        };
        if fill {
            network.fill()?;
        }
        Ok(network)
    }

    /// Sets all tensors to their initial values.
    fn fill(&mut self) -> Result<()> {
        let mut random = 0;
        for arena in [&mut self.parameters, &mut self.buffers] {
            for index in 0..arena.layout().tensors().len() {
                let spec = arena.layout().tensors()[index].spec().clone();
                let elements = arena.tensor_mut(index);
                match spec.fill {
                    Fill::Constant(value) => elements.fill(T::from_f64(value)),
                    Fill::Random(init) => {
                        let rows = spec.shape.first().copied().unwrap_or(1);
                        let weight = MatMut::new(elements, rows, elements.len() / rows.max(1))?;
                        init.fill(weight, self.structure.seed, random)?;
                        random += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// A copy with its own parameters; the layers are shared.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if there is not enough memory.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            structure: Arc::clone(&self.structure),
            parameters: self.parameters.try_clone()?,
            buffers: self.buffers.try_clone()?,
            settings: self.settings.clone(),
        })
    }

    /// Copies parameters and buffers of a network of the same layers, without allocating.
    ///
    /// # Errors
    /// [`Error::Setting`] if its tensors have other names or shapes.
    pub fn copy_parameters(&mut self, from: &Self) -> Result<()> {
        self.parameters.copy_from(&from.parameters)?;
        self.buffers.copy_from(&from.buffers)
    }

    /// The shape of an example.
    pub fn input_shape(&self) -> Shape {
        self.structure.input
    }

    /// The shape of the output.
    pub fn output_shape(&self) -> Shape {
        self.structure.output
    }

    /// Number of values in an example: columns of the input.
    pub fn in_features(&self) -> usize {
        self.structure.input.features()
    }

    /// Number of classes: columns of the logits.
    pub fn classes(&self) -> usize {
        self.structure.output.features()
    }

    /// Sets the seed of random numbers in training; layers and parameters stay the same.
    pub fn with_seed(mut self, seed: u64) -> Self {
        Arc::make_mut(&mut self.structure).seed = seed;
        self
    }

    /// Seed of the initial parameters and of random numbers in training.
    pub fn seed(&self) -> u64 {
        self.structure.seed
    }

    /// All parameters.
    pub fn parameters(&self) -> &Arena<T> {
        &self.parameters
    }

    /// All parameters, mutable.
    pub fn parameters_mut(&mut self) -> &mut Arena<T> {
        &mut self.parameters
    }

    /// All buffers: tensors that are saved and not trained.
    pub fn buffers(&self) -> &Arena<T> {
        &self.buffers
    }

    /// All buffers, mutable.
    pub fn buffers_mut(&mut self) -> &mut Arena<T> {
        &mut self.buffers
    }

    /// Whether all parameters and buffers are finite numbers.
    pub fn is_finite(&self) -> bool {
        let mut tensors = self.parameters.iter().chain(self.buffers.iter());
        tensors.all(|(_, values)| values.iter().all(|value| value.is_finite()))
    }

    /// Number of trained values, frozen ones included.
    pub fn parameter_count(&self) -> usize {
        self.structure.parameters.tensors().iter().map(Tensor::len).sum()
    }

    /// How each parameter is trained, in the order of the arena.
    pub fn parameter_settings(&self) -> &[ParameterSettings] {
        &self.settings
    }

    /// Sets how the parameter `name` is trained.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such parameter, or a factor is negative or not finite.
    pub fn set_parameter_settings(&mut self, name: &str, to: ParameterSettings) -> Result<()> {
        to.check()?;
        let index = self.structure.parameters.require(name)?;
        self.settings[index] = to;
        Ok(())
    }

    /// An error unless an example has `features` values.
    pub(crate) fn expect_inputs(&self, features: usize) -> Result<()> {
        let expected = self.in_features();
        if expected != features {
            let what = "values of an example for this network";
            return Err(Error::Length { what, expected, found: features });
        }
        Ok(())
    }

    pub(crate) fn structure(&self) -> &Arc<Structure<T>> {
        &self.structure
    }

    /// Parameters and buffers, mutable.
    #[cfg(feature = "model-files")]
    pub(crate) fn arenas_mut(&mut self) -> (&mut Arena<T>, &mut Arena<T>) {
        (&mut self.parameters, &mut self.buffers)
    }
}

/// A part of a network by its configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeConfig {
    /// A layer.
    Layer(LayerConfig),
    /// A residual block: `out = x + block(x)`.
    Residual(Vec<NodeConfig>),
}

/// A part of a network that is being made.
enum Part<T: Element> {
    Layer(Arc<dyn Layer<T>>),
    Residual(Vec<Part<T>>),
}

struct Assembly<T: Element> {
    layers: Vec<Placed<T>>,
    parameters: TensorLayout,
    buffers: TensorLayout,
}

impl<T: Element> Assembly<T> {
    /// Adds parts one after another, whose names follow `prefix`; returns them and the shape after
    /// them.
    fn add(
        &mut self,
        parts: &[Part<T>],
        prefix: &str,
        mut shape: Shape,
    ) -> Result<(Vec<Node>, Shape)> {
        if parts.is_empty() {
            return Err(Error::setting("layers", 0, "at least one"));
        }
        let mut nodes = Vec::with_capacity(parts.len());
        for (number, part) in parts.iter().enumerate() {
            let name = format!("{prefix}{number}");
            nodes.push(match part {
                Part::Layer(layer) => {
                    let output = checked("output of a layer", layer.output_shape(shape)?)?;
                    let config = layer.config();
                    let before = self.layers.iter().filter(|l| l.config.kind == config.kind);
                    let of_kind = before.count() as u64;
                    let (parameters, buffers) = (layer.parameters(), layer.buffers());
                    check_names(&config, &parameters, &buffers)?;
                    let size = size_of::<T>();
                    let parameters = push(&mut self.parameters, &name, parameters, size)?;
                    let buffers = push(&mut self.buffers, &name, buffers, size)?;
                    self.layers.push(Placed {
                        name,
                        layer: Arc::clone(layer),
                        config,
                        input: shape,
                        output,
                        parameters,
                        buffers,
                        of_kind,
                    });
                    shape = output;
                    Node::Layer(self.layers.len() - 1)
                }
                Part::Residual(block) => {
                    let (block, output) = self.add(block, &format!("{name}."), shape)?;
                    if output != shape {
                        let expected = format!("{shape}, the shape of its input");
                        return Err(Error::setting("output of a residual block", output, expected));
                    }
                    Node::Residual(block)
                }
            });
        }
        Ok((nodes, shape))
    }
}

/// An error if two tensors of a layer have the same name: files know them by their names alone.
fn check_names(
    config: &LayerConfig,
    parameters: &[TensorSpec],
    buffers: &[TensorSpec],
) -> Result<()> {
    let mut names = Vec::new();
    for TensorSpec { name, .. } in parameters.iter().chain(buffers) {
        if names.contains(name) {
            let expected = format!("a name of its own for each tensor of a {} layer", config.kind);
            return Err(Error::setting("tensor name", name, expected));
        }
        names.push(name);
    }
    Ok(())
}

fn push(
    layout: &mut TensorLayout,
    layer: &str,
    specs: Vec<TensorSpec>,
    size: usize,
) -> Result<Range<usize>> {
    let first = layout.tensors().len();
    for spec in specs {
        layout.push(layer, spec, size)?;
    }
    Ok(first..layout.tensors().len())
}

/// Layers that are being put together, and the shape after them; the first error stays.
struct List<T: Element> {
    parts: Vec<Part<T>>,
    shape: Result<Shape>,
}

impl<T: Element> List<T> {
    fn push<L: Layer<T>>(&mut self, make: impl FnOnce(Shape) -> Result<L>) {
        if let Ok(shape) = self.shape {
            self.shape = make(shape).and_then(|layer| {
                let output = checked("output of a layer", layer.output_shape(shape)?)?;
                self.parts.push(Part::Layer(Arc::new(layer)));
                Ok(output)
            });
        }
    }
}

/// Makes a [`Network`] layer by layer. An error of a layer is returned by
/// [`build`](NetworkBuilder::build).
pub struct NetworkBuilder<T: Element> {
    input: Shape,
    seed: u64,
    list: List<T>,
}

/// Makes the layers of a residual block; see [`NetworkBuilder::residual`].
pub struct BlockBuilder<T: Element>(List<T>);

impl<T: Element> NetworkBuilder<T> {
    /// Seed of the initial parameters and of random numbers in training; 0 by default.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The network with initial parameters.
    ///
    /// # Errors
    /// [`Error::Setting`] if a layer's settings are invalid, it does not take what the layer
    /// before it gives, or there is none; [`Error::SizeOverflow`] if the parameters exceed the
    /// memory.
    pub fn build(self) -> Result<Network<T>> {
        self.list.shape?;
        Network::assemble(self.input, &self.list.parts, self.seed, true)
    }
}

macro_rules! builder_methods {
    ($builder:ident, $list:tt) => {
        impl<T: Element> $builder<T> {
            /// A layer of any kind, custom layers included.
            pub fn layer(mut self, layer: impl Layer<T>) -> Self {
                self.$list.push(|_| Ok(layer));
                self
            }

            /// A linear layer of so many outputs, with weights of He et al. and biases 0.
            pub fn linear(mut self, out_features: usize) -> Self {
                self.$list.push(|shape| Linear::new(linear_inputs(shape)?, out_features));
                self
            }

            /// A linear layer with other initial weights.
            pub fn linear_with(mut self, out_features: usize, init: Init) -> Self {
                self.$list.push(|shape| {
                    Ok(Linear::new(linear_inputs(shape)?, out_features)?.with_init(init))
                });
                self
            }

            /// A ReLU.
            pub fn relu(self) -> Self {
                self.layer(Relu)
            }

            /// A GELU, exact.
            pub fn gelu(self) -> Self {
                self.layer(Gelu)
            }

            /// A SiLU.
            pub fn silu(self) -> Self {
                self.layer(Silu)
            }

            /// Dropout with this probability of dropping.
            pub fn dropout(mut self, probability: f64) -> Self {
                self.$list.push(|_| Dropout::new(probability));
                self
            }

            /// An image as features.
            pub fn flatten(self) -> Self {
                self.layer(Flatten)
            }

            /// Multiplies by a factor that is not trained.
            pub fn scale(mut self, factor: f64) -> Self {
                self.$list.push(|_| Scale::new(factor));
                self
            }

            /// A residual block: `out = x + block(x)`.
            pub fn residual(
                mut self,
                block: impl FnOnce(BlockBuilder<T>) -> BlockBuilder<T>,
            ) -> Self {
                let list = &mut self.$list;
                if let Ok(shape) = list.shape {
                    let empty = List { parts: Vec::new(), shape: Ok(shape) };
                    let BlockBuilder(block) = block(BlockBuilder(empty));
                    list.shape = block.shape.map(|_| shape);
                    list.parts.push(Part::Residual(block.parts));
                }
                self
            }
        }
    };
}

builder_methods!(NetworkBuilder, list);
builder_methods!(BlockBuilder, 0);

/// A shape of a number of values that the rest may rely on.
fn checked(what: &'static str, shape: Shape) -> Result<Shape> {
    if shape.values().is_some_and(|values| values > 0) {
        return Ok(shape);
    }
    Err(Error::setting(what, shape, "at least one value that memory has room for"))
}

/// Inputs of a linear layer that takes values of a shape.
fn linear_inputs(shape: Shape) -> Result<usize> {
    match shape {
        Shape::Features(features) => Ok(features),
        image => {
            let expected = "features; put a flatten layer before it";
            Err(Error::setting("input of a linear layer", image, expected))
        }
    }
}

/// The parameters of a kind, by their numbers.
pub(crate) fn of_kind<T: Element>(
    network: &Network<T>,
    kind: ParameterKind,
) -> impl Iterator<Item = usize> + '_ {
    let tensors = network.parameters.layout().tensors().iter().enumerate();
    tensors.filter(move |(_, tensor)| tensor.kind() == kind).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Init;

    #[test]
    fn initial_values_and_seeds_are_no_part_of_what_a_network_is() {
        let network = |init, classes| {
            let builder = Network::<f32>::builder(Shape::Features(3)).linear_with(classes, init);
            builder.build().unwrap()
        };
        let (he, mut xavier) = (network(Init::He, 2), network(Init::Xavier, 2).with_seed(5));
        assert_eq!((he.seed(), xavier.seed()), (0, 5));
        assert!(he.structure.is_same(&xavier.structure));
        assert_ne!(xavier.parameters().get("0.weight"), he.parameters().get("0.weight"));
        xavier.copy_parameters(&he).unwrap();
        assert_eq!(xavier.parameters().get("0.weight"), he.parameters().get("0.weight"));
        let other = network(Init::He, 4);
        assert!(!he.structure.is_same(&other.structure));
        assert!(xavier.copy_parameters(&other).is_err());
    }
}
