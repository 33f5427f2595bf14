//! Packing of sources that deliver vectors along the direction in which their values are contiguous:
//! each step of k by itself.

use crate::{
    float::Float,
    simd::{Isa, MAX_LANES},
};

/// Values that are contiguous along one direction, in numbered runs across the other.
pub(super) trait Runs<T: Float>: Copy {
    /// What the values from one place on have in common in all runs.
    type Columns<S: Isa<T>>: Copy;

    /// Whether panels are packed one after another, so that what their columns have in common is
    /// loaded once; else several together, so that a run is read in long pieces.
    const BY_PANEL: bool;

    /// What `count` values from `at` on have in common.
    ///
    /// # Safety
    /// `1 <= count <= LANES`, and a run has at least `at + count` values.
    unsafe fn columns<S: Isa<T>>(self, isa: S, at: usize, count: usize) -> Self::Columns<S>;

    /// `count` values of run `run` from `at` on, the place of `columns`; the lanes after them are
    /// undefined.
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

    /// Where the values of run `run` stand from `at` on, if they are stored as they are packed.
    fn in_place(self, _run: usize, _at: usize) -> Option<*const T> {
        None
    }

    /// Asks for the cache line of value `at` of run `run`, which need not exist.
    fn prefetch<S: Isa<T>>(self, isa: S, run: usize, at: usize);
}

/// Which way values are contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Along {
    /// Consecutive lines: a run holds one p of all lines.
    Lines,
    /// Consecutive p: a run is a line.
    Depth,
}

/// Runs, and where to put their panels; as [`Packing`](super::Packing).
#[derive(Clone, Copy, Debug)]
pub(super) struct Rectangle<T, R> {
    pub(super) runs: R,
    pub(super) along: Along,
    pub(super) lines: usize,
    pub(super) depth: usize,
    pub(super) width: usize,
    pub(super) dst: *mut T,
    pub(super) sums: *mut T,
}

/// Panels that are filled at a time where lines are contiguous, so that a source's run is read
/// in long pieces.
pub(super) const PANELS_AT_A_TIME: usize = 8;

/// Runs that are fetched ahead where lines are contiguous: a run is too short for the CPU's
/// own prefetching to get going.
pub(super) const RUNS_AHEAD: usize = 8;

/// Bytes that are fetched together.
pub(super) const CACHE_LINE: usize = 64;

/// Packs runs, each step of k by itself.
///
/// # Safety
/// As for [`pack`](super::pack); the values are contiguous the way that `along` says.
#[inline(always)]
pub(super) unsafe fn pack_runs<S: Isa<T>, T: Float, R: Runs<T>>(
    isa: S,
    rectangle: &Rectangle<T, R>,
) {
    let Rectangle { lines, depth, width, dst, .. } = *rectangle;
    let used = lines % width;
    if used != 0 {
        // SAFETY: the last panel begins after the whole ones.
        unsafe { dst.add((lines - used) * depth).write_bytes(0, width * depth) };
    }
    // SAFETY: the caller's promises, for each way.
    unsafe {
        match rectangle.along {
            Along::Lines if R::BY_PANEL => pack_by_panel(isa, rectangle),
            Along::Lines => pack_contiguous(isa, rectangle),
            Along::Depth => pack_transposed(isa, rectangle),
        }
    }
}

/// Contiguous lines: whole vectors are copied.
///
/// # Safety
/// As for [`pack_runs`].
#[inline(always)]
unsafe fn pack_contiguous<S: Isa<T>, T: Float, R: Runs<T>>(isa: S, rectangle: &Rectangle<T, R>) {
    let Rectangle { runs, lines, depth, width, dst, sums, .. } = *rectangle;
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
                            runs.prefetch(isa, p + RUNS_AHEAD, line);
                        }
                        let loaded = if whole { S::LANES } else { count };
                        let columns = runs.columns(isa, line, loaded);
                        let vector = runs.load(isa, columns, p, line, loaded);
                        if whole {
                            isa.store_up_to(to.add(done), vector, S::LANES);
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
/// As for [`pack_runs`], with `sums` null.
#[inline(always)]
unsafe fn pack_by_panel<S: Isa<T>, T: Float, R: Runs<T>>(isa: S, rectangle: &Rectangle<T, R>) {
    let Rectangle { runs, lines, depth, width, dst, .. } = *rectangle;
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
                let columns = runs.columns(isa, line, loaded);
                for p in 0..depth {
                    runs.prefetch(isa, p + RUNS_AHEAD, line);
                    if whole && p + 1 < depth {
                        let vector = runs.load(isa, columns, p, line, S::LANES);
                        isa.store_up_to(to.add(p * width), vector, S::LANES);
                    } else {
                        let vector = runs.load(isa, columns, p, line, loaded);
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
/// As for [`pack_runs`].
#[inline(always)]
unsafe fn pack_transposed<S: Isa<T>, T: Float, R: Runs<T>>(isa: S, rectangle: &Rectangle<T, R>) {
    let Rectangle { runs, lines, depth, width, dst, .. } = *rectangle;
    let mut panel = 0;
    while panel < lines {
        let used = width.min(lines - panel);
        let to = dst.wrapping_add(panel * depth);
        if width == 1 {
            for p in (0..depth).step_by(S::LANES) {
                let steps = S::LANES.min(depth - p);
                // SAFETY: `steps` elements of the line from p on, and their places.
                unsafe {
                    let columns = runs.columns(isa, p, steps);
                    let values = runs.load(isa, columns, panel, p, steps);
                    isa.store_up_to(to.add(p), values, steps);
                }
            }
            panel += 1;
            continue;
        }
        // Whole vectors are stored, because masked stores are slow on some CPUs. What is too much
        // falls on the first lines of the next p, which are written later: the last lines come
        // first. After the last p nothing may be touched.
        for chunk in (0..used.div_ceil(S::LANES)).rev() {
            let first = chunk * S::LANES;
            let count = S::LANES.min(used - first);
            let room = S::LANES.min(width - first);
            let mut p = 0;
            while p < depth {
                let steps = S::LANES.min(depth - p);
                let mut square = [isa.splat(T::ZERO); MAX_LANES];
                // SAFETY: `steps` elements of every line from p on.
                let columns = unsafe { runs.columns(isa, p, steps) };
                for (i, row) in square.iter_mut().enumerate().take(S::LANES) {
                    if i < count {
                        // SAFETY: `steps` elements of a line from p on.
                        *row = unsafe { runs.load(isa, columns, panel + first + i, p, steps) };
                        runs.prefetch(isa, panel + width + first + i, p);
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
                                isa.store_up_to(to, column, S::LANES);
                            } else {
                                isa.store_up_to(to, column, room);
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
