//! Checkpoints: all that a [`Solver`] needs to continue as if it had never stopped, in one file.
//!
//! A checkpoint is a safetensors file, little-endian:
//!
//! | tensor | what it holds |
//! |---|---|
//! | `net.<t>`, `average.<t>`, `best.<t>` | parameters: of each layer W, (in, out), row after row, then b |
//! | `<slot>.<t>` | what the optimizer keeps for them, by the names of [`Optimizer::slot_names`] |
//! | `history.<name>` | losses of iterations and accuracies of epochs |
//!
//! Its metadata has one entry, `tilewise-checkpoint`, a JSON object:
//!
//! | key | value |
//! |---|---|
//! | `sha256` | digest of the whole file with zeros in place of these digits |
//! | `format` | layout of the file |
//! | `epochs`, `batches` | epochs done, and batches done of the epoch after them |
//! | `nanoseconds` | wall time of these batches |
//! | `settings` | every setting of the run by name, and the SHA-256 of its images and labels |
//!
//! What follows from these is not stored: the number of steps, the losses of the present epoch, the
//! best epoch. The order of the images, their augmentation and dropout have no state: they are
//! functions of the seed, the epoch, the step and the image.
//!
//! The checksum finds accidents. A file with a valid checksum may still be anything, so that loading
//! takes nothing for granted: every value is checked, against its range, the solver and the other
//! values, before the solver changes.
//!
//! [`Optimizer::slot_names`]: crate::train::Optimizer::slot_names

use std::{
    borrow::Cow, collections::HashMap, fmt::Display, fs, ops::Range, path::Path, time::Duration,
};

use safetensors::{Dtype, SafeTensors, View};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    atomic_file,
    error::{Error, Result},
    float::Float,
    input_file,
    kernels::Element,
    nn::FullyConnectedNet,
    train::{
        identity::hexadecimal,
        solver::{Position, Solver},
    },
};

/// The metadata key.
const KEY: &str = "tilewise-checkpoint";
/// Layout of the file; another number is another layout.
const FORMAT: u64 = 2;
/// What stands before the digits of the checksum: JSON in a JSON string.
const MARK: &[u8] = br#"\"sha256\":\""#;
/// Digits of the checksum.
const DIGITS: usize = 64;
/// No epoch takes longer.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Bytes of a header beside its tensors: far more than its other entry has.
const HEADER: usize = 1 << 20;
/// Bytes of a header for one tensor: more than its name, type, shape and place have.
const HEADER_PER_TENSOR: usize = 256;

