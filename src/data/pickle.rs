//! Reads arrays, labels and names from the pickled batches of CIFAR-10, as Python 2 wrote the
//! official ones and as numpy in Python 3 writes them.
//!
//! `serde-pickle` runs the opcodes; unknown objects are returned as the tuple of their state. A numpy array is then `(1, shape, dtype, fortran_order, bytes)` or, from protocol 5 on,
//! `(bytes, dtype, shape, order)`; a dtype is `(version, byte order, None, None, None, -1, -1, 0)`.
//!
//! No code of a pickle is run, and [`scan`] refuses those that nest or grow beyond any batch before
//! they are interpreted.

use std::{collections::BTreeMap, io::Read, path::Path};

use serde_pickle::{DeOptions, HashableValue, Value};

use super::{
    batch_files::{IMAGE_BYTES, MAX_FILE_BYTES},
    pickle_scan::scan,
};
use crate::error::{Error, Result};

/// Longest message of the interpreter that is passed on; it may quote the data.
const MAX_DETAIL: usize = 200;

/// The images of one file.
pub(super) struct PickledBatch {
    pub(super) pixels: Vec<u8>, // (images, 3072)
    pub(super) labels: Vec<u8>, // (images)
}

/// Reads a dictionary with `data`, an array of bytes (images, 3072), and `labels`, a list.
pub(super) fn read_batch(path: &Path, reader: &mut dyn Read) -> Result<PickledBatch> {
    let (mut dictionary, dtype) = read_dictionary(path, reader)?;
    let labels = read_labels(path, take(&mut dictionary, "labels"))?;
    let pixels = read_array(take(&mut dictionary, "data"), dtype.as_deref())
        .map_err(|detail| Error::file(path, format!("`data`: {detail}")))?;
    if labels.is_empty() || pixels.len() != labels.len() * IMAGE_BYTES {
        let images = pixels.len() / IMAGE_BYTES;
        let detail = format!("{} labels for {images} images", labels.len());
        return Err(Error::file(path, detail));
    }
    Ok(PickledBatch { pixels, labels })
}

/// Reads a dictionary with `label_names`, a list of strings.
pub(super) fn read_names(path: &Path, reader: &mut dyn Read) -> Result<Vec<String>> {
    let no_names = || Error::file(path, "expected `label_names`, a list of strings");
    let (mut dictionary, _) = read_dictionary(path, reader)?;
    let Some(Value::List(names)) = take(&mut dictionary, "label_names") else {
        return Err(no_names());
    };
    let names = names.iter().map(|name| text(name).map(String::from));
    names.collect::<Option<_>>().ok_or_else(no_names)
}

/// Reads a dictionary; returns also the name that numpy has for the element type of `data`.
fn read_dictionary(
    path: &Path,
    reader: &mut dyn Read,
) -> Result<(BTreeMap<HashableValue, Value>, Option<String>)> {
    let unreadable = |detail: String| {
        let detail: String = detail.chars().take(MAX_DETAIL).collect();
        Error::file(path, format!("not a readable pickle: {detail}"))
    };
    let mut pickle = Vec::new();
    reader.take(MAX_FILE_BYTES).read_to_end(&mut pickle).map_err(Error::io("read", path))?;
    let dtype = scan(&pickle).map_err(unreadable)?;
    let options = DeOptions::new().keep_restore_state().replace_unresolved_globals();
    match serde_pickle::value_from_slice(&pickle, options) {
        Ok(Value::Dict(dictionary)) => Ok((dictionary, dtype)),
        Ok(_) => Err(Error::file(path, "expected a pickled dictionary")),
        Err(error) => Err(unreadable(error.to_string()).with_source(error)),
    }
}

/// The value of a key, which is bytes from Python 2 and text from Python 3.
fn take(dictionary: &mut BTreeMap<HashableValue, Value>, key: &str) -> Option<Value> {
    let bytes = HashableValue::Bytes(key.into());
    dictionary.remove(&bytes).or_else(|| dictionary.remove(&HashableValue::String(key.into())))
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Bytes(bytes) => str::from_utf8(bytes).ok(),
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn read_labels(path: &Path, labels: Option<Value>) -> Result<Vec<u8>> {
    let Some(Value::List(labels)) = labels else {
        return Err(Error::file(path, "expected `labels`, a list of whole numbers"));
    };
    let labels = labels.iter().enumerate().map(|(record, label)| match label {
        Value::I64(label) if (0..=255).contains(label) => Ok(*label as u8),
        _ => {
            let detail = format!("label of record {record}: expected a class from 0 to 9");
            Err(Error::file(path, detail))
        }
    });
    labels.collect()
}

/// The bytes of an array (images, 3072) with elements of type `dtype`, or what is wrong with it.
fn read_array(array: Option<Value>, dtype: Option<&str>) -> Result<Vec<u8>, String> {
    let not_an_array = || "expected a numpy array".to_string();
    let Some(Value::Tuple(state)) = array else { return Err(not_an_array()) };
    let (shape, in_rows, bytes) = match <[Value; 5]>::try_from(state) {
        Ok([_, Value::Tuple(shape), _, Value::Bool(fortran), Value::Bytes(bytes)]) => {
            (shape, !fortran, bytes)
        }
        Ok(_) => return Err(not_an_array()),
        Err(state) => match <[Value; 4]>::try_from(state) {
            Ok([Value::Bytes(bytes), _, Value::Tuple(shape), order]) => {
                (shape, text(&order) == Some("C"), bytes)
            }
            _ => return Err(not_an_array()),
        },
    };
    let shape: Option<Vec<usize>> = shape
        .iter()
        .map(|extent| match extent {
            Value::I64(extent) => usize::try_from(*extent).ok(),
            _ => None,
        })
        .collect();
    let shape = shape.ok_or_else(not_an_array)?;
    let [images, IMAGE_BYTES] = shape[..] else {
        return Err(format!("expected the shape (images, {IMAGE_BYTES}), found {shape:?}"));
    };
    if !in_rows {
        return Err("expected rows one after another, found Fortran order".into());
    }
    let Some(dtype) = dtype else { return Err(not_an_array()) };
    if dtype != "u1" {
        return Err(format!("expected elements of type uint8, found {}", type_name(dtype)));
    }
    if images.checked_mul(IMAGE_BYTES) != Some(bytes.len()) {
        return Err(format!("{} bytes for the shape {shape:?}", bytes.len()));
    }
    Ok(bytes)
}

/// The usual name of an element type that numpy writes as `dtype`: `f4` is float32.
fn type_name(dtype: &str) -> String {
    let (letter, bytes) = dtype.split_at_checked(1).unwrap_or((dtype, ""));
    let kind = match letter {
        "u" => "uint",
        "i" => "int",
        "f" => "float",
        "c" => "complex",
        "b" => return "bool".into(),
        _ => return format!("numpy's {dtype:?}"),
    };
    match bytes.parse::<u32>() {
        Ok(bytes) => format!("{kind}{}", bytes.saturating_mul(8)),
        Err(_) => format!("numpy's {dtype:?}"),
    }
}
