//! Networks as safetensors files, named and shaped like the `state_dict` of a PyTorch
//! `nn.Sequential` of the same layers.
//!
//! The layers, the normalization of images and the names of the classes are JSON in the file's
//! metadata under the key `tilewise`, with a format number. [`load`] reads files of the first format,
//! and files from PyTorch without that entry, as multilayer perceptrons. [`load_into`] reads the
//! tensors of any network that was built before.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use safetensors::{
    Dtype, SafeTensorError, SafeTensors,
    tensor::{Metadata as Header, TensorView},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    atomic_file,
    config::with_fields,
    data::{Normalization, check_class_names},
    error::{Cause, Error, Result},
    input_file,
    io::tensors::{dtype, exchanged, exchanged_order, exchanged_shape, numbers},
    kernels::Element,
    nn::{LayerConfig, MakeLayer, Network, NodeConfig, ParameterKind, Setting, Shape, layers},
    precision::Precision,
};

/// The metadata key of [`Metadata`].
const KEY: &str = "tilewise";
/// The format number. The first format did not have the layers.
const FORMAT: u32 = 2;
/// Largest file that is read: four billion f32 values.
const MAX_BYTES: u64 = 16 << 30;
/// Bytes of the header's length, which comes first.
const LENGTH_BYTES: u64 = 8;

/// The metadata of a model file, besides the network.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The normalization of the images that the network was trained on.
    pub normalization: Option<Normalization>,
    /// Names of the classes by label; empty if unknown.
    pub class_names: Vec<String>,
    /// The precision that the network was trained in; `None` if unknown.
    pub precision: Option<Precision>,
}

with_fields! {
    ModelInfo {
        precision with_precision: Option<Precision>,
        normalization with_normalization: Option<Normalization>,
        class_names with_class_names: Vec<String>,
    }
}

/// The JSON in a file's metadata. One key for all, because the order of several is random, and
/// equal networks are to make equal files.
#[derive(Serialize, Deserialize)]
#[serde(default)]
struct Metadata {
    format: u32,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Described>,
    /// Of the first format: probability of dropping a hidden activation.
    #[serde(skip_serializing)]
    dropout: f64,
    normalization: Option<Affine>,
    class_names: Vec<String>,
    /// The name of a [`Precision`].
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<String>,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            format: 1,
            version: String::new(),
            network: None,
            dropout: 0.0,
            normalization: None,
            class_names: Vec::new(),
            precision: None,
        }
    }
}

/// A network without its parameters.
#[derive(Serialize, Deserialize)]
struct Described {
    /// One number: features; three: height, width, channels.
    input: Vec<usize>,
    layers: Vec<Value>,
}

/// A [`Normalization`].
#[derive(Serialize, Deserialize)]
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

/// Saves a network and its metadata to `path`, in the type of its parameters. The file is replaced
/// atomically; equal networks give equal files.
///
/// # Errors
/// [`Error::File`] if a parameter is NaN or infinite or a class name has more than 256 characters,
/// [`Error::Io`] if the file cannot be written.
pub fn save<T: Element>(path: &Path, network: &Network<T>, info: &ModelInfo) -> Result<()> {
    save_with(path, network, info, dtype::<T>())
}

/// Same as [`save`], with weights in `weights`. In bf16 they are rounded to nearest even as
/// [`Bf16`](crate::Bf16) rounds and take half the memory; biases, other parameters and buffers stay in
/// f32. The products of a network in bf16 round weights too, so a multilayer perceptron that is saved
/// this way computes the same bits in bf16. With F32 or F64 it is the same as [`save`].
///
/// ```
/// use tilewise::{Precision, io::model::{self, ModelInfo}, nn::{Network, Shape}};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.safetensors");
/// let network = Network::<f32>::builder(Shape::Features(4)).linear(3).build()?;
/// let info = ModelInfo::default().with_precision(Some(Precision::Bf16));
/// model::save_in(&path, &network, &info, Precision::Bf16)?;
/// # Ok::<(), tilewise::Error>(())
/// ```
///
/// # Errors
/// Same as [`save`]; [`Error::Setting`] if the network has parameters of another type than a network
/// in `weights`; [`Error::File`] if a weight is too large for bf16.
pub fn save_in<T: Element>(
    path: &Path,
    network: &Network<T>,
    info: &ModelInfo,
    weights: Precision,
) -> Result<()> {
    weights.expect_parameters::<T>("precision of saved weights")?;
    let dtype = if weights == Precision::Bf16 { Dtype::BF16 } else { dtype::<T>() };
    save_with(path, network, info, dtype)
}