impl<T: Element> Solver<'_, T> {
    /// Saves where training stands. The file is replaced at once or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; [`Error::File`] if a parameter is no longer finite: it
    /// could not be resumed from.
    pub fn save_checkpoint(&self, path: &Path) -> Result<()> {
        let refused = |error: &dyn Display| Error::file(path, format!("not saved: {error}"));
        let tensors = self.tensors();
        for (name, tensor) in &tensors {
            tensor.check(name, &tensor.data()).map_err(|error| refused(&error))?;
        }
        let Position { epochs, batches, time, .. } = self.position;
        let settings = self.identity().into_iter().map(|(name, value)| (name.to_owned(), value));
        let state = json!({
            "sha256": "0".repeat(DIGITS),
            "format": FORMAT,
            "epochs": epochs,
            "batches": batches,
            "nanoseconds": time.min(CENTURY).as_nanos() as u64,
            "settings": settings.collect::<Map<_, _>>(),
        });
        let metadata = HashMap::from([(KEY.to_owned(), state.to_string())]);
        let mut bytes =
            safetensors::serialize(tensors, Some(metadata)).map_err(|error| refused(&error))?;
        let digits = digits(&bytes).ok_or_else(|| refused(&"its header has no checksum"))?;
        let sum = checksum(&bytes);
        bytes[digits].copy_from_slice(sum.as_bytes());
        atomic_file::write(path, |file| file.write_all(&bytes))
    }

    /// Continues where the run stood that saved the checkpoint: this solver must have been made with
    /// the same network, images and settings, threads aside. What follows then has the same bits as
    /// without the interruption.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Setting`] if it belongs to other settings
    /// or images; [`Error::File`] if it is no checkpoint, truncated or altered, or holds what no run
    /// with these settings can have come to. The solver is unchanged then.
    pub fn load_checkpoint(&mut self, path: &Path) -> Result<()> {
        let wrong = |detail: String| Error::file(path, detail);
        let mut bytes = self.read(path)?;
        let mut state = verify(&mut bytes).map_err(wrong)?;
        let settings = take(&mut state, "settings", "an object of settings", |value| match value {
            Value::Object(settings) => Some(settings),
            _ => None,
        });
        self.check_settings(path, settings.map_err(wrong)?)?;
        let position = self.check_position(state).map_err(wrong)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
        self.check_tensors(position, &tensors).map_err(wrong)?;
        let best = self.check_history(position, &tensors).map_err(wrong)?;
        self.restore(position, best, &tensors);
        Ok(())
    }

    /// The bytes of a file that may be a checkpoint of this run.
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let found = fs::metadata(path).map_err(Error::io("read", path))?;
        if !found.is_file() {
            return Err(Error::file(path, "not a regular file, as a checkpoint is"));
        }
        let (batches, _) = self.config.epoch(self.order.indices().len());
        let tensors = self.tensors();
        let header = HEADER.saturating_add(tensors.len().saturating_mul(HEADER_PER_TENSOR));
        let (epochs, steps) = (self.config.epochs, self.config.epochs.saturating_mul(batches));
        let most = tensors.iter().fold(header, |most, (_, tensor)| {
            let elements = tensor.values.len(epochs, steps).unwrap_or(tensor.shape[0]);
            most.saturating_add(elements.saturating_mul(size_of::<f64>()))
        });
        if found.len() > most as u64 {
            let dims = self.trainer.net().dims();
            let detail = format!(
                "{} bytes, expected at most {most} for a network of {dims:?} and {epochs} epochs: \
                 not a checkpoint of this run",
                found.len()
            );
            return Err(Error::file(path, detail));
        }
        input_file::read(path, most as u64)
    }

    /// An error unless the settings are those of this run, name by name.
    fn check_settings(&self, path: &Path, mut there: Map<String, Value>) -> Result<()> {
        for (name, here) in self.identity() {
            match there.remove(name) {
                Some(there) if there == here => {}
                Some(there) => {
                    let (here, there) = (shown(&here), shown(&there));
                    let found = format!("{name} {here}");
                    let expected = format!("{there}, as the checkpoint {} has it", path.display());
                    return Err(Error::setting("resumed run", found, expected));
                }
                None => {
                    let detail = format!("its settings lack {name}, which is {here} in this run");
                    return Err(Error::file(path, detail));
                }
            }
        }
        match there.into_iter().next() {
            None => Ok(()),
            Some((name, value)) => {
                let (name, value) = (shown(&json!(name)), shown(&value));
                let detail =
                    format!("its settings have {name} = {value}, which no run of this kind has");
                Err(Error::file(path, detail))
            }
        }
    }

    /// Where the run stood, if a run with these settings can stand there.
    fn check_position(&self, mut state: Map<String, Value>) -> Checked<Position> {
        let mut count = |name| take(&mut state, name, "a whole number", |value| value.as_u64());
        let (epochs, batches) = (count("epochs")?, count("batches")?);
        let nanoseconds = count("nanoseconds")?;
        if let Some((name, _)) = state.iter().next() {
            let name = shown(&json!(name));
            return Err(format!("its metadata has {name}, which no checkpoint of this format has"));
        }
        let up_to = |name, value: u64, most: u64, why: &str| {
            let wrong = || format!("{name} = {value}: expected at most {most}{why}");
            if value <= most { Ok(value) } else { Err(wrong()) }
        };
        let all_epochs = self.config.epochs as u64;
        let epochs = up_to("epochs", epochs, all_epochs, ", those of the run")?;
        let (of_epoch, _) = self.config.epoch(self.order.indices().len());
        let (of_epoch, why) = if epochs == all_epochs {
            (0, ", because all epochs are done")
        } else {
            (of_epoch as u64, ", those of an epoch")
        };
        let batches = up_to("batches", batches, of_epoch, why)?;
        let (longest, why) = match batches {
            0 => (0, ", because no batch of the epoch is done"),
            _ => (CENTURY.as_nanos() as u64, ", a century"),
        };
        let time = Duration::from_nanos(up_to("nanoseconds", nanoseconds, longest, why)?);
        // No more than the run has, which are a `usize`.
        Ok(Position { epochs: epochs as usize, batches: batches as usize, loss: 0.0, time })
    }

    /// Steps of a run that stands there.
    fn steps_at(&self, position: Position) -> usize {
        let (of_epoch, _) = self.config.epoch(self.order.indices().len());
        position.epochs * of_epoch + position.batches
    }

    /// An error unless the file has the tensors of this run, no others, and in them values that a
    /// run can have come to.
    fn check_tensors(&self, position: Position, tensors: &SafeTensors<'_>) -> Checked<()> {
        let expected = self.tensors();
        for (name, expected) in &expected {
            let Ok(found) = tensors.tensor(name) else {
                return Err(format!("tensor {name} is missing"));
            };
            let len = expected.values.len(position.epochs, self.steps_at(position));
            let shape = len.map_or(expected.shape, |len| [len]);
            if (found.dtype(), found.shape()) != (expected.dtype, &shape[..]) {
                return Err(format!(
                    "tensor {name} is {:?} {:?}, expected {:?} {shape:?}",
                    found.dtype(),
                    found.shape(),
                    expected.dtype,
                ));
            }
            expected.check(name, found.data())?;
        }
        let names: Vec<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        match tensors.iter().find(|(name, _)| !names.contains(name)) {
            None => Ok(()),
            Some((name, _)) => Err(format!("tensor {} is none of this run", shown(&json!(name)))),
        }
    }

    /// The best epoch, from 1, and its validation accuracy; an error if the run would have been out
    /// of patience before it came to `position`.
    fn check_history(
        &self,
        position: Position,
        tensors: &SafeTensors<'_>,
    ) -> Checked<Option<(usize, f64)>> {
        let mut best = None;
        let accuracies = numbers::<f64>(data(tensors, "history.val_accuracy"));
        for (epoch, accuracy) in (1..).zip(accuracies) {
            if best.is_none_or(|(_, best)| accuracy > best) {
                best = Some((epoch, accuracy));
            }
            let without_better = epoch - best.map_or(0, |(epoch, _)| epoch);
            let more = epoch < position.epochs || position.batches > 0;
            if let Some(patience) = self.config.patience
                && more
                && without_better >= patience
            {
                return Err(format!(
                    "history.val_accuracy has no better value after epoch {}, so that the run was \
                     out of patience after epoch {epoch}; it stands at {} epochs and {} batches",
                    epoch - without_better,
                    position.epochs,
                    position.batches,
                ));
            }
        }
        Ok(best)
    }

    /// Takes over what was checked.
    fn restore(
        &mut self,
        position: Position,
        best: Option<(usize, f64)>,
        tensors: &SafeTensors<'_>,
    ) {
        let steps = self.steps_at(position);
        let trainer = &mut self.trainer;
        let nets = [
            ("net", Some(&mut trainer.net)),
            ("average", trainer.average.as_mut()),
            ("best", Some(&mut self.best_net)),
        ];
        for (kind, net) in nets {
            let layers = net.into_iter().flat_map(FullyConnectedNet::layers_mut);
            let parameters = layers.flat_map(|layer| layer.parameters_mut());
            for (number, values) in parameters.enumerate() {
                copy(data(tensors, &format!("{kind}.{number}")), values);
            }
        }
        for (slot, number, values) in trainer.optimizer.slots_mut() {
            copy(data(tensors, &format!("{slot}.{number}")), values);
        }
        trainer.optimizer.set_steps(steps as u64);
        trainer.steps = steps as u64;
        for (name, values) in self.history.all_mut() {
            // In place: the capacity is that of the whole run.
            values.clear();
            values.extend(numbers::<f64>(data(tensors, &format!("history.{name}"))));
        }
        self.best_epoch = best;
        let losses = &self.history.loss_history;
        let of_epoch = &losses[losses.len() - position.batches..];
        let loss = of_epoch.iter().fold(0.0, |sum, loss| sum + loss);
        self.position = Position { loss, ..position };
    }

    /// All tensors of a checkpoint by their names.
    fn tensors(&self) -> Vec<(String, Tensor<'_>)> {
        let trainer = &self.trainer;
        let nets = [
            ("net", Some(trainer.net())),
            ("average", trainer.averaged_net()),
            ("best", Some(&self.best_net)),
        ];
        let mut tensors = Vec::new();
        for (kind, net) in nets {
            let layers = net.into_iter().flat_map(FullyConnectedNet::layers);
            let parameters = layers.flat_map(|layer| layer.parameters());
            for (number, values) in parameters.enumerate() {
                tensors.push((format!("{kind}.{number}"), Tensor::new(values, Values::Finite)));
            }
        }
        for (slot, number, values) in trainer.optimizer().slots() {
            let kind = match slot {
                "sum_of_squares" | "mean_square" => Values::Squares,
                _ => Values::Finite,
            };
            tensors.push((format!("{slot}.{number}"), Tensor::new(values, kind)));
        }
        for (name, values) in self.history.all() {
            let kind = if name == "loss" { Values::Losses } else { Values::Accuracies };
            tensors.push((format!("history.{name}"), Tensor::new(values, kind)));
        }
        tensors
    }
}

