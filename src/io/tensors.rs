//! Conversion of tensors between arenas and safetensors files.

use std::{borrow::Cow, path::Path};

use safetensors::{Dtype, View, tensor::TensorView};

use crate::{
    bf16::Bf16,
    error::{Error, Result},
    float::Float,
    kernels::Element,
    nn::Tensor,
};

/// A tensor as it is stored in a file.
pub(crate) struct FileTensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for FileTensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The type of elements in a file.
pub(crate) fn dtype<T: Float>() -> Dtype {
    if size_of::<T>() == 4 { Dtype::F32 } else { Dtype::F64 }
}

/// The shape of a parameter in a PyTorch state dict.
pub(crate) fn exchanged_shape(tensor: &Tensor) -> Vec<usize> {
    match &tensor.spec().exchange[..] {
        [] => tensor.shape().to_vec(),
        axes => axes.iter().map(|&axis| tensor.shape()[axis]).collect(),
    }
}

/// For each element of a parameter in the order of a PyTorch state dict, its place in memory.
pub(crate) fn exchanged_order(tensor: &Tensor) -> impl Iterator<Item = usize> {
    let shape = exchanged_shape(tensor);
    // Elements from one index of an axis to the next, in memory.
    let mut steps = vec![1; tensor.shape().len()];
    for axis in (1..steps.len()).rev() {
        steps[axis - 1] = steps[axis] * tensor.shape()[axis];
    }
    let steps: Vec<usize> = match &tensor.spec().exchange[..] {
        [] => steps,
        axes => axes.iter().map(|&axis| steps[axis]).collect(),
    };
    (0..tensor.len()).map(move |mut place| {
        let mut found = 0;
        for (&len, &step) in shape.iter().zip(&steps).rev() {
            found += place % len * step;
            place /= len;
        }
        found
    })
}

/// A parameter in the layout of a PyTorch state dict, little-endian, as numbers of type `dtype`:
/// that of the elements, or BF16, for which elements of f32 are rounded.
///
/// # Errors
/// [`Error::File`] with `path` if an element is NaN or infinite, or too large for BF16.
pub(crate) fn exchanged<T: Element>(
    path: &Path,
    tensor: &Tensor,
    elements: &[T],
    dtype: Dtype,
) -> Result<FileTensor<'static>> {
    let shape = exchanged_shape(tensor);
    let mut bytes = Vec::with_capacity(elements.len() * dtype.bitsize() / 8);
    for (index, place) in exchanged_order(tensor).enumerate() {
        let value = elements[place];
        let rounded = Bf16::from_f32(value.to_f64() as f32);
        let reason = if !value.is_finite() {
            Some("not a finite number")
        } else if dtype == Dtype::BF16 && rounded.to_f32().is_infinite() {
            Some("too large for BF16")
        } else {
            None
        };
        if let Some(reason) = reason {
            let (name, at) = (tensor.name(), position(index, &shape));
            let detail = format!("not saved: `{name}` holds {value} at {at}, {reason}");
            return Err(Error::file(path, detail));
        }
        match dtype {
            Dtype::BF16 => bytes.extend(rounded.to_bits().to_le_bytes()),
            Dtype::F32 => bytes.extend((value.to_f64() as f32).to_le_bytes()),
            _ => bytes.extend(value.to_f64().to_le_bytes()),
        }
    }
    Ok(FileTensor { dtype, shape, bytes: Cow::Owned(bytes) })
}

/// Elements as they are in memory, little-endian.
pub(crate) fn raw<'a, T: Float>(shape: &[usize], elements: &'a [T]) -> FileTensor<'a> {
    let bytes = little_endian(bytemuck::cast_slice(elements), size_of::<T>());
    FileTensor { dtype: dtype::<T>(), shape: shape.to_vec(), bytes }
}

/// The elements of a tensor that [`raw`] made, whose bytes may have any alignment.
pub(crate) fn elements<T: Float>(bytes: &[u8]) -> impl Iterator<Item = T> {
    let size = size_of::<T>();
    let element = move |bytes| bytemuck::pod_read_unaligned(&little_endian(bytes, size));
    bytes.chunks_exact(size).map(element)
}

/// Copies the elements of a tensor that [`raw`] made.
///
/// # Panics
/// If `to` has a different length.
pub(crate) fn copy<T: Float>(bytes: &[u8], to: &mut [T]) {
    bytemuck::cast_slice_mut(to).copy_from_slice(&little_endian(bytes, size_of::<T>()));
}

/// Converts numbers of `size` bytes from the byte order of the machine to that of a file, or back.
fn little_endian(bytes: &[u8], size: usize) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return bytes.into();
    }
    let mut bytes = bytes.to_vec();
    bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    bytes.into()
}

/// The numbers of a tensor in a file; an error unless each is finite in the requested precision.
///
/// # Errors
/// [`Error::File`] with `path` if the tensor has another type than BF16, F32 or F64.
pub(crate) fn numbers<'a, T: Element>(
    path: &'a Path,
    name: &'a str,
    tensor: &'a TensorView<'_>,
) -> Result<impl Iterator<Item = Result<T>> + 'a> {
    let size = match tensor.dtype() {
        Dtype::BF16 => 2,
        Dtype::F32 => 4,
        Dtype::F64 => 8,
        other => {
            let detail = format!("`{name}` is of type {other:?}, expected BF16, F32 or F64");
            return Err(Error::file(path, detail));
        }
    };
    Ok(tensor.data().chunks_exact(size).enumerate().map(move |(index, bytes)| {
        let exact = if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
            f64::from_le_bytes(bytes)
        } else {
            // A bf16 is the upper half of an f32, the last two of its bytes in this order.
            let mut word = [0; 4];
            word[4 - size..].copy_from_slice(bytes);
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

/// The index of element `index` of a tensor stored by rows, as PyTorch would write it.
pub(crate) fn position(index: usize, shape: &[usize]) -> String {
    let mut rest = index;
    let mut axes: Vec<String> = Vec::with_capacity(shape.len());
    for &len in shape.iter().rev() {
        axes.push((rest % len.max(1)).to_string());
        rest /= len.max(1);
    }
    axes.reverse();
    format!("[{}]", axes.join(", "))
}
