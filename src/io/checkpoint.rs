//! The file format of checkpoints: a safetensors file of named tensors as they are in memory,
//! little-endian, and a state of named values.
//!
//! The file's metadata has one entry, `tilewise-checkpoint`, a JSON object:
//!
//! | key | value |
//! |---|---|
//! | `sha256` | digest of the whole file with zeros in place of these digits |
//! | `format` | layout of the file |
//! | others | the state |
//!
//! The checksum detects accidental damage. A file with a valid checksum may still hold anything, so
//! everything is checked: a reader takes every value of the state by its name and type, lists the
//! tensors that it expects, and gets them only if the file has these and no others, with valid
//! values.

use std::{collections::HashMap, fs, ops::Range, path::Path};

use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    atomic_file,
    error::{Cause, Error, Result},
    float::Float,
    input_file,
    io::tensors::{self, FileTensor, position, raw},
    printable,
};

/// The metadata key.
const KEY: &str = "tilewise-checkpoint";
/// Version of the file's layout.
const FORMAT: u64 = 3;
/// The text before the digits of the checksum: JSON in a JSON string.
const MARK: &[u8] = br#"\"sha256\":\""#;
/// Digits of the checksum.
const DIGITS: usize = 64;
/// Limit for a header without its tensors and settings, in bytes: far more than it has.
const HEADER: usize = 1 << 20;
/// Limit for one tensor in a header, in bytes: more than its type, shape and offsets need.
const HEADER_PER_TENSOR: usize = 256;
/// Bytes in a header for one byte of a name or a setting, which are escaped.
const ESCAPED: usize = 4;

/// A result whose error is what is wrong with the content of the file.
pub(crate) type Checked<R> = Result<R, Fault>;

/// What is wrong with the content of a checkpoint.
#[derive(Debug)]
pub(crate) struct Fault {
    detail: String,
    source: Option<Cause>,
}

impl From<String> for Fault {
    fn from(detail: String) -> Self {
        Self { detail, source: None }
    }
}

impl From<SafeTensorError> for Fault {
    fn from(error: SafeTensorError) -> Self {
        Self::caused(error.to_string(), error)
    }
}

impl Fault {
    pub(crate) fn caused(detail: String, cause: impl Into<Cause>) -> Self {
        Self { detail, source: Some(cause.into()) }
    }

    /// As the error of the file.
    pub(crate) fn of(self, path: &Path) -> Error {
        let error = Error::file(path, self.detail);
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

/// The valid values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Values {
    /// Parameters, buffers, velocities and mean gradients.
    Finite,
    /// Sums and means of squares, which may overflow: the steps are then 0.
    Squares,
    /// Slots before the first step.
    Zeros,
    /// Losses.
    Losses,
    /// Fractions of images.
    Accuracies,
}

/// What a checkpoint must have for a tensor.
#[derive(Debug)]
pub(crate) struct Expected {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    values: Values,
}

impl Expected {
    pub(crate) fn new<T: Float>(name: String, shape: &[usize], values: Values) -> Self {
        Self { name, dtype: tensors::dtype::<T>(), shape: shape.to_vec(), values }
    }

    /// An error unless the bytes hold valid values for the tensor.
    fn check(&self, bytes: &[u8]) -> Checked<()> {
        let (fits, expected): (fn(f64) -> bool, _) = match self.values {
            Values::Finite => (f64::is_finite, "a finite number"),
            Values::Squares => (|x| x >= 0.0, "a number, 0 or above"),
            Values::Zeros => (|x| x == 0.0, "0, which no step has changed"),
            Values::Losses => (|x| x.is_finite() && x >= 0.0, "a finite number, 0 or above"),
            Values::Accuracies => (|x| (0.0..=1.0).contains(&x), "a number from 0 to 1"),
        };
        let unfit = if self.dtype == Dtype::F32 {
            let mut values = tensors::elements::<f32>(bytes).map(f64::from).enumerate();
            values.find(|&(_, value)| !fits(value))
        } else {
            tensors::elements::<f64>(bytes).enumerate().find(|&(_, value)| !fits(value))
        };
        match unfit {
            None => Ok(()),
            Some((index, value)) => {
                let (name, at) = (&self.name, position(index, &self.shape));
                Err(format!("tensor {name} holds {value} at {at}: expected {expected}").into())
            }
        }
    }
}

/// A tensor to be saved in a checkpoint.
pub(crate) struct Entry<'a> {
    pub(crate) expected: Expected,
    tensor: FileTensor<'a>,
}

