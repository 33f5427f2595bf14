//! Passes of a plan: forward, loss and backward, step by step.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use crate::{
    context::Context,
    error::{Error, Result},
    gemm::{Companions, Epilogue, Finish, Operand, Start},
    kernels::{Element, PanelElement},
    matrix::{MatMut, MatRef},
    nn::{
        elementwise,
        layer::{Backward, Forward, Mode, RandomPlace},
        layers::{Linear, linear::sum_columns},
        loss::CrossEntropy,
        network::{Network, Structure},
        parameters::{Slices, SlicesMut},
        plan::{
            Passes, Plan, Rows, Weights,
            lower::{Kind, Step, Value},
            numbers::{Numbers, Rounded, Whole},
        },
    },
    simd::Denormals,
};

/// Wall time of a backward pass by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassTimes {
    /// Gradients of inputs.
    pub input_gradients: Duration,
    /// Gradients of parameters, and their updates if those are fused.
    pub parameter_gradients: Duration,
    /// Updates in separate passes.
    pub updates: Duration,
}

/// Measures laps.
struct Clock(Instant);

impl Clock {
    /// Time since the last lap.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

/// Receives the gradients of parameters one by one, from the last layer to the first.
pub trait Sink<T: Element> {
    /// The epilogue that fuses the update of parameter number `parameter`, a weight matrix, into the
    /// product that computes its gradient. Called only for plans with [`Passes::FusedUpdate`].
    ///
    /// # Errors
    /// Those of the optimizer.
    fn fused(&mut self, parameter: usize) -> Result<Epilogue<'_, T>>;

    /// Takes the gradient of parameter number `parameter`. Not called for plans with
    /// [`Passes::Gradient`].
    ///
    /// # Errors
    /// Those of the optimizer.
    fn take(
        &mut self,
        context: &Context<T>,
        parameter: usize,
        values: &mut [T],
        gradient: &[T],
    ) -> Result<()>;
}

/// A sink for plans that store all gradients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gradients;

impl<T: Element> Sink<T> for Gradients {
    fn fused(&mut self, parameter: usize) -> Result<Epilogue<'_, T>> {
        Err(Error::setting("passes", parameter, "Passes::Gradient, which stores gradients"))
    }

    fn take(&mut self, _: &Context<T>, _: usize, _: &mut [T], _: &[T]) -> Result<()> {
        Ok(())
    }
}

/// The part of a batch that a pass works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) mode: Mode,
    /// Index of its first row in the batch.
    pub(crate) first_row: usize,
}

impl Part {
    /// A whole batch.
    pub(crate) fn whole(mode: Mode) -> Self {
        Self { mode, first_row: 0 }
    }

    /// Whether dropout is active: in evaluation it is the identity, and so is its gradient.
    fn drops(self) -> bool {
        matches!(self.mode, Mode::Training { .. })
    }

    fn random<T: Element>(self, structure: &Structure<T>, layer: usize) -> RandomPlace {
        let step = match self.mode {
            Mode::Training { step } => Some(step),
            Mode::Evaluation => None,
        };
        let layer = structure.layers[layer].of_kind;
        RandomPlace { seed: structure.seed, step, layer, first_row: self.first_row }
    }
}

