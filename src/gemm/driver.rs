//! The loops around the packed blocks, and their division among threads.
//!
//! ```text
//! for each nc columns of B, for each kb rows of B:
//!     pack them, all tasks together                                 panels of NR columns
//!     each task, for its band of C (rows, or columns where rows are few):
//!         for each kc of the depth, for each mc rows:
//!             pack the block of A                                   panels of MR rows
//!             multiply the packed blocks into C
//! ```

use std::ops::Range;

use crate::{
    float::Float,
    gemm::{Finish, Start, plan::Plan},
    kernels::{BlockFinish, BlockStart, KernelSet, Output, Panels},
    matrix::MatRef,
    threads::{cut, divide},
};

/// A product whose operands are known to fit.
pub(super) struct Product<'a, T: Float> {
    pub(super) kernels: &'static KernelSet<T>,
    pub(super) plan: Plan,
    pub(super) tasks: usize,
    /// A and the factor of its elements.
    pub(super) a: (MatRef<'a, T>, T),
    /// B and the factor of its elements.
    pub(super) b: (MatRef<'a, T>, T),
    pub(super) start: Start<'a, T>,
    pub(super) finish: Finish<'a, T>,
}

/// A task's part of C, with the rows and columns it stands for, and the task's scratch memory.
struct Band<'a, T> {
    c: Output<'a, T>,
    rows: Range<usize>,
    cols: Range<usize>,
    scratch: &'a mut [T],
}

impl<T: Float> Product<'_, T> {
    /// Computes `c`; `scratch` holds `plan.scratch_len` elements.
    pub(super) fn run(&self, mut c: Output<'_, T>, scratch: &mut [T]) {
        let (m, n, k) = (c.rows(), c.cols(), self.a.0.cols());
        let (packed_b, packed_a) = scratch.split_at_mut(self.plan.b_len);
        let (nc, kb) = (self.plan.blocking.nc, self.plan.blocking.kb.max(1));
        for first_col in (0..n).step_by(nc) {
            let cols = first_col..n.min(first_col + nc);
            let (mut part, rest) = c.split_cols(nc);
            c = rest;
            // A product of depth 0 still has its start and finish.
            for first in (0..k.max(1)).step_by(kb) {
                let depth = first..k.min(first + kb);
                self.pack_b(depth.clone(), cols.clone(), packed_b);
                let band = Band {
                    c: part.reborrow(),
                    rows: 0..m,
                    cols: cols.clone(),
                    scratch: &mut *packed_a,
                };
                self.multiply(band, depth, packed_b);
            }
        }
    }

    /// Packs rows `depth` and columns `cols` of B, all tasks together.
    fn pack_b(&self, depth: Range<usize>, cols: Range<usize>, packed: &mut [T]) {
        let nr = self.kernels.tile_cols();
        let panel = depth.len() * nr;
        let packed = &mut packed[..cols.len().div_ceil(nr) * panel];
        divide(
            (cols, packed),
            self.tasks,
            &|(cols, packed), left, parts| {
                let at = cut(cols.len(), nr, left, parts);
                let (first, second) = packed.split_at_mut(at.div_ceil(nr) * panel);
                ((cols.start..cols.start + at, first), (cols.start + at..cols.end, second))
            },
            &|(cols, packed)| {
                let part = self.b.0.part(depth.clone(), cols).expect("a part of B");
                self.kernels.pack_rows(part.t(), nr, self.b.1, packed);
            },
        );
    }

    /// Multiplies with the packed rows `depth` of B: each task its band of rows, or of columns
    /// where there are fewer than two tiles of rows for each.
    fn multiply(&self, whole: Band<'_, T>, depth: Range<usize>, packed_b: &[T]) {
        let (mr, nr) = (self.kernels.tile_rows(), self.kernels.tile_cols());
        let by_cols = whole.rows.len() < 2 * mr * self.tasks;
        let first_col = whole.cols.start;
        divide(
            whole,
            self.tasks,
            &|band: Band<'_, T>, left, parts| {
                let Band { c, rows, cols, scratch } = band;
                let (s1, s2) = scratch.split_at_mut(self.plan.a_len * left);
                if by_cols {
                    let at = cut(cols.len(), nr, left, parts);
                    let (c1, c2) = c.split_cols(at);
                    let (j1, j2) = (cols.start..cols.start + at, cols.start + at..cols.end);
                    (
                        Band { c: c1, rows: rows.clone(), cols: j1, scratch: s1 },
                        Band { c: c2, rows, cols: j2, scratch: s2 },
                    )
                } else {
                    let at = cut(rows.len(), mr, left, parts);
                    let (c1, c2) = c.split_rows(at);
                    let (i1, i2) = (rows.start..rows.start + at, rows.start + at..rows.end);
                    (
                        Band { c: c1, rows: i1, cols: cols.clone(), scratch: s1 },
                        Band { c: c2, rows: i2, cols, scratch: s2 },
                    )
                }
            },
            &|band: Band<'_, T>| {
                let panel_stride = depth.len() * nr;
                let first_panel = (band.cols.start - first_col) / nr;
                let panels = Panels {
                    data: packed_b.get(first_panel * panel_stride..).unwrap_or_default(),
                    stride: panel_stride,
                };
                self.multiply_band(band, depth.clone(), panels);
            },
        );
    }

    /// One task's work on the packed rows `depth` of B.
    fn multiply_band(&self, band: Band<'_, T>, depth: Range<usize>, packed_b: Panels<'_, T>) {
        let Band { mut c, rows, cols, scratch } = band;
        let (mc, kc) = (self.plan.blocking.mc, self.plan.blocking.kc);
        let (nr, k) = (self.kernels.tile_cols(), self.a.0.cols());
        let mut first = depth.start;
        loop {
            let last = depth.end.min(first + kc);
            let panels = Panels {
                data: &packed_b.data[(first - depth.start) * nr..],
                stride: packed_b.stride,
            };
            let start = match self.start {
                _ if first > 0 => BlockStart::Load,
                Start::Scaled(beta) if beta == T::ZERO => BlockStart::Zero,
                Start::Scaled(beta) if beta == T::ONE => BlockStart::Load,
                Start::Scaled(beta) => BlockStart::Scale(beta),
                Start::Bias(bias) => BlockStart::Bias(&bias[cols.clone()]),
            };
            let mut rest = c.reborrow();
            let mut row = rows.start;
            while row < rows.end {
                let block_rows = row..rows.end.min(row + mc);
                let block = self.a.0.part(block_rows.clone(), first..last);
                let block = block.expect("a block of A");
                self.kernels.pack_rows(block, self.kernels.tile_rows(), self.a.1, scratch);
                let (mut block_c, below) = rest.split_rows(mc);
                let finish = match self.finish {
                    _ if last < k => BlockFinish::Store,
                    Finish::Store => BlockFinish::Store,
                    Finish::Relu => BlockFinish::Relu,
                    Finish::Gate { activation, scale } => {
                        let activation = activation.part(block_rows, cols.clone());
                        let activation = activation.expect("a block of the activation");
                        BlockFinish::Gate { activation, scale }
                    }
                };
                self.kernels.block(last - first, scratch, panels, &mut block_c, start, finish);
                rest = below;
                row += mc;
            }
            first = last;
            if first >= depth.end {
                break;
            }
        }
    }
}
