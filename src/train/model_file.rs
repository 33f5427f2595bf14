//! Networks as safetensors files, named and shaped like the `state_dict` of a PyTorch
//! `nn.Sequential` of `Linear`, `ReLU` and, for a network with dropout, `Dropout`.
//!
//! Layer `i` is `0`, `2`, `4`, … (with dropout `0`, `3`, `6`, …): `<i>.weight` of shape
//! (out_features, in_features) and `<i>.bias` of shape (out_features). What else a network needs
//! to classify pictures stands as JSON in the file's metadata under the key `tilewise`; a file
//! without it, saved by PyTorch, loads as well.

use std::{borrow::Cow, collections::BTreeMap, collections::HashMap, path::Path};

use safetensors::{
    Dtype, SafeTensorError, SafeTensors, View,
    tensor::{Metadata as Header, TensorView},
};
use serde::{Deserialize, Serialize};

use crate::{
    atomic_file,
    data::{Normalization, check_class_names},
    error::{Error, Result},
    input_file,
    kernels::Element,
    matrix::MatRef,
    nn::{FullyConnectedNet, Linear},
};

/// The metadata key of [`Metadata`].
const KEY: &str = "tilewise";
/// Largest file that is read: four billion numbers in f32.
const MAX_BYTES: u64 = 16 << 30;
/// Bytes of the length of the header, which comes first.
const LENGTH_BYTES: u64 = 8;

/// What a model file says beside the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// How the pictures were normalised that the network was trained on.
    pub normalization: Option<Normalization>,
    /// Names of the classes by label; empty if unknown.
    pub class_names: Vec<String>,
}

/// The JSON in a file's metadata. One key for all, because the order of several is random, and
/// equal networks are to make equal files.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Metadata {
    version: String,
    dropout: f64,
    l2: f64,
    normalization: Option<Affine>,
    class_names: Vec<String>,
}

/// A [`Normalization`].
#[derive(Serialize, Deserialize)]
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

/// Saves a network and what belongs to it as `path`, in the network's own precision. The file is
/// replaced at once or not at all; equal networks make equal files.
///
/// # Errors
/// [`Error::File`] if a parameter is NaN or infinite or a class name has more than 256 characters,
/// [`Error::Io`] if the file cannot be written.
pub fn save<T: Element>(path: &Path, net: &FullyConnectedNet<T>, info: &ModelInfo) -> Result<()> {
    check_class_names(&info.class_names)
        .map_err(|detail| Error::file(path, format!("not saved: {detail}")))?;
    let step = if net.dropout() > 0.0 { 3 } else { 2 };
    let mut tensors = Vec::new();
    for (number, layer) in net.layers().iter().enumerate() {
        let bias = MatRef::new(layer.bias(), 1, layer.out_features())?;
        let (out_features, in_features) = (layer.out_features(), layer.in_features());
        for (name, values, shape) in [
            ("weight", layer.weight().t(), vec![out_features, in_features]),
            ("bias", bias, vec![out_features]),
        ] {
            let name = format!("{}.{name}", step * number);
            let tensor = Tensor { values, shape };
            tensor.check_finite(path, &name)?;
            tensors.push((name, tensor));
        }
    }
    let metadata = Metadata {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        dropout: net.dropout(),
        l2: net.l2(),
        normalization: info
            .normalization
            .as_ref()
            .map(|n| Affine { scale: n.scale().to_vec(), shift: n.shift().to_vec() }),
        class_names: info.class_names.clone(),
    };
    let refused = |error: &dyn std::fmt::Display| Error::file(path, format!("not saved: {error}"));
    let json = serde_json::to_string(&metadata).map_err(|error| refused(&error))?;
    let metadata = HashMap::from([(KEY.to_owned(), json)]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(|error| refused(&error))?;
    atomic_file::write(path, |file| file.write_all(&bytes))
}

/// Loads a network and what its file says beside it. Numbers of the other precision are rounded.
///
/// The layers are taken in the order of their numbers, whatever lies between them: `Flatten`,
/// `ReLU` and `Dropout` have no tensors. The names may stand below one common prefix, as
/// `model.0.weight` does where the `nn.Sequential` is a part of a module. A file without
/// tilewise's metadata gives a network without dropout and L2 regularisation, and an empty
/// [`ModelInfo`].
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is no regular file, larger than
/// 16 GiB, no safetensors file or cut off, its header contradicts itself, a tensor is missing,
/// unknown, of another type than F32 or F64, does not fit its neighbours, or holds NaN or an
/// infinity, or a class name has more than 256 characters.
pub fn load<T: Element>(path: &Path) -> Result<(FullyConnectedNet<T>, ModelInfo)> {
    let bytes = read(path)?;
    // Both check that the header's sizes and offsets fit each other and the file.
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged(path))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(damaged(path))?;
    let metadata = metadata(path, &header)?;
    let layers = layers(path, &tensors)?;
    let wrong = |error: Error| Error::file(path, error.to_string());
    let net =
        FullyConnectedNet::from_layers(layers, metadata.l2, metadata.dropout, 0).map_err(wrong)?;
    let normalization = match metadata.normalization {
        Some(Affine { scale, shift }) => Some(Normalization::new(scale, shift).map_err(wrong)?),
        None => None,
    };
    let (names, classes) = (metadata.class_names.len(), net.layers().last());
    let classes = classes.map_or(0, Linear::out_features);
    if names != 0 && names != classes {
        let detail = format!("{names} class names in the metadata for {classes} outputs");
        return Err(Error::file(path, detail));
    }
    check_class_names(&metadata.class_names).map_err(|detail| Error::file(path, detail))?;
    Ok((net, ModelInfo { normalization, class_names: metadata.class_names }))
}

