//! Checkpoints: all that a [`Solver`] needs to go on as if it had never stopped, in one file.
//!
//! A checkpoint is a safetensors file, in the byte order of the machine:
//!
//! | tensor | what it holds |
//! |---|---|
//! | `net.<t>`, `average.<t>`, `best.<t>` | parameters: of each layer W, (in, out), row after row, then b |
//! | `<slot>.<t>` | what the update rule keeps for them, by the names of [`Optimizer::slot_names`] |
//! | `history.<name>` | losses of iterations and accuracies of epochs |
//!
//! Its metadata has, as JSON under the key `tilewise-checkpoint`, where the run stands, the settings
//! that it belongs to, and the SHA-256 of the whole file with zeros in place of its own digits.
//! The order of the pictures, their changes and dropout have no state: they are functions of the
//! seed, the epoch, the step and the picture.
//!
//! [`Optimizer::slot_names`]: crate::train::Optimizer::slot_names

use std::{borrow::Cow, collections::HashMap, fmt::Debug, fs, path::Path, time::Duration};

use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    atomic_file,
    error::{Error, Result},
    kernels::Element,
    nn::FullyConnectedNet,
    train::solver::{Position, Solver, SolverConfig},
};

/// The metadata key of [`State`].
const KEY: &str = "tilewise-checkpoint";
/// Layout of the file; another number is another layout.
const FORMAT: u32 = 1;
/// What stands before the digits of the checksum: JSON in a JSON string.
const MARK: &[u8] = br#"\"sha256\":\""#;
/// Digits of the checksum.
const DIGITS: usize = 64;

/// What a checkpoint says beside its tensors.
#[derive(Serialize, Deserialize)]
struct State {
    sha256: String,
    format: u32,
    epochs: usize,
    batches: usize,
    loss: f64,
    time: Duration,
    steps: u64,
    optimizer_steps: u64,
    best: Option<(usize, f64)>,
    settings: Vec<(String, String)>,
}