/// Saves a network with weights of type `weights`.
fn save_with<T: Element>(
    path: &Path,
    network: &Network<T>,
    info: &ModelInfo,
    weights: Dtype,
) -> Result<()> {
    check_class_names(&info.class_names)
        .map_err(|detail| Error::file(path, format!("not saved: {detail}")))?;
    let mut tensors = Vec::new();
    for (tensor, elements) in network.parameters().iter() {
        let is_weight = tensor.kind() == ParameterKind::Weight;
        let dtype = if is_weight { weights } else { dtype::<T>() };
        tensors.push((tensor.name().to_owned(), exchanged(path, tensor, elements, dtype)?));
    }
    for (tensor, elements) in network.buffers().iter() {
        tensors.push((tensor.name().to_owned(), exchanged(path, tensor, elements, dtype::<T>())?));
    }
    let (input, layers) = describe(network);
    let metadata = Metadata {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        network: Some(Described { input, layers }),
        dropout: 0.0,
        normalization: info
            .normalization
            .as_ref()
            .map(|n| Affine { scale: n.scale().to_vec(), shift: n.shift().to_vec() }),
        class_names: info.class_names.clone(),
        precision: info.precision.map(|precision| precision.name().to_owned()),
    };
    let refused =
        |error: Cause| Error::file(path, format!("not saved: {error}")).with_source(error);
    let json = serde_json::to_string(&metadata).map_err(|error| refused(error.into()))?;
    let metadata = HashMap::from([(KEY.to_owned(), json)]);
    let bytes =
        safetensors::serialize(tensors, Some(metadata)).map_err(|error| refused(error.into()))?;
    atomic_file::write(path, |file| file.write_all(&bytes))
}

/// Loads a network and its metadata. Numbers in the other precision are converted and rounded.
///
/// If the metadata has no layers, the file is read as linear layers in the order of their numbers,
/// with a ReLU between any two; numbers may be missing. The names may share one prefix, such as
/// `model.0.weight` if the `nn.Sequential` is a part of a module. For other networks use
/// [`load_into`].
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is not a regular file, is larger than
/// 16 GiB, is not a complete safetensors file, its header is inconsistent, a tensor is missing,
/// unknown, not of type BF16, F32 or F64, does not fit the other layers, or holds NaN or an infinity,
/// or a class name has more than 256 characters.
pub fn load<T: Element>(path: &Path) -> Result<(Network<T>, ModelInfo)> {
    load_with(path, &layers::from_config)
}

/// Same as [`load`], with custom layers: `make` makes a layer from its configuration.
/// [`layers::from_config`] knows those of this crate.
///
/// # Errors
/// Same as [`load`], and the errors of `make`, with the path.
pub fn load_with<T: Element>(
    path: &Path,
    make: &MakeLayer<'_, T>,
) -> Result<(Network<T>, ModelInfo)> {
    load_with_precision(path, make).map(|(network, info, _)| (network, info))
}

