//! `Plan`: a network's passes, lowered once to fused steps, with all the memory they need.

mod lower;
mod numbers;
mod place;
mod run;

pub(crate) use numbers::PackedWeights;
pub(crate) use run::Part;
pub use run::{Gradients, PassTimes, Sink};

use std::{fmt, ops::Range, sync::Arc};

use crate::{
    aligned::{ALIGNMENT, AlignedBuf},
    context::Context,
    error::{Error, Result},
    gemm::Operand,
    kernels::{Element, PanelElement},
    matrix::{MatMut, MatRef, row_stride},
    nn::{
        elementwise::SQUARES_BLOCK,
        layer::LayerMemory,
        layers::Linear,
        network::{Network, Structure},
        parameters::{Arena, ParameterSettings, Tensor},
    },
    precision::Precision,
    threads::warm_up,
};
use lower::{Kind, Lowered, Step};
use numbers::{Numbers, Rounded, Whole};
use place::Places;

/// The purpose of a plan; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passes {
    /// Forward passes alone.
    Forward,
    /// Training steps in which the products that compute the gradients of weights also update the
    /// weights; other gradients are stored until they are used.
    FusedUpdate,
    /// Training steps that update the parameters of a layer before they continue with the next;
    /// the gradients of all layers share memory.
    LayerUpdate,
    /// Backward passes that store the gradients of all parameters in an arena.
    Gradient,
}

/// The parameters that a pass uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'a, T: Element> {
    pub(crate) structure: &'a Structure<T>,
    pub(crate) parameters: &'a Arena<T>,
    pub(crate) buffers: &'a Arena<T>,
    /// The packed weights of linear steps; none if those of the arena are used.
    pub(crate) packed: Option<&'a PackedWeights<T>>,
}

impl<'a, T: Element> From<&'a Network<T>> for Weights<'a, T> {
    fn from(network: &'a Network<T>) -> Self {
        Self {
            structure: network.structure(),
            parameters: network.parameters(),
            buffers: network.buffers(),
            packed: None,
        }
    }
}

/// A network's passes over batches of up to a given number of rows, as fused steps, with their
/// memory in one aligned block that values share when they are not needed at the same time. A pass
/// allocates nothing.
///
/// A plan works for networks with the layers that it was made for and refuses others. Make it inside
/// of the rayon pool that will run it, which prepares the pool's threads.
pub struct Plan<T: Element> {
    pub(super) structure: Arc<Structure<T>>,
    pub(super) context: Context<T>,
    pub(super) capacity: usize,
    pub(super) passes: Passes,
    pub(super) lowered: Lowered,
    pub(super) memory: Memory,
    pub(super) block: AlignedBuf<T>,
    /// Gradients of all parameters, in a plan for [`Passes::Gradient`].
    pub(super) gradients: Option<Arena<T>>,
    /// Parameters that are frozen.
    pub(super) frozen: Vec<bool>,
    /// Rows of the last forward pass, whose logits are in the block; 0 if there are none.
    pub(super) rows: usize,
}

/// The place of everything in the block.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub(super) len: usize,
    /// The values: elements that are stored, except the logits.
    pub(super) values: Vec<Rows>,
    /// The gradients of the values, of elements that are stored; empty where there is none.
    pub(super) d_values: Vec<Rows>,
    /// For each step: what a layer's own passes take, in the precision of the parameters; empty
    /// where that is how it is stored.
    pub(super) whole: Vec<WholeRows>,
    /// The gradient of the logits in the precision of the parameters; empty where that is how it is
    /// stored.
    pub(super) d_logits: Rows,
    /// For each step: what a layer saves for its backward pass.
    pub(super) saved: Vec<Range<usize>>,
    /// For each step: a gradient of its input before it is added to those of other steps, or rounded.
    pub(super) apart: Vec<Rows>,
    /// For each step: the gradients of its parameters.
    pub(super) parameters: Vec<ParameterPlaces>,
    pub(super) row_losses: Range<usize>,
    pub(super) partial_sums: Range<usize>,
    pub(super) scratch: Range<usize>,
}

/// A matrix in the block with one row for each row of the batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) range: Range<usize>,
    pub(super) cols: usize,
    /// Elements from one row to the next, of the type that is stored.
    pub(super) stride: usize,
}

