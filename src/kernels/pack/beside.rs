//! Packing of one panel while tiles are computed: in units so small that the microkernel does them
//! between steps of its own, in instruction slots that its multiply-adds leave free.
//!
//! A unit is one step of the depth where lines are contiguous, a few vectors; else one vector along
//! one line, whose elements are stored one by one. Of bf16 it is a pair of steps, or a vector of pairs.

use std::{mem::MaybeUninit, ops::Range};

use crate::{
    float::Float,
    kernels::{
        pack::{
            Source,
            runs::{Along, Runs},
            strided::Strided,
        },
        product::PanelElement,
    },
    simd::{Isa, MAX_LANES},
};

/// Steps of the depth that are fetched ahead where lines are contiguous.
const STEPS_AHEAD: usize = 8;

/// A panel to be packed in units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelBeside<'a, E: PanelElement> {
    /// Its lines, and perhaps more after them.
    pub(crate) source: Source<'a, E>,
    /// Room for the steps that its units cover.
    pub(crate) dst: *mut E,
    /// As in [`Packing`](super::Packing).
    pub(crate) sums: *mut E::Value,
}

impl<E: PanelElement> Source<'_, E> {
    /// How many units pack the first panel of `width` lines, `summed` or not, with vectors of
    /// `lanes` that hold `step` steps each, and how many steps of the depth they cover: the rest is
    /// to be packed otherwise. No units where they cannot do it.
    pub(crate) fn units(
        &self,
        width: usize,
        (lanes, step): (usize, usize),
        summed: bool,
    ) -> (usize, usize) {
        let (lines, depth) = (self.lines(), self.depth());
        if lanes == 0 {
            return (0, 0);
        }
        match self.along() {
            // Whole vectors are loaded, and a line is summed once, from its first step to its last.
            Some(Along::Lines)
                if lines >= width.next_multiple_of(lanes)
                    && (!summed || width.is_multiple_of(lanes) && depth.is_multiple_of(step)) =>
            {
                (depth / step, depth / step * step)
            }
            Some(Along::Depth) if lines >= width => {
                let vectors = depth / (lanes * step);
                (vectors * width, vectors * lanes * step)
            }
            _ => (0, 0),
        }
    }
}

/// Elements whose panels can be packed with the vectors of `S` while tiles are computed.
///
/// # Safety
/// `pack_units` writes nothing but the panel and its sums.
pub(crate) unsafe trait PackUnits<S>: PanelElement {
    /// Lanes of the vectors of a unit; 0 where panels are not packed so.
    const LANES: usize;

    /// Packs some units of a panel of `width` lines.
    ///
    /// # Safety
    /// As for the function `pack_units`.
    unsafe fn pack_units(isa: S, panel: &PanelBeside<'_, Self>, width: usize, units: Range<usize>);
}

// SAFETY: the function's promise.
unsafe impl<S: Isa<T>, T: Float> PackUnits<S> for T {
    const LANES: usize = S::LANES;

