//! Training, step by step, of multilayer perceptrons and of networks from model files.

use std::ffi::c_char;

use crate::{
    capi::{
        error::{Failure, Status, guard},
        handle::{Exclusive, destroy, give},
        matrix::{Matrix, matrix},
        pointers::{elements, optional, path, room, shared, text},
        pool::{Place, Pool},
        precision::Precision,
        predictor::{Normalization, Predictor},
    },
    context::Context,
    error::Error,
    infer,
    io::model::{self, ModelInfo},
    nn::{self, CrossEntropy, MlpConfig},
    train::{self, Optimizer, OptimizerRule, TrainerConfig},
};

/// A network in training, with the memory that a step needs. Only one thread at a time may use it.
pub struct Trainer {
    trainer: Exclusive<train::Trainer<f32>>,
    place: Place,
}

/// The distribution of initial weights. Biases start at 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Normal with variance 2 / inputs of the layer (He et al. 2015).
    He = 0,
    /// Normal with variance 2 / (inputs + outputs) of the layer (Glorot and Bengio 2010).
    Xavier = 1,
    /// Normal with standard deviation `weight_scale`.
    Normal = 2,
}

/// A multilayer perceptron to be trained: linear layers with ReLU and dropout between them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Features of an example, sizes of the hidden layers, and the number of classes.
    pub dims: *const usize,
    /// Number of sizes, 2 or more.
    pub dims_len: usize,
    /// A `tilewise_init`.
    pub init: i32,
    /// Standard deviation of the weights, for `TILEWISE_INIT_NORMAL`.
    pub weight_scale: f64,
    /// Probability of dropping a hidden activation in training, from 0 to below 1.
    pub dropout: f64,
    /// Seed of the weights and of dropout.
    pub seed: u64,
}

/// An optimizer and its settings. Only the settings of the optimizer are read.
/// `tilewise_optimizer_init` sets PyTorch's defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OptimizerSettings {
    /// "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam" or "adamw".
    pub name: *const c_char,
    /// Of momentum, nesterov and rmsprop: momentum coefficient.
    pub momentum: f64,
    /// Of rmsprop: decay of the mean square (PyTorch's alpha).
    pub decay: f64,
    /// Of adam and adamw: decay of the mean gradient.
    pub beta1: f64,
    /// Of adam and adamw: decay of the mean square.
    pub beta2: f64,
    /// Of adagrad, rmsprop, adam and adamw: added to the root, above 0.
    pub epsilon: f64,
    /// Weight decay, of weights and not of biases.
    pub weight_decay: f64,
}

/// Settings of a trainer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TrainerSettings {
    /// Rows of the largest batch.
    pub batch_size: usize,
    /// Learning rate of the first step.
    pub learning_rate: f64,
    /// Label smoothing, from 0 to below 1.
    pub label_smoothing: f64,
    /// L2 regularization: factor of the sum of all squared weights in the loss.
    pub l2: f64,
    /// Gradient clipping: largest L2 norm of all gradients together; 0: no clipping.
    pub clip_norm: f64,
    /// A `tilewise_precision`.
    pub precision: i32,
}

impl Network {
    /// # Safety
    /// That of the module `capi`.
    unsafe fn config(&self) -> Result<MlpConfig, Failure> {
        // SAFETY: the caller's promises are passed on.
        let dims = unsafe { elements("dims", self.dims, self.dims_len)? };
        let &[input, ref hidden @ .., classes] = dims else {
            return Err(Error::setting("dims_len", self.dims_len, "at least 2").into());
        };
        let init = match self.init {
            init if init == Init::He as i32 => nn::Init::He,
            init if init == Init::Xavier as i32 => nn::Init::Xavier,
            init if init == Init::Normal as i32 => nn::Init::Normal { std: self.weight_scale },
            other => {
                let expected = "0 (He), 1 (Xavier) or 2 (normal)";
                return Err(Error::setting("init", other, expected).into());
            }
        };
        let (dropout, seed) = (self.dropout, self.seed);
        Ok(MlpConfig { input, hidden: hidden.to_vec(), classes, init, dropout, seed })
    }
}

impl OptimizerSettings {
    /// The settings of an optimizer; zeros for those that it does not have.
    fn new(name: *const c_char, optimizer: Optimizer) -> Self {
        let weight_decay = optimizer.weight_decay;
        let none = Self {
            name,
            momentum: 0.0,
            decay: 0.0,
            beta1: 0.0,
            beta2: 0.0,
            epsilon: 0.0,
            weight_decay,
        };
        match optimizer.rule {
            OptimizerRule::Sgd => none,
            OptimizerRule::Momentum { momentum } | OptimizerRule::Nesterov { momentum } => {
                Self { momentum, ..none }
            }
            OptimizerRule::AdaGrad { epsilon } => Self { epsilon, ..none },
            OptimizerRule::RmsProp { decay, epsilon, momentum } => {
                Self { decay, epsilon, momentum, ..none }
            }
            OptimizerRule::Adam { beta1, beta2, epsilon }
            | OptimizerRule::AdamW { beta1, beta2, epsilon } => {
                Self { beta1, beta2, epsilon, ..none }
            }
        }
    }

