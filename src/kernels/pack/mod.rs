//! Packing: an operand copied into panels in the order in which the microkernel reads it.
//!
//! A panel holds `width` lines of the operand (rows of A, columns of B); for each p of the depth
//! its `width` elements are contiguous. The last panel is filled up with zeros, which the
//! kernel multiplies but never stores.
//!
//! ```text
//! dst[panel][p][i] = source(panel * width + i, p)
//! ```
//!
//! Where the elements come from is a [`Source`], one file each: it delivers vectors along the one
//! direction in which its elements are contiguous in memory, be it that of the lines or that of the
//! depth.

mod gathered;
mod strided;

pub use gathered::GatheredRows;
pub(crate) use strided::{Strided, pack_elements};

use crate::{
    float::Float,
    simd::{Isa, MAX_LANES},
};

/// Elements that are contiguous along one direction, in numbered runs across the other.
pub(crate) trait Source<T: Float>: Copy {
    /// What the elements from one place on have in common in all runs.
    type Columns<S: Isa<T>>: Copy;

    /// Whether panels are packed one after another, so that what their columns have in common is
    /// loaded once; else several together, so that a run is read in long pieces.
    const BY_PANEL: bool;

    /// What `count` elements from `at` on have in common.
    ///
    /// # Safety
    /// `1 <= count <= LANES`, and a run has at least `at + count` elements.
    unsafe fn columns<S: Isa<T>>(self, isa: S, at: usize, count: usize) -> Self::Columns<S>;

    /// `count` elements of run `run` from `at` on, the place of `columns`; the lanes behind them
    /// are undefined.
    ///
    /// # Safety
    /// As for [`columns`](Self::columns), and there is such a run.
    unsafe fn load<S: Isa<T>>(
        self,
        isa: S,
        columns: Self::Columns<S>,
        run: usize,
        at: usize,
        count: usize,
    ) -> S::Vector;

    /// Asks for the cache line of element `at` of run `run`, which need not exist.
    fn prefetch<S: Isa<T>>(self, isa: S, run: usize, at: usize);
}

/// Which way a source's elements are contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Along {
    /// Neighboring lines: a run holds one p of all lines.
    Lines,
    /// Neighboring p: a run is a line.
    Depth,
}

/// A rectangle of an operand and where to put its panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing<T, P> {
    pub(crate) source: P,
    pub(crate) along: Along,
    /// Lines to pack.
    pub(crate) lines: usize,
    /// Elements of a line to pack.
    pub(crate) depth: usize,
    /// Lines in a panel.
    pub(crate) width: usize,
    /// Room for `lines` rounded up to whole panels, times `depth`.
    pub(crate) dst: *mut T,
    /// One sum for each line, to which its elements are added in the order of p; or null.
    pub(crate) sums: *mut T,
}

/// Panels that are filled at a time where lines are contiguous, so that a source's run is read
/// in long pieces.
const PANELS_AT_A_TIME: usize = 8;

/// Runs that are fetched ahead where lines are contiguous: a run is too short for the CPU's
/// own prefetching to get going.
const RUNS_AHEAD: usize = 8;

/// Bytes that are fetched together.
const CACHE_LINE: usize = 64;

/// Packs a rectangle.
///
/// # Safety
/// - All `lines * depth` elements of the source are readable, and contiguous the way that `along`
///   says.
/// - `dst` is writable for `lines.next_multiple_of(width) * depth` elements and overlaps no
///   source element.
/// - `sums` is null, or writable for `lines` elements; then `along` is [`Along::Lines`], and the
///   source is not packed by panel.
#[inline(always)]
pub(crate) unsafe fn pack<S: Isa<T>, T: Float, P: Source<T>>(isa: S, packing: &Packing<T, P>) {
    let Packing { lines, depth, width, dst, .. } = *packing;
    let used = lines % width;
    if used != 0 {
        // SAFETY: the last panel begins behind the whole ones.
        unsafe { dst.add((lines - used) * depth).write_bytes(0, width * depth) };
    }
    // SAFETY: the caller's promises, for each way.
    unsafe {
        match packing.along {
            Along::Lines if P::BY_PANEL => pack_by_panel(isa, packing),
            Along::Lines => pack_contiguous(isa, packing),
            Along::Depth => pack_transposed(isa, packing),
        }
    }
}

