//! Passes of a plan: forward, loss and backward, step by step.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use crate::{
    context::Context,
    error::{Error, Result},
    gemm::{Companions, Epilogue, Finish, Operand, Start},
    kernels::{AddScaled, Element},
    matrix::{MatMut, MatRef},
    nn::{
        elementwise,
        layer::{Backward, Forward, Mode, RandomPlace},
        layers::{Linear, linear::sum_columns},
        loss::CrossEntropy,
        network::{Network, Structure},
        parameters::{Slices, SlicesMut},
        plan::{
            Passes, Plan, Weights,
            lower::{Kind, Step, Value},
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
        mut logits: Option<MatMut<'_, T>>,
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
        let Self { structure, lowered, memory, block, .. } = self;
        let gemm = context.gemm();
        for (at, step) in lowered.steps.iter().enumerate() {
            let rows = |value: Option<usize>| value.map(|number| &memory.values[number]);
            let [x_rows, skip_rows] = step.reads().map(rows);
            let out_rows = &memory.values[step.out];
            let mut given = if step.out == lowered.output { logits.as_mut() } else { None };
            // An empty block reads one value twice.
            let twice = step.reads()[0] == step.reads()[1];
            let nothing = 0..0;
            let [x_data, skip_data, out_data, saved, scratch] = disjoint(
                block,
                [
                    x_rows.map_or(&nothing, |rows| &rows.range),
                    skip_rows.filter(|_| !twice).map_or(&nothing, |rows| &rows.range),
                    if given.is_some() { &nothing } else { &out_rows.range },
                    &memory.saved[at],
                    &memory.scratch,
                ],
            );
            let (x_data, skip_data) = (&*x_data, &*skip_data);
            let scratch: &mut [u8] = bytemuck::cast_slice_mut(scratch);
            let x_view = x_rows.map(|rows| rows.view(x_data, batch));
            let mut out = match &mut given {
                Some(logits) => {
                    let mut logits = logits.reborrow();
                    // Memory of the caller need not be initialized. Products only write to it; other
                    // steps may take its rows as slices.
                    if !matches!(step.kind, Kind::Linear { .. }) {
                        logits.fill(T::ZERO);
                    }
                    logits
                }
                None => out_rows.view_mut(out_data, batch),
            };
            match (step.kind, step.layer) {
                (Kind::Linear { relu, dropout, .. }, Some(layer)) => {
                    let parameters =
                        weights.parameters.slices(structure.layers[layer].parameters.clone());
                    let bias = parameters.get(Linear::BIAS);
                    let weight = match weights.packed.get(at) {
                        Some(Some(packed)) => Operand::from(packed),
                        _ => {
                            let inputs = x.shape().1;
                            let inputs = x_view.map_or(inputs, |x| x.cols());
                            MatRef::new(parameters.get(Linear::WEIGHT), inputs, out.cols())?.into()
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
                    let epilogue = Epilogue { finish, ..Epilogue::bias(bias) };
                    gemm.run(
                        T::ONE,
                        x_view.map_or(x, Operand::from),
                        weight,
                        out,
                        epilogue,
                        scratch,
                    )?;
                }
                (Kind::Layer, Some(layer)) => {
                    let placed = &structure.layers[layer];
                    placed.layer.forward(
                        context,
                        Forward {
                            parameters: weights.parameters.slices(placed.parameters.clone()),
                            buffers: weights.buffers.slices(placed.buffers.clone()),
                            x: x_view.expect("a loaded batch"),
                            out,
                            saved,
                            scratch,
                            random: part.random(structure, layer),
                        },
                    )?;
                }
                (Kind::Add { .. }, _) => {
                    let x = x_view.expect("a loaded batch");
                    let skip = skip_rows.expect("a loaded batch");
                    let skip = if twice { x } else { skip.view(skip_data, batch) };
                    copy(context, skip, out.reborrow())?;
                    add(context, x, out)?;
                }
                (Kind::Load, _) => load(context, x, out)?,
                _ => unreachable!("a step of a layer has one"),
            }
        }
        if logits.is_none() {
            self.rows = batch;
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
        let (logits, d_logits) =
            (&self.memory.values[self.lowered.output], &self.memory.d_values[self.lowered.output]);
        let [values, d_values, row_losses] =
            disjoint(&mut self.block, [&logits.range, &d_logits.range, &self.memory.row_losses]);
        let logits = logits.view(values, batch);
        let row_losses = &mut row_losses[..batch];
        if !gradient {
            return criterion.forward(logits, labels, row_losses);
        }
        if d_values.is_empty() {
            let expected = "one for training, of a network with parameters to train";
            return Err(Error::setting("plan", format!("for {:?}", self.passes), expected));
        }
        let _denormals = self.context.gemm().denormals().map(Denormals::scope);
        criterion.part_backward(logits, labels, d_logits.view_mut(d_values, batch), of, row_losses)
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
        let batch = x.shape().0;
        self.expect_batch(batch)?;
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
                            self.contribute(at, value, d.accumulate, batch)?;
                        }
                    }
                    times.input_gradients += clock.lap();
                }
                (Kind::Linear { .. }, Some(layer)) => {
                    self.linear_input(at, layer, network, part, batch)?;
                    times.input_gradients += clock.lap();
                    self.linear_parameters(at, layer, network, x, accumulate, sink)?;
                    times.parameter_gradients += clock.lap();
                }
                (Kind::Layer, Some(layer)) => {
                    self.layer_backward(at, layer, network, part, accumulate, batch)?;
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
    fn contribute(&mut self, at: usize, to: Value, accumulate: bool, batch: usize) -> Result<()> {
        let Some(to) = to.number() else { return Ok(()) };
        let (from, to) =
            (&self.memory.d_values[self.lowered.steps[at].out], &self.memory.d_values[to]);
        let [from_data, to_data] = disjoint(&mut self.block, [&from.range, &to.range]);
        let (from, to) = (from.view(from_data, batch), to.view_mut(to_data, batch));
        if accumulate { add(&self.context, from, to) } else { copy(&self.context, from, to) }
    }

    /// `d_x = gate(d_out Wᵀ)`, after the gradient of the step's own ReLU if `d_out` does not include it.
    fn linear_input(
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
            let [out, d_out] = disjoint(block, [&out_rows.range, &d_out_rows.range]);
            let (out, d_out) = (out_rows.view(out, batch), d_out_rows.view_mut(d_out, batch));
            elementwise::relu_gradient(context, out, scale, d_out)?;
        }
        let (Some(x), false) = (x.number(), d_x.unused) else { return Ok(()) };
        let (x_rows, d_x_rows) = (&memory.values[x], &memory.d_values[x]);
        let [x_data, d_x_data, d_out_data, scratch] =
            disjoint(block, [&x_rows.range, &d_x_rows.range, &d_out_rows.range, &memory.scratch]);
        let scratch = bytemuck::cast_slice_mut(scratch);
        let (activation, to) = (x_rows.view(x_data, batch), d_x_rows.view_mut(d_x_data, batch));
        let d_out = d_out_rows.view(d_out_data, batch);
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
        context.gemm().run(T::ONE, d_out, weight.t(), to, epilogue, scratch)
    }

    /// `dW = xᵀ d_out`, or the update of W by it, and `db`, the sums of the columns of `d_out`.
    fn linear_parameters(
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
        let d_out = d_out_rows.view(d_out_data, batch);
        let x = x_rows.map_or(input, |rows| rows.view(x_data, batch).into());
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
        context.gemm().run(T::ONE, x.t()?, d_out, to, epilogue, scratch)
    }

    /// The backward pass of a layer that is not fused.
    fn layer_backward(
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
        let places = &memory.parameters[at];
        let (nothing, apart) = (0..0, &memory.apart[at]);
        let [x_data, out_data, d_out_data, d_x_data, apart_data, stored, saved, scratch] = disjoint(
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
            ],
        );
        let stored = match gradients {
            Some(arena) => arena.region_mut(places.region.clone()),
            None => stored,
        };
        let (x_data, out_data) = (&*x_data, &*out_data);
        let scratch = bytemuck::cast_slice_mut(scratch);
        let to = match d_x_rows {
            Some(_) if d_x.accumulate => Some(apart.view_mut(apart_data, batch)),
            Some(rows) => Some(rows.view_mut(d_x_data, batch)),
            None => None,
        };
        placed.layer.backward(
            context,
            Backward {
                parameters: network.parameters().slices(placed.parameters.clone()),
                x: x_rows.filter(|_| needs.input).map(|rows| rows.view(x_data, batch)),
                out: needs.output.then(|| out_rows.view(out_data, batch)),
                d_out: d_out_rows.view(d_out_data, batch),
                d_x: to,
                gradients: SlicesMut { block: stored, ranges: &places.ranges },
                accumulate,
                saved,
                scratch,
                random: part.random(structure, layer),
            },
        )?;
        match d_x_rows {
            Some(rows) if d_x.accumulate => {
                add(context, apart.view(apart_data, batch), rows.view_mut(d_x_data, batch))
            }
            _ => Ok(()),
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

/// `to = from`.
fn copy<T: Element>(context: &Context<T>, from: MatRef<'_, T>, to: MatMut<'_, T>) -> Result<()> {
    elementwise::map_rows(context, from, to, &|from, to| to.copy_from_slice(from))
}

/// `to = from + to`.
fn add<T: Element>(context: &Context<T>, from: MatRef<'_, T>, to: MatMut<'_, T>) -> Result<()> {
    elementwise::map_rows(context, from, to, &|from, to| {
        context.kernels().map_onto(AddScaled { factor: T::ONE }, from, to);
    })
}

/// The batch as a matrix.
fn load<T: Element>(context: &Context<T>, x: Operand<'_, T>, out: MatMut<'_, T>) -> Result<()> {
    match x {
        Operand::Matrix(x) => elementwise::fill_rows(context, out, &|row, values| {
            for (col, value) in values.iter_mut().enumerate() {
                *value = x.get(row, col);
            }
        }),
        Operand::Gathered(rows) => elementwise::fill_rows(context, out, &|row, values| {
            for (col, value) in values.iter_mut().enumerate() {
                *value = rows.get(row, col);
            }
        }),
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
