//! `Workspace`: all memory that passes over a network need, planned once, in one aligned block.

use std::ops::Range;

use crate::{
    aligned::{ALIGNMENT, AlignedBuf},
    error::{Error, Result},
    gemm::Gemm,
    kernels::Element,
    matrix::{MatMut, MatRef, row_stride},
    nn::{elementwise::SQUARES_BLOCK, linear::Linear},
    threads::warm_up,
};

/// Activations, gradients and scratch memory for passes of up to `capacity` rows over one network.
/// Smaller batches use the same memory; larger ones are errors. Plan it inside of the rayon pool
/// that the passes will use: its threads are made ready then.
#[derive(Debug)]
pub struct Workspace<T: Element> {
    gemm: Gemm<T>,
    capacity: usize,
    block: AlignedBuf<T>,
    parts: Parts,
}

/// What a workspace is planned for; each has room for what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passes {
    /// Forward passes alone.
    Forward,
    /// Backward passes that update the weights as their gradients come into being: only the
    /// gradients of the biases have a place.
    FusedUpdate,
    /// Backward passes that finish with the weights of a layer before they go on to the next: the
    /// gradients of all weights share one place.
    LayerUpdate,
    /// Backward passes that leave the gradients of all parameters behind.
    Gradient,
}

/// A matrix in the block: as many rows as the batch has.
#[derive(Clone, Debug)]
struct Rows {
    range: Range<usize>,
    cols: usize,
    stride: usize,
}

/// Where everything stands in the block.
#[derive(Clone, Debug, Default)]
struct Parts {
    len: usize,
    /// The output of every layer; the last are the logits.
    values: Vec<Rows>,
    /// Gradients of those outputs. Layers take turns with two of them.
    gradients: Vec<Rows>,
    /// Gradients of W, row after row, and of b, for every layer; empty where they have no place.
    parameters: Vec<[Range<usize>; 2]>,
    row_losses: Range<usize>,
    partial_sums: Range<usize>,
    scratch: Range<usize>,
}

/// Cuts ranges off an imagined block, each on a cache line.
struct Planner {
    len: usize,
    line: usize,
}

impl Planner {
    fn take(&mut self, rows: usize, cols: usize) -> Result<Range<usize>> {
        let overflow = || Error::SizeOverflow { what: "workspace", rows, cols };
        let len = rows.checked_mul(cols).ok_or_else(overflow)?;
        let start = self.len.checked_next_multiple_of(self.line).ok_or_else(overflow)?;
        self.len = start.checked_add(len).ok_or_else(overflow)?;
        Ok(start..self.len)
    }

    fn rows<T>(&mut self, rows: usize, cols: usize) -> Result<Rows> {
        let stride =
            row_stride::<T>(cols).ok_or(Error::SizeOverflow { what: "workspace", rows, cols })?;
        Ok(Rows { range: self.take(rows, stride)?, cols, stride })
    }
}

/// Everything a backward pass through one layer touches.
pub(super) struct LayerParts<'a, T: Element> {
    /// Input of the layer: (batch, in); none for the first layer.
    pub(super) x: Option<MatRef<'a, T>>,
    /// Gradient of its output: (batch, out).
    pub(super) d_out: MatRef<'a, T>,
    /// Room for the gradient of its input: (batch, in); none for the first layer.
    pub(super) d_x: Option<MatMut<'a, T>>,
    /// Room for the gradient of W: (in, out), row after row; empty if it has no place.
    pub(super) weight: &'a mut [T],
    /// Room for the gradient of b: (out).
    pub(super) bias: &'a mut [T],
    pub(super) scratch: &'a mut [u8],
}