/// Same as [`load_with`], also returns what [`precision`] does.
pub(crate) fn load_with_precision<T: Element>(
    path: &Path,
    make: &MakeLayer<'_, T>,
) -> Result<(Network<T>, ModelInfo, Precision)> {
    let bytes = read(path)?;
    let (tensors, metadata) = open(path, &bytes)?;
    let wrong = |error: Error| Error::file(path, error.to_string()).with_source(error);
    let (mut network, names) = match &metadata.network {
        Some(described) => (described.network(make).map_err(wrong)?, HashMap::new()),
        None => {
            // Checked even if no layer has dropout.
            layers::Dropout::new(metadata.dropout).map_err(wrong)?;
            perceptron(path, &tensors, metadata.dropout, make)?
        }
    };
    fill(path, &tensors, &mut network, &names)?;
    let precision = precision_of(path, &tensors, &metadata)?;
    let info = metadata.info(path, network.classes())?;
    Ok((network, info, precision))
}

/// Loads the tensors of a file into an existing network: its own model file, or a PyTorch state
/// dict with the names and shapes of its tensors. The names may share one prefix.
/// The network is unchanged if there is an error.
///
/// # Errors
/// Same as [`load`].
pub fn load_into<T: Element>(path: &Path, network: &mut Network<T>) -> Result<ModelInfo> {
    let bytes = read(path)?;
    let (tensors, metadata) = open(path, &bytes)?;
    let mut loaded = network.try_clone()?;
    fill(path, &tensors, &mut loaded, &HashMap::new())?;
    let info = metadata.info(path, network.classes())?;
    network.copy_parameters(&loaded)?;
    Ok(info)
}

/// The precision to use the network of a file in: the one that it was trained in, or, where the file
/// does not say, that of its weights: F64 if one is of that type, BF16 if all weights, tensors of two
/// or more axes, are of that type, else F32.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] as for [`load`], except that the tensors
/// are not checked.
pub fn precision(path: &Path) -> Result<Precision> {
    let bytes = read(path)?;
    let (tensors, metadata) = open(path, &bytes)?;
    precision_of(path, &tensors, &metadata)
}

/// Same as [`precision`], of an open file.
fn precision_of(path: &Path, tensors: &SafeTensors<'_>, metadata: &Metadata) -> Result<Precision> {
    if let Some(precision) = metadata.precision(path)? {
        return Ok(precision);
    }
    let is_weight = |tensor: &TensorView<'_>| tensor.shape().len() > 1;
    let mut weights = tensors.iter().filter(|(_, tensor)| is_weight(tensor)).peekable();
    Ok(if tensors.iter().any(|(_, tensor)| tensor.dtype() == Dtype::F64) {
        Precision::F64
    } else if weights.peek().is_some() && weights.all(|(_, tensor)| tensor.dtype() == Dtype::BF16) {
        Precision::Bf16
    } else {
        Precision::F32
    })
}

/// The tensors of a file, and tilewise's entry of its metadata or the default.
fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<(SafeTensors<'a>, Metadata)> {
    // Both check that the header's sizes and offsets fit each other and the file.
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged(path))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(damaged(path))?;
    Ok((tensors, metadata(path, &header)?))
}

/// The bytes of a safetensors file, which are read only if the header is valid.
fn read(path: &Path) -> Result<Vec<u8>> {
    let (mut file, size) = input_file::open(path, MAX_BYTES)?;
    let mut bytes = Vec::new();
    file.set_limit(size.min(LENGTH_BYTES));
    input_file::read_rest(path, &mut file, LENGTH_BYTES, &mut bytes)?;
    if let Ok(length) = <[u8; 8]>::try_from(&bytes[..]) {
        let header = u64::from_le_bytes(length).min(size - LENGTH_BYTES);
        file.set_limit(header);
        input_file::read_rest(path, &mut file, header, &mut bytes)?;
    }
    match SafeTensors::read_metadata(&bytes) {
        // The tensors that the header describes are yet to be read.
        Ok(_) | Err(SafeTensorError::MetadataIncompleteBuffer) => {}
        Err(error) => return Err(damaged(path)(error)),
    }
    let rest = size.saturating_sub(bytes.len() as u64);
    file.set_limit(rest);
    input_file::read_rest(path, &mut file, rest, &mut bytes)?;
    Ok(bytes)
}

/// The error for a file that is not a complete safetensors file.
fn damaged(path: &Path) -> impl Fn(SafeTensorError) -> Error {
    move |error| {
        let detail = format!("not a whole safetensors file ({error}); save or copy it again");
        Error::file(path, detail).with_source(error)
    }
}

