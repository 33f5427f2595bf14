//! The loops around the blocks, and their division among threads.
//!
//! ```text
//! each task, for its part of C (rows or columns):
//!     for each nc columns, for each kc of the depth:
//!         for each MR rows:
//!             multiply a panel of A and all panels of B into C
//!             meanwhile, pack the next panel: in the first row of tiles of B, later of A
//! ```
//!
//! Tasks share nothing, so they need no barrier. Tasks with the same columns each pack the same B,
//! which costs little: it is done in instruction slots that the multiply-adds leave free.
//!
//! Where packing costs more than it gives (few rows, few columns, tiny products) the operands are
//! read in place, each band in one block.

use std::ops::Range;

use crate::{
    aligned::{ALIGNMENT, elements, from_cache_line},
    gemm::{
        operand::Lines,
        plan::{Blocking, Plan},
    },
    kernels::{
        Along, Beside, Epilogue, KernelSet, Packer, PanelElement, Panels, Product, SHALLOW, Source,
        Types,
    },
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
}

/// Depth of blocks of a few rows in place: 8x512x3072 on Zen 4, AVX-512: 0.86 of the peak with 64,
/// 0.93 with 1024.
const DEPTH_IN_PLACE: usize = 1024;

/// The same where panels of B are one cache line wide: 12x512x3072 on Zen 4, AVX2: 0.73 of the peak
/// with 64, 0.62 with 1024.
const DEPTH_OF_NARROW_PANELS: usize = 64;

/// A and B, to be read in place: (m, k) and (k, n).
type InPlace<'a, P> = (MatRef<'a, <P as Types>::Left>, MatRef<'a, <P as Types>::Right>);

/// A task's part of C, the sums of the columns of B that it adds up, and its scratch memory.
type Task<'a, P> = (Band<'a, P>, Option<&'a mut [<P as Types>::Sum]>, &'a mut [u8]);

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

    /// The same for one of the blocks of the depth, see [`Epilogue::of_block`].
    fn of_block(&mut self, is_first: bool, is_last: bool) -> Band<'_, P> {
        Band {
            c: self.c.reborrow(),
            epilogue: self.epilogue.of_block(is_first, is_last),
            rows: self.rows.clone(),
            cols: self.cols.clone(),
        }
    }
}