/// The operands of a layer's own passes, before they are rounded or after they are widened.
#[derive(Clone, Debug, Default)]
pub(super) struct WholeRows {
    /// Of the forward pass.
    pub(super) x: Rows,
    pub(super) out: Rows,
    /// Of the backward pass.
    pub(super) back_x: Rows,
    pub(super) back_out: Rows,
    pub(super) d_out: Rows,
}

/// The gradients of a layer's parameters.
#[derive(Clone, Debug, Default)]
pub(super) struct ParameterPlaces {
    /// All of them, in the arena of gradients if there is one, else in the block.
    pub(super) region: Range<usize>,
    /// Each of them within the region; empty if it is not stored.
    pub(super) ranges: Vec<Range<usize>>,
}

impl Rows {
    /// The first `batch` rows, of elements `E` in a block of elements `T`.
    pub(super) fn view<'a, T: Element, E: PanelElement>(
        &self,
        data: &'a [T],
        batch: usize,
    ) -> MatRef<'a, E> {
        let data = bytemuck::cast_slice(data);
        MatRef::strided(data, 0, (batch, self.cols), (self.stride as isize, 1))
            .expect("the plan has room for the batch")
    }

    /// The same, to be changed.
    pub(super) fn view_mut<'a, T: Element, E: PanelElement>(
        &self,
        data: &'a mut [T],
        batch: usize,
    ) -> MatMut<'a, E> {
        let data = bytemuck::cast_slice_mut(data);
        MatMut::strided(data, 0, (batch, self.cols), (self.stride as isize, 1))
            .expect("the plan has room for the batch")
    }
}

impl<T: Element> Plan<T> {
    /// Plans passes over batches of up to `capacity` rows.
    ///
    /// # Errors
    /// [`Error::Setting`] if `capacity` is 0 or the network computes nothing;
    /// [`Error::SizeOverflow`] if there is not enough memory.
    pub fn new(
        network: &Network<T>,
        capacity: usize,
        passes: Passes,
        context: Context<T>,
    ) -> Result<Self> {
        let frozen: Vec<bool> = network.parameter_settings().iter().map(|s| s.frozen).collect();
        Self::of_structure(network.structure(), frozen, capacity, passes, context)
    }

    /// A plan for forward passes only, made without a network.
    pub(crate) fn forward_of(
        structure: &Arc<Structure<T>>,
        capacity: usize,
        context: Context<T>,
    ) -> Result<Self> {
        let frozen = vec![true; structure.parameters.tensors().len()];
        Self::of_structure(structure, frozen, capacity, Passes::Forward, context)
    }

    fn of_structure(
        structure: &Arc<Structure<T>>,
        frozen: Vec<bool>,
        capacity: usize,
        passes: Passes,
        context: Context<T>,
    ) -> Result<Self> {
        let lowered = Lowered::new(structure, &frozen)?;
        let memory = Memory::plan(structure, &lowered, &frozen, capacity, passes, &context)?;
        let layout = &structure.parameters;
        let gradients = (passes == Passes::Gradient).then(|| Arena::zeros(Arc::clone(layout)));
        let mut block = AlignedBuf::zeroed(memory.len).map_err(|_| {
            let cols = memory.len.div_ceil(capacity);
            Error::SizeOverflow { what: "values of a batch", rows: capacity, cols }
        })?;
        // The system maps pages when they are first written: do it now, not in the first pass.
        std::hint::black_box(&mut block[..]).fill(T::ZERO);
        warm_up();
        Ok(Self {
            structure: Arc::clone(structure),
            context,
            capacity,
            passes,
            lowered,
            block,
            memory,
            gradients: gradients.transpose()?,
            frozen,
            rows: 0,
        })
    }

    /// Memory of such a plan in bytes.
    ///
    /// # Errors
    /// Same as [`new`](Self::new).
    pub fn planned_bytes(
        network: &Network<T>,
        capacity: usize,
        passes: Passes,
        context: &Context<T>,
    ) -> Result<usize> {
        let frozen: Vec<bool> = network.parameter_settings().iter().map(|s| s.frozen).collect();
        let structure = network.structure();
        let lowered = Lowered::new(structure, &frozen)?;
        let memory = Memory::plan(structure, &lowered, &frozen, capacity, passes, context)?;
        let gradients = if passes == Passes::Gradient { network.parameters().bytes() } else { 0 };
        let overflow = Error::SizeOverflow { what: "plan", rows: capacity, cols: memory.len };
        let bytes = memory.len.checked_mul(size_of::<T>());
        bytes.and_then(|bytes| bytes.checked_add(gradients)).ok_or(overflow)
    }