impl<T: Element> Solver<'_, T> {
    /// Saves where training stands. The file is replaced at once or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn save_checkpoint(&self, path: &Path) -> Result<()> {
        let Position { epochs, batches, loss, time } = self.position;
        let state = State {
            sha256: "0".repeat(DIGITS),
            format: FORMAT,
            epochs,
            batches,
            loss,
            time,
            steps: self.trainer.steps(),
            optimizer_steps: self.trainer.optimizer().steps(),
            best: self.best_epoch,
            settings: self.identity(),
        };
        let refused =
            |error: &dyn std::fmt::Display| Error::file(path, format!("not saved: {error}"));
        let json = serde_json::to_string(&state).map_err(|error| refused(&error))?;
        let metadata = HashMap::from([(KEY.to_owned(), json)]);
        let mut bytes = safetensors::serialize(self.tensors(), Some(metadata))
            .map_err(|error| refused(&error))?;
        let digits = digits(&bytes).ok_or_else(|| refused(&"its header has no checksum"))?;
        let sum = checksum(&bytes);
        bytes[digits].copy_from_slice(sum.as_bytes());
        atomic_file::write(path, |file| file.write_all(&bytes))
    }

    /// Goes on where the run stood that saved the checkpoint: this solver must have been made with
    /// the same network, pictures and settings, threads aside. What follows then has the same bits
    /// as without the interruption.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is no checkpoint, truncated
    /// or altered, [`Error::Setting`] if it belongs to other settings. Nothing is changed then.
    pub fn load_checkpoint(&mut self, path: &Path) -> Result<()> {
        let mut bytes = fs::read(path).map_err(Error::io("read", path))?;
        let state = verify(path, &mut bytes)?;
        for ((name, here), (_, there)) in self.identity().iter().zip(&state.settings) {
            if here != there {
                let found = format!("{name} {here}");
                let expected = format!("{there}, as the checkpoint {} has it", path.display());
                return Err(Error::setting("resumed run", found, expected));
            }
        }
        let damaged = |error: &dyn std::fmt::Display| Error::file(path, error.to_string());
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&error))?;
        // Everything is looked at before anything is changed.
        for (name, expected) in self.tensors() {
            let found = tensors.tensor(&name).map_err(|error| damaged(&error))?;
            let of_history = name.starts_with("history.");
            if found.dtype() != expected.dtype()
                || (found.shape() != expected.shape() && !of_history)
            {
                return Err(damaged(&format!(
                    "tensor {name} is {:?} {:?}, expected {:?} {:?}",
                    found.dtype(),
                    found.shape(),
                    expected.dtype(),
                    expected.shape(),
                )));
            }
        }
        let bytes_of = |name: &str| tensors.tensor(name).map_or(&[][..], |tensor| tensor.data());
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
                let bytes = bytes_of(&format!("{kind}.{number}"));
                bytemuck::cast_slice_mut(values).copy_from_slice(bytes);
            }
        }
        for (slot, number, values) in trainer.optimizer.slots_mut() {
            let bytes = bytes_of(&format!("{slot}.{number}"));
            bytemuck::cast_slice_mut(values).copy_from_slice(bytes);
        }
        trainer.optimizer.set_steps(state.optimizer_steps);
        trainer.steps = state.steps;
        for (name, values) in self.history.all_mut() {
            // In place: the capacity is that of the whole run.
            values.clear();
            let bytes = bytes_of(&format!("history.{name}"));
            values.extend(bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned::<f64>));
        }
        self.best_epoch = state.best;
        let State { epochs, batches, loss, time, .. } = state;
        self.position = Position { epochs, batches, loss, time };
        Ok(())
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
                tensors.push((format!("{kind}.{number}"), Tensor::new(values)));
            }
        }
        for (slot, number, values) in trainer.optimizer().slots() {
            tensors.push((format!("{slot}.{number}"), Tensor::new(values)));
        }
        for (name, values) in self.history.all() {
            tensors.push((format!("history.{name}"), Tensor::new(values)));
        }
        tensors
    }

    /// All settings on which the bits of a run depend.
    fn identity(&self) -> Vec<(String, String)> {
        // The validation pictures are counted below, and threads change no bits.
        let SolverConfig {
            epochs,
            batch_size,
            last_batch,
            optimizer,
            learning_rate,
            schedule,
            augmentation,
            label_smoothing,
            clip_norm,
            ema_decay,
            patience,
            train_accuracy_samples,
            validation_samples: _,
            seed,
            threads: _,
        } = &self.config;
        let net = &self.trainer.net;
        let settings: [(&str, &dyn Debug); 18] = [
            ("precision", &T::NAME),
            ("layers", &net.dims()),
            ("L2 factor", &net.l2()),
            ("dropout", net.dropout_layer()),
            ("pictures", &self.feed.description()),
            ("training pictures", &self.order.range()),
            ("validation pictures", &self.validation.len()),
            ("epochs", epochs),
            ("batch size", batch_size),
            ("last batch", last_batch),
            ("optimizer", optimizer),
            ("learning rate", &(learning_rate, schedule)),
            ("augmentation", augmentation),
            ("label smoothing", label_smoothing),
            ("clipping and average", &(clip_norm, ema_decay)),
            ("patience", patience),
            ("pictures of the training accuracy", train_accuracy_samples),
            ("seed", seed),
        ];
        settings.map(|(name, value)| (name.to_owned(), format!("{value:?}"))).into()
    }
}

/// A tensor of one dimension.
struct Tensor<'a> {
    dtype: Dtype,
    shape: [usize; 1],
    bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    fn new<T: Element>(values: &'a [T]) -> Self {
        let dtype = if size_of::<T>() == 4 { Dtype::F32 } else { Dtype::F64 };
        Self { dtype, shape: [values.len()], bytes: bytemuck::cast_slice(values) }
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
        self.bytes.into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Where a file has the digits of its checksum.
fn digits(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = bytes.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    (start + DIGITS <= bytes.len()).then_some(start..start + DIGITS)
}

/// The SHA-256 in hexadecimal digits.
fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks a file's checksum and layout.
fn verify(path: &Path, bytes: &mut [u8]) -> Result<State> {
    let no_checkpoint = || Error::file(path, "not a checkpoint of tilewise: it has no checksum");
    let digits = digits(bytes).ok_or_else(no_checkpoint)?;
    let written = bytes[digits.clone()].to_vec();
    bytes[digits].fill(b'0');
    if checksum(bytes).as_bytes() != written {
        let detail = "truncated or altered: its checksum does not match; begin the run again, or \
                      from another copy";
        return Err(Error::file(path, detail));
    }
    // What follows can only fail for a file that somebody made on purpose, or another layout.
    let header = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string());
    let state = header.and_then(|(_, header)| {
        let json = header.metadata().as_ref().and_then(|entries| entries.get(KEY));
        let json = json.ok_or_else(|| format!("its metadata has no {KEY:?}"))?;
        serde_json::from_str::<State>(json)
            .map_err(|error| format!("metadata entry {KEY:?}: {error}"))
    });
    let state = state.map_err(|detail| Error::file(path, detail))?;
    if state.format != FORMAT {
        let detail = format!("a checkpoint of format {}, expected {FORMAT}", state.format);
        return Err(Error::file(path, detail));
    }
    Ok(state)
}