fn metadata(path: &Path, header: &Header) -> Result<Metadata> {
    let json = header.metadata().as_ref().and_then(|entries| entries.get(KEY));
    let Some(json) = json else { return Ok(Metadata::default()) };
    let metadata: Metadata = serde_json::from_str(json).map_err(|error| {
        Error::file(path, format!("metadata entry {KEY:?}: {error}")).with_source(error)
    })?;
    if metadata.format > FORMAT {
        let (path, format) = (path.to_owned(), metadata.format);
        return Err(Error::UnsupportedFormat { path, format, latest: FORMAT });
    }
    Ok(metadata)
}

impl Metadata {
    /// The precision that the network was trained in, if it is recorded.
    fn precision(&self, path: &Path) -> Result<Option<Precision>> {
        let parsed = self.precision.as_deref().map(str::parse).transpose();
        parsed.map_err(|error: Error| Error::file(path, error.to_string()).with_source(error))
    }

    fn info(self, path: &Path, classes: usize) -> Result<ModelInfo> {
        check_class_names(&self.class_names).map_err(|detail| Error::file(path, detail))?;
        let wrong = |error: Error| Error::file(path, error.to_string()).with_source(error);
        let precision = self.precision(path)?;
        let normalization = match self.normalization {
            Some(Affine { scale, shift }) => Some(Normalization::new(scale, shift).map_err(wrong)?),
            None => None,
        };
        let names = self.class_names.len();
        if names != 0 && names != classes {
            let detail = format!("{names} class names in the metadata for {classes} outputs");
            return Err(Error::file(path, detail));
        }
        Ok(ModelInfo { normalization, class_names: self.class_names, precision })
    }
}

impl Described {
    fn network<T: Element>(&self, make: &MakeLayer<'_, T>) -> Result<Network<T>> {
        let input = match self.input[..] {
            [features] => Shape::Features(features),
            [height, width, channels] => Shape::Image { height, width, channels },
            _ => {
                let found = format!("{:?}", self.input);
                let expected = "[features] or [height, width, channels]";
                return Err(Error::setting("input of a network", found, expected));
            }
        };
        let config = self.layers.iter().map(from_json).collect::<Result<Vec<_>>>()?;
        Network::from_config(input, &config, make)
    }
}

/// A network without its parameters: features, or height, width and channels, of an example; and
/// its layers.
pub(crate) fn describe<T: Element>(network: &Network<T>) -> (Vec<usize>, Vec<Value>) {
    let input = match network.input_shape() {
        Shape::Features(features) => vec![features],
        Shape::Image { height, width, channels } => vec![height, width, channels],
    };
    (input, network.config().iter().map(to_json).collect())
}

/// A layer as `{"kind": "dropout", "probability": 0.1}`, a block as `{"residual": [...]}`.
fn to_json(node: &NodeConfig) -> Value {
    let mut object = Map::new();
    match node {
        NodeConfig::Layer(LayerConfig { kind, settings }) => {
            object.insert("kind".into(), kind.as_str().into());
            for (name, setting) in settings {
                let value = match setting {
                    Setting::Count(value) => Value::from(*value),
                    Setting::Number(value) => Value::from(*value),
                    Setting::Flag(value) => Value::from(*value),
                    Setting::Text(value) => Value::from(value.as_str()),
                };
                object.insert(name.clone(), value);
            }
        }
        NodeConfig::Residual(block) => {
            object.insert("residual".into(), block.iter().map(to_json).collect());
        }
    }
    Value::Object(object)
}

