//! `Trainer`: training steps on the caller's batches, planned once.
//!
//! ```text
//! forward    each layer, fused with its neighbors, from the first to the last
//! loss       softmax, loss and gradient in one pass over the logits
//! backward   each layer from the last to the first: the gradient of its input, then those of its
//!            parameters
//! update     of weights in the product that computes their gradient if possible, else in one pass
//!            over the parameter
//! average    of the parameters over the steps, if `ema_decay` is set
//! ```

use std::time::{Duration, Instant};

use crate::{
    config::with_fields,
    context::Context,
    error::{Error, Result},
    gemm::{Backend, Epilogue, Operand},
    kernels::Element,
    nn::{
        Arena, CrossEntropy, Gradients, L2, Mode, Network, ParameterKind, ParameterSettings, Part,
        PassTimes, Passes, Plan, Sink, move_average, scale, sum_of_squares,
    },
    precision::Precision,
    simd::Denormals,
    threads::Threads,
    train::optim::{Optimizer, OptimizerState, StepSettings},
};

/// Settings of a [`Trainer`].
///
/// ```
/// use tilewise::train::{Optimizer, TrainerConfig};
///
/// let config = TrainerConfig::default().with_batch_size(128).with_optimizer(Optimizer::adam());
/// assert_eq!(config.learning_rate, 0.1);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainerConfig {
    /// Rows of the largest batch.
    pub batch_size: usize,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Learning rate of the first step; see [`Trainer::set_learning_rate`].
    pub learning_rate: f64,
    /// The loss.
    pub loss: CrossEntropy,
    /// L2 regularization: the loss has this factor times the sum of all squared weights; see
    /// [`L2`].
    pub l2: f64,
    /// Gradient clipping: the largest L2 norm of all gradients together.
    pub clip_norm: Option<f64>,
    /// Decay of an exponential moving average (EMA) of the parameters, from 0 to below 1:
    /// `average = decay average + (1 - decay) w`, starting with the parameters after the first
    /// step, as PyTorch's `AveragedModel` with `get_ema_multi_avg_fn`. Without it there is no
    /// average. See [`Trainer::average`].
    pub ema_decay: Option<f64>,
    /// Whether to store all gradients, for [`Trainer::accumulate`] and [`Trainer::gradients`], even if
    /// no other setting requires it. It does not change the bits.
    pub store_gradients: bool,
    /// How denormal numbers are handled in the kernels of a step. In bf16 they are always flushed.
    pub denormals: Denormals,
    /// The precision: bf16 for a network in f32, for one. `None` is that of the context, which is
    /// that of the parameters unless it says otherwise.
    pub precision: Option<Precision>,
    /// Threads that a step is divided among; see [`Threads`]. The result's bits do not depend on
    /// them.
    pub threads: Threads,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            batch_size: 512,
            optimizer: Optimizer::sgd(),
            learning_rate: 0.1,
            loss: CrossEntropy::default(),
            l2: 0.0,
            clip_norm: None,
            ema_decay: None,
            store_gradients: false,
            denormals: Denormals::Flush,
            precision: None,
            threads: Threads::Caller,
        }
    }
}

with_fields! {
    TrainerConfig {
        batch_size with_batch_size: usize,
        optimizer with_optimizer: Optimizer,
        learning_rate with_learning_rate: f64,
        loss with_loss: CrossEntropy,
        l2 with_l2: f64,
        clip_norm with_clip_norm: Option<f64>,
        ema_decay with_ema_decay: Option<f64>,
        store_gradients with_store_gradients: bool,
        denormals with_denormals: Denormals,
        precision with_precision: Option<Precision>,
        threads with_threads: Threads,
    }
}

/// The results of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepStats {
    /// Mean loss of the batch before the update, L2 term included.
    pub loss: f64,
    /// Rows of the batch.
    pub rows: usize,
    /// Norm of all gradients before clipping, if they are clipped.
    pub gradient_norm: Option<f64>,
    /// The time of each phase.
    pub times: StepTimes,
}

