//! `Trainer`: one training step after another on batches of the caller's, planned once.
//!
//! ```text
//! forward    H = relu(X W + b), each layer one product; dropout too in its epilogue
//! loss       softmax, loss and gradient in one pass over the logits
//! backward   dX = (dY Wᵀ) gated by H, then dW = Xᵀ dY, for each layer from the last to the first
//! update     in the epilogue of dW where the rule allows, else one pass over the parameter
//! average    of the weights over the steps, where it is asked for
//! ```

use std::time::{Duration, Instant};

use crate::{
    error::{Error, Result},
    gemm::{Backend, Gemm, Operand},
    kernels::Element,
    nn::{
        CrossEntropy, FullyConnectedNet, Mode, Passes, Workspace, move_average, scale,
        sum_of_squares,
    },
    simd::Denormals,
    threads::Threads,
    train::optim::{Optimizer, OptimizerState, ParameterKind},
};

/// Settings of a [`Trainer`].
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerConfig {
    /// Rows of the largest batch.
    pub batch_size: usize,
    /// Learning rate of the first step; see [`Trainer::set_learning_rate`].
    pub learning_rate: f64,
    /// Share of every target that is spread over all classes; see [`CrossEntropy`].
    pub label_smoothing: f64,
    /// Gradients whose norm over all parameters is larger are scaled down to it.
    pub clip_norm: Option<f64>,
    /// Share of itself that an exponential moving average of the parameters keeps in a step, from
    /// 0 to below 1: `average = decay average + (1 - decay) w`, starting with the parameters after
    /// the first step, as PyTorch's `AveragedModel` with `get_ema_multi_avg_fn`. Without it there
    /// is no average. See [`Trainer::averaged_net`].
    pub ema_decay: Option<f64>,
    /// Whether gradients have a place of their own although no setting asks for it, for
    /// [`Trainer::accumulate`] and [`Trainer::gradient`]. It changes no bits.
    pub store_gradients: bool,
    /// What becomes of denormal numbers during a step; the setting of the caller's thread is back
    /// after it.
    pub denormals: Denormals,
    /// Tasks; see [`Threads`]. The result's bits do not depend on it.
    pub threads: Threads,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            batch_size: 512,
            learning_rate: 0.1,
            label_smoothing: 0.0,
            clip_norm: None,
            ema_decay: None,
            store_gradients: false,
            denormals: Denormals::Flush,
            threads: Threads::Pool,
        }
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepStats {
    /// Mean loss of the batch before the update, L2 term included.
    pub loss: f64,
    /// Rows of the batch.
    pub rows: usize,
    /// Norm of all gradients before clipping, if they are clipped.
    pub gradient_norm: Option<f64>,
    /// Where the time went.
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
    /// Gradients of the weights, and their update where it is part of the same product.
    pub weight_gradients: Duration,
    /// Updates in passes of their own, clipping, and the average of the parameters.
    pub updates: Duration,
}

/// Trains a network step by step. After construction nothing is allocated. Construct and use it
/// inside of the rayon pool that it is to use: `pool.install(|| …)`.
///
/// ```
/// use tilewise::{matrix::MatRef, nn::{FullyConnectedNet, NetConfig}};
/// use tilewise::train::{Optimizer, Trainer, TrainerConfig};
///
/// let config = NetConfig { input: 2, hidden: vec![16], classes: 2, ..NetConfig::default() };
/// let net = FullyConnectedNet::<f32>::new(&config)?;
/// let settings = TrainerConfig { batch_size: 4, learning_rate: 0.5, ..Default::default() };
/// let mut trainer = Trainer::new(net, Optimizer::sgd(), settings)?;
/// let x = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]; // (4, 2)
/// let stats = trainer.step(MatRef::new(&x, 4, 2)?, &[0, 1, 1, 1])?;
/// assert!((stats.loss - 2f64.ln()).abs() < 1e-3);
/// # Ok::<(), tilewise::Error>(())
/// ```
pub struct Trainer<T: Element> {
    pub(super) net: FullyConnectedNet<T>,
    pub(super) average: Option<FullyConnectedNet<T>>,
    workspace: Workspace<T>,
    pub(super) optimizer: OptimizerState<T>,
    criterion: CrossEntropy,
    config: TrainerConfig,
    passes: Passes,
    pub(super) steps: u64,
    /// The batch that is being accumulated.
    pending: Option<Pending>,
}

