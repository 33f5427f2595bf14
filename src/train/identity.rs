//! Which run it is: all settings on which its bits depend, by name, and a digest of its data. A
//! checkpoint belongs to one run.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    data::{Augmentation, ImageSet, ImageShape},
    kernels::Element,
    train::{
        optim::{Optimizer, UpdateRule},
        schedule::{Curve, Schedule, WarmUp},
        solver::{LastBatch, Solver, SolverConfig},
    },
};

/// A setting: its name, as the command line and the errors spell it, and its value.
pub(super) type Setting = (&'static str, Value);

impl<T: Element> Solver<'_, T> {
    /// All settings on which the bits of the run depend, each name once.
    pub(super) fn identity(&self) -> Vec<Setting> {
        // The validation images are counted below, and threads change no bits.
        let SolverConfig {
            epochs,
            batch_size,
            last_batch,
            optimizer,
            learning_rate,
            schedule,
            augmentation: Augmentation { flip, shift, border, cutout },
            label_smoothing,
            clip_norm,
            ema_decay,
            patience,
            train_accuracy_samples,
            validation_samples: _,
            seed,
            threads: _,
        } = &self.config;
        let (net, images) = (self.trainer.net(), self.feed.images());
        let (dropout, training) = (net.dropout_layer(), self.order.range());
        let ImageShape { channels, height, width } = images.shape();
        let last_batch = match last_batch {
            LastBatch::Drop => "drop",
            LastBatch::Keep => "keep",
        };
        let mut settings = vec![
            ("precision", json!(T::NAME)),
            ("fused-multiply-add", json!(self.trainer.instruction_set().is_fused())),
            ("layers", json!(net.dims())),
            ("reg", json!(net.l2())),
            ("dropout", json!(dropout.probability())),
            ("dropout-seed", json!(dropout.seed())),
            ("epochs", json!(epochs)),
            ("batch", json!(batch_size)),
            ("last-batch", json!(last_batch)),
        ];
        settings.extend(of_optimizer(optimizer));
        settings.push(("lr", json!(learning_rate)));
        settings.extend(of_schedule(schedule));
        settings.extend([
            ("flip", json!(flip)),
            ("shift", json!(shift)),
            ("border", json!(border.name())),
            ("cutout", json!(cutout)),
            ("label-smoothing", json!(label_smoothing)),
            ("clip-norm", json!(clip_norm)),
            ("ema-decay", json!(ema_decay)),
            ("patience", json!(patience)),
            ("acc-samples", json!(train_accuracy_samples)),
            ("seed", json!(seed)),
            ("images", json!(images.len())),
            ("image-shape", json!([channels, height, width])),
            ("classes", json!(images.classes())),
            ("training-images", json!([training.start, training.end])),
            // A range: its first and its last say which they are.
            ("validation-images", json!([self.validation.first(), self.validation.last()])),
            ("normalization", json!(self.feed.channel_map())),
            ("data-sha256", json!(self.data_digest.get_or_init(|| digest(images)))),
        ]);
        settings
    }
}

/// The rule, and the settings that it has.
fn of_optimizer(optimizer: &Optimizer) -> Vec<Setting> {
    let Optimizer { rule, weight_decay } = optimizer;
    let mut settings =
        vec![("optimizer", json!(optimizer.name())), ("weight-decay", json!(weight_decay))];
    settings.extend(match rule {
        UpdateRule::Sgd => vec![],
        UpdateRule::Momentum { momentum } | UpdateRule::Nesterov { momentum } => {
            vec![("momentum", json!(momentum))]
        }
        UpdateRule::AdaGrad { epsilon } => vec![("epsilon", json!(epsilon))],
        UpdateRule::RmsProp { decay, epsilon, momentum } => vec![
            ("rms-decay", json!(decay)),
            ("epsilon", json!(epsilon)),
            ("momentum", json!(momentum)),
        ],
        UpdateRule::Adam { beta1, beta2, epsilon }
        | UpdateRule::AdamW { beta1, beta2, epsilon } => {
            vec![("beta1", json!(beta1)), ("beta2", json!(beta2)), ("epsilon", json!(epsilon))]
        }
    });
    settings
}

/// The curve and the warm-up, and the settings that they have.
fn of_schedule(Schedule { curve, warm_up }: &Schedule) -> Vec<Setting> {
    let mut settings = vec![("schedule", json!(curve.name()))];
    settings.extend(match curve {
        Curve::Constant => vec![],
        Curve::EpochDecay { factor } => vec![("lr-decay", json!(factor))],
        Curve::Step { every, factor } => {
            vec![("lr-step-epochs", json!(every)), ("lr-decay", json!(factor))]
        }
        Curve::Cosine { minimum } => vec![("lr-min", json!(minimum))],
        Curve::OneCycle { share, initial_divisor, final_divisor } => vec![
            ("one-cycle-share", json!(share)),
            ("one-cycle-initial-divisor", json!(initial_divisor)),
            ("one-cycle-final-divisor", json!(final_divisor)),
        ],
    });
    settings.push(match warm_up {
        WarmUp::Steps(steps) => ("warm-up-steps", json!(steps)),
        WarmUp::Epochs(epochs) => ("warm-up-epochs", json!(epochs)),
    });
    settings
}

/// The SHA-256 of images, their labels and the names of the classes; every part with its length
/// before it, so that no two sets have the same bytes.
fn digest(images: &ImageSet) -> String {
    let mut hash = Sha256::new();
    let ImageShape { channels, height, width } = images.shape();
    for size in [channels, height, width, images.classes(), images.len()] {
        hash.update((size as u64).to_le_bytes());
    }
    for name in images.class_names() {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
    }
    hash.update(images.labels());
    hash.update(images.pixels());
    hexadecimal(&hash.finalize())
}

/// Bytes as hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