/// A result whose error is a detail of the file's.
type Checked<R> = Result<R, String>;

/// What the values of a tensor can be.
#[derive(Clone, Copy, Debug)]
enum Values {
    /// Parameters, velocities and mean gradients.
    Finite,
    /// Sums and means of squares, which may overflow: the steps are then 0.
    Squares,
    /// One for each step.
    Losses,
    /// One for each epoch.
    Accuracies,
}

impl Values {
    /// How many there are after so many epochs and steps; for tensors that do not grow, `None`.
    fn len(self, epochs: usize, steps: usize) -> Option<usize> {
        match self {
            Self::Finite | Self::Squares => None,
            Self::Losses => Some(steps),
            Self::Accuracies => Some(epochs),
        }
    }
}

/// A tensor of one dimension.
struct Tensor<'a> {
    dtype: Dtype,
    shape: [usize; 1],
    /// In the byte order of the machine.
    bytes: &'a [u8],
    values: Values,
}

impl<'a> Tensor<'a> {
    fn new<T: Element>(elements: &'a [T], values: Values) -> Self {
        let dtype = if size_of::<T>() == 4 { Dtype::F32 } else { Dtype::F64 };
        Self { dtype, shape: [elements.len()], bytes: bytemuck::cast_slice(elements), values }
    }