/// Wall time of a step by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Forward pass.
    pub forward: Duration,
    /// Softmax, loss, and the gradient of the logits.
    pub loss: Duration,
    /// Gradients of the inputs of the layers.
    pub input_gradients: Duration,
    /// Gradients of the parameters, and their updates if those are fused.
    pub parameter_gradients: Duration,
    /// Updates in separate passes, clipping, and the average of the parameters.
    pub updates: Duration,
}

impl StepTimes {
    fn add(&mut self, times: PassTimes) {
        self.input_gradients += times.input_gradients;
        self.parameter_gradients += times.parameter_gradients;
        self.updates += times.updates;
    }
}

/// Trains a network step by step. After construction nothing is allocated. With several threads,
/// construct and use it inside of the rayon pool that it is to use: `pool.install(|| ...)`.
///
/// ```
/// use tilewise::{matrix::MatRef, nn::{Network, Shape}};
/// use tilewise::train::{Trainer, TrainerConfig};
///
/// let network = Network::<f32>::builder(Shape::Features(2)).linear(16).relu().linear(2).build()?;
/// let config = TrainerConfig::default().with_batch_size(4).with_learning_rate(0.5);
/// let mut trainer = Trainer::new(network, config)?;
/// let x = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]; // (4, 2)
/// let first = trainer.step(MatRef::new(&x, 4, 2)?, &[0, 1, 1, 1])?.loss;
/// for _ in 0..20 {
///     trainer.step(MatRef::new(&x, 4, 2)?, &[0, 1, 1, 1])?;
/// }
/// assert!(trainer.step(MatRef::new(&x, 4, 2)?, &[0, 1, 1, 1])?.loss < 0.5 * first);
/// # Ok::<(), tilewise::Error>(())
/// ```
#[derive(Debug)]
pub struct Trainer<T: Element> {
    pub(super) network: Network<T>,
    pub(super) average: Option<Network<T>>,
    pub(super) plan: Plan<T>,
    pub(super) optimizer: OptimizerState<T>,
    pub(super) config: TrainerConfig,
    l2: L2,
    /// How each parameter is trained in the current step.
    settings: Vec<ParameterSettings>,
    pub(super) steps: u64,
    /// The batch that is being accumulated.
    pub(super) pending: Option<Pending>,
}

/// Part of a batch whose gradients are in the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) rows: usize,
    pub(super) of: usize,
    stats: StepStats,
}

/// Gives each gradient to the optimizer as soon as it is computed.
struct Updates<'a, T: Element> {
    optimizer: &'a mut OptimizerState<T>,
    network_settings: &'a [ParameterSettings],
    learning_rate: f64,
    l2: L2,
}

impl<T: Element> Sink<T> for Updates<'_, T> {
    fn fused(&mut self, parameter: usize) -> Result<Epilogue<'_, T>> {
        let settings = self.settings(parameter, ParameterKind::Weight);
        self.optimizer.fused_update(parameter, settings)
    }

    fn take(
        &mut self,
        context: &Context<T>,
        parameter: usize,
        values: &mut [T],
        gradient: &[T],
    ) -> Result<()> {
        let kind = self.optimizer.layout().tensors()[parameter].kind();
        let settings = self.settings(parameter, kind);
        self.optimizer.update(context, parameter, values, gradient, settings)
    }
}

impl<T: Element> Updates<'_, T> {
    fn settings(&self, parameter: usize, kind: ParameterKind) -> StepSettings {
        let ParameterSettings { learning_rate_factor, weight_decay_factor, .. } =
            self.network_settings[parameter];
        StepSettings {
            learning_rate: self.learning_rate * learning_rate_factor,
            l2: if kind == ParameterKind::Weight { self.l2.factor() } else { 0.0 },
            weight_decay: self.optimizer.optimizer().weight_decay * weight_decay_factor,
        }
    }
}