impl Parts {
    fn plan<T: Element>(
        gemm: &Gemm<T>,
        layers: &[Linear<T>],
        capacity: usize,
        passes: Passes,
    ) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::setting("batch", capacity, "at least 1"));
        }
        let mut planner = Planner { len: 0, line: ALIGNMENT / size_of::<T>() };
        let mut parts = Self::default();
        let mut scratch = 0;
        let backward = passes > Passes::Forward;
        let most_weights = layers.iter().map(|layer| layer.parameters()[0].len()).max();
        let most_weights = most_weights.unwrap_or(0);
        let shared = match passes {
            Passes::LayerUpdate => planner.take(1, most_weights)?,
            _ => 0..0,
        };
        let widest = layers.iter().map(Linear::out_features).max().unwrap_or(0);
        let rows = if backward { capacity } else { 0 };
        let turns = [planner.rows::<T>(rows, widest)?, planner.rows::<T>(rows, widest)?];
        for (l, layer) in layers.iter().enumerate() {
            let (input, output) = (layer.in_features(), layer.out_features());
            let values = planner.rows::<T>(capacity, output)?;
            parts.gradients.push(Rows { range: turns[l % 2].range.clone(), ..values.clone() });
            parts.values.push(values);
            parts.parameters.push([
                match passes {
                    Passes::Gradient => planner.take(input, output)?,
                    _ => shared.start..shared.end.min(shared.start + input * output),
                },
                planner.take(usize::from(backward), output)?,
            ]);
            scratch = scratch.max(layer.scratch_bytes(gemm, capacity)?);
        }
        parts.row_losses = planner.take(1, capacity)?;
        parts.partial_sums = planner.take(1, most_weights.max(widest).div_ceil(SQUARES_BLOCK))?;
        parts.scratch = planner.take(1, scratch.div_ceil(size_of::<T>()))?;
        parts.len = planner.len;
        Ok(parts)
    }
}

impl<T: Element> Workspace<T> {
    /// Plans for `layers`, one after another, and batches of up to `capacity` rows.
    ///
    /// # Errors
    /// [`Error::Setting`] if `capacity` is 0; [`Error::SizeOverflow`] if the memory exceeds the
    /// address space.
    pub(super) fn plan(
        gemm: Gemm<T>,
        layers: &[Linear<T>],
        capacity: usize,
        passes: Passes,
    ) -> Result<Self> {
        let parts = Parts::plan(&gemm, layers, capacity, passes)?;
        warm_up();
        Ok(Self { gemm, capacity, block: AlignedBuf::zeroed(parts.len)?, parts })
    }

