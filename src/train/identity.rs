//! The identity of a run: all settings that its bits depend on, by name, and a digest of its data.
//! A checkpoint belongs to one run.

use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    data::{Augmentation, ImageSet, ImageShape},
    error::{Error, Result},
    io::{
        checkpoint::{hexadecimal, shown},
        model::describe,
    },
    kernels::Element,
    nn::ParameterSettings,
    simd::Denormals,
    train::{
        optim::{Optimizer, OptimizerRule},
        schedule::{Curve, Schedule, WarmUp},
        solver::{LastBatch, Solver, SolverConfig},
        trainer::{Trainer, TrainerConfig},
    },
};

/// A setting: its name, of what, where several have it, and its value.
#[derive(Debug)]
pub(super) struct Setting {
    name: &'static str,
    of: Option<String>,
    value: Value,
}

impl Setting {
    fn new(name: &'static str, value: Value) -> Self {
        Self { name, of: None, value }
    }

    fn of(name: &'static str, of: impl ToString, value: Value) -> Self {
        Self { name, of: Some(of.to_string()), value }
    }

    /// The name in a file: `l2`, or `frozen.0.weight`.
    fn key(&self) -> String {
        match &self.of {
            None => self.name.to_owned(),
            Some(of) => format!("{}.{of}", self.name),
        }
    }
}

/// Settings as they are stored in a file.
pub(super) fn object(settings: &[Setting]) -> Map<String, Value> {
    settings.iter().map(|setting| (setting.key(), setting.value.clone())).collect()
}

