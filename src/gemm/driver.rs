//! The loops around the blocks, and their division among threads.
//!
//! ```text
//! for each nc columns of B, for each kb rows of B:
//!     pack them, all tasks together                                 panels of NR columns
//!     each task, for its band of C (rows, or columns where rows are few):
//!         for each kc of the depth, for each mc rows:
//!             pack the block of A                                   panels of MR rows
//!             multiply the packed blocks into C
//! ```
//!
//! Where packing costs more than it gives (few rows, few columns, tiny products) the operands are
//! read in place, each band in one block.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::{
    aligned::{ALIGNMENT, elements, from_cache_line},
    gemm::{
        operand::Lines,
        plan::{Blocking, Plan},
    },
    kernels::{Epilogue, KernelSet, Packer, PanelElement, Panels, Product, Types},
    matrix::{MatMut, MatRef},
    threads::{Tasks, cut, divide},
};

/// A product whose operands are known to fit.
pub(super) struct Multiplication<'a, P: Product> {
    pub(super) kernels: &'static KernelSet<P>,
    pub(super) plan: Plan,
    pub(super) tasks: Tasks,
    pub(super) depth: usize,
    pub(super) a: Lines<'a, P::Left>,
    pub(super) b: Lines<'a, P::Right>,
    /// Whether sums have nowhere to wait between two blocks: C is updated, or of another type.
    pub(super) whole_depth: bool,
    /// Where the nanoseconds of packing are added up.
    pub(super) pack_clock: Option<&'static AtomicU64>,
}

/// Depth of blocks of a few rows in place: 8x512x3072 on Zen 4, AVX-512: 0.86 of the peak with 64,
/// 0.93 with 1024.
const DEPTH_IN_PLACE: usize = 1024;

/// The same where panels of B are one cache line wide: 12x512x3072 on Zen 4, AVX2: 0.73 of the peak
/// with 64, 0.62 with 1024.
const DEPTH_OF_NARROW_PANELS: usize = 64;

/// A and B, to be read in place: (m, k) and (k, n).
type InPlace<'a, P> = (MatRef<'a, <P as Types>::Left>, MatRef<'a, <P as Types>::Right>);

/// Columns of B that are to be packed, their panels, and their sums.
type PartOfB<'a, P> =
    (Range<usize>, &'a mut [<P as Types>::Right], Option<&'a mut [<P as Types>::Sum]>);

/// A part of C, its epilogue, and the rows and columns it stands for.
struct Band<'a, P: Product> {
    c: MatMut<'a, P::Output>,
    epilogue: Epilogue<'a, P::Sum, P::Output>,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl<'a, P: Product> Band<'a, P> {
    fn new(c: MatMut<'a, P::Output>, epilogue: Epilogue<'a, P::Sum, P::Output>) -> Self {
        Self { rows: 0..c.rows(), cols: 0..c.cols(), c, epilogue }
    }

    /// The first `at` rows and the others.
    fn split_rows(self, at: usize) -> (Self, Self) {
        let Band { c, epilogue, rows, cols } = self;
        let at = at.min(rows.len());
        let middle = rows.start + at;
        let ((c1, c2), (e1, e2)) = (c.split_rows(at), epilogue.split_rows(at));
        (
            Band { c: c1, epilogue: e1, rows: rows.start..middle, cols: cols.clone() },
            Band { c: c2, epilogue: e2, rows: middle..rows.end, cols },
        )
    }

    /// The first `at` columns and the others.
    fn split_cols(self, at: usize) -> (Self, Self) {
        let Band { c, epilogue, rows, cols } = self;
        let at = at.min(cols.len());
        let middle = cols.start + at;
        let ((c1, c2), (e1, e2)) = (c.split_cols(at), epilogue.split_cols(at));
        (
            Band { c: c1, epilogue: e1, rows: rows.clone(), cols: cols.start..middle },
            Band { c: c2, epilogue: e2, rows, cols: middle..cols.end },
        )
    }

    fn reborrow(&mut self) -> Band<'_, P> {
        Band {
            c: self.c.reborrow(),
            epilogue: self.epilogue.reborrow(),
            rows: self.rows.clone(),
            cols: self.cols.clone(),
        }
    }
}