impl<T: Element> Trainer<T> {
    /// Plans training steps with the best instruction set.
    ///
    /// # Errors
    /// [`Error::Setting`] if a setting is invalid, [`Error::SizeOverflow`] if the memory
    /// exceeds what there is, [`Error::IsaUnavailable`] if `TILEWISE_ISA` names an instruction set
    /// that is not available.
    pub fn new(network: Network<T>, config: TrainerConfig) -> Result<Self> {
        Self::with_context(network, config, Context::new()?)
    }

    /// Same as [`new`](Self::new), with the kernels of `context`; the threads are those of `config`.
    ///
    /// # Errors
    /// Same as [`new`](Self::new).
    pub fn with_context(
        network: Network<T>,
        config: TrainerConfig,
        context: Context<T>,
    ) -> Result<Self> {
        check_rate(config.learning_rate)?;
        if let Some(norm) = config.clip_norm
            && !(norm.is_finite() && norm > 0.0)
        {
            return Err(Error::setting("clip_norm", norm, "a finite number above 0"));
        }
        if let Some(decay) = config.ema_decay
            && !(0.0..1.0).contains(&decay)
        {
            return Err(Error::setting("ema_decay", decay, "a number from 0 to below 1"));
        }
        let passes = if config.clip_norm.is_some() || config.store_gradients {
            Passes::Gradient
        } else if context.backend() == Backend::Tilewise {
            // No optimizer is slower that way: a step of 3072-512-1024-10 with Adam took 0.93 and
            // 0.97 of the time on one and two threads of Zen 4 (AVX-512, f32, batch 512, medians of
            // pairs); the others are within the scatter of the measurement.
            Passes::FusedUpdate
        } else {
            Passes::LayerUpdate
        };
        let context = match config.precision {
            Some(precision) => context.with_precision(precision)?,
            None => context,
        };
        let context = context.with_threads(config.threads)?.with_denormals(config.denormals);
        let average = config.ema_decay.map(|_| network.try_clone());
        Ok(Self {
            plan: Plan::new(&network, config.batch_size, passes, context)?,
            l2: L2::new(config.l2)?,
            optimizer: OptimizerState::new(&config.optimizer, network.parameters().layout())?,
            average: average.transpose()?,
            settings: network.parameter_settings().to_vec(),
            network,
            config,
            steps: 0,
            pending: None,
        })
    }