    /// A plan of the same size, for another thread.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if there is not enough memory.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            structure: Arc::clone(&self.structure),
            context: self.context,
            capacity: self.capacity,
            passes: self.passes,
            lowered: self.lowered.clone(),
            memory: self.memory.clone(),
            block: AlignedBuf::zeroed(self.memory.len)?,
            gradients: self.gradients.as_ref().map(Arena::try_clone).transpose()?,
            frozen: self.frozen.clone(),
            rows: 0,
        })
    }

    /// The largest batch.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The passes that the plan is made for.
    pub fn passes(&self) -> Passes {
        self.passes
    }

    /// Kernels and threads.
    pub fn context(&self) -> &Context<T> {
        &self.context
    }

    /// Size of the memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.block[..]) + self.gradients.as_ref().map_or(0, Arena::bytes)
    }

    /// The gradients of all parameters after a backward pass, in a plan for [`Passes::Gradient`].
    pub fn gradients(&self) -> Option<&Arena<T>> {
        self.gradients.as_ref()
    }

    /// The gradients and room for partial sums of a reduction over one of them.
    pub(crate) fn gradients_and_partial_sums(&mut self) -> Option<(&mut Arena<T>, &mut [T])> {
        let partial_sums = &mut self.block[self.memory.partial_sums.clone()];
        self.gradients.as_mut().map(|gradients| (gradients, partial_sums))
    }

    /// Room for the partial sums of a reduction over one parameter.
    pub(crate) fn partial_sums(&mut self) -> &mut [T] {
        &mut self.block[self.memory.partial_sums.clone()]
    }

    /// Packs the weights of the linear steps, for repeated passes.
    pub(crate) fn pack_weights(&self, parameters: &Arena<T>) -> Result<PackedWeights<T>> {
        if self.rounds() {
            self.pack_weights_in::<Rounded>(parameters)
        } else {
            self.pack_weights_in::<Whole>(parameters)
        }
    }

    fn pack_weights_in<N: Numbers<T>>(&self, parameters: &Arena<T>) -> Result<PackedWeights<T>> {
        let gemm = self.context.gemm().of_types::<N::Inner>()?;
        let step = |step: &Step| {
            let (Kind::Linear { .. }, Some(layer)) = (step.kind, step.layer) else {
                return Ok(None);
            };
            let index = self.structure.layers[layer].parameters.start + Linear::WEIGHT;
            let shape = parameters.layout().tensors()[index].shape();
            let weight = MatRef::new(parameters.tensor(index), shape[0], shape[1])?;
            gemm.pack_b(Operand::Rounded(weight)).map(Some)
        };
        self.lowered.steps.iter().map(step).collect::<Result<_>>().map(N::panels)
    }

    /// Whether values are rounded before they are stored.
    pub(super) fn rounds(&self) -> bool {
        rounds(&self.context)
    }

    /// The parameters that [`pack_weights`](Self::pack_weights) packs, by their numbers.
    pub(crate) fn packed_parameters(&self) -> impl Iterator<Item = usize> + '_ {
        let steps = self.lowered.steps.iter();
        let linear = steps.filter(|step| matches!(step.kind, Kind::Linear { .. }));
        let layers = linear.filter_map(|step| step.layer);
        layers.map(|layer| self.structure.layers[layer].parameters.start + Linear::WEIGHT)
    }

    /// The structure that it was made for.
    pub(crate) fn structure(&self) -> &Structure<T> {
        &self.structure
    }

    /// # Errors
    /// [`Error::OtherNetwork`] if the network is not of the layers that the plan was made for.
    pub(crate) fn expect(&self, structure: &Structure<T>) -> Result<()> {
        if self.structure.is_same(structure) {
            return Ok(());
        }
        let [expected, found] = [&*self.structure, structure].map(|network| format!("{network:?}"));
        Err(Error::OtherNetwork { what: "network of a plan", expected, found })
    }

    /// # Errors
    /// [`Error::Frozen`] if other parameters are frozen than when the plan was made.
    pub(crate) fn expect_frozen(&self, settings: &[ParameterSettings]) -> Result<()> {
        let tensors = self.structure.parameters.tensors().iter();
        for ((tensor, settings), &frozen) in tensors.zip(settings).zip(&self.frozen) {
            if settings.frozen != frozen {
                let (parameter, frozen) = (tensor.name().to_owned(), settings.frozen);
                return Err(Error::Frozen { parameter, frozen });
            }
        }
        Ok(())
    }

    pub(super) fn expect_batch(&self, batch: usize) -> Result<()> {
        if batch > self.capacity {
            return Err(Error::BatchTooLarge { batch, capacity: self.capacity });
        }
        Ok(())
    }
}