/// Contiguous lines: whole vectors are copied.
///
/// # Safety
/// As for [`pack`].
#[inline(always)]
unsafe fn pack_contiguous<S: Isa<T>, T: Float, P: Source<T>>(isa: S, packing: &Packing<T, P>) {
    let Packing { source, lines, depth, width, dst, sums, .. } = *packing;
    let group = PANELS_AT_A_TIME * width;
    let mut first = 0;
    while first < lines {
        let end = lines.min(first + group);
        for p in 0..depth {
            let mut panel = first;
            while panel < end {
                let used = width.min(end - panel);
                // Whole vectors are faster. Elements of the next panel do no harm: they fall on
                // the place of the next p, which is written later.
                let whole = p + 1 < depth && lines - panel >= width.next_multiple_of(S::LANES);
                // SAFETY: lines `panel` to `panel + used - 1` of this p, in their panel; sums
                // likewise. A vector is loaded only where all of its lines exist.
                unsafe {
                    let to = dst.add(panel * depth + p * width);
                    let mut done = 0;
                    while done < used {
                        let line = panel + done;
                        let count = S::LANES.min(used - done);
                        if (done * size_of::<T>()).is_multiple_of(CACHE_LINE) {
                            source.prefetch(isa, p + RUNS_AHEAD, line);
                        }
                        let loaded = if whole { S::LANES } else { count };
                        let columns = source.columns(isa, line, loaded);
                        let vector = source.load(isa, columns, p, line, loaded);
                        if whole {
                            isa.store(to.add(done), vector);
                        } else {
                            isa.store_up_to(to.add(done), vector, count);
                        }
                        if !sums.is_null() {
                            let sum = isa.add(isa.load_up_to(sums.add(line), count), vector);
                            isa.store_up_to(sums.add(line), sum, count);
                        }
                        done += S::LANES;
                    }
                }
                panel += width;
            }
        }
        first = end;
    }
}

/// Contiguous lines, one panel after another.
///
/// # Safety
/// As for [`pack`], with `sums` null.
#[inline(always)]
unsafe fn pack_by_panel<S: Isa<T>, T: Float, P: Source<T>>(isa: S, packing: &Packing<T, P>) {
    let Packing { source, lines, depth, width, dst, .. } = *packing;
    for panel in (0..lines).step_by(width) {
        let used = width.min(lines - panel);
        // Last lines first: see `pack_transposed`.
        for chunk in (0..used.div_ceil(S::LANES)).rev() {
            let line = panel + chunk * S::LANES;
            let count = S::LANES.min(panel + used - line);
            let whole = used == width && line + S::LANES <= lines;
            let to = dst.wrapping_add(panel * depth + chunk * S::LANES);
            // SAFETY: lines of the panel, in their places; whole vectors where there are so many
            // lines, and where what is too much falls on the next p.
            unsafe {
                let loaded = if whole { S::LANES } else { count };
                let columns = source.columns(isa, line, loaded);
                for p in 0..depth {
                    source.prefetch(isa, p + RUNS_AHEAD, line);
                    if whole && p + 1 < depth {
                        let vector = source.load(isa, columns, p, line, S::LANES);
                        isa.store(to.add(p * width), vector);
                    } else {
                        let vector = source.load(isa, columns, p, line, loaded);
                        isa.store_up_to(to.add(p * width), vector, count);
                    }
                }
            }
        }
    }
}

/// Lines along memory: squares are transposed in registers.
///
/// # Safety
/// As for [`pack`].
#[inline(always)]
unsafe fn pack_transposed<S: Isa<T>, T: Float, P: Source<T>>(isa: S, packing: &Packing<T, P>) {
    let Packing { source, lines, depth, width, dst, .. } = *packing;
    let mut panel = 0;
    while panel < lines {
        let used = width.min(lines - panel);
        let to = dst.wrapping_add(panel * depth);
        // Whole vectors are stored, because masked stores are slow on some CPUs. What is too much
        // falls on the first lines of the next p, which are written later: the last lines come
        // first. Behind the last p nothing may be touched.
        for chunk in (0..used.div_ceil(S::LANES)).rev() {
            let first = chunk * S::LANES;
            let count = S::LANES.min(used - first);
            let room = S::LANES.min(width - first);
            let mut p = 0;
            while p < depth {
                let steps = S::LANES.min(depth - p);
                let mut square = [isa.splat(T::ZERO); MAX_LANES];
                // SAFETY: `steps` elements of every line from p on.
                let columns = unsafe { source.columns(isa, p, steps) };
                for (i, row) in square.iter_mut().enumerate().take(S::LANES) {
                    if i < count {
                        // SAFETY: `steps` elements of a line from p on.
                        *row = unsafe { source.load(isa, columns, panel + first + i, p, steps) };
                        source.prefetch(isa, panel + width + first + i, p);
                    }
                }
                isa.transpose(&mut square[..S::LANES]);
                for (i, &column) in square.iter().enumerate().take(S::LANES) {
                    if i < steps {
                        // SAFETY: the place of line `first` and p + i; from there to the end of
                        // the panel are `room` elements in the last p, and whole vectors before.
                        unsafe {
                            let to = to.add((p + i) * width + first);
                            if p + i + 1 < depth {
                                isa.store(to, column);
                            } else {
                                isa.store_first(to, column, room);
                            }
                        }
                    }
                }
                p += S::LANES;
            }
        }
        panel += width;
    }
}