    /// An error unless `bytes`, the tensor as a file has it, hold values that it can have.
    fn check(&self, name: &str, bytes: &[u8]) -> Checked<()> {
        let (fits, expected): (fn(f64) -> bool, _) = match self.values {
            Values::Finite => (f64::is_finite, "a finite number"),
            Values::Squares => (|x| x >= 0.0, "a number, 0 or above"),
            Values::Losses => (|x| x.is_finite() && x >= 0.0, "a finite number, 0 or above"),
            Values::Accuracies => (|x| (0.0..=1.0).contains(&x), "a number from 0 to 1"),
        };
        let unfit = if self.dtype == Dtype::F32 {
            numbers::<f32>(bytes).map(f64::from).enumerate().find(|&(_, value)| !fits(value))
        } else {
            numbers::<f64>(bytes).enumerate().find(|&(_, value)| !fits(value))
        };
        match unfit {
            None => Ok(()),
            Some((index, value)) => {
                Err(format!("tensor {name} holds {value} at {index}: expected {expected}"))
            }
        }
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        little_endian(self.bytes, self.dtype.bitsize() / 8)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Numbers of `size` bytes from the byte order of the machine to that of a file, or back.
fn little_endian(bytes: &[u8], size: usize) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return bytes.into();
    }
    let mut bytes = bytes.to_vec();
    bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    bytes.into()
}

/// The numbers of a tensor in a file, whose bytes may have any alignment.
fn numbers<T: Float>(bytes: &[u8]) -> impl Iterator<Item = T> {
    let size = size_of::<T>();
    bytes
        .chunks_exact(size)
        .map(move |number| bytemuck::pod_read_unaligned(&little_endian(number, size)))
}

/// The bytes of a tensor that was checked to be there.
fn data<'data>(tensors: &SafeTensors<'data>, name: &str) -> &'data [u8] {
    tensors.tensor(name).map_or(&[], |tensor| tensor.data())
}

/// Copies a tensor of a file, which was checked to be as long.
fn copy<T: Element>(bytes: &[u8], values: &mut [T]) {
    bytemuck::cast_slice_mut(values).copy_from_slice(&little_endian(bytes, size_of::<T>()));
}

/// Where a file has the digits of its checksum.
fn digits(bytes: &[u8]) -> Option<Range<usize>> {
    let start = bytes.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    (start + DIGITS <= bytes.len()).then_some(start..start + DIGITS)
}

fn checksum(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Checks a file's checksum and layout. Returns what its metadata says.
fn verify(bytes: &mut [u8]) -> Checked<Map<String, Value>> {
    let digits = digits(bytes).ok_or("not a checkpoint of tilewise: it has no checksum")?;
    let written = bytes[digits.clone()].to_vec();
    bytes[digits].fill(b'0');
    if checksum(bytes).as_bytes() != written {
        return Err("truncated or altered: its checksum does not match; begin the run again, or \
                    from another copy"
            .to_owned());
    }
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let entries = header.metadata().iter().flatten();
    let mut state = Err(format!("its metadata lacks {KEY:?}"));
    for (key, entry) in entries {
        if key != KEY {
            return Err(format!("its metadata has {}, expected {KEY:?} alone", shown(&json!(key))));
        }
        state = serde_json::from_str::<Map<String, Value>>(entry)
            .map_err(|error| format!("metadata entry {KEY:?}: {error}"));
    }
    let mut state = state?;
    let format = take(&mut state, "format", "a whole number", |value| value.as_u64())?;
    if format != FORMAT {
        return Err(format!(
            "a checkpoint of format {format}, and this version reads format {FORMAT}: begin the run \
             again, or continue it with the version that wrote it"
        ));
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
    read(value).ok_or_else(|| format!("{name} = {found}: expected {expected}"))
}

/// A value of a file in a message: of bounded length, and without control characters.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 200;
    let text = value.to_string();
    let mut shown = String::new();
    for char in text.chars().take(LONGEST) {
        if char.is_control() {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}