    /// One step on a batch x, (rows, inputs), a matrix or rows gathered from bytes, with a label
    /// for each row. Parts of a batch that were accumulated and not applied are dropped.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss is not finite; then nothing is updated.
    /// [`Error::BatchTooLarge`], [`Error::Shape`], [`Error::Length`] or [`Error::Label`] if the
    /// batch does not fit, [`Error::Setting`] if it is empty.
    pub fn step<'x>(&mut self, x: impl Into<Operand<'x, T>>, labels: &[u32]) -> Result<StepStats> {
        self.plan.expect(self.network.structure())?;
        self.pending = None;
        if self.plan.passes() == Passes::Gradient {
            self.accumulate(x, labels, labels.len())?;
            return self.apply();
        }
        let (x, part) = (x.into(), self.part(0));
        let mut stats = self.forward(x, labels, labels.len(), part)?;
        self.optimizer.begin_step();
        let mut updates = Updates {
            optimizer: &mut self.optimizer,
            network_settings: &self.settings,
            learning_rate: self.config.learning_rate,
            l2: self.l2,
        };
        let times = self.plan.run_backward(&mut self.network, x, part, false, &mut updates)?;
        stats.times.add(times);
        self.finish_step(&mut stats)?;
        Ok(stats)
    }

    /// Adds the gradients of part of a batch of `of` rows to those of the parts before it; with
    /// [`apply`](Self::apply) after the last part, the step has the same bits as one
    /// [`step`](Self::step) on the whole batch. Its stats are those of the part.
    ///
    /// # Errors
    /// Same as [`step`](Self::step); [`Error::Setting`] if the trainer does not store gradients, or the
    /// parts exceed the batch or disagree about its size.
    pub fn accumulate<'x>(
        &mut self,
        x: impl Into<Operand<'x, T>>,
        labels: &[u32],
        of: usize,
    ) -> Result<StepStats> {
        self.plan.expect(self.network.structure())?;
        self.plan.context().tasks()?;
        if self.plan.passes() != Passes::Gradient {
            let expected = "true, for gradients that are accumulated";
            return Err(Error::setting("store_gradients", false, expected));
        }
        let before = self.pending.map_or(0, |pending| pending.rows);
        let all = self.pending.map_or(of, |pending| pending.of);
        let rows = before + labels.len();
        if of != all || rows > of {
            let found = format!("row {rows} of {of}");
            return Err(Error::setting("part of a batch", found, format!("parts of {all} rows")));
        }
        let (x, part) = (x.into(), self.part(before));
        let mut stats = self.forward(x, labels, of, part)?;
        let accumulate = before > 0;
        let sink = &mut Gradients;
        let times = self.plan.run_backward(&mut self.network, x, part, accumulate, sink)?;
        stats.times.add(times);
        self.pending = Some(Pending { rows, of, stats });
        Ok(stats)
    }

    /// Updates the parameters with the accumulated gradients.
    ///
    /// # Errors
    /// [`Error::IncompleteBatch`] if nothing, or not the whole batch, was accumulated.
    pub fn apply(&mut self) -> Result<StepStats> {
        self.plan.expect(self.network.structure())?;
        self.plan.context().tasks()?;
        let Some(Pending { mut stats, .. }) = self.pending.filter(|p| p.rows == p.of) else {
            let (rows, of) = self.pending.map_or((0, 0), |pending| (pending.rows, pending.of));
            return Err(Error::IncompleteBatch { rows, of });
        };
        let begin = Instant::now();
        self.l2.add_gradient(&self.network, &mut self.plan)?;
        stats.gradient_norm = self.clip()?;
        self.optimizer.begin_step();
        let (context, layout) = (*self.plan.context(), self.network.parameters().layout().clone());
        let gradients = self.plan.gradients().expect("stored gradients");
        let mut updates = Updates {
            optimizer: &mut self.optimizer,
            network_settings: &self.settings,
            learning_rate: self.config.learning_rate,
            l2: L2::default(), // its gradient is in the one that is stored
        };
        for number in 0..layout.tensors().len() {
            if !self.settings[number].frozen {
                let values = self.network.parameters_mut().tensor_mut(number);
                updates.take(&context, number, values, gradients.tensor(number))?;
            }
        }
        stats.times.updates += begin.elapsed();
        self.finish_step(&mut stats)?;
        self.pending = None;
        Ok(stats)
    }

    /// Counts the step and moves the average of the parameters.
    fn finish_step(&mut self, stats: &mut StepStats) -> Result<()> {
        let begin = Instant::now();
        self.steps += 1;
        if let (Some(decay), Some(average)) = (self.config.ema_decay, &mut self.average) {
            if self.steps == 1 {
                average.copy_parameters(&self.network)?;
            } else {
                let parameters = self.network.parameters();
                for number in 0..parameters.layout().tensors().len() {
                    let to = average.parameters_mut().tensor_mut(number);
                    move_average(self.plan.context(), decay, parameters.tensor(number), to)?;
                }
            }
        }
        stats.times.updates += begin.elapsed();
        Ok(())
    }

    /// Forward pass and loss of part of a batch of `of` rows.
    fn forward(
        &mut self,
        x: Operand<'_, T>,
        labels: &[u32],
        of: usize,
        part: Part,
    ) -> Result<StepStats> {
        let mut stats = StepStats { rows: labels.len(), ..StepStats::default() };
        let found = x.shape().0;
        if found != labels.len() {
            return Err(Error::Length { what: "labels", expected: found, found: labels.len() });
        }
        if found == 0 {
            return Err(Error::setting("batch", 0, "at least 1"));
        }
        self.settings.copy_from_slice(self.network.parameter_settings());
        self.plan.expect_frozen(&self.settings)?;
        // An input that cannot be transposed for the backward pass is refused before any update.
        x.t()?;
        let begin = Instant::now();
        self.plan.run_forward((&self.network).into(), x, part, None)?;
        stats.times.forward = begin.elapsed();
        let begin = Instant::now();
        stats.loss = self.plan.run_loss(self.config.loss, labels, of, true)?;
        stats.loss += self.l2.loss(&self.network, &mut self.plan)?;
        stats.times.loss = begin.elapsed();
        if !stats.loss.is_finite() {
            return Err(Error::Diverged {
                iteration: self.steps as usize + 1,
                learning_rate: self.config.learning_rate,
                loss: stats.loss,
            });
        }
        Ok(stats)
    }

    /// The part of the current step's batch from a row on.
    fn part(&self, first_row: usize) -> Part {
        Part { mode: Mode::Training { step: self.steps + 1 }, first_row }
    }

    /// Clips the gradients to the largest norm, as PyTorch's `clip_grad_norm_`, and returns their
    /// norm before.
    fn clip(&mut self) -> Result<Option<f64>> {
        let context = *self.plan.context();
        let (Some(largest), Some((gradients, partial_sums))) =
            (self.config.clip_norm, self.plan.gradients_and_partial_sums())
        else {
            return Ok(None);
        };
        let trained = |number: &usize| !self.settings[*number].frozen;
        let count = gradients.layout().tensors().len();
        let mut squares = 0.0;
        for number in (0..count).filter(trained) {
            squares += sum_of_squares(&context, gradients.tensor(number), partial_sums)?;
        }
        let norm = squares.sqrt();
        let factor = largest / (norm + 1e-6);
        if factor < 1.0 {
            for number in (0..count).filter(trained) {
                scale(&context, T::from_f64(factor), gradients.tensor_mut(number))?;
            }
        }
        Ok(Some(norm))
    }

    /// Sets the learning rate of the next steps.
    ///
    /// # Errors
    /// [`Error::Setting`] unless it is finite and not negative.
    pub fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        check_rate(learning_rate)?;
        self.config.learning_rate = learning_rate;
        Ok(())
    }

    /// Gradients of the parameters as the last step used them, clipped and with the L2 term; none
    /// if the trainer does not store gradients.
    pub fn gradients(&self) -> Option<&Arena<T>> {
        self.plan.gradients()
    }

    /// The network with its current parameters.
    pub fn network(&self) -> &Network<T> {
        &self.network
    }

    /// The network with the average of the parameters over the steps, if there is one; before the
    /// first step it has the initial parameters. Evaluate and save this network.
    pub fn average(&self) -> Option<&Network<T>> {
        self.average.as_ref()
    }

    /// The network, mutable: its parameters and their settings.
    pub fn network_mut(&mut self) -> &mut Network<T> {
        &mut self.network
    }

    /// The trained network.
    pub fn into_network(self) -> Network<T> {
        self.network
    }

    /// The settings; the learning rate is the current one.
    pub fn config(&self) -> &TrainerConfig {
        &self.config
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The state of the optimizer.
    pub fn optimizer(&self) -> &OptimizerState<T> {
        &self.optimizer
    }

    /// The plan of a step.
    pub fn plan(&self) -> &Plan<T> {
        &self.plan
    }

    /// The network to evaluate, and a plan for passes over it.
    pub(super) fn network_and_plan(&mut self) -> (&Network<T>, &mut Plan<T>) {
        (self.average.as_ref().unwrap_or(&self.network), &mut self.plan)
    }
}

/// An error unless it is a learning rate.
pub(super) fn check_rate(learning_rate: f64) -> Result<()> {
    if learning_rate.is_finite() && learning_rate >= 0.0 {
        Ok(())
    } else {
        Err(Error::setting("learning_rate", learning_rate, "a finite number, 0 or above"))
    }
}