/// The inverse of [`to_json`].
fn from_json(value: &Value) -> Result<NodeConfig> {
    let wrong = || {
        let expected = "an object with a \"kind\" and its settings, or with \"residual\"";
        Error::setting("layer", value, expected)
    };
    let object = value.as_object().ok_or_else(wrong)?;
    if let Some(block) = object.get("residual") {
        let block = block.as_array().ok_or_else(wrong)?;
        return Ok(NodeConfig::Residual(block.iter().map(from_json).collect::<Result<_>>()?));
    }
    let kind = object.get("kind").and_then(Value::as_str).ok_or_else(wrong)?;
    let mut config = LayerConfig::new(kind);
    for (name, value) in object.iter().filter(|(name, _)| *name != "kind") {
        let setting = match value {
            Value::Bool(value) => Setting::Flag(*value),
            Value::String(value) => Setting::Text(value.clone()),
            Value::Number(number) => match (number.as_u64(), number.as_f64()) {
                (Some(count), _) => Setting::Count(count),
                (None, Some(number)) => Setting::Number(number),
                _ => return Err(wrong()),
            },
            _ => return Err(wrong()),
        };
        config = config.with(name, setting);
    }
    Ok(NodeConfig::Layer(config))
}

/// Fills a network with the tensors of a file, all of them and no others. `renamed` maps names in the
/// network to names in the file, if they differ by more than a common prefix.
fn fill<T: Element>(
    path: &Path,
    tensors: &SafeTensors<'_>,
    network: &mut Network<T>,
    renamed: &HashMap<String, String>,
) -> Result<()> {
    let names: Vec<&str> = tensors.names();
    let layouts = [network.parameters().layout(), network.buffers().layout()].map(Arc::clone);
    let wanted = || layouts.iter().flat_map(|layout| layout.tensors());
    // The prefix of the first tensor's name. The name of a tensor in a block may have the same end,
    // with more before it.
    let prefix = wanted().next().and_then(|tensor| {
        let before = names.iter().filter_map(|name| name.strip_suffix(tensor.name()));
        let prefixes = before.filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
        prefixes.min_by_key(|prefix| prefix.len())
    });
    let prefix = prefix.unwrap_or_default();
    let full = |name: &str| renamed.get(name).cloned().unwrap_or_else(|| format!("{prefix}{name}"));
    for name in &names {
        if !wanted().any(|tensor| full(tensor.name()) == *name) {
            let expected: Vec<String> = wanted().map(|tensor| full(tensor.name())).collect();
            let (path, name) = (path.to_owned(), (*name).to_owned());
            return Err(Error::UnexpectedTensor { path, name, expected: expected.join(", ") });
        }
    }
    let (parameters, buffers) = network.arenas_mut();
    for arena in [parameters, buffers] {
        let layout = Arc::clone(arena.layout());
        for (number, tensor) in layout.tensors().iter().enumerate() {
            let name = full(tensor.name());
            let found = tensors
                .tensor(&name)
                .map_err(|_| Error::MissingTensor { path: path.to_owned(), name: name.clone() })?;
            let expected = exchanged_shape(tensor);
            if found.shape() != expected {
                let (path, found) = (path.to_owned(), found.shape().to_vec());
                return Err(Error::TensorShape { path, name, expected, found });
            }
            let elements = arena.tensor_mut(number);
            for (place, value) in exchanged_order(tensor).zip(numbers(path, &name, &found)?) {
                elements[place] = value?;
            }
        }
    }
    Ok(())
}

/// The tensors of a linear layer, if they are there.
#[derive(Default)]
struct Parts<'a> {
    weight: Option<TensorView<'a>>,
    bias: Option<TensorView<'a>>,
}