/// An error unless the settings of the checkpoint `path` are those of this run, name by name.
pub(super) fn compare(
    path: &Path,
    here: Vec<Setting>,
    mut there: Map<String, Value>,
) -> Result<()> {
    for setting in here {
        let key = setting.key();
        match there.remove(&key) {
            Some(there) if there == setting.value => {}
            Some(there) => {
                let Setting { name, of, value } = setting;
                let of = of.map_or(String::new(), |of| format!(" of {of}"));
                let found = format!("{}{of}", shown(&value));
                let path = path.display();
                let expected = format!("{}, as the checkpoint {path} has it", shown(&there));
                return Err(Error::setting(name, found, expected));
            }
            None => {
                let here = shown(&setting.value);
                let detail = format!("its settings lack {key}, which is {here} in this run");
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

impl<T: Element> Trainer<T> {
    /// All settings that the bits of its steps depend on, each name once, except the batches and the
    /// current learning rate.
    pub(super) fn identity(&self) -> Vec<Setting> {
        // Neither the largest batch nor stored gradients nor threads change bits.
        let TrainerConfig {
            batch_size: _,
            optimizer,
            learning_rate: _,
            loss,
            l2,
            clip_norm,
            ema_decay,
            store_gradients: _,
            denormals,
            precision: _,
            threads: _,
        } = &self.config;
        let context = self.plan.context();
        let denormals = match denormals {
            Denormals::Keep => "keep",
            Denormals::Flush => "flush",
        };
        let mut settings = vec![
            Setting::new("precision", json!(context.precision().name())),
            Setting::new("fused_multiply_add", json!(context.instruction_set().is_fused())),
            Setting::new("backend", json!(context.backend().name())),
            Setting::new("denormals", json!(denormals)),
        ];
        let (input, layers) = describe(&self.network);
        settings.push(Setting::new("input_shape", json!(input)));
        let layers = layers.into_iter().enumerate();
        settings.extend(layers.map(|(number, layer)| Setting::of("layer", number, layer)));
        settings.push(Setting::new("network_seed", json!(self.network.seed())));
        let parameters = self.network.parameters().layout().tensors();
        for (parameter, settings_of) in parameters.iter().zip(self.network.parameter_settings()) {
            let ParameterSettings { learning_rate_factor, weight_decay_factor, frozen } =
                settings_of;
            for (name, value) in [
                ("learning_rate_factor", json!(learning_rate_factor)),
                ("weight_decay_factor", json!(weight_decay_factor)),
                ("frozen", json!(frozen)),
            ] {
                settings.push(Setting::of(name, parameter.name(), value));
            }
        }
        settings.extend(of_optimizer(optimizer));
        settings.extend([
            Setting::new("loss", json!("cross_entropy")),
            Setting::new("label_smoothing", json!(loss.label_smoothing())),
            Setting::new("l2", json!(l2)),
            Setting::new("clip_norm", json!(clip_norm)),
            Setting::new("ema_decay", json!(ema_decay)),
        ]);
        settings
    }
}

impl<T: Element> Solver<'_, T> {
    /// All settings that the bits of the run depend on, each name once.
    pub(super) fn identity(&self) -> Vec<Setting> {
        // The validation images are counted below.
        let SolverConfig {
            trainer: TrainerConfig { batch_size, learning_rate, .. },
            epochs,
            last_batch,
            schedule,
            augmentation: Augmentation { flip, shift, border, cutout },
            patience,
            train_accuracy_samples,
            validation_samples: _,
            seed,
        } = &self.config;
        let (images, training) = (self.feed.images(), self.order.range());
        let ImageShape { channels, height, width } = images.shape();
        let last_batch = match last_batch {
            LastBatch::Drop => "drop",
            LastBatch::Keep => "keep",
        };
        let mut settings = self.trainer.identity();
        settings.extend([
            Setting::new("epochs", json!(epochs)),
            Setting::new("batch_size", json!(batch_size)),
            Setting::new("last_batch", json!(last_batch)),
            Setting::new("learning_rate", json!(learning_rate)),
        ]);
        settings.extend(of_schedule(schedule));
        // A range: the first and the last identify it.
        let validation = [self.validation.first(), self.validation.last()];
        settings.extend([
            Setting::new("flip", json!(flip)),
            Setting::new("shift", json!(shift)),
            Setting::new("border", json!(border.name())),
            Setting::new("cutout", json!(cutout)),
            Setting::new("patience", json!(patience)),
            Setting::new("train_accuracy_samples", json!(train_accuracy_samples)),
            Setting::new("seed", json!(seed)),
            Setting::new("images", json!(images.len())),
            Setting::new("image_shape", json!([channels, height, width])),
            Setting::new("classes", json!(images.classes())),
            Setting::new("training_images", json!([training.start, training.end])),
            Setting::new("validation_images", json!(validation)),
            Setting::new("normalization", json!(self.feed.channel_map())),
            Setting::new("data_sha256", json!(self.data_digest.get_or_init(|| digest(images)))),
        ]);
        settings
    }
}

/// The optimizer and its settings.
fn of_optimizer(optimizer: &Optimizer) -> Vec<Setting> {
    let Optimizer { rule, weight_decay } = optimizer;
    let mut settings = vec![
        Setting::new("optimizer", json!(optimizer.name())),
        Setting::new("weight_decay", json!(weight_decay)),
    ];
    settings.extend(match rule {
        OptimizerRule::Sgd => vec![],
        OptimizerRule::Momentum { momentum } | OptimizerRule::Nesterov { momentum } => {
            vec![Setting::new("momentum", json!(momentum))]
        }
        OptimizerRule::AdaGrad { epsilon } => vec![Setting::new("epsilon", json!(epsilon))],
        OptimizerRule::RmsProp { decay, epsilon, momentum } => vec![
            Setting::new("rms_decay", json!(decay)),
            Setting::new("epsilon", json!(epsilon)),
            Setting::new("momentum", json!(momentum)),
        ],
        OptimizerRule::Adam { beta1, beta2, epsilon }
        | OptimizerRule::AdamW { beta1, beta2, epsilon } => vec![
            Setting::new("beta1", json!(beta1)),
            Setting::new("beta2", json!(beta2)),
            Setting::new("epsilon", json!(epsilon)),
        ],
    });
    settings
}

/// The curve and the warm-up, and their settings.
fn of_schedule(Schedule { curve, warm_up }: &Schedule) -> Vec<Setting> {
    let mut settings = vec![Setting::new("schedule", json!(curve.name()))];
    settings.extend(match curve {
        Curve::Constant => vec![],
        Curve::EpochDecay { factor } => vec![Setting::new("schedule_factor", json!(factor))],
        Curve::Step { every, factor } => vec![
            Setting::new("schedule_every", json!(every)),
            Setting::new("schedule_factor", json!(factor)),
        ],
        Curve::Cosine { minimum } => vec![Setting::new("schedule_minimum", json!(minimum))],
        Curve::OneCycle { share, initial_divisor, final_divisor } => vec![
            Setting::new("schedule_share", json!(share)),
            Setting::new("schedule_initial_divisor", json!(initial_divisor)),
            Setting::new("schedule_final_divisor", json!(final_divisor)),
        ],
    });
    settings.push(match warm_up {
        WarmUp::Steps(steps) => Setting::new("warm_up_steps", json!(steps)),
        WarmUp::Epochs(epochs) => Setting::new("warm_up_epochs", json!(epochs)),
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
    for label in images.labels() {
        hash.update(label.to_le_bytes());
    }
    hash.update(images.pixels());
    hexadecimal(&hash.finalize())
}