impl<'a> Entry<'a> {
    pub(crate) fn new<T: Float>(
        name: String,
        shape: &[usize],
        elements: &'a [T],
        values: Values,
    ) -> Self {
        let tensor = raw(shape, elements);
        Self { expected: Expected::new::<T>(name, shape, values), tensor }
    }
}

/// The largest size, in bytes, of a checkpoint of these tensors and settings.
pub(crate) fn most_bytes(tensors: &[Expected], settings: &Map<String, Value>) -> u64 {
    let settings = settings.iter().map(|(name, value)| name.len() + value.to_string().len());
    let header = HEADER.saturating_add(settings.sum::<usize>().saturating_mul(ESCAPED));
    let most = tensors.iter().fold(header, |most, Expected { name, dtype, shape, .. }| {
        let data = shape.iter().fold(dtype.bitsize() / 8, |size, &axis| size.saturating_mul(axis));
        let described = HEADER_PER_TENSOR.saturating_add(name.len().saturating_mul(ESCAPED));
        most.saturating_add(data).saturating_add(described)
    });
    most as u64
}

/// Writes a checkpoint. The file is replaced atomically.
///
/// # Errors
/// [`Error::Io`] if it cannot be written; [`Error::File`] if a tensor has values that could not be
/// read back.
pub(crate) fn write(
    path: &Path,
    mut state: Map<String, Value>,
    entries: Vec<Entry<'_>>,
) -> Result<()> {
    let refused = |fault: Fault| Fault { detail: format!("not saved: {}", fault.detail), ..fault };
    let refused = |fault: Fault| refused(fault).of(path);
    for Entry { expected, tensor } in &entries {
        expected.check(&tensor.data()).map_err(refused)?;
    }
    state.insert("format".to_owned(), json!(FORMAT));
    state.insert("sha256".to_owned(), json!("0".repeat(DIGITS)));
    let metadata = HashMap::from([(KEY.to_owned(), Value::Object(state).to_string())]);
    let tensors = entries.into_iter().map(|entry| (entry.expected.name, entry.tensor));
    let mut bytes =
        safetensors::serialize(tensors, Some(metadata)).map_err(|error| refused(error.into()))?;
    let digits =
        digits(&bytes).ok_or_else(|| refused("its header has no checksum".to_owned().into()))?;
    let sum = hexadecimal(&Sha256::digest(&bytes));
    bytes[digits].copy_from_slice(sum.as_bytes());
    atomic_file::write(path, |file| file.write_all(&bytes))
}

/// A file with a valid checksum and layout.
pub(crate) struct Checkpoint {
    bytes: Vec<u8>,
    /// The values of its state that were not taken yet.
    state: Map<String, Value>,
}

impl Checkpoint {
    /// Reads a file of at most `most` bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`] if it is not a regular file, is larger, is
    /// not a checkpoint of this format, or its checksum does not match.
    pub(crate) fn read(path: &Path, most: u64) -> Result<Self> {
        let found = fs::metadata(path).map_err(Error::io("read", path))?;
        if !found.is_file() {
            return Err(Error::file(path, "not a regular file, as a checkpoint is"));
        }
        if found.len() > most {
            let detail = format!(
                "{} bytes, expected at most {most}: not a checkpoint of this network and these \
                 settings",
                found.len()
            );
            return Err(Error::file(path, detail));
        }
        let mut bytes = input_file::read(path, most)?;
        let state = verify(&mut bytes).map_err(|fault| fault.of(path))?;
        Ok(Self { bytes, state })
    }