    /// # Safety
    /// That of the module `capi`.
    unsafe fn optimizer(&self) -> Result<Optimizer, Failure> {
        let Self { name, momentum, decay, beta1, beta2, epsilon, weight_decay } = *self;
        // SAFETY: the caller's promises are passed on.
        let mut rule = unsafe { text("name of the optimizer", name)? }.parse::<Optimizer>()?.rule;
        match &mut rule {
            OptimizerRule::Sgd => {}
            OptimizerRule::Momentum { momentum: m } | OptimizerRule::Nesterov { momentum: m } => {
                *m = momentum;
            }
            OptimizerRule::AdaGrad { epsilon: e } => *e = epsilon,
            OptimizerRule::RmsProp { decay: d, epsilon: e, momentum: m } => {
                (*d, *e, *m) = (decay, epsilon, momentum);
            }
            OptimizerRule::Adam { beta1: b1, beta2: b2, epsilon: e }
            | OptimizerRule::AdamW { beta1: b1, beta2: b2, epsilon: e } => {
                (*b1, *b2, *e) = (beta1, beta2, epsilon);
            }
        }
        Ok(Optimizer { rule, weight_decay })
    }
}

/// The default settings of the optimizer `name` into `settings`, which keeps the pointer `name`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_optimizer_init(
    name: *const c_char,
    settings: *mut OptimizerSettings,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (rule, out) =
            unsafe { (text("name of the optimizer", name)?, room("settings", settings)?) };
        out.write(OptimizerSettings::new(name, rule.parse()?));
        Ok(())
    })
}

/// # Safety
/// That of the module `capi`.
unsafe fn create(
    network: impl FnOnce() -> crate::Result<nn::Network<f32>> + Send,
    optimizer: *const OptimizerSettings,
    settings: *const TrainerSettings,
    pool: *const Pool,
    trainer: *mut *mut Trainer,
) -> Result<(), Failure> {
    // SAFETY: the caller's promises are passed on.
    let (optimizer, settings, pool, out) = unsafe {
        (
            shared("optimizer", optimizer)?.optimizer()?,
            shared("settings", settings)?,
            optional("pool", pool)?,
            room("trainer", trainer)?,
        )
    };
    let &TrainerSettings { batch_size, learning_rate, label_smoothing, l2, clip_norm, precision } =
        settings;
    let place = Place::new(pool);
    let config = TrainerConfig::default()
        .with_batch_size(batch_size)
        .with_optimizer(optimizer)
        .with_learning_rate(learning_rate)
        .with_loss(CrossEntropy::new(label_smoothing)?)
        .with_l2(l2)
        .with_clip_norm((clip_norm != 0.0).then_some(clip_norm))
        .with_precision(Some(Precision::read(precision)?))
        .with_threads(place.threads());
    let made = place.run(|| Ok(train::Trainer::new(network()?, config)?))?;
    give(Trainer { trainer: Exclusive::new(made), place }, out);
    Ok(())
}

/// Makes a network and plans its training, into `trainer`. Steps run on the threads of `pool`, or
/// on the calling thread if that is null; the same seed gives the same bits on any number
/// of threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_create(
    network: *const Network,
    optimizer: *const OptimizerSettings,
    settings: *const TrainerSettings,
    pool: *const Pool,
    trainer: *mut *mut Trainer,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe {
        let config = shared("network", network)?.config()?;
        create(|| nn::mlp(&config), optimizer, settings, pool, trainer)
    })
}

/// Same as `tilewise_trainer_create`, for the network in a model file, with its layers and parameters:
/// a file from `tilewise_trainer_save` or `tilewise train`, or a PyTorch state dict as for
/// `tilewise_predictor_load`. `seed` is that of dropout. `path` is UTF-8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_create_from_file(
    path: *const c_char,
    seed: u64,
    optimizer: *const OptimizerSettings,
    settings: *const TrainerSettings,
    pool: *const Pool,
    trainer: *mut *mut Trainer,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe {
        let path = self::path(path)?;
        let network = || Ok(model::load(path)?.0.with_seed(seed));
        create(network, optimizer, settings, pool, trainer)
    })
}

/// Destroys a trainer; null does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_destroy(trainer: *mut Trainer) {
    // SAFETY: the caller keeps the rules of `capi`.
    unsafe { destroy(trainer) }
}