impl<P: Product> Multiplication<'_, P> {
    /// Computes `c` from packed operands; `scratch` was checked by the plan.
    pub(super) fn run_packed(
        &self,
        c: MatMut<'_, P::Output>,
        mut epilogue: Epilogue<'_, P::Sum, P::Output>,
        scratch: &mut [u8],
    ) {
        let mut sums = epilogue.column_sums.take();
        let (for_b, for_a) = from_cache_line(scratch).split_at_mut(self.plan.b_bytes);
        let (packer, kb) = (self.kernels.right(), self.plan.blocking.kb.max(1));
        let mut rest = Band::new(c, epilogue);
        while !rest.cols.is_empty() {
            let (mut part, others) = rest.split_cols(self.plan.blocking.nc);
            let cols = part.cols.clone();
            // A product of depth 0 still has its start and finish.
            for first in (0..self.depth.max(1)).step_by(kb) {
                let depth = first..self.depth.min(first + kb);
                let panels = if let Some(packed) = self.b.packed() {
                    packed.part(cols.start, first)
                } else {
                    let (panels, stride) = panels(packer, cols.len(), depth.len());
                    let for_b = elements(for_b, panels * stride);
                    let sums = sums.as_mut().map(|sums| &mut sums[cols.clone()]);
                    self.pack_b(depth.clone(), cols.clone(), for_b, sums);
                    Panels::new(for_b, packer.width(), stride)
                };
                self.multiply(part.reborrow(), depth, panels, for_a);
            }
            rest = others;
        }
    }

    /// Packs rows `depth` and columns `cols` of B, all tasks together.
    fn pack_b(
        &self,
        depth: Range<usize>,
        cols: Range<usize>,
        packed: &mut [P::Right],
        sums: Option<&mut [P::Sum]>,
    ) {
        let packer = self.kernels.right();
        let nr = packer.width();
        let (_, stride) = panels(packer, cols.len(), depth.len());
        divide(
            (cols, packed, sums),
            self.tasks,
            &|(cols, packed, sums): PartOfB<'_, P>, left, parts| {
                let at = cut(cols.len(), nr, left, parts);
                let middle = cols.start + at;
                let (p1, p2) = packed.split_at_mut(at.div_ceil(nr) * stride);
                let (s1, s2) = sums.map(|sums| sums.split_at_mut(at)).unzip();
                ((cols.start..middle, p1, s1), (middle..cols.end, p2, s2))
            },
            &|(cols, packed, sums)| {
                self.panels(&self.b, packer, cols, depth.clone(), packed, sums);
            },
        );
    }

    /// The panels of part of an operand, see [`Lines::panels`], by the clock if there is one.
    fn panels<'p, E: PanelElement>(
        &'p self,
        operand: &'p Lines<'_, E>,
        packer: Packer<E>,
        lines: Range<usize>,
        depth: Range<usize>,
        scratch: &'p mut [E],
        sums: Option<&mut [E::Value]>,
    ) -> Panels<'p, E> {
        let begin = self.pack_clock.map(|clock| (clock, Instant::now()));
        let panels = operand.panels(packer, lines, depth, scratch, sums);
        if let Some((clock, begin)) = begin {
            clock.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        panels
    }

    /// Multiplies with the packed rows `depth` of B: each task its band of rows, or of columns
    /// where there are fewer than two tiles of rows for each. `scratch` has room for every task's
    /// block of A.
    fn multiply(
        &self,
        whole: Band<'_, P>,
        depth: Range<usize>,
        packed_b: Panels<'_, P::Right>,
        scratch: &mut [u8],
    ) {
        let (mr, nr) = (self.kernels.tile_rows(), self.kernels.tile_cols());
        let by_cols = whole.rows.len() < 2 * mr * self.tasks.get();
        let first_col = whole.cols.start;
        divide(
            (whole, scratch),
            self.tasks,
            &|(band, scratch): (Band<'_, P>, &mut [u8]), left, parts| {
                let (s1, s2) = scratch.split_at_mut(self.plan.a_bytes * left);
                let (b1, b2) = if by_cols {
                    let at = cut(band.cols.len(), nr, left, parts);
                    band.split_cols(at)
                } else {
                    let at = cut(band.rows.len(), mr, left, parts);
                    band.split_rows(at)
                };
                ((b1, s1), (b2, s2))
            },
            &|(band, scratch)| {
                let panels = packed_b.part((band.cols.start - first_col) / nr, 0);
                self.multiply_band(band, depth.clone(), panels, scratch);
            },
        );
    }

    /// One task's work on the packed rows `depth` of B.
    fn multiply_band(
        &self,
        mut band: Band<'_, P>,
        depth: Range<usize>,
        packed_b: Panels<'_, P::Right>,
        scratch: &mut [u8],
    ) {
        let (mc, kc) = (self.plan.blocking.mc, self.plan.blocking.kc.max(1));
        let packer = self.kernels.left();
        for first in (depth.start..depth.end.max(depth.start + 1)).step_by(kc) {
            let part = first..depth.end.min(first + kc);
            let b = packed_b.part(0, first - depth.start);
            let mut rest = band.reborrow();
            while !rest.rows.is_empty() {
                let (mut block, below) = rest.split_rows(mc);
                let rows = block.rows.clone();
                let (panels, stride) = panels(packer, rows.len(), part.len());
                let for_a = elements(scratch, panels * stride);
                let a = self.panels(&self.a, packer, rows, part.clone(), for_a, None);
                let Band { c, epilogue, .. } = &mut block;
                let epilogue = epilogue.of_block(part.start == 0, part.end == self.depth);
                self.kernels.block(part.len(), a, b, c, epilogue);
                rest = below;
            }
        }
    }

    /// The operands, if reading them in place is the better way: A as rows by depth, B as depth by
    /// columns. Packing does not pay where a packed element would be used a few times only.
    pub(super) fn operands_in_place<'s>(
        &'s self,
        c: &MatMut<'_, P::Output>,
    ) -> Option<InPlace<'s, P>> {
        let (m, n) = (c.rows(), c.cols());
        let work = m.saturating_mul(n).saturating_mul(self.depth);
        let Blocking { in_place_lines, in_place_work, .. } = self.plan.blocking;
        match (self.a.in_place(), self.b.in_place()) {
            (Some(a), Some(b))
                if self.kernels.depth_step() == 1
                    && b.row_stride() == 1
                    && (m.min(n) <= in_place_lines || work <= in_place_work) =>
            {
                Some((a.submatrix(0..m, 0..self.depth), b.submatrix(0..n, 0..self.depth).t()))
            }
            _ => None,
        }
    }

    /// Computes `c` from operands in place: matrices, with contiguous rows of B and C. Each
    /// task has its band of rows, or of columns where those are more.
    pub(super) fn run_in_place(
        &self,
        (a, b): InPlace<'_, P>,
        c: MatMut<'_, P::Output>,
        epilogue: Epilogue<'_, P::Sum, P::Output>,
    ) {
        let whole = Band::new(c, epilogue);
        let by_cols = whole.cols.len() > whole.rows.len();
        divide(
            whole,
            self.tasks,
            &|band: Band<'_, P>, left, parts| {
                if by_cols {
                    let at = cut(band.cols.len(), self.kernels.tile_cols(), left, parts);
                    band.split_cols(at)
                } else {
                    let at = cut(band.rows.len(), self.kernels.tile_rows(), left, parts);
                    band.split_rows(at)
                }
            },
            &|mut band: Band<'_, P>| {
                let Band { c, epilogue, rows, cols } = &mut band;
                let step = self.depth_in_place(rows.len(), cols.len());
                for first in (0..self.depth.max(1)).step_by(step) {
                    let depth = first..self.depth.min(first + step);
                    let a = a.submatrix(rows.clone(), depth.clone());
                    let b = b.submatrix(depth.clone(), cols.clone());
                    let epilogue = epilogue.of_block(first == 0, depth.end == self.depth);
                    self.kernels.block_in_place(a, b, c, epilogue);
                }
            },
        );
    }

    /// Depth of the blocks of a band in place. Where few rows use each element of B only a few
    /// times, speed is that of reading B: from not too many pages at a time. Panels of a single cache
    /// line take short pieces, unless the rows are so few that several panels are read together.
    /// Sums that have nowhere to wait take the whole depth.
    fn depth_in_place(&self, rows: usize, cols: usize) -> usize {
        let (mr, nr) = (self.kernels.tile_rows(), self.kernels.tile_cols());
        if self.whole_depth || rows > 2 * mr || cols <= nr {
            self.depth.max(1)
        } else if rows <= self.kernels.wide_rows() || nr * size_of::<P::Right>() > ALIGNMENT {
            DEPTH_IN_PLACE
        } else {
            DEPTH_OF_NARROW_PANELS
        }
    }
}

/// How many panels that takes, and their stride, for a part that scratch memory has room for.
fn panels<E: PanelElement>(packer: Packer<E>, lines: usize, depth: usize) -> (usize, usize) {
    (lines.div_ceil(packer.width()), packer.stride(depth).unwrap_or(usize::MAX))
}