/// Whether values are rounded before they are stored.
fn rounds<T: Element>(context: &Context<T>) -> bool {
    context.precision() == Precision::Bf16
}

impl Memory {
    /// The points in time: each forward step, the loss, and each backward step.
    fn plan<T: Element>(
        structure: &Structure<T>,
        lowered: &Lowered,
        frozen: &[bool],
        capacity: usize,
        passes: Passes,
        context: &Context<T>,
    ) -> Result<Self> {
        if rounds(context) {
            Self::plan_in::<T, Rounded>(structure, lowered, frozen, capacity, passes, context)
        } else {
            Self::plan_in::<T, Whole>(structure, lowered, frozen, capacity, passes, context)
        }
    }

    fn plan_in<T: Element, N: Numbers<T>>(
        structure: &Structure<T>,
        lowered: &Lowered,
        frozen: &[bool],
        capacity: usize,
        passes: Passes,
        context: &Context<T>,
    ) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::setting("batch", capacity, "at least 1"));
        }
        let Lowered { steps, columns, has_gradient, gradient_of, output } = lowered;
        let (loss, backward) = (steps.len(), passes > Passes::Forward);
        let back = |step: usize| 2 * loss - step;
        let end = 2 * loss;
        let mut times: Vec<(usize, usize)> = vec![(0, 0); columns.len()];
        // The logits stay.
        for (at, step) in steps.iter().enumerate() {
            times[step.out] = (at, if step.out == *output { end } else { at });
            for value in step.reads().into_iter().flatten() {
                times[value].1 = times[value].1.max(at);
            }
            if !backward {
                continue;
            }
            let needs = match (step.kind, step.layer) {
                (Kind::Linear { relu, gated, .. }, _) => (true, relu && !gated),
                (Kind::Layer, Some(layer)) => {
                    let needs = structure.layers[layer].layer.needs();
                    (needs.input, needs.output)
                }
                _ => (false, false),
            };
            if let (true, Some(x)) = (needs.0, step.x.number()) {
                times[x].1 = times[x].1.max(back(at));
            }
            if needs.1 {
                times[step.out].1 = times[step.out].1.max(back(at));
            }
        }
        // From the first step that contributes, which is the last that reads the value, to the step
        // that computed it.
        let mut d_times: Vec<(usize, usize)> = vec![(loss, 0); columns.len()];
        for (at, step) in steps.iter().enumerate().rev() {
            let own = gradient_of[step.out];
            d_times[own].1 = d_times[own].1.max(back(at));
            for value in step.reads().into_iter().flatten() {
                let value = gradient_of[value];
                if d_times[value].0 == loss && value != gradient_of[*output] {
                    d_times[value].0 = back(at);
                }
            }
        }
        let mut places = Places::new(ALIGNMENT / size_of::<T>());
        let overflow = |cols| Error::SizeOverflow { what: "plan", rows: capacity, cols };
        let rows = |cols: usize| {
            let stride = row_stride::<T>(cols).ok_or_else(|| overflow(cols))?;
            Ok::<_, Error>(Rows { range: 0..0, cols, stride })
        };
        // Rows of elements that are stored, and their length in elements of the block.
        let stored = |cols: usize| {
            let stride = row_stride::<N::Stored>(cols).ok_or_else(|| overflow(cols))?;
            let len = (stride * size_of::<N::Stored>()).div_ceil(size_of::<T>());
            Ok::<_, Error>((Rows { range: 0..0, cols, stride }, len))
        };
        let mut memory = Self::default();
        let (mut values, mut d_values) = (Vec::new(), Vec::new());
        for (value, &cols) in columns.iter().enumerate() {
            let (d_rows, d_len) = stored(cols)?;
            let (value_rows, len) = if value == *output {
                let rows = rows(cols)?;
                (rows.clone(), rows.stride)
            } else {
                (d_rows.clone(), d_len)
            };
            values.push(places.want((capacity, len), times[value])?);
            let has = backward && has_gradient[value] && gradient_of[value] == value;
            let size = (if has { capacity } else { 0 }, d_len);
            d_values.push(places.want(size, d_times[value])?);
            memory.values.push(value_rows);
            memory.d_values.push(d_rows);
        }
        let rounds_logits = N::rounds() && backward && has_gradient[*output];
        memory.d_logits = rows(columns[*output])?;
        let d_logits = (if rounds_logits { capacity } else { 0 }, memory.d_logits.stride);
        let d_logits = places.want(d_logits, (loss, loss))?;
        let (mut saved, mut apart, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
        let mut whole = Vec::new();
        let mut scratch = 0;
        for (at, step) in steps.iter().enumerate() {
            let mut of_layer = LayerMemory::default();
            let mut own = ParameterPlaces::default();
            if let Some(layer) = step.layer {
                let placed = &structure.layers[layer];
                of_layer = if N::rounds() && matches!(step.kind, Kind::Linear { .. }) {
                    let (x, out) = (placed.input.features(), placed.output.features());
                    let scratch = linear_scratch::<T, N>(context, (x, out), capacity)?;
                    LayerMemory { saved: 0, scratch }
                } else {
                    placed.layer.memory(context, placed.input, capacity)?
                };
                own = ParameterPlaces::plan(structure, step, frozen, passes);
            }
            let kept = if backward { of_layer.saved } else { 0 };
            scratch = scratch.max(of_layer.scratch);
            saved.push(places.want((1, kept), (at, back(at)))?);
            let cols = step.x.number().map_or(0, |x| columns[x]);
            let widens = N::rounds() && step.kind == Kind::Layer;
            let joins = backward && step.kind == Kind::Layer && (step.d_x.accumulate || widens);
            let x_rows = rows(cols)?;
            let x_size = |has| (if has { capacity } else { 0 }, x_rows.stride);
            apart.push(places.want(x_size(joins && !step.d_x.unused), (back(at), back(at)))?);
            memory.apart.push(x_rows.clone());
            let out_rows = rows(columns[step.out])?;
            let out_size = |has| (if has { capacity } else { 0 }, out_rows.stride);
            let needs = step.layer.map(|layer| structure.layers[layer].layer.needs());
            let [needs_x, needs_out] = needs.map_or([false; 2], |n| [n.input, n.output]);
            let back_widens = widens && backward && has_gradient[step.out];
            whole.push([
                places.want(x_size(widens), (at, at))?,
                places.want(out_size(widens && step.out != *output), (at, at))?,
                places.want(x_size(back_widens && needs_x), (back(at), back(at)))?,
                places.want(
                    out_size(back_widens && needs_out && step.out != *output),
                    (back(at), back(at)),
                )?,
                places.want(out_size(back_widens), (back(at), back(at)))?,
            ]);
            memory.whole.push(WholeRows {
                x: x_rows.clone(),
                out: out_rows.clone(),
                back_x: x_rows,
                back_out: out_rows.clone(),
                d_out: out_rows,
            });
            let stored = if passes == Passes::Gradient { 0 } else { own.region.len() };
            parameters.push(places.want((1, stored), (back(at), back(at)))?);
            memory.parameters.push(own);
        }
        let row_losses = places.want((1, capacity), (0, end))?;
        let tensors = structure.parameters.tensors();
        let largest = tensors.iter().map(|tensor| tensor.len()).max().unwrap_or(0);
        let partial_sums = places.want((1, largest.div_ceil(SQUARES_BLOCK)), (0, end))?;
        let scratch = places.want((1, scratch.div_ceil(size_of::<T>())), (0, end))?;
        let (found, len) = places.place()?;
        for (value, (&of, &d_of)) in values.iter().zip(&d_values).enumerate() {
            memory.values[value].range = found[of].clone();
            memory.d_values[value].range = found[d_of].clone();
        }
        for (value, &owner) in gradient_of.iter().enumerate() {
            // It shares the memory of another gradient.
            memory.d_values[value].range = memory.d_values[owner].range.clone();
        }
        for (rows, wanted) in memory.whole.iter_mut().zip(whole) {
            let WholeRows { x, out, back_x, back_out, d_out } = rows;
            for (rows, wanted) in [x, out, back_x, back_out, d_out].into_iter().zip(wanted) {
                rows.range = found[wanted].clone();
            }
        }
        memory.d_logits.range = found[d_logits].clone();
        memory.saved = saved.iter().map(|&wanted| found[wanted].clone()).collect();
        for (rows, &wanted) in memory.apart.iter_mut().zip(&apart) {
            rows.range = found[wanted].clone();
        }
        if passes != Passes::Gradient {
            for (places, &wanted) in memory.parameters.iter_mut().zip(&parameters) {
                places.region = found[wanted].clone();
            }
        }
        memory.row_losses = found[row_losses].clone();
        memory.partial_sums = found[partial_sums].clone();
        memory.scratch = found[scratch].clone();
        memory.len = len;
        Ok(memory)
    }
}