/// Part of a batch whose gradients are in the workspace.
#[derive(Clone, Copy, Debug)]
struct Pending {
    rows: usize,
    of: usize,
    stats: StepStats,
}

impl<T: Element> Trainer<T> {
    /// Plans training steps with the best instruction set.
    ///
    /// # Errors
    /// [`Error::Setting`] if a setting makes no sense, [`Error::SizeOverflow`] if the memory
    /// exceeds the address space, [`Error::IsaUnavailable`] if `TILEWISE_ISA` names a set that is
    /// not available.
    pub fn new(
        net: FullyConnectedNet<T>,
        optimizer: Optimizer,
        config: TrainerConfig,
    ) -> Result<Self> {
        Self::with_gemm(net, optimizer, config, Gemm::new()?)
    }

    /// As [`new`](Self::new), with products computed as `gemm` says, but for its threads.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_gemm(
        net: FullyConnectedNet<T>,
        optimizer: Optimizer,
        config: TrainerConfig,
        gemm: Gemm<T>,
    ) -> Result<Self> {
        check_rate(config.learning_rate)?;
        if let Some(norm) = config.clip_norm
            && !(norm.is_finite() && norm > 0.0)
        {
            return Err(Error::setting("clip-norm", norm, "a finite number above 0"));
        }
        if let Some(decay) = config.ema_decay
            && !(0.0..1.0).contains(&decay)
        {
            return Err(Error::setting("ema-decay", decay, "a number from 0 to below 1"));
        }
        let passes = if config.clip_norm.is_some() || config.store_gradients {
            Passes::Gradient
        } else if optimizer.is_fused() && gemm.backend() == Backend::Tilewise {
            Passes::FusedUpdate
        } else {
            Passes::LayerUpdate
        };
        let gemm = gemm.threads(config.threads);
        Ok(Self {
            workspace: net.workspace_for(gemm, config.batch_size, passes)?,
            criterion: CrossEntropy::new(config.label_smoothing)?,
            optimizer: OptimizerState::new(&optimizer, &net.tensor_lengths())?,
            average: config.ema_decay.map(|_| net.clone()),
            net,
            config,
            passes,
            steps: 0,
            pending: None,
        })
    }

    /// One step on a batch x, (rows, input), a matrix or rows gathered from a store of bytes, with
    /// a label for each row. Parts of a batch that wait for [`apply`](Self::apply) are dropped.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss is not finite; then nothing is updated.
    /// [`Error::BatchTooLarge`], [`Error::Shape`], [`Error::Length`] or [`Error::Label`] if the
    /// batch does not fit, [`Error::Setting`] if it is empty.
    pub fn step<'x>(&mut self, x: impl Into<Operand<'x, T>>, labels: &[u8]) -> Result<StepStats> {
        self.pending = None;
        if self.passes == Passes::Gradient {
            self.accumulate(x, labels, labels.len())?;
            return self.apply();
        }
        let _denormals = self.config.denormals.set();
        let x = x.into();
        let mut clock = Clock::start();
        let mut stats = self.forward(x, labels, labels.len(), 0, &mut clock)?;
        self.optimizer.begin_step();
        for l in (0..self.net.layers().len()).rev() {
            let (rows, mode) = (labels.len(), self.mode());
            self.net.backward_input(l, &mut self.workspace, rows, mode)?;
            stats.times.input_gradients += clock.lap();
            let shape = self.net.layers()[l].weight().shape();
            let (rate, l2) = (self.config.learning_rate, self.net.l2());
            if self.passes == Passes::FusedUpdate {
                let epilogue = self.optimizer.fused_update(2 * l, shape, rate, l2)?;
                self.net.backward_update(l, x, &mut self.workspace, rows, epilogue)?;
                stats.times.weight_gradients += clock.lap();
            } else {
                self.net.backward_parameters(l, x, &mut self.workspace, rows, false)?;
                stats.times.weight_gradients += clock.lap();
                self.update(l, 0, ParameterKind::Weights { l2 })?;
            }
            self.update(l, 1, ParameterKind::Biases)?;
            stats.times.updates += clock.lap();
        }
        self.finish_step()?;
        stats.times.updates += clock.lap();
        Ok(stats)
    }

    /// Adds the gradients of part of a batch of `of` rows to those of the parts before it; with
    /// [`apply`](Self::apply) behind the last part, the step has the same bits as one
    /// [`step`](Self::step) on the whole batch. Its stats are those of the part.
    ///
    /// # Errors
    /// As [`step`](Self::step); [`Error::Setting`] if the trainer does not store gradients, or the
    /// parts exceed the batch or disagree about its size.
    pub fn accumulate<'x>(
        &mut self,
        x: impl Into<Operand<'x, T>>,
        labels: &[u8],
        of: usize,
    ) -> Result<StepStats> {
        if self.passes != Passes::Gradient {
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
        let _denormals = self.config.denormals.set();
        let x = x.into();
        let mut clock = Clock::start();
        let mut stats = self.forward(x, labels, of, before, &mut clock)?;
        for l in (0..self.net.layers().len()).rev() {
            let mode = self.mode();
            self.net.backward_input(l, &mut self.workspace, labels.len(), mode)?;
            stats.times.input_gradients += clock.lap();
            let go_on = before > 0;
            self.net.backward_parameters(l, x, &mut self.workspace, labels.len(), go_on)?;
            stats.times.weight_gradients += clock.lap();
        }
        self.pending = Some(Pending { rows, of, stats });
        Ok(stats)
    }

    /// Updates the parameters with the accumulated gradients.
    ///
    /// # Errors
    /// [`Error::Setting`] if nothing, or not the whole batch, was accumulated.
    pub fn apply(&mut self) -> Result<StepStats> {
        let Some(Pending { mut stats, .. }) = self.pending.filter(|p| p.rows == p.of) else {
            let (rows, of) = self.pending.map_or((0, 0), |pending| (pending.rows, pending.of));
            let found = format!("{rows} of {of} rows");
            return Err(Error::setting("accumulated batch", found, "a whole batch"));
        };
        let _denormals = self.config.denormals.set();
        let mut clock = Clock::start();
        for l in 0..self.net.layers().len() {
            self.net.add_l2_gradient(l, &mut self.workspace);
        }
        stats.gradient_norm = self.clip();
        self.optimizer.begin_step();
        for l in 0..self.net.layers().len() {
            self.update(l, 0, ParameterKind::Weights { l2: 0.0 })?;
            self.update(l, 1, ParameterKind::Biases)?;
        }
        self.finish_step()?;
        stats.times.updates += clock.lap();
        self.pending = None;
        Ok(stats)
    }

    /// Counts the step and moves the average of the parameters.
    fn finish_step(&mut self) -> Result<()> {
        self.steps += 1;
        let (Some(decay), Some(average)) = (self.config.ema_decay, &mut self.average) else {
            return Ok(());
        };
        if self.steps == 1 {
            return average.copy_parameters(&self.net);
        }
        let gemm = *self.workspace.gemm();
        for (average, layer) in average.layers_mut().iter_mut().zip(self.net.layers()) {
            for (average, w) in average.parameters_mut().into_iter().zip(layer.parameters()) {
                move_average(&gemm, decay, w, average);
            }
        }
        Ok(())
    }

    /// Forward pass and loss of rows `first` and following of a batch of `of` rows.
    fn forward(
        &mut self,
        x: Operand<'_, T>,
        labels: &[u8],
        of: usize,
        first: usize,
        clock: &mut Clock,
    ) -> Result<StepStats> {
        let mut stats = StepStats { rows: labels.len(), ..StepStats::default() };
        let found = x.shape().0;
        if found != labels.len() {
            return Err(Error::Length { what: "labels", expected: found, found: labels.len() });
        }
        if found == 0 {
            return Err(Error::setting("batch", 0, "at least 1"));
        }
        let mode = self.mode();
        // Whatever cannot be transposed for the backward pass is refused before any update.
        x.t()?;
        self.net.forward_rows(x, &mut self.workspace, mode, first)?;
        stats.times.forward = clock.lap();
        stats.loss = self.net.loss_backward(&mut self.workspace, labels, self.criterion, of)?;
        stats.times.loss = clock.lap();
        if !stats.loss.is_finite() {
            return Err(Error::Diverged {
                iteration: self.steps as usize + 1,
                learning_rate: self.config.learning_rate,
                loss: stats.loss,
            });
        }
        Ok(stats)
    }

    fn mode(&self) -> Mode {
        Mode::Training { step: self.steps + 1 }
    }

    /// Updates W (tensor 0) or b (tensor 1) of a layer with its gradient.
    fn update(&mut self, layer: usize, tensor: usize, kind: ParameterKind) -> Result<()> {
        let gemm = *self.workspace.gemm();
        let gradient = self.workspace.gradient(layer)[tensor];
        let parameters = self.net.layers_mut()[layer].parameters_mut();
        let (parameters, rate) = (&mut *parameters[tensor], self.config.learning_rate);
        self.optimizer.update(&gemm, 2 * layer + tensor, parameters, gradient, rate, kind)
    }

    /// Scales the gradients down to the largest norm allowed, as PyTorch's `clip_grad_norm_`, and
    /// returns what their norm was.
    fn clip(&mut self) -> Option<f64> {
        let largest = self.config.clip_norm?;
        let gemm = *self.workspace.gemm();
        let mut squares = 0.0;
        for l in 0..self.net.layers().len() {
            for tensor in 0..2 {
                let (gradient, partial) = self.workspace.gradient_and_partial_sums(l, tensor);
                squares += sum_of_squares(&gemm, gradient, partial);
            }
        }
        let norm = squares.sqrt();
        let factor = largest / (norm + 1e-6);
        if factor < 1.0 {
            for l in 0..self.net.layers().len() {
                for tensor in 0..2 {
                    let gradient = self.workspace.gradient_mut(l, tensor);
                    scale(&gemm, T::from_f64(factor), gradient);
                }
            }
        }
        Some(norm)
    }

    /// Changes the learning rate of the steps to come.
    ///
    /// # Errors
    /// [`Error::Setting`] unless it is finite and not negative.
    pub fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        check_rate(learning_rate)?;
        self.config.learning_rate = learning_rate;
        Ok(())
    }

    /// Gradients of layer `layer` as the last step used them, clipped and with the L2 term: of W,
    /// (in, out), row after row, and of b. Nothing if the trainer does not store gradients.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn gradient(&self, layer: usize) -> Option<[&[T]; 2]> {
        (self.passes == Passes::Gradient).then(|| self.workspace.gradient(layer))
    }

    /// The network with its present parameters.
    pub fn net(&self) -> &FullyConnectedNet<T> {
        &self.net
    }

    /// The network with the average of the parameters over the steps, if there is one; before the
    /// first step it has the initial parameters. It is the one to evaluate and to keep.
    pub fn averaged_net(&self) -> Option<&FullyConnectedNet<T>> {
        self.average.as_ref()
    }

    /// The network, to be changed: parameters, not shapes.
    pub fn net_mut(&mut self) -> &mut FullyConnectedNet<T> {
        &mut self.net
    }

    /// The trained network.
    pub fn into_net(self) -> FullyConnectedNet<T> {
        self.net
    }

    /// The settings; the learning rate is the present one.
    pub fn config(&self) -> &TrainerConfig {
        &self.config
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The state of the update rule.
    pub fn optimizer(&self) -> &OptimizerState<T> {
        &self.optimizer
    }

    /// Bytes of activations, gradients and scratch memory.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace.bytes()
    }

    /// The network to evaluate, and memory for forward passes over batches of its.
    pub(super) fn net_and_workspace(&mut self) -> (&FullyConnectedNet<T>, &mut Workspace<T>) {
        (self.average.as_ref().unwrap_or(&self.net), &mut self.workspace)
    }
}

fn check_rate(learning_rate: f64) -> Result<()> {
    if learning_rate.is_finite() && learning_rate >= 0.0 {
        Ok(())
    } else {
        Err(Error::setting("lr", learning_rate, "a finite number, 0 or above"))
    }
}

/// Measures laps.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the last lap.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