/// The bytes of a safetensors file, which are only read if the header is one.
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
        // What the header describes is yet to be read.
        Ok(_) | Err(SafeTensorError::MetadataIncompleteBuffer) => {}
        Err(error) => return Err(damaged(path)(error)),
    }
    let rest = size.saturating_sub(bytes.len() as u64);
    file.set_limit(rest);
    input_file::read_rest(path, &mut file, rest, &mut bytes)?;
    Ok(bytes)
}

/// What to say about a file that is no whole safetensors file.
fn damaged(path: &Path) -> impl Fn(SafeTensorError) -> Error {
    move |error| {
        let detail = format!("not a whole safetensors file ({error}); save or copy it again");
        Error::file(path, detail)
    }
}

/// tilewise's part of a file's metadata, or its default.
fn metadata(path: &Path, header: &Header) -> Result<Metadata> {
    let json = header.metadata().as_ref().and_then(|entries| entries.get(KEY));
    let Some(json) = json else { return Ok(Metadata::default()) };
    serde_json::from_str(json)
        .map_err(|error| Error::file(path, format!("metadata entry {KEY:?}: {error}")))
}

/// The two tensors of a layer, as far as they are there.
#[derive(Default)]
struct Parts<'a> {
    weight: Option<TensorView<'a>>,
    bias: Option<TensorView<'a>>,
}

/// The layers in a file, in their order.
fn layers<T: Element>(path: &Path, tensors: &SafeTensors<'_>) -> Result<Vec<Linear<T>>> {
    let mut parts: BTreeMap<usize, Parts<'_>> = BTreeMap::new();
    let mut common = None;
    for (name, tensor) in tensors.iter() {
        let place = place(name);
        match place {
            Some((_, number, "weight")) => parts.entry(number).or_default().weight = Some(tensor),
            Some((_, number, "bias")) => parts.entry(number).or_default().bias = Some(tensor),
            _ => {
                let detail = format!(
                    "unexpected tensor {name:?}: expected `<layer>.weight` and `<layer>.bias`, or \
                     both behind one common prefix, as in the state_dict of an nn.Sequential of \
                     Linear layers; rename the tensors"
                );
                return Err(Error::file(path, detail));
            }
        }
        let prefix = place.and_then(|(prefix, ..)| prefix);
        let first = *common.get_or_insert(prefix);
        if first != prefix {
            let [first, prefix] = [first, prefix].map(Option::unwrap_or_default);
            let detail = format!(
                "tensors of {first:?} and of {prefix:?}: expected those of one nn.Sequential"
            );
            return Err(Error::file(path, detail));
        }
    }
    let full = |number: usize, kind: &str| match common.flatten() {
        Some(prefix) => format!("{prefix}.{number}.{kind}"),
        None => format!("{number}.{kind}"),
    };
    if parts.is_empty() {
        return Err(Error::file(path, "holds no tensors: expected `0.weight`, `0.bias` and so on"));
    }
    let mut layers: Vec<Linear<T>> = Vec::new();
    for (number, Parts { weight, bias }) in parts {
        let wrong = |detail: String| Error::file(path, detail);
        let [weight_name, bias_name] = ["weight", "bias"].map(|kind| full(number, kind));
        let missing = |name, other| wrong(format!("`{name}` is missing for `{other}`"));
        let (weight, bias) = match (weight, bias) {
            (Some(weight), Some(bias)) => (weight, bias),
            (None, _) => return Err(missing(weight_name, bias_name)),
            (_, None) => return Err(missing(bias_name, weight_name)),
        };
        let &[out_features, in_features] = weight.shape() else {
            let shape = weight.shape();
            return Err(wrong(format!("`{weight_name}` has shape {shape:?}, expected [out, in]")));
        };
        if bias.shape() != [out_features] {
            return Err(wrong(format!(
                "`{bias_name}` has shape {:?}, expected [{out_features}] for a weight of shape \
                 {:?}",
                bias.shape(),
                weight.shape(),
            )));
        }
        if let Some(previous) = layers.last()
            && previous.out_features() != in_features
        {
            return Err(wrong(format!(
                "`{weight_name}` has shape {:?}, expected [{out_features}, {}] after a layer \
                 with {} outputs",
                weight.shape(),
                previous.out_features(),
                previous.out_features(),
            )));
        }
        let mut layer = Linear::zeros(in_features, out_features)
            .map_err(|error| wrong(format!("`{weight_name}`: {error}")))?;
        let mut matrix = layer.weight_mut().t(); // (out, in)
        for (index, value) in values(path, &weight_name, &weight)?.enumerate() {
            matrix.set(index / in_features, index % in_features, value?);
        }
        for (place, value) in layer.bias_mut().iter_mut().zip(values(path, &bias_name, &bias)?) {
            *place = value?;
        }
        layers.push(layer);
    }
    Ok(layers)
}