impl<P: Product> Multiplication<'_, P> {
    /// Computes `c` from packed operands; `scratch` was checked by the plan. Each task computes a
    /// part of C from panels of its own.
    pub(super) fn run_packed(
        &self,
        c: MatMut<'_, P::Output>,
        mut epilogue: Epilogue<'_, P::Sum, P::Output>,
        scratch: &mut [u8],
    ) {
        let sums = epilogue.column_sums.take();
        let bytes = self.plan.a_bytes + self.plan.b_bytes;
        divide(
            (Band::new(c, epilogue), sums, from_cache_line(scratch)),
            self.tasks,
            &|(band, sums, scratch): Task<'_, P>, left, parts| {
                let (b1, b2) = self.split(band, left, parts);
                let (sums1, sums2) = match sums {
                    // Rows are divided: the first ones add up the columns of B.
                    Some(sums) if b1.cols == b2.cols => (Some(sums), None),
                    sums => sums.map(|sums| sums.split_at_mut(b1.cols.len())).unzip(),
                };
                let (scratch1, scratch2) = scratch.split_at_mut(bytes * left);
                ((b1, sums1, scratch1), (b2, sums2, scratch2))
            },
            &|(band, sums, scratch)| self.multiply_band(band, sums, scratch),
        );
    }

    /// The first `left` of `parts` parts of a band, and the others: by rows or by columns, whichever
    /// leaves the largest part smaller; if both do, along the longer side. Shallow products do little
    /// but store C, so their tasks have whole rows of it: parts of rows a multiple of 4 KiB apart do not
    /// use all of a cache (512x1024x10, two threads, Zen 4, AVX-512: 0.41 of the peak by columns, 0.71 by
    /// rows).
    fn split<'b>(
        &self,
        band: Band<'b, P>,
        left: usize,
        parts: usize,
    ) -> (Band<'b, P>, Band<'b, P>) {
        let (rows, cols) = (band.rows.len(), band.cols.len());
        let (mr, nr) = (self.kernels.tile_rows(), self.kernels.tile_cols());
        let (by_rows, by_cols) = (cut(rows, mr, left, parts), cut(cols, nr, left, parts));
        // Of the time for all: that of the part which has most to do for each of its tasks.
        let share = |len: usize, at: usize| {
            let (first, second) =
                (at as f64 / left as f64, (len - at) as f64 / (parts - left) as f64);
            first.max(second) / len.max(1) as f64
        };
        let (mut of_rows, of_cols) = (share(rows, by_rows), share(cols, by_cols));
        if self.depth <= SHALLOW {
            of_rows /= 1.25;
        }
        if of_rows < of_cols || of_rows == of_cols && rows >= cols {
            band.split_rows(by_rows)
        } else {
            band.split_cols(by_cols)
        }
    }

    /// One task's part of C.
    fn multiply_band(
        &self,
        band: Band<'_, P>,
        mut sums: Option<&mut [P::Sum]>,
        scratch: &mut [u8],
    ) {
        let (for_a, for_b) = scratch.split_at_mut(self.plan.a_bytes);
        let (kc, first_col) = (self.plan.blocking.kc.max(1), band.cols.start);
        let mut rest = band;
        while !rest.cols.is_empty() {
            let (mut part, others) = rest.split_cols(self.plan.blocking.nc);
            let cols = part.cols.start - first_col..part.cols.end - first_col;
            // A product of depth 0 still has its start and finish.
            for first in (0..self.depth.max(1)).step_by(kc) {
                let depth = first..self.depth.min(first + kc);
                let block = part.of_block(first == 0, depth.end == self.depth);
                let sums = sums.as_mut().map(|sums| &mut sums[cols.clone()]);
                self.multiply_block(block, depth, sums, for_a, for_b);
            }
            rest = others;
        }
    }

    /// All rows with one block of B. Panels are packed while tiles are computed: those of B by the
    /// first row of tiles, those of A each by the row before its own. Up to three rows of A have panels
    /// of one row each: in a panel as wide as a tile every step would take a cache line (one row of
    /// 3072-512-1024-10 in bf16 on one thread of Zen 4: 0.057 ms in wide panels, 0.047 in these).
    fn multiply_block(
        &self,
        block: Band<'_, P>,
        depth: Range<usize>,
        sums: Option<&mut [P::Sum]>,
        for_a: &mut [u8],
        for_b: &mut [u8],
    ) {
        let (left, right, mc) = (self.kernels.left(), self.kernels.right(), self.plan.blocking.mc);
        let single = block.rows.len() <= self.kernels.wide_rows()
            && matches!(self.a, Lines::Source(source) if source.along() == Some(Along::Depth));
        let left = if single { left.of_single_lines() } else { left };
        let (mr, cols) = (left.width(), block.cols.clone());
        // One tile alone has no slots for a panel of pairs (512x10x1024 in bf16 on Zen 4: 0.22 of the
        // peak beside, 0.28 in advance), but for one of single elements (512x30x1024 in f32: 0.75
        // beside, 0.71 in advance).
        let crowded = cols.len() <= right.width() && self.kernels.depth_step() > 1;
        let beside = self.kernels.packs_beside(depth.len()) && mc >= 2 * mr && !single && !crowded;
        let (count, stride) = panels(right, cols.len(), depth.len());
        let for_b = elements(for_b, count * stride);
        let mut rest = block;
        // Rows of A whose panels are packed at a time; beside, one panel and the next.
        let rows_at_a_time = if beside { mr } else { mc };
        let (count, stride) = panels(left, rows_at_a_time, depth.len());
        let len = count * stride;
        let for_a = elements(for_a, if beside { 2 * len } else { len });
        let (mut panels, mut next) = for_a.split_at_mut(len);
        let b = match self.b {
            Lines::Source(source)
                if beside
                    && right.packs_beside(&source)
                    && cols.len() > right.width()
                    && rest.rows.len() >= mr =>
            {
                let (row, below) = rest.split_rows(mr);
                rest = below;
                let a = self.a.panels(left, row.rows.clone(), depth.clone(), panels, None);
                self.first_row(row, a, source.part(cols, depth.clone()), for_b, sums)
            }
            b => b.panels(right, cols, depth.clone(), for_b, sums),
        };
        let mut ready = false;
        while !rest.rows.is_empty() {
            let packed = self.a.packed().is_some();
            let (mut rows, below) =
                rest.split_rows(if packed { usize::MAX } else { rows_at_a_time });
            let a = match self.a {
                Lines::Source(_) if ready => Panels::new(panels, mr, stride),
                a => a.panels(left, rows.rows.clone(), depth.clone(), panels, None),
            };
            let panel_beside = match self.a {
                Lines::Source(source) if beside && !below.rows.is_empty() => {
                    let source = source.part(below.rows.clone(), depth.clone());
                    Beside::Left { source, panel: next }
                }
                _ => Beside::Nothing,
            };
            ready = matches!(panel_beside, Beside::Left { .. });
            let Band { c, epilogue, .. } = &mut rows;
            self.kernels.block(depth.len(), a, b, c, epilogue.reborrow(), panel_beside);
            if ready {
                (panels, next) = (next, panels);
            }
            rest = below;
        }
    }

    /// The first row of tiles, while B is packed.
    fn first_row<'b>(
        &self,
        row: Band<'_, P>,
        a: Panels<'_, P::Left>,
        b: Source<'_, P::Right>,
        for_b: &'b mut [P::Right],
        mut sums: Option<&mut [P::Sum]>,
    ) -> Panels<'b, P::Right> {
        let packer = self.kernels.right();
        let (nr, cols, depth) = (packer.width(), b.lines(), b.depth());
        let (_, stride) = panels(packer, cols, depth);
        let mut of_next = |first: usize| {
            let all = sums.take()?;
            let (part, others) = all.split_at_mut(nr.min(cols - first));
            sums = Some(others);
            Some(part)
        };
        let mut slices = for_b.chunks_mut(stride);
        let mut panel = slices.next().unwrap_or_default();
        packer.pack(b.part(0..nr.min(cols), 0..depth), panel, of_next(0));
        let mut rest = row;
        for first in (0..cols).step_by(nr) {
            let (mut tile, others) = rest.split_cols(nr);
            let mut next = slices.next();
            let beside = match &mut next {
                Some(panel) => {
                    let source = b.part(first + nr..cols, 0..depth);
                    Beside::Right { source, panel, sums: of_next(first + nr) }
                }
                None => Beside::Nothing,
            };
            let b = Panels::new(panel, nr, stride);
            let Band { c, epilogue, .. } = &mut tile;
            self.kernels.block(depth, a, b, c, epilogue.reborrow(), beside);
            panel = next.unwrap_or_default();
            rest = others;
        }
        Panels::new(for_b, nr, stride)
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
        divide(
            Band::new(c, epilogue),
            self.tasks,
            &|band: Band<'_, P>, left, parts| self.split(band, left, parts),
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