    /// Bytes of a workspace that is planned alike.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub(super) fn planned_bytes(
        gemm: &Gemm<T>,
        layers: &[Linear<T>],
        capacity: usize,
        passes: Passes,
    ) -> Result<usize> {
        let len = Parts::plan(gemm, layers, capacity, passes)?.len;
        let overflow = Error::SizeOverflow { what: "workspace", rows: capacity, cols: len };
        len.checked_mul(size_of::<T>()).ok_or(overflow)
    }

    /// The largest batch.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Size of the memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.block[..])
    }

    /// How products are computed.
    pub fn gemm(&self) -> &Gemm<T> {
        &self.gemm
    }

    /// The logits of the last forward pass: (batch, classes).
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`] if there is no room for that many rows.
    pub fn logits(&self, batch: usize) -> Result<MatRef<'_, T>> {
        self.check(batch)?;
        let rows = self.parts.values.last().expect("at least one layer");
        Ok(rows.view(&self.block[rows.range.clone()], batch))
    }

    /// Gradients of layer `layer` after a backward pass: of W, (in, out), row after row, and of b.
    /// That of W is empty in a workspace where it is used up at once.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn gradient(&self, layer: usize) -> [&[T]; 2] {
        self.parts.parameters[layer].each_ref().map(|range| &self.block[range.clone()])
    }

    /// As [`gradient`](Self::gradient), to be changed.
    pub(crate) fn gradient_mut(&mut self, layer: usize, tensor: usize) -> &mut [T] {
        &mut self.block[self.parts.parameters[layer][tensor].clone()]
    }

    /// The gradient of W (tensor 0) or b (tensor 1) of a layer, and room for partial sums.
    pub(crate) fn gradient_and_partial_sums(
        &mut self,
        layer: usize,
        tensor: usize,
    ) -> (&[T], &mut [T]) {
        let ranges = [&self.parts.parameters[layer][tensor], &self.parts.partial_sums];
        let [gradient, partial] = disjoint(&mut self.block, ranges);
        (gradient, partial)
    }

    fn check(&self, batch: usize) -> Result<()> {
        if batch > self.capacity {
            return Err(Error::BatchTooLarge { batch, capacity: self.capacity });
        }
        Ok(())
    }

    /// Input (none for the first layer) and output of layer `layer`, and scratch memory.
    #[allow(clippy::type_complexity, reason = "three views, named where they are taken apart")]
    pub(super) fn forward_parts(
        &mut self,
        layer: usize,
        batch: usize,
    ) -> Result<(Option<MatRef<'_, T>>, MatMut<'_, T>, &mut [u8])> {
        self.check(batch)?;
        let parts = &self.parts;
        let x = layer.checked_sub(1).map(|before| &parts.values[before]);
        let (out, nothing) = (&parts.values[layer], 0..0);
        let x_range = x.map_or(&nothing, |rows| &rows.range);
        let [x_data, out_data, scratch] =
            disjoint(&mut self.block, [x_range, &out.range, &parts.scratch]);
        let scratch = bytemuck::cast_slice_mut(scratch);
        Ok((x.map(|rows| rows.view(x_data, batch)), out.view_mut(out_data, batch), scratch))
    }

    /// Logits, and room for the losses of the rows and for the gradient of the logits; none in a
    /// workspace for forward passes.
    #[allow(clippy::type_complexity, reason = "three views, named where they are taken apart")]
    pub(super) fn loss_parts(
        &mut self,
        batch: usize,
    ) -> Result<(MatRef<'_, T>, Option<MatMut<'_, T>>, &mut [T])> {
        self.check(batch)?;
        let (logits, gradient) = match (self.parts.values.last(), self.parts.gradients.last()) {
            (Some(logits), Some(gradient)) => (logits, gradient),
            _ => unreachable!("a network has layers"),
        };
        let [values, d_values, losses] =
            disjoint(&mut self.block, [&logits.range, &gradient.range, &self.parts.row_losses]);
        let gradient = (!d_values.is_empty()).then(|| gradient.view_mut(d_values, batch));
        Ok((logits.view(values, batch), gradient, &mut losses[..batch]))
    }

    /// What the backward pass through layer `layer` needs.
    pub(super) fn backward_parts(
        &mut self,
        layer: usize,
        batch: usize,
    ) -> Result<LayerParts<'_, T>> {
        self.check(batch)?;
        let parts = &self.parts;
        let nothing = 0..0;
        let before = layer.checked_sub(1);
        let x = before.map(|before| &parts.values[before]);
        let d_x = before.map(|before| &parts.gradients[before]);
        let (d_out, [weight, bias]) = (&parts.gradients[layer], &parts.parameters[layer]);
        let [x_data, d_x_data, d_out_data, weight, bias, scratch] = disjoint(
            &mut self.block,
            [
                x.map_or(&nothing, |rows| &rows.range),
                d_x.map_or(&nothing, |rows| &rows.range),
                &d_out.range,
                weight,
                bias,
                &parts.scratch,
            ],
        );
        Ok(LayerParts {
            x: x.map(|rows| rows.view(x_data, batch)),
            d_out: d_out.view(d_out_data, batch),
            d_x: d_x.map(|rows| rows.view_mut(d_x_data, batch)),
            weight,
            bias,
            scratch: bytemuck::cast_slice_mut(scratch),
        })
    }

    /// Room for the partial sums of a reduction.
    pub(super) fn partial_sums(&mut self) -> &mut [T] {
        &mut self.block[self.parts.partial_sums.clone()]
    }
}

impl Rows {
    fn view<'a, T: Element>(&self, data: &'a [T], batch: usize) -> MatRef<'a, T> {
        MatRef::strided(data, 0, (batch, self.cols), (self.stride as isize, 1))
            .expect("the plan has room for the batch")
    }

    fn view_mut<'a, T: Element>(&self, data: &'a mut [T], batch: usize) -> MatMut<'a, T> {
        MatMut::strided(data, 0, (batch, self.cols), (self.stride as isize, 1))
            .expect("the plan has room for the batch")
    }
}

/// Several parts of the block at once.
fn disjoint<'a, T, const N: usize>(
    block: &'a mut [T],
    ranges: [&Range<usize>; N],
) -> [&'a mut [T]; N] {
    block.get_disjoint_mut(ranges.map(Clone::clone)).expect("the plan's parts do not overlap")
}