    /// Takes a value out of the state.
    ///
    /// # Errors
    /// The value is missing, or of another type.
    pub(crate) fn take<R>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(Value) -> Option<R>,
    ) -> Checked<R> {
        take(&mut self.state, name, expected, read)
    }

    /// Takes a whole number up to `most` out of the state; `why` says what sets the limit.
    ///
    /// # Errors
    /// Same as [`take`](Self::take).
    pub(crate) fn take_count(&mut self, name: &str, most: u64, why: &str) -> Checked<u64> {
        let value = self.take(name, "a whole number", |value| value.as_u64())?;
        if value <= most {
            Ok(value)
        } else {
            Err(format!("{name} = {value}: expected at most {most}, {why}").into())
        }
    }

    /// The tensors, if the state has no more values, and the file has these tensors and no others,
    /// with valid values.
    ///
    /// # Errors
    /// The difference.
    pub(crate) fn tensors(&self, all: &[Expected]) -> Checked<Tensors<'_>> {
        if let Some((name, _)) = self.state.iter().next() {
            let name = shown(&json!(name));
            let detail = format!("its metadata has {name}, which no checkpoint of this kind has");
            return Err(detail.into());
        }
        let tensors = SafeTensors::deserialize(&self.bytes)?;
        for expected in all {
            let Expected { name, dtype, shape, .. } = expected;
            let Ok(found) = tensors.tensor(name) else {
                return Err(format!("tensor {name} is missing").into());
            };
            if (found.dtype(), found.shape()) != (*dtype, &shape[..]) {
                let (found_type, found_shape) = (found.dtype(), found.shape());
                let detail = format!(
                    "tensor {name} is {found_type:?} {found_shape:?}, expected {dtype:?} {shape:?}"
                );
                return Err(detail.into());
            }
            expected.check(found.data())?;
        }
        let known = |name: &str| all.iter().any(|expected| expected.name == name);
        if let Some((name, _)) = tensors.iter().find(|(name, _)| !known(name)) {
            return Err(format!("tensor {} is none of this run", shown(&json!(name))).into());
        }
        Ok(Tensors(tensors))
    }
}

/// Tensors that were checked.
pub(crate) struct Tensors<'a>(SafeTensors<'a>);

impl Tensors<'_> {
    fn bytes(&self, name: &str) -> &[u8] {
        self.0.tensor(name).map_or(&[], |tensor| tensor.data())
    }

    /// The elements of a tensor that was expected.
    pub(crate) fn elements<T: Float>(&self, name: &str) -> impl Iterator<Item = T> {
        tensors::elements(self.bytes(name))
    }

    /// Copies a tensor to memory of the same length.
    pub(crate) fn copy<T: Float>(&self, name: &str, to: &mut [T]) {
        tensors::copy(self.bytes(name), to);
    }
}

/// Where a file has the digits of its checksum.
fn digits(bytes: &[u8]) -> Option<Range<usize>> {
    let start = bytes.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    (start + DIGITS <= bytes.len()).then_some(start..start + DIGITS)
}

/// Bytes as hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks a file's checksum and layout. Returns its state.
fn verify(bytes: &mut [u8]) -> Checked<Map<String, Value>> {
    let no_checksum = || "not a checkpoint of tilewise: it has no checksum".to_owned();
    let digits = digits(bytes).ok_or_else(no_checksum)?;
    let written = bytes[digits.clone()].to_vec();
    bytes[digits].fill(b'0');
    if hexadecimal(&Sha256::digest(&*bytes)).as_bytes() != written {
        return Err("truncated or altered: its checksum does not match; begin the run again, or \
                    from another copy"
            .to_owned()
            .into());
    }
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let mut state = Err(format!("its metadata lacks {KEY:?}").into());
    for (key, entry) in header.metadata().iter().flatten() {
        if key != KEY {
            let key = shown(&json!(key));
            return Err(format!("its metadata has {key}, expected {KEY:?} alone").into());
        }
        state = serde_json::from_str::<Map<String, Value>>(entry)
            .map_err(|error| Fault::caused(format!("metadata entry {KEY:?}: {error}"), error));
    }
    let mut state = state?;
    let format = take(&mut state, "format", "a whole number", |value| value.as_u64())?;
    if format != FORMAT {
        let detail = format!(
            "a checkpoint of format {format}, and this version reads format {FORMAT}: begin the run \
             again, or continue it with the version that wrote it"
        );
        return Err(detail.into());
    }
    // It was compared above.
    state.remove("sha256");
    Ok(state)
}

/// Takes an entry out of an object.
fn take<R>(
    object: &mut Map<String, Value>,
    name: &str,
    expected: &str,
    read: impl FnOnce(Value) -> Option<R>,
) -> Checked<R> {
    let value = object.remove(name).ok_or_else(|| format!("its metadata lacks {name:?}"))?;
    let found = shown(&value);
    read(value).ok_or_else(|| format!("{name} = {found}: expected {expected}").into())
}

/// A value of a file in a message: of bounded length, and without control characters.
pub(crate) fn shown(value: &Value) -> String {
    const LONGEST: usize = 200;
    printable::inline(&value.to_string(), LONGEST)
}