    #[inline(always)]
    unsafe fn pack_units(isa: S, panel: &PanelBeside<'_, T>, width: usize, units: Range<usize>) {
        // SAFETY: the caller's promises are passed on.
        unsafe { pack_units(isa, panel, width, units) }
    }
}

/// Packs some units of a panel of `width` lines.
///
/// # Safety
/// - All elements of the source are readable; `dst` is writable for `width` elements of each step
///   that its units cover, and aligned to those that are stored together; `sums` is null, or writable
///   for `width` values.
/// - `units` end at most at the number of [units](Source::units) for `width`, the lanes of the
///   vectors and such sums; where lines are contiguous, units come in order.
#[inline(always)]
unsafe fn pack_units<S: Isa<T>, T: Float + PanelElement<Value = T>>(
    isa: S,
    panel: &PanelBeside<'_, T>,
    width: usize,
    units: Range<usize>,
) {
    // SAFETY: the caller's promises; values are contiguous along runs.
    unsafe {
        match panel.source {
            Source::Matrix(matrix, scale) | Source::Rounded(matrix, scale) => {
                let ptr = matrix.as_ptr();
                if matrix.row_stride() == 1 {
                    let runs = Strided { ptr, stride: matrix.col_stride(), scale };
                    for unit in units {
                        pack_step(isa, panel, runs, width, unit);
                    }
                } else {
                    let runs = Strided { ptr, stride: matrix.row_stride(), scale };
                    for unit in units {
                        pack_vector(isa, panel, runs, width, unit);
                    }
                }
            }
            Source::Gathered(rows, Along::Lines) => {
                for unit in units {
                    pack_step(isa, panel, rows, width, unit);
                }
            }
            Source::Gathered(rows, Along::Depth) => {
                for unit in units {
                    pack_vector(isa, panel, rows, width, unit);
                }
            }
        }
    }
}

/// One step of the depth, of contiguous lines.
///
/// # Safety
/// As for [`pack_units`]; runs are steps.
#[inline(always)]
unsafe fn pack_step<S: Isa<T>, T: Float + PanelElement<Value = T>, R: Runs<T>>(
    isa: S,
    panel: &PanelBeside<'_, T>,
    runs: R,
    width: usize,
    p: usize,
) {
    let to = panel.dst.wrapping_add(p * width);
    for first in (0..width).step_by(S::LANES) {
        runs.prefetch(isa, p + STEPS_AHEAD, first);
        // SAFETY: so many lines exist, as whole vectors. What is stored after the last line falls
        // on the next step, which is packed later; the last step is stored without it.
        unsafe {
            let columns = runs.columns(isa, first, S::LANES);
            let vector = runs.load(isa, columns, p, first, S::LANES);
            if first + S::LANES <= width || p + 1 < panel.source.depth() {
                isa.store(to.add(first), vector);
            } else {
                isa.store_first(to.add(first), vector, width - first);
            }
            if !panel.sums.is_null() {
                let sums = panel.sums.add(first);
                isa.store(sums, isa.add(isa.load(sums), vector));
            }
        }
    }
}

/// One vector along a line.
///
/// # Safety
/// As for [`pack_units`]; runs are lines.
#[inline(always)]
unsafe fn pack_vector<S: Isa<T>, T: Float + PanelElement<Value = T>, R: Runs<T>>(
    isa: S,
    panel: &PanelBeside<'_, T>,
    runs: R,
    width: usize,
    unit: usize,
) {
    let (p, line) = (unit / width * S::LANES, unit % width);
    runs.prefetch(isa, line, p + 2 * S::LANES);
    let mut vector = MaybeUninit::<[T; MAX_LANES]>::uninit();
    let to = panel.dst.wrapping_add(p * width + line);
    // SAFETY: LANES values of a line from p on exist, and so do their places.
    unsafe {
        let from = if let Some(place) = runs.in_place(line, p) {
            place
        } else {
            let columns = runs.columns(isa, p, S::LANES);
            let loaded = runs.load(isa, columns, line, p, S::LANES);
            isa.store(vector.as_mut_ptr().cast(), loaded);
            vector.as_ptr().cast()
        };
        move_apart::<T>(from, to, S::LANES, width);
    }
}

/// Moves `count` elements to places `stride` elements apart, through integer registers, one by one,
/// because the vector registers hold the sums of the tile: the volatile accesses keep the compiler from
/// shuffling them out of a vector.
///
/// # Safety
/// `from` is readable for `count` elements, and `to` is writable for each of them.
#[inline(always)]
pub(super) unsafe fn move_apart<T: Float>(from: *const T, to: *mut T, count: usize, stride: usize) {
    for step in 0..count {
        let (from, to) = (from.wrapping_add(step), to.wrapping_add(step * stride));
        // SAFETY: elements and places for which the caller vouches.
        unsafe {
            if size_of::<T>() == size_of::<u32>() {
                to.cast::<u32>().write_volatile(from.cast::<u32>().read_volatile());
            } else {
                to.write_volatile(from.read_volatile());
            }
        }
    }
}