/// The multilayer perceptron whose tensors a file has, with parameters 0, and a map from names in
/// the network to names in the file.
fn perceptron<T: Element>(
    path: &Path,
    tensors: &SafeTensors<'_>,
    dropout: f64,
    make: &MakeLayer<'_, T>,
) -> Result<(Network<T>, HashMap<String, String>)> {
    let wrong = |detail: String| Error::file(path, detail);
    let mut layers: BTreeMap<usize, Parts<'_>> = BTreeMap::new();
    let mut common = None;
    for (name, tensor) in tensors.iter() {
        let place = place(name);
        match place {
            Some((_, number, "weight")) => layers.entry(number).or_default().weight = Some(tensor),
            Some((_, number, "bias")) => layers.entry(number).or_default().bias = Some(tensor),
            _ => {
                return Err(wrong(format!(
                    "unexpected tensor {name:?}: expected `<layer>.weight` and `<layer>.bias`, or \
                     both after one common prefix, as in the state_dict of an nn.Sequential of \
                     Linear layers; rename the tensors, or load them into a network that you \
                     describe"
                )));
            }
        }
        let prefix = place.and_then(|(prefix, ..)| prefix);
        let first = *common.get_or_insert(prefix);
        if first != prefix {
            let [first, prefix] = [first, prefix].map(Option::unwrap_or_default);
            return Err(wrong(format!(
                "tensors of {first:?} and of {prefix:?}: expected those of one nn.Sequential"
            )));
        }
    }
    let full = |number: usize, kind: &str| match common.flatten() {
        Some(prefix) => format!("{prefix}.{number}.{kind}"),
        None => format!("{number}.{kind}"),
    };
    let mut nodes: Vec<NodeConfig> = Vec::new();
    let mut names = HashMap::new();
    let (mut input, mut width) = (None, 0);
    for (number, Parts { weight, bias }) in layers {
        let [weight_name, bias_name] = ["weight", "bias"].map(|kind| full(number, kind));
        let missing = |name, other| wrong(format!("`{name}` is missing for `{other}`"));
        let (weight, bias) = match (weight, bias) {
            (Some(weight), Some(bias)) => (weight, bias),
            (None, _) => return Err(missing(weight_name, bias_name)),
            (_, None) => return Err(missing(bias_name, weight_name)),
        };
        let &[out_features, in_features] = weight.shape() else {
            let shape = weight.shape();
            return Err(wrong(format!(
                "`{weight_name}` has shape {shape:?}, expected [out, in]; load it into a network \
                 that you describe"
            )));
        };
        if bias.shape() != [out_features] {
            return Err(wrong(format!(
                "`{bias_name}` has shape {:?}, expected [{out_features}] for a weight of shape \
                 {:?}",
                bias.shape(),
                weight.shape(),
            )));
        }
        if input.is_some() && width != in_features {
            return Err(wrong(format!(
                "`{weight_name}` has shape {:?}, expected [{out_features}, {width}] after a layer \
                 with {width} outputs",
                weight.shape(),
            )));
        }
        input.get_or_insert(in_features);
        width = out_features;
        if !nodes.is_empty() {
            nodes.push(NodeConfig::Layer(LayerConfig::new("relu")));
            if dropout > 0.0 {
                let dropout = LayerConfig::new("dropout").with_number("probability", dropout);
                nodes.push(NodeConfig::Layer(dropout));
            }
        }
        for (kind, name) in [("weight", weight_name), ("bias", bias_name)] {
            names.insert(format!("{}.{kind}", nodes.len()), name);
        }
        nodes.push(NodeConfig::Layer(
            LayerConfig::new("linear")
                .with_count("in_features", in_features)
                .with_count("out_features", out_features),
        ));
    }
    let Some(input) = input else {
        return Err(wrong("holds no tensors: expected `0.weight`, `0.bias` and so on".to_owned()));
    };
    let network = Network::from_config(Shape::Features(input), &nodes, make);
    let network = network.map_err(|error| wrong(error.to_string()).with_source(error))?;
    Ok((network, names))
}

/// Prefix, layer and kind of a tensor called `<layer>.<kind>` or `<prefix>.<layer>.<kind>`.
fn place(name: &str) -> Option<(Option<&str>, usize, &str)> {
    let (rest, kind) = name.rsplit_once('.')?;
    let (prefix, number) = match rest.rsplit_once('.') {
        Some((prefix, number)) => (Some(prefix), number),
        None => (None, rest),
    };
    // A number has one spelling, so two tensors never have the same place.
    let layer = number.parse::<usize>().ok().filter(|layer| layer.to_string() == number)?;
    Some((prefix, layer, kind))
}