/// One step on a batch `x`, (batch, features), with a label for each of its rows, from 0 to below
/// the number of classes. The mean loss of the batch before the update, with its L2 term, goes into
/// `loss`, which may be null. Nothing is allocated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_step(
    trainer: *mut Trainer,
    x: *const Matrix<f32>,
    labels: *const u32,
    labels_len: usize,
    loss: *mut f64,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (Trainer { trainer, place }, x, labels, out) = unsafe {
            let out = if loss.is_null() { None } else { Some(room("loss", loss)?) };
            let labels = elements("labels", labels, labels_len)?;
            (shared("trainer", trainer)?, matrix("x", x)?, labels, out)
        };
        let mut trainer = trainer.take("trainer")?;
        let trainer = &mut *trainer;
        let stats = place.run(|| Ok(trainer.step(x, labels)?))?;
        if let Some(out) = out {
            out.write(stats.loss);
        }
        Ok(())
    })
}

/// Sets the learning rate of the next steps.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_set_learning_rate(
    trainer: *mut Trainer,
    learning_rate: f64,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let trainer = unsafe { shared("trainer", trainer)? };
        Ok(trainer.trainer.take("trainer")?.set_learning_rate(learning_rate)?)
    })
}

/// The number of steps so far, including those before a loaded checkpoint, into `steps`: a loop over
/// batches continues there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_steps(
    trainer: *const Trainer,
    steps: *mut u64,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (trainer, out) = unsafe { (shared("trainer", trainer)?, room("steps", steps)?) };
        out.write(trainer.trainer.take("trainer")?.steps());
        Ok(())
    })
}

/// Saves the network with its current parameters as a model file: safetensors that a PyTorch
/// `nn.Sequential` loads, with the layers, and with `normalization` unless that is null. Use it for
/// predictions, and for further training with a new optimizer; use a checkpoint to resume. `path` is
/// UTF-8. The file is replaced atomically.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_save(
    trainer: *const Trainer,
    path: *const c_char,
    normalization: *const Normalization,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { save(trainer, path, normalization, crate::Precision::F32) })
}

/// Same as `tilewise_trainer_save`, with weights in `precision`, a `tilewise_precision`: bf16 takes
/// half the memory. The weights are rounded to nearest even; biases stay in f32.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_save_in(
    trainer: *const Trainer,
    path: *const c_char,
    normalization: *const Normalization,
    precision: i32,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { save(trainer, path, normalization, Precision::read(precision)?) })
}

/// # Safety
/// That of the module `capi`.
unsafe fn save(
    trainer: *const Trainer,
    path: *const c_char,
    normalization: *const Normalization,
    weights: crate::Precision,
) -> Result<(), Failure> {
    // SAFETY: the caller's promises are passed on.
    let (trainer, path, normalization) = unsafe {
        let normalization = Normalization::read(normalization)?;
        (shared("trainer", trainer)?, self::path(path)?, normalization)
    };
    let trainer = trainer.trainer.take("trainer")?;
    let precision = trainer.plan().context().precision();
    let info =
        ModelInfo::default().with_normalization(normalization).with_precision(Some(precision));
    Ok(model::save_in(path, trainer.network(), &info, weights)?)
}

/// Saves a checkpoint: parameters, the optimizer's state, the number of steps and the
/// current learning rate. `path` is UTF-8. The file is replaced atomically.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_save_checkpoint(
    trainer: *const Trainer,
    path: *const c_char,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (trainer, path) = unsafe { (shared("trainer", trainer)?, self::path(path)?) };
        Ok(trainer.trainer.take("trainer")?.save_checkpoint(path)?)
    })
}

/// Restores the state in a checkpoint: steps on the same batches then have the same bits as without
/// the interruption. `trainer` was created with the same network and settings;
/// threads, batch size and learning rate may differ, and the learning rate becomes that of the
/// checkpoint. `path` is UTF-8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_load_checkpoint(
    trainer: *mut Trainer,
    path: *const c_char,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (trainer, path) = unsafe { (shared("trainer", trainer)?, self::path(path)?) };
        Ok(trainer.trainer.take("trainer")?.load_checkpoint(path)?)
    })
}

/// Makes a predictor of the network with its current parameters, in the trainer's precision, into
/// `predictor`; further steps do not change it. `normalization` converts bytes to numbers; null: it accepts no images.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_trainer_predictor(
    trainer: *const Trainer,
    normalization: *const Normalization,
    predictor: *mut *mut Predictor,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (trainer, normalization, out) = unsafe {
            let normalization = Normalization::read(normalization)?;
            (shared("trainer", trainer)?, normalization, room("predictor", predictor)?)
        };
        let trainer = trainer.trainer.take("trainer")?;
        let context = Context::new()?.with_precision(trainer.plan().context().precision())?;
        let mut made = infer::Predictor::with_context(trainer.network(), context)?;
        if let Some(normalization) = normalization {
            made = made.with_normalization(&normalization)?;
        }
        give(Predictor(made), out);
        Ok(())
    })
}