/// Prefix, layer and kind of a tensor called `<layer>.<kind>` or `<prefix>.<layer>.<kind>`.
fn place(name: &str) -> Option<(Option<&str>, usize, &str)> {
    let (rest, kind) = name.rsplit_once('.')?;
    let (prefix, number) = match rest.rsplit_once('.') {
        Some((prefix, number)) => (Some(prefix), number),
        None => (None, rest),
    };
    // A number has one spelling, so that no two tensors have the same place.
    let layer = number.parse::<usize>().ok().filter(|layer| layer.to_string() == number)?;
    Some((prefix, layer, kind))
}

/// The numbers in a tensor, each an error unless it is finite.
fn values<'a, T: Element>(
    path: &'a Path,
    name: &'a str,
    tensor: &'a TensorView<'_>,
) -> Result<impl Iterator<Item = Result<T>> + 'a> {
    let size = match tensor.dtype() {
        Dtype::F32 => 4,
        Dtype::F64 => 8,
        other => {
            let detail = format!("`{name}` is of type {other:?}, expected F32 or F64");
            return Err(Error::file(path, detail));
        }
    };
    Ok(tensor.data().chunks_exact(size).enumerate().map(move |(index, bytes)| {
        let exact = if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
            f64::from_le_bytes(bytes)
        } else {
            let mut word = [0; 4];
            word.copy_from_slice(bytes);
            f64::from(f32::from_le_bytes(word))
        };
        let value = T::from_f64(exact);
        if value.is_finite() {
            return Ok(value);
        }
        let reason = if exact.is_finite() { "too large for f32" } else { "not a finite number" };
        let at = position(index, tensor.shape());
        Err(Error::file(path, format!("`{name}` holds {exact} at {at}: {reason}")))
    }))
}

/// The index of element `index` of a tensor stored row by row, as PyTorch would write it.
fn position(index: usize, shape: &[usize]) -> String {
    match shape {
        [_, cols] if *cols > 0 => format!("[{}, {}]", index / cols, index % cols),
        _ => format!("[{index}]"),
    }
}

/// A parameter as it stands in a file.
struct Tensor<'a, T> {
    /// The elements, row by row.
    values: MatRef<'a, T>,
    shape: Vec<usize>,
}

impl<T: Element> Tensor<'_, T> {
    fn elements(&self) -> impl Iterator<Item = T> {
        let (rows, cols) = self.values.shape();
        (0..rows).flat_map(move |row| (0..cols).map(move |col| self.values.get(row, col)))
    }

    fn check_finite(&self, path: &Path, name: &str) -> Result<()> {
        let Some((index, value)) = self.elements().enumerate().find(|(_, x)| !x.is_finite()) else {
            return Ok(());
        };
        let at = position(index, &self.shape);
        let detail = format!("not saved: `{name}` holds {value} at {at}, not a finite number");
        Err(Error::file(path, detail))
    }
}

impl<T: Element> View for Tensor<'_, T> {
    fn dtype(&self) -> Dtype {
        if size_of::<T>() == 4 { Dtype::F32 } else { Dtype::F64 }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        for value in self.elements().map(T::to_f64) {
            match self.dtype() {
                Dtype::F32 => bytes.extend((value as f32).to_le_bytes()),
                _ => bytes.extend(value.to_le_bytes()),
            }
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.values.rows() * self.values.cols() * size_of::<T>()
    }
}