impl<T: Element> Plan<T> {
    /// Computes the logits of a batch x, (batch, inputs): a matrix, or rows gathered from bytes.
    /// See [`logits`](Self::logits).
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`] if the plan has no room for the batch, [`Error::Shape`] if x has
    /// another number of columns, [`Error::OtherNetwork`] if the network is not of the layers that
    /// the plan was made for.
    pub fn forward<'x>(
        &mut self,
        network: &Network<T>,
        x: impl Into<Operand<'x, T>>,
        mode: Mode,
    ) -> Result<()> {
        self.run_forward(network.into(), x.into(), Part::whole(mode), None)
    }

    /// The logits of the first `batch` rows of the last forward pass: (batch, classes).
    ///
    /// # Errors
    /// [`Error::Setting`] if the last forward pass had fewer rows, or failed.
    pub fn logits(&self, batch: usize) -> Result<MatRef<'_, T>> {
        if batch > self.rows {
            let expected = format!("at most {}, those of the last forward pass", self.rows);
            return Err(Error::setting("rows of logits", batch, expected));
        }
        let rows = &self.memory.values[self.lowered.output];
        Ok(rows.view(&self.block[rows.range.clone()], batch))
    }

    /// The mean loss of the last forward pass; `labels` has one label for each row.
    ///
    /// # Errors
    /// [`Error::Length`] if there are more or fewer labels than rows, [`Error::Label`] if one names
    /// no class; [`Error::OutsidePool`] if the plan has several threads and the calling one is in no
    /// rayon pool.
    pub fn loss(&mut self, criterion: CrossEntropy, labels: &[u32]) -> Result<f64> {
        self.run_loss(criterion, labels, labels.len(), false)
    }

    /// The loss of each row of the last forward pass.
    ///
    /// # Errors
    /// Same as [`loss`](Self::loss).
    pub fn row_losses(&mut self, criterion: CrossEntropy, labels: &[u32]) -> Result<&[T]> {
        self.run_loss(criterion, labels, labels.len(), false)?;
        Ok(&self.block[self.memory.row_losses.clone()][..labels.len()])
    }

    /// Forward and backward pass over a batch x, (batch, inputs): the mean loss, and in a plan for
    /// [`Passes::Gradient`] the [`gradients`](Self::gradients) of all parameters.
    ///
    /// # Errors
    /// Same as [`forward`](Self::forward) and [`loss`](Self::loss); [`Error::Setting`] if the plan
    /// stores no gradients.
    pub fn loss_and_gradient<'x>(
        &mut self,
        network: &mut Network<T>,
        x: impl Into<Operand<'x, T>>,
        labels: &[u32],
        criterion: CrossEntropy,
        mode: Mode,
    ) -> Result<f64> {
        if self.passes != Passes::Gradient {
            let expected = "Passes::Gradient, which stores gradients";
            return Err(Error::setting("passes", format!("{:?}", self.passes), expected));
        }
        let (x, part) = (x.into(), Part::whole(mode));
        self.run_forward((&*network).into(), x, part, None)?;
        let loss = self.run_loss(criterion, labels, labels.len(), true)?;
        self.run_backward(network, x, part, false, &mut Gradients)?;
        Ok(loss)
    }

    /// The forward pass; the logits are written to `logits` if it is given.
    pub(crate) fn run_forward(
        &mut self,
        weights: Weights<'_, T>,
        x: Operand<'_, T>,
        part: Part,
        logits: Option<MatMut<'_, T>>,
    ) -> Result<()> {
        self.rows = 0;
        self.expect(weights.structure)?;
        let (batch, columns) = x.shape();
        self.expect_batch(batch)?;
        let expected = self.structure.input.features();
        if columns != expected {
            let (expected, found) = ((batch, expected), (batch, columns));
            return Err(Error::Shape { what: "batch of a network", expected, found });
        }
        let context = &match part.mode {
            Mode::Training { .. } => self.context,
            Mode::Evaluation => self.context.for_evaluation(),
        };
        let given = logits.is_some();
        if self.rounds() {
            self.forward_steps::<Rounded>(context, weights, x, part, logits)?;
        } else {
            self.forward_steps::<Whole>(context, weights, x, part, logits)?;
        }
        if !given {
            self.rows = batch;
        }
        Ok(())
    }

    /// The steps of a forward pass.
    fn forward_steps<N: Numbers<T>>(
        &mut self,
        context: &Context<T>,
        weights: Weights<'_, T>,
        x: Operand<'_, T>,
        part: Part,
        mut logits: Option<MatMut<'_, T>>,
    ) -> Result<()> {
        let batch = x.shape().0;
        let Self { structure, lowered, memory, block, .. } = self;
        let inner = context.gemm().of_types::<N::Inner>()?;
        let outer = context.gemm().of_types::<N::Outer>()?;
        for (at, step) in lowered.steps.iter().enumerate() {
            let rows = |value: Option<usize>| value.map(|number| &memory.values[number]);
            let [x_rows, skip_rows] = step.reads().map(rows);
            let (out_rows, whole) = (&memory.values[step.out], &memory.whole[at]);
            let mut given = if step.out == lowered.output { logits.as_mut() } else { None };
            // An empty block reads one value twice.
            let twice = step.reads()[0] == step.reads()[1];
            let nothing = 0..0;
            let [x_data, skip_data, out_data, saved, scratch, whole_x, whole_out] = disjoint(
                block,
                [
                    x_rows.map_or(&nothing, |rows| &rows.range),
                    skip_rows.filter(|_| !twice).map_or(&nothing, |rows| &rows.range),
                    if given.is_some() { &nothing } else { &out_rows.range },
                    &memory.saved[at],
                    &memory.scratch,
                    &whole.x.range,
                    &whole.out.range,
                ],
            );
            let (x_data, skip_data) = (&*x_data, &*skip_data);
            let scratch: &mut [u8] = bytemuck::cast_slice_mut(scratch);
            let x_view = x_rows.map(|rows| rows.view::<T, N::Stored>(x_data, batch));
            let mut out = match &mut given {
                Some(logits) => {
                    let mut logits = logits.reborrow();
                    // Memory of the caller need not be initialized. Products only write to it; other
                    // steps may take its rows as slices.
                    if !matches!(step.kind, Kind::Linear { .. }) {
                        logits.fill(T::ZERO);
                    }
                    Out::Logits(logits)
                }
                None if step.out == lowered.output => {
                    Out::Logits(out_rows.view_mut(out_data, batch))
                }
                None => Out::Stored(out_rows.view_mut(out_data, batch)),
            };
            match (step.kind, step.layer) {
                (Kind::Linear { relu, dropout, .. }, Some(layer)) => {
                    let parameters =
                        weights.parameters.slices(structure.layers[layer].parameters.clone());
                    let bias = parameters.get(Linear::BIAS);
                    let x = match x_view {
                        Some(x) => Operand::from(x),
                        None => x.with_elements()?,
                    };
                    let weight = match weights.packed.and_then(|packed| N::of_step(packed, at)) {
                        Some(packed) => Operand::from(packed),
                        None => {
                            let weight = parameters.get(Linear::WEIGHT);
                            Operand::Rounded(MatRef::new(weight, x.shape().1, out_rows.cols)?)
                        }
                    };
                    let mask = dropout.and_then(|(probability, layer)| {
                        part.random(structure, layer).dropout_mask(probability)
                    });
                    let finish = match (relu, mask, dropout) {
                        (true, Some(mask), Some((probability, _))) => {
                            Finish::ReluDropout { mask, scale: kept_scale(probability) }
                        }
                        (true, ..) => Finish::Relu,
                        _ => Finish::Store,
                    };
                    match out {
                        Out::Logits(out) => {
                            let epilogue = Epilogue { finish, ..Epilogue::bias(bias) };
                            outer.run(T::ONE, x, weight, out, epilogue, scratch)?;
                        }
                        Out::Stored(out) => {
                            let epilogue = Epilogue { finish, ..Epilogue::bias(bias) };
                            inner.run(T::ONE, x, weight, out, epilogue, scratch)?;
                        }
                    }
                }
                (Kind::Layer, Some(layer)) => {
                    let placed = &structure.layers[layer];
                    let x = x_view.expect("a loaded batch");
                    let to = match &mut out {
                        Out::Logits(out) => out.reborrow(),
                        Out::Stored(out) => match out.reborrow().of_type() {
                            Some(out) => out,
                            None => whole.out.view_mut(whole_out, batch),
                        },
                    };
                    placed.layer.forward(
                        context,
                        Forward {
                            parameters: weights.parameters.slices(placed.parameters.clone()),
                            buffers: weights.buffers.slices(placed.buffers.clone()),
                            x: widened(context, x, &whole.x, whole_x)?,
                            out: to,
                            saved,
                            scratch,
                            random: part.random(structure, layer),
                        },
                    )?;
                    if let (true, Out::Stored(out)) = (N::rounds(), out) {
                        let values = whole.out.view::<T, T>(whole_out, batch);
                        elementwise::copy(context, values, out)?;
                    }
                }
                (Kind::Add { .. }, _) => {
                    let x = x_view.expect("a loaded batch");
                    let skip = skip_rows.expect("a loaded batch");
                    let skip = if twice { x } else { skip.view(skip_data, batch) };
                    match out {
                        Out::Logits(out) => sum(context, x, skip, out)?,
                        Out::Stored(out) => sum(context, x, skip, out)?,
                    }
                }
                (Kind::Load, _) => match out {
                    Out::Logits(out) => load(context, x, out)?,
                    Out::Stored(out) => load(context, x, out)?,
                },
                _ => unreachable!("a step of a layer has one"),
            }
        }
        Ok(())
    }

    /// The mean loss of the last forward pass; with `gradient` that of the logits, with respect to
    /// the mean over a batch of `of` rows.
    pub(crate) fn run_loss(
        &mut self,
        criterion: CrossEntropy,
        labels: &[u32],
        of: usize,
        gradient: bool,
    ) -> Result<f64> {
        let batch = labels.len();
        self.expect_batch(batch)?;
        if batch != self.rows {
            let what = "labels of the last forward pass";
            return Err(Error::Length { what, expected: self.rows, found: batch });
        }
        // All passes of a plan need its pool, even those that are not divided.
        self.context.tasks()?;
        let (memory, output, context) = (&self.memory, self.lowered.output, &self.context);
        let (logits, d_logits) = (&memory.values[output], &memory.d_values[output]);
        let rounds = !memory.d_logits.range.is_empty();
        let [values, d_values, whole, row_losses] = disjoint(
            &mut self.block,
            [&logits.range, &d_logits.range, &memory.d_logits.range, &memory.row_losses],
        );
        let logits = logits.view(values, batch);
        let row_losses = &mut row_losses[..batch];
        let context = if gradient { *context } else { context.for_evaluation() };
        let _denormals = context.gemm().denormals().map(Denormals::scope);
        if !gradient {
            return criterion.forward(logits, labels, row_losses);
        }
        if d_values.is_empty() {
            let expected = "one for training, of a network with parameters to train";
            return Err(Error::setting("plan", format!("for {:?}", self.passes), expected));
        }
        if !rounds {
            let gradient = d_logits.view_mut(d_values, batch);
            return criterion.part_backward(logits, labels, gradient, of, row_losses);
        }
        let mut gradient = memory.d_logits.view_mut(whole, batch);
        let loss = criterion.part_backward(logits, labels, gradient.reborrow(), of, row_losses)?;
        let stored = d_logits.view_mut::<T, T::Rounded>(d_values, batch);
        elementwise::copy(&context, gradient.as_ref(), stored)?;
        Ok(loss)
    }

    /// The backward pass after [`run_forward`](Self::run_forward) and
    /// [`run_loss`](Self::run_loss), with the same batch. With `accumulate` the gradients of
    /// parameters are added to the existing ones.
    pub(crate) fn run_backward(
        &mut self,
        network: &mut Network<T>,
        x: Operand<'_, T>,
        part: Part,
        accumulate: bool,
        sink: &mut dyn Sink<T>,
    ) -> Result<PassTimes> {
        self.expect(network.structure())?;
        self.expect_batch(x.shape().0)?;
        if self.rounds() {
            self.backward_steps::<Rounded>(network, x, part, accumulate, sink)
        } else {
            self.backward_steps::<Whole>(network, x, part, accumulate, sink)
        }
    }

    /// The steps of a backward pass.
    fn backward_steps<N: Numbers<T>>(
        &mut self,
        network: &mut Network<T>,
        x: Operand<'_, T>,
        part: Part,
        accumulate: bool,
        sink: &mut dyn Sink<T>,
    ) -> Result<PassTimes> {
        let batch = x.shape().0;
        let mut times = PassTimes::default();
        let mut clock = Clock(Instant::now());
        for at in (0..self.lowered.steps.len()).rev() {
            let step = &self.lowered.steps[at];
            if !self.lowered.has_gradient[step.out] {
                continue;
            }
            match (step.kind, step.layer) {
                (Kind::Load, _) => {}
                (Kind::Add { skip }, _) => {
                    for (value, d) in [(step.x, step.d_x), (skip, step.d_skip)] {
                        if !d.unused {
                            self.contribute::<N>(at, value, d.accumulate, batch)?;
                        }
                    }
                    times.input_gradients += clock.lap();
                }
                (Kind::Linear { .. }, Some(layer)) => {
                    self.linear_input::<N>(at, layer, network, part, batch)?;
                    times.input_gradients += clock.lap();
                    self.linear_parameters::<N>(at, layer, network, x, accumulate, sink)?;
                    times.parameter_gradients += clock.lap();
                }
                (Kind::Layer, Some(layer)) => {
                    self.layer_backward::<N>(at, layer, network, part, accumulate, batch)?;
                    times.parameter_gradients += clock.lap();
                }
                _ => unreachable!("a step of a layer has one"),
            }
            if self.passes != Passes::Gradient {
                self.give(at, network, sink)?;
                times.updates += clock.lap();
            }
        }
        Ok(times)
    }

    /// Adds the gradient of a step's output to that of a value that it reads, or starts it.
    fn contribute<N: Numbers<T>>(
        &mut self,
        at: usize,
        to: Value,
        accumulate: bool,
        batch: usize,
    ) -> Result<()> {
        let Some(to) = to.number() else { return Ok(()) };
        let (from, to) =
            (&self.memory.d_values[self.lowered.steps[at].out], &self.memory.d_values[to]);
        let [from_data, to_data] = disjoint(&mut self.block, [&from.range, &to.range]);
        let from = from.view::<T, N::Stored>(from_data, batch);
        let to = to.view_mut::<T, N::Stored>(to_data, batch);
        if accumulate {
            elementwise::add(&self.context, from, to)
        } else {
            elementwise::copy(&self.context, from, to)
        }
    }

    /// `d_x = gate(d_out Wᵀ)`, after the gradient of the step's own ReLU if `d_out` does not include it.
    fn linear_input<N: Numbers<T>>(
        &mut self,
        at: usize,
        layer: usize,
        network: &Network<T>,
        part: Part,
        batch: usize,
    ) -> Result<()> {
        let Self { structure, context, lowered, memory, block, .. } = self;
        let Step { kind, x, out, d_x, .. } = lowered.steps[at].clone();
        let Kind::Linear { relu, dropout, gated } = kind else { unreachable!("a linear step") };
        let (out_rows, d_out_rows) = (&memory.values[out], &memory.d_values[out]);
        if relu && !gated {
            // Kept elements were scaled, dropped ones are 0: the gate passes the kept ones.
            let scale = dropout.filter(|_| part.drops());
            let scale = scale.map_or(T::ONE, |(probability, _)| kept_scale(probability));
            let [out_data, d_out] = disjoint(block, [&out_rows.range, &d_out_rows.range]);
            let d_out = d_out_rows.view_mut::<T, N::Stored>(d_out, batch);
            if out == lowered.output {
                let out = out_rows.view::<T, T>(out_data, batch);
                elementwise::relu_gradient(context, out, scale, d_out)?;
            } else {
                let out = out_rows.view::<T, N::Stored>(out_data, batch);
                elementwise::relu_gradient(context, out, scale, d_out)?;
            }
        }
        let (Some(x), false) = (x.number(), d_x.unused) else { return Ok(()) };
        let (x_rows, d_x_rows) = (&memory.values[x], &memory.d_values[x]);
        let [x_data, d_x_data, d_out_data, scratch] =
            disjoint(block, [&x_rows.range, &d_x_rows.range, &d_out_rows.range, &memory.scratch]);
        let scratch = bytemuck::cast_slice_mut(scratch);
        let activation = x_rows.view::<T, N::Stored>(x_data, batch);
        let to = d_x_rows.view_mut::<T, N::Stored>(d_x_data, batch);
        let d_out = d_out_rows.view::<T, N::Stored>(d_out_data, batch);
        let start = Start::Scaled(if d_x.accumulate { T::ONE } else { T::ZERO });
        let (finish, companions) = match d_x.gate {
            Some(scale) => {
                let scale = if part.drops() { T::from_f64(scale) } else { T::ONE };
                (Finish::ReluGradient { scale }, activation.into())
            }
            None => (Finish::Store, Companions::default()),
        };
        let parameters = network.parameters().slices(structure.layers[layer].parameters.clone());
        let weight = MatRef::new(parameters.get(Linear::WEIGHT), to.cols(), d_out.cols())?;
        let epilogue = Epilogue { start, finish, companions, column_sums: None };
        let gemm = context.gemm().of_types::<N::Inner>()?;
        gemm.run(T::ONE, d_out, Operand::Rounded(weight.t()), to, epilogue, scratch)
    }

    /// `dW = xᵀ d_out`, or the update of W by it, and `db`, the sums of the columns of `d_out`.
    fn linear_parameters<N: Numbers<T>>(
        &mut self,
        at: usize,
        layer: usize,
        network: &mut Network<T>,
        input: Operand<'_, T>,
        accumulate: bool,
        sink: &mut dyn Sink<T>,
    ) -> Result<()> {
        let Self { structure, context, lowered, memory, block, gradients, passes, frozen, .. } =
            self;
        let Step { x, out, .. } = lowered.steps[at].clone();
        let numbers = structure.layers[layer].parameters.clone();
        let batch = input.shape().0;
        let (d_out_rows, places) = (&memory.d_values[out], &memory.parameters[at]);
        let x_rows = x.number().map(|number| &memory.values[number]);
        let nothing = 0..0;
        let [x_data, d_out_data, stored, scratch] = disjoint(
            block,
            [
                x_rows.map_or(&nothing, |rows| &rows.range),
                &d_out_rows.range,
                if gradients.is_some() { &nothing } else { &places.region },
                &memory.scratch,
            ],
        );
        let stored = match gradients {
            Some(arena) => arena.region_mut(places.region.clone()),
            None => stored,
        };
        let scratch = bytemuck::cast_slice_mut(scratch);
        let d_out = d_out_rows.view::<T, N::Stored>(d_out_data, batch);
        let x = match x_rows {
            Some(rows) => Operand::from(rows.view::<T, N::Stored>(x_data, batch)),
            None => input.with_elements()?,
        };
        let [weight, bias] =
            split(stored, [Linear::WEIGHT, Linear::BIAS].map(|place| &places.ranges[place]));
        let [no_weight, no_bias] =
            [Linear::WEIGHT, Linear::BIAS].map(|place| frozen[numbers.start + place]);
        if no_weight {
            if !no_bias {
                let _denormals = context.gemm().denormals().map(Denormals::scope);
                sum_columns(d_out, bias, accumulate);
            }
            return Ok(());
        }
        let start = if accumulate { T::ONE } else { T::ZERO };
        let number = numbers.start + Linear::WEIGHT;
        let (rows, cols) = (x.shape().1, d_out.cols());
        let fused = *passes == Passes::FusedUpdate;
        let epilogue = if fused { sink.fused(number)? } else { Epilogue::scaled(start) };
        let to = if fused { network.parameters_mut().tensor_mut(number) } else { weight };
        let epilogue = Epilogue { column_sums: (!no_bias).then_some(bias), ..epilogue };
        let to = MatMut::new(to, rows, cols)?;
        let gemm = context.gemm().of_types::<N::Outer>()?;
        gemm.run(T::ONE, x.t()?, d_out, to, epilogue, scratch)
    }

    /// The backward pass of a layer that is not fused.
    fn layer_backward<N: Numbers<T>>(
        &mut self,
        at: usize,
        layer: usize,
        network: &Network<T>,
        part: Part,
        accumulate: bool,
        batch: usize,
    ) -> Result<()> {
        let Self { structure, context, lowered, memory, block, gradients, .. } = self;
        let Step { x, out, d_x, .. } = lowered.steps[at].clone();
        let placed = &structure.layers[layer];
        let needs = placed.layer.needs();
        let (out_rows, d_out_rows) = (&memory.values[out], &memory.d_values[out]);
        let x_rows = x.number().map(|number| &memory.values[number]);
        let d_x_rows = x.number().filter(|_| !d_x.unused).map(|number| &memory.d_values[number]);
        let (places, apart, whole) = (&memory.parameters[at], &memory.apart[at], &memory.whole[at]);
        let nothing = 0..0;
        let [
            x_data,
            out_data,
            d_out_data,
            d_x_data,
            apart_data,
            stored,
            saved,
            scratch,
            whole_x,
            whole_out,
            whole_d_out,
        ] = disjoint(
            block,
            [
                x_rows.filter(|_| needs.input).map_or(&nothing, |rows| &rows.range),
                if needs.output { &out_rows.range } else { &nothing },
                &d_out_rows.range,
                d_x_rows.map_or(&nothing, |rows| &rows.range),
                &apart.range,
                if gradients.is_some() { &nothing } else { &places.region },
                &memory.saved[at],
                &memory.scratch,
                &whole.back_x.range,
                &whole.back_out.range,
                &whole.d_out.range,
            ],
        );
        let stored = match gradients {
            Some(arena) => arena.region_mut(places.region.clone()),
            None => stored,
        };
        let scratch = bytemuck::cast_slice_mut(scratch);
        let x = match x_rows.filter(|_| needs.input) {
            Some(rows) => {
                let x = rows.view::<T, N::Stored>(x_data, batch);
                Some(widened(context, x, &whole.back_x, whole_x)?)
            }
            None => None,
        };
        let out = match needs.output {
            true if out == lowered.output => Some(out_rows.view(out_data, batch)),
            true => {
                let out = out_rows.view::<T, N::Stored>(out_data, batch);
                Some(widened(context, out, &whole.back_out, whole_out)?)
            }
            false => None,
        };
        let d_out = d_out_rows.view::<T, N::Stored>(d_out_data, batch);
        let is_apart = d_x.accumulate || N::rounds();
        let to = match d_x_rows {
            Some(_) if is_apart => Some(apart.view_mut(apart_data, batch)),
            Some(rows) => Some(rows.view_mut(d_x_data, batch)),
            None => None,
        };
        placed.layer.backward(
            context,
            Backward {
                parameters: network.parameters().slices(placed.parameters.clone()),
                x,
                out,
                d_out: widened(context, d_out, &whole.d_out, whole_d_out)?,
                d_x: to,
                gradients: SlicesMut { block: stored, ranges: &places.ranges },
                accumulate,
                saved,
                scratch,
                random: part.random(structure, layer),
            },
        )?;
        let Some(rows) = d_x_rows.filter(|_| is_apart) else { return Ok(()) };
        let from = apart.view::<T, T>(apart_data, batch);
        let to = rows.view_mut::<T, N::Stored>(d_x_data, batch);
        if d_x.accumulate {
            elementwise::add(context, from, to)
        } else {
            elementwise::copy(context, from, to)
        }
    }

    /// Gives the sink the stored gradients of a step's parameters.
    fn give(&mut self, at: usize, network: &mut Network<T>, sink: &mut dyn Sink<T>) -> Result<()> {
        let Some(layer) = self.lowered.steps[at].layer else { return Ok(()) };
        let places = &self.memory.parameters[at];
        let stored = &self.block[places.region.clone()];
        let gradients = Slices { block: stored, ranges: &places.ranges };
        let numbers = self.structure.layers[layer].parameters.clone();
        for (place, number) in numbers.enumerate() {
            let gradient = gradients.get(place);
            if !gradient.is_empty() {
                let values = network.parameters_mut().tensor_mut(number);
                sink.take(&self.context, number, values, gradient)?;
            }
        }
        Ok(())
    }
}

/// The factor of the elements that dropout keeps.
fn kept_scale<T: Element>(probability: f64) -> T {
    T::from_f64(1.0 / (1.0 - probability))
}

/// The output of a step: logits stay as they are, other values are stored.
enum Out<'a, T: Element, E: PanelElement> {
    Logits(MatMut<'a, T>),
    Stored(MatMut<'a, E>),
}

/// The values of a matrix: it itself, or in the given place if it has other elements.
fn widened<'a, T: Element, E: PanelElement<Value = T>>(
    context: &Context<T>,
    x: MatRef<'a, E>,
    rows: &Rows,
    place: &'a mut [T],
) -> Result<MatRef<'a, T>> {
    if let Some(x) = x.of_type() {
        return Ok(x);
    }
    elementwise::copy(context, x, rows.view_mut::<T, T>(place, x.rows()))?;
    Ok(rows.view(place, x.rows()))
}

/// `out = x + skip`, rounded once.
fn sum<T: Element, E: PanelElement<Value = T>, O: PanelElement<Value = T>>(
    context: &Context<T>,
    x: MatRef<'_, E>,
    skip: MatRef<'_, E>,
    mut out: MatMut<'_, O>,
) -> Result<()> {
    elementwise::copy(context, skip, out.reborrow())?;
    elementwise::add(context, x, out)
}

/// The batch as a matrix.
fn load<T: Element, E: PanelElement<Value = T>>(
    context: &Context<T>,
    x: Operand<'_, T>,
    out: MatMut<'_, E>,
) -> Result<()> {
    match x {
        Operand::Matrix(x) | Operand::Rounded(x) => {
            elementwise::fill_rows(context, out, &|row, values: &mut [E]| {
                for (col, value) in values.iter_mut().enumerate() {
                    *value = E::nearest(x.get(row, col));
                }
            })
        }
        Operand::Gathered(rows) => {
            elementwise::fill_rows(context, out, &|row, values: &mut [E]| {
                for (col, value) in values.iter_mut().enumerate() {
                    *value = E::nearest(rows.get(row, col));
                }
            })
        }
        other => {
            let expected = "a matrix or gathered rows, for a network that does not begin with a \
                            linear layer";
            Err(Error::setting("batch", format!("{other:?}"), expected))
        }
    }
}

/// Several parts of the block at once.
fn disjoint<'a, T, const N: usize>(
    block: &'a mut [T],
    ranges: [&Range<usize>; N],
) -> [&'a mut [T]; N] {
    block.get_disjoint_mut(ranges.map(Clone::clone)).expect("what is needed at once is apart")
}

/// Two parts of a slice at once, which may be empty.
fn split<'a, T>(slice: &'a mut [T], ranges: [&Range<usize>; 2]) -> [&'a mut [T]; 2] {
    let ranges = ranges.map(|range| if range.is_empty() { 0..0 } else { range.clone() });
    slice.get_disjoint_mut(ranges).expect("tensors do not overlap")
}