/// Bytes of scratch memory for the three products of a linear step from and to this many columns.
fn linear_scratch<T: Element, N: Numbers<T>>(
    context: &Context<T>,
    (x, out): (usize, usize),
    batch: usize,
) -> Result<usize> {
    let inner = context.gemm().of_types::<N::Inner>()?;
    let outer = context.gemm().of_types::<N::Outer>()?;
    let forward = inner.scratch_bytes(batch, out, x)?.max(outer.scratch_bytes(batch, out, x)?);
    let d_x = inner.scratch_bytes(batch, x, out)?;
    Ok(forward.max(d_x).max(outer.scratch_bytes(x, out, batch)?))
}

impl ParameterPlaces {
    /// The gradients of a step's layer: in the arena, or one after another.
    fn plan<T: Element>(
        structure: &Structure<T>,
        step: &Step,
        frozen: &[bool],
        passes: Passes,
    ) -> Self {
        let Some(layer) = step.layer else { return Self::default() };
        let numbers = structure.layers[layer].parameters.clone();
        let tensors = &structure.parameters.tensors()[numbers.clone()];
        let start = tensors.first().map_or(0, |tensor| tensor.range().start);
        let end = tensors.last().map_or(0, |tensor| tensor.range().end);
        let linear = matches!(step.kind, Kind::Linear { .. });
        let stored = |place: usize| {
            let fused = passes == Passes::FusedUpdate && linear && place == Linear::WEIGHT;
            !(frozen[numbers.start + place] || fused || passes == Passes::Forward)
        };
        if passes == Passes::Gradient {
            let range = |(place, tensor): (usize, &Tensor)| {
                let range = tensor.range();
                if stored(place) { range.start - start..range.end - start } else { 0..0 }
            };
            return Self {
                region: start..end,
                ranges: tensors.iter().enumerate().map(range).collect(),
            };
        }
        let line = ALIGNMENT / size_of::<T>();
        let mut len = 0;
        let ranges = tensors.iter().enumerate().map(|(place, tensor)| {
            if !stored(place) {
                return 0..0;
            }
            let first = len;
            len += tensor.len().next_multiple_of(line);
            first..first + tensor.len()
        });
        let ranges = ranges.collect();
        Self { region: 0..len, ranges }
    }
}

impl<T: Element> fmt::Debug for Plan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("network", &self.structure)
            .field("capacity", &self.capacity)
            .field("passes", &self.passes)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl<T: Element> fmt::Display for Plan<T> {
    /// The steps, one per line: what each computes, its input and output values, and their places
    /// in the block.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:?} in {}: batches of up to {}, {} bytes",
            self.passes,
            self.context.precision(),
            self.capacity,
            self.bytes()
        )?;
        for (at, step) in self.lowered.steps.iter().enumerate() {
            let name = step.layer.map_or("", |layer| self.structure.layers[layer].name.as_str());
            let kind = match (step.kind, step.layer) {
                (Kind::Layer, Some(layer)) => self.structure.layers[layer].config.to_string(),
                (kind, _) => kind.to_string(),
            };
            let x = step.x.number().map_or("input".to_owned(), |number| format!("v{number}"));
            let skip = match step.kind {
                Kind::Add { skip } => {
                    skip.number().map_or(" + input".to_owned(), |number| format!(" + v{number}"))
                }
                _ => String::new(),
            };
            let Rows { range, cols, .. } = &self.memory.values[step.out];
            write!(
                f,
                "{at:3}  {name:8} {kind:28} {x}{skip} -> v{} ({cols} columns at {})",
                step.out, range.start
            )?;
            if self.passes > Passes::Forward {
                f.write_str(match step.d_x {
                    d if d.unused => "; no input gradient",
                    lower::Contribution { gate: Some(_), accumulate: false, .. } => {
                        "; input gradient gated by the ReLU before it"
                    }
                    lower::Contribution { gate: Some(_), .. } => {
                        "; input gradient added and gated by the ReLU before it"
                    }
                    d if d.accumulate => "; input gradient added",
                    _ => "; input gradient",
                })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
