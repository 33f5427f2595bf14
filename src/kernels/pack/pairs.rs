//! Panels of bf16 in pairs of consecutive k, which the microkernel takes two at a time.
//!
//! ```text
//! dst[panel][p / 2][i] = (source(line, p), source(line, p + 1)),   line = panel * width + i
//! ```
//!
//! The element of the even p is the upper half of a pair's four bytes, see `simd::bf16`; past the
//! end of the depth stands a +0. Values are rounded on the way; elements of bf16 without a factor
//! are copied. A vector here has the pairs of as many lines, or as many pairs of one line, as a
//! vector of f32 has lanes, and is moved as if it were one.

use std::{mem::MaybeUninit, ops::Range};

#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
use crate::simd::{
    avx2::Avx2,
    avx512::{Avx512, Avx512Bf16},
};
use crate::{
    bf16::Bf16,
    kernels::{
        pack::{
            Packing, Source,
            beside::{PackUnits, PanelBeside, move_apart},
            gathered::GatheredRows,
            runs::{Along, CACHE_LINE, PANELS_AT_A_TIME, RUNS_AHEAD, Runs},
            strided::Strided,
        },
        product::Types,
    },
    simd::{Isa, MAX_LANES, bf16::Bf16Isa, flushed::Flushed},
};

/// Elements of a pair.
const PAIR: usize = 2;

/// Runs (see `runs`) that deliver pairs.
trait PairRuns: Copy {
    /// Pairs along a run: of `count` elements from `at` on. A last one alone is paired with +0; the
    /// pairs after it are 0.
    ///
    /// # Safety
    /// `1 <= count <= 2 * LANES`, and run `run` has at least `at + count` elements.
    unsafe fn along<S: Bf16Isa>(self, isa: S, run: usize, at: usize, count: usize) -> S::Vector;

    /// Pairs across runs, of which the first and their number, 1 or 2, are given: `count` elements
    /// from `at` on of the first run, each with that of the second, or with +0. The pairs after them
    /// are undefined.
    ///
    /// # Safety
    /// `1 <= count <= LANES`, and the runs exist, with at least `at + count` elements each.
    unsafe fn across<S: Bf16Isa>(
        self,
        isa: S,
        runs: (usize, usize),
        at: usize,
        count: usize,
    ) -> S::Vector;

    /// Asks for the cache line of element `at` of run `run`, which need not exist.
    fn prefetch<S: Isa<f32>>(self, isa: S, run: usize, at: usize);
}

/// Values of f32, which are rounded.
#[derive(Clone, Copy)]
struct Rounded<R>(R);

impl<R: Runs<f32>> PairRuns for Rounded<R> {
    #[inline(always)]
    unsafe fn along<S: Bf16Isa>(self, isa: S, run: usize, at: usize, count: usize) -> S::Vector {
        let values = |at, count| {
            // SAFETY: `count` values from `at` on, for which the caller vouches.
            unsafe { self.0.load(isa, self.0.columns(isa, at, count), run, at, count) }
        };
        neighbors(isa, at, count, values)
    }

    #[inline(always)]
    unsafe fn across<S: Bf16Isa>(
        self,
        isa: S,
        (run, runs): (usize, usize),
        at: usize,
        count: usize,
    ) -> S::Vector {
        // SAFETY: the caller vouches for the values of the runs.
        unsafe {
            let columns = self.0.columns(isa, at, count);
            let first = self.0.load(isa, columns, run, at, count);
            let second = if runs == PAIR {
                self.0.load(isa, columns, run + 1, at, count)
            } else {
                isa.splat(0.0)
            };
            isa.pair(first, second)
        }
    }

    #[inline(always)]
    fn prefetch<S: Isa<f32>>(self, isa: S, run: usize, at: usize) {
        self.0.prefetch(isa, run, at);
    }
}

/// Pairs of `count` values from `at` on, at most two vectors of them, which `values(at, count)`
/// delivers up to a vector at a time.
#[inline(always)]
fn neighbors<S: Bf16Isa>(
    isa: S,
    at: usize,
    count: usize,
    values: impl Fn(usize, usize) -> S::Vector,
) -> S::Vector {
    let mut halves = [isa.splat(0.0); 2];
    for (half, first) in halves.iter_mut().zip([0, S::LANES]) {
        if first + S::LANES <= count {
            *half = values(at + first, S::LANES);
        } else if first < count {
            let count = count - first;
            let mut lanes = [0.0; MAX_LANES];
            // SAFETY: no vector has more than MAX_LANES lanes, and `count` is below LANES.
            unsafe {
                isa.store(lanes.as_mut_ptr(), values(at + first, count));
                *half = isa.load_first(lanes.as_ptr(), count);
            }
        }
    }
    isa.pair_neighbors(halves[0], halves[1])
}

/// Elements of bf16, which are copied.
#[derive(Clone, Copy)]
struct Copied(Strided<Bf16>);

impl Strided<Bf16> {
    /// Where element `at` of run `run` stands.
    #[inline(always)]
    fn address(&self, run: usize, at: usize) -> *const Bf16 {
        self.ptr.wrapping_offset((run as isize).wrapping_mul(self.stride)).wrapping_add(at)
    }
}

impl PairRuns for Copied {
    #[inline(always)]
    unsafe fn along<S: Bf16Isa>(self, isa: S, run: usize, at: usize, count: usize) -> S::Vector {
        // SAFETY: the caller vouches for `count` elements.
        unsafe { isa.load_neighbors(self.0.address(run, at), count) }
    }

    #[inline(always)]
    unsafe fn across<S: Bf16Isa>(
        self,
        isa: S,
        (run, runs): (usize, usize),
        at: usize,
        count: usize,
    ) -> S::Vector {
        // SAFETY: the caller vouches for `count` elements of each run.
        unsafe {
            let first = isa.widen(self.0.address(run, at), count);
            if runs == PAIR {
                isa.join(first, isa.widen(self.0.address(run + 1, at), count))
            } else {
                first
            }
        }
    }

    #[inline(always)]
    fn prefetch<S: Isa<f32>>(self, isa: S, run: usize, at: usize) {
        isa.prefetch(self.0.address(run, at).cast());
    }
}

/// Elements of bf16 with a factor: they are widened, multiplied, and rounded.
#[derive(Clone, Copy)]
struct Scaled(Strided<Bf16>);

impl Scaled {
    /// # Safety
    /// `count <= LANES`, and run `run` has at least `at + count` elements.
    #[inline(always)]
    unsafe fn load<S: Bf16Isa>(self, isa: S, run: usize, at: usize, count: usize) -> S::Vector {
        // SAFETY: the caller vouches for the elements.
        let values = unsafe { isa.widen(self.0.address(run, at), count) };
        isa.mul(values, isa.splat(self.0.scale))
    }
}

impl PairRuns for Scaled {
    #[inline(always)]
    unsafe fn along<S: Bf16Isa>(self, isa: S, run: usize, at: usize, count: usize) -> S::Vector {
        neighbors(isa, at, count, |at, count| {
            // SAFETY: `count` elements from `at` on, for which the caller vouches.
            unsafe { self.load(isa, run, at, count) }
        })
    }

    #[inline(always)]
    unsafe fn across<S: Bf16Isa>(
        self,
        isa: S,
        (run, runs): (usize, usize),
        at: usize,
        count: usize,
    ) -> S::Vector {
        // SAFETY: the caller vouches for `count` elements of each run.
        unsafe {
            let first = self.load(isa, run, at, count);
            let second =
                if runs == PAIR { self.load(isa, run + 1, at, count) } else { isa.splat(0.0) };
            isa.pair(first, second)
        }
    }

    #[inline(always)]
    fn prefetch<S: Isa<f32>>(self, isa: S, run: usize, at: usize) {
        Copied(self.0).prefetch(isa, run, at);
    }
}

/// Runs, and where to put their panels; as [`Packing`].
#[derive(Clone, Copy)]
struct Rectangle<R> {
    runs: R,
    lines: usize,
    depth: usize,
    width: usize,
    dst: *mut Bf16,
    sums: *mut f32,
}

/// Packs a source into panels of pairs.
///
/// # Safety
/// As for [`pack`](super::pack), with room for whole pairs.
#[inline(always)]
pub(crate) unsafe fn pack_pairs<S: Bf16Isa>(isa: S, packing: &Packing<'_, Bf16>) {
    let Packing { source, width, dst, sums } = *packing;
    let (lines, depth) = source.shape();
    let used = lines % width;
    if used != 0 {
        let padded = depth.next_multiple_of(PAIR);
        // SAFETY: the last panel begins after the whole ones.
        unsafe { dst.add((lines - used) * padded).write_bytes(0, width * padded) };
    }
    /// Packs runs that are contiguous one way or the other.
    macro_rules! pack {
        ($along:expr, $runs:expr) => {{
            let rectangle = Rectangle { runs: $runs, lines, depth, width, dst, sums };
            match $along {
                Along::Lines => pack_across(isa, &rectangle),
                Along::Depth => pack_along(isa, &rectangle),
            }
        }};
    }
    /// Packs a matrix of these strides.
    macro_rules! pack_matrix {
        ($matrix:expr, $scale:expr, $runs:expr, $value:expr) => {{
            let (along, stride) = match ($matrix.row_stride(), $matrix.col_stride()) {
                (1, step) => (Along::Lines, step),
                (step, 1) => (Along::Depth, step),
                _ => return pack_elements((lines, depth), width, dst, $value),
            };
            pack!(along, $runs(Strided { ptr: $matrix.as_ptr(), stride, scale: $scale }));
        }};
    }
    // SAFETY: the caller's promises; runs are contiguous the way that is said.
    unsafe {
        match source {
            Source::Matrix(matrix, 1.0) => {
                pack_matrix!(matrix, 1.0, Copied, |line, p| matrix.get(line, p));
            }
            Source::Matrix(matrix, scale) => {
                pack_matrix!(matrix, scale, Scaled, |line, p| {
                    Bf16::from_f32(Bf16::scaled(scale, matrix.get(line, p).to_f32()))
                });
            }
            Source::Rounded(matrix, scale) => {
                pack_matrix!(matrix, scale, Rounded, |line, p| {
                    Bf16::from_f32(Bf16::scaled(scale, matrix.get(line, p)))
                });
            }
            Source::Gathered(rows, along) => pack!(along, Rounded::<GatheredRows<'_, f32>>(rows)),
        }
    }
}

/// Packs `lines` by `depth` elements one by one.
///
/// # Safety
/// As for [`pack_pairs`]: there is room for them.
unsafe fn pack_elements(
    (lines, depth): (usize, usize),
    width: usize,
    dst: *mut Bf16,
    element: impl Fn(usize, usize) -> Bf16,
) {
    let padded = depth.next_multiple_of(PAIR);
    for line in 0..lines {
        let to = dst.wrapping_add(line / width * width * padded + line % width * PAIR);
        for p in (0..depth).step_by(PAIR) {
            let second = if p + 1 < depth { element(line, p + 1) } else { Bf16::ZERO };
            let [first, second] = [element(line, p), second].map(|x| u32::from(x.to_bits()));
            // SAFETY: the place of a pair in its panel, for which there is room.
            unsafe { to.add(p * width).cast::<u32>().write_unaligned(first << 16 | second) };
        }
    }
}

/// Contiguous lines: pairs of runs.
///
/// # Safety
/// As for [`pack_pairs`]; lines are contiguous.
#[inline(always)]
unsafe fn pack_across<S: Bf16Isa, R: PairRuns>(isa: S, rectangle: &Rectangle<R>) {
    let Rectangle { runs, lines, depth, width, dst, sums } = *rectangle;
    let padded = depth.next_multiple_of(PAIR);
    for first in (0..lines).step_by(PANELS_AT_A_TIME * width) {
        let end = lines.min(first + PANELS_AT_A_TIME * width);
        for p in (0..depth).step_by(PAIR) {
            let pair = (p, PAIR.min(depth - p));
            for panel in (first..end).step_by(width) {
                let used = width.min(end - panel);
                // Whole vectors are faster. Pairs of the next panel do no harm: they fall on the
                // place of the next p, which is written later.
                let whole = p + PAIR < depth && lines - panel >= width.next_multiple_of(S::LANES);
                let to = dst.wrapping_add(panel * padded + p * width);
                for done in (0..used).step_by(S::LANES) {
                    let line = panel + done;
                    let count = S::LANES.min(used - done);
                    if (done * size_of::<Bf16>()).is_multiple_of(CACHE_LINE) {
                        runs.prefetch(isa, p + RUNS_AHEAD, line);
                        runs.prefetch(isa, p + RUNS_AHEAD + 1, line);
                    }
                    // SAFETY: lines `panel` to `panel + used - 1` of this pair of steps, in their
                    // panel; sums likewise. A vector is loaded only where all of its lines exist.
                    unsafe {
                        let to = to.wrapping_add(done * PAIR).cast();
                        let vector = if whole {
                            let vector = runs.across(isa, pair, line, S::LANES);
                            isa.store(to, vector);
                            vector
                        } else {
                            let vector = runs.across(isa, pair, line, count);
                            isa.store_up_to(to, vector, count);
                            vector
                        };
                        if !sums.is_null() {
                            let (even, odd) = isa.unpair(vector);
                            let mut sum = isa.add(isa.load_up_to(sums.add(line), count), even);
                            if pair.1 == PAIR {
                                sum = isa.add(sum, odd);
                            }
                            isa.store_up_to(sums.add(line), sum, count);
                        }
                    }
                }
            }
        }
    }
}

/// Lines along memory: squares of pairs are transposed in registers.
///
/// # Safety
/// As for [`pack_pairs`], with `sums` null; runs are lines.
#[inline(always)]
unsafe fn pack_along<S: Bf16Isa, R: PairRuns>(isa: S, rectangle: &Rectangle<R>) {
    let Rectangle { runs, lines, depth, width, dst, .. } = *rectangle;
    let padded = depth.next_multiple_of(PAIR);
    for panel in (0..lines).step_by(width) {
        let used = width.min(lines - panel);
        let to = dst.wrapping_add(panel * padded);
        if width == 1 {
            for p in (0..depth).step_by(PAIR * S::LANES) {
                let steps = (PAIR * S::LANES).min(depth - p);
                // SAFETY: `steps` elements of the line from p on, and their places.
                unsafe {
                    let pairs = runs.along(isa, panel, p, steps);
                    isa.store_up_to(to.add(p).cast(), pairs, steps.div_ceil(PAIR));
                }
            }
            continue;
        }
        // Whole vectors are stored. What is too much falls on the first lines of the next pair of
        // steps, which are written later: the last lines come first. After the last pair nothing
        // may be touched.
        for chunk in (0..used.div_ceil(S::LANES)).rev() {
            let first = chunk * S::LANES;
            let count = S::LANES.min(used - first);
            let room = S::LANES.min(width - first);
            for p in (0..depth).step_by(PAIR * S::LANES) {
                let steps = (PAIR * S::LANES).min(depth - p);
                let mut square = [isa.splat(0.0); MAX_LANES];
                for (i, row) in square.iter_mut().enumerate().take(S::LANES) {
                    if i < count {
                        let line = panel + first + i;
                        // SAFETY: `steps` elements of a line from p on.
                        *row = unsafe { runs.along(isa, line, p, steps) };
                        runs.prefetch(isa, line + width, p);
                    }
                }
                isa.transpose(&mut square[..S::LANES]);
                let pairs = steps.div_ceil(PAIR);
                for (i, &column) in square.iter().enumerate().take(S::LANES) {
                    if i < pairs {
                        let at = p + PAIR * i;
                        // SAFETY: the place of line `first` and step `at`; from there to the end
                        // of the panel are `room` pairs in the last pair of steps, and whole
                        // vectors before.
                        unsafe {
                            let to = to.add(at * width + PAIR * first).cast();
                            if at + PAIR < depth {
                                isa.store(to, column);
                            } else {
                                isa.store_up_to(to, column, room);
                            }
                        }
                    }
                }
            }
        }
    }
}

// SAFETY: the promise of `pack_units`.
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
unsafe impl PackUnits<Avx512Bf16> for Bf16 {
    const LANES: usize = <Avx512Bf16 as Isa<f32>>::LANES;

    #[inline(always)]
    unsafe fn pack_units(
        isa: Avx512Bf16,
        panel: &PanelBeside<'_, Self>,
        width: usize,
        units: Range<usize>,
    ) {
        // SAFETY: the caller's promises are passed on.
        unsafe { pack_units(isa, panel, width, units) }
    }
}

/// Instruction sets that do not pack bf16 beside: rounding takes more registers than their tiles leave.
macro_rules! nothing_beside {
    ($($set:ident),*) => {$(
        // SAFETY: there are no units.
        unsafe impl PackUnits<$set> for Bf16 {
            const LANES: usize = 0;

            #[inline(always)]
            unsafe fn pack_units(_: $set, _: &PanelBeside<'_, Self>, _: usize, _: Range<usize>) {}
        }
    )*};
}

#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
nothing_beside!(Avx512, Avx2);
nothing_beside!(Flushed);

/// Packs some units of a panel of `width` lines: pairs of steps where lines are contiguous, else
/// vectors of pairs along lines.
///
/// # Safety
/// As for `pack_units` in `kernels::pack::beside`.
#[inline(always)]
unsafe fn pack_units<S: Bf16Isa>(
    isa: S,
    panel: &PanelBeside<'_, Bf16>,
    width: usize,
    units: Range<usize>,
) {
    /// Units of runs that are contiguous one way or the other.
    macro_rules! pack {
        ($along:expr, $runs:expr) => {{
            let runs = $runs;
            match $along {
                Along::Lines => {
                    for unit in units {
                        pack_pair(isa, panel, runs, width, unit);
                    }
                }
                Along::Depth => {
                    for unit in units {
                        pack_vector(isa, panel, runs, width, unit);
                    }
                }
            }
        }};
    }
    /// The same of a matrix of which one stride is 1.
    macro_rules! pack_matrix {
        ($matrix:expr, $scale:expr, $runs:expr) => {{
            let (along, stride) = match $matrix.row_stride() {
                1 => (Along::Lines, $matrix.col_stride()),
                stride => (Along::Depth, stride),
            };
            pack!(along, $runs(Strided { ptr: $matrix.as_ptr(), stride, scale: $scale }));
        }};
    }
    // SAFETY: the caller's promises; runs are contiguous the way that is said.
    unsafe {
        match panel.source {
            Source::Matrix(matrix, 1.0) => pack_matrix!(matrix, 1.0, Copied),
            Source::Matrix(matrix, scale) => pack_matrix!(matrix, scale, Scaled),
            Source::Rounded(matrix, scale) => pack_matrix!(matrix, scale, Rounded),
            Source::Gathered(rows, along) => pack!(along, Rounded::<GatheredRows<'_, f32>>(rows)),
        }
    }
}

/// Two steps of the depth, of contiguous lines.
///
/// # Safety
/// As for [`pack_units`]; runs are steps.
#[inline(always)]
unsafe fn pack_pair<S: Bf16Isa, R: PairRuns>(
    isa: S,
    panel: &PanelBeside<'_, Bf16>,
    runs: R,
    width: usize,
    unit: usize,
) {
    let p = unit * PAIR;
    let to = panel.dst.wrapping_add(p * width);
    let is_last = p + 2 * PAIR > panel.source.depth();
    for first in (0..width).step_by(S::LANES) {
        runs.prefetch(isa, p + RUNS_AHEAD, first);
        runs.prefetch(isa, p + RUNS_AHEAD + 1, first);
        // SAFETY: so many lines exist, as whole vectors. What is stored after the last line falls
        // on the next pair, which is packed later; the last one is stored without it.
        unsafe {
            let to = to.add(first * PAIR).cast();
            let pairs = runs.across(isa, (p, PAIR), first, S::LANES);
            if first + S::LANES <= width || !is_last {
                isa.store(to, pairs);
            } else {
                isa.store_first(to, pairs, width - first);
            }
            if !panel.sums.is_null() {
                let sums = panel.sums.add(first);
                let (even, odd) = isa.unpair(pairs);
                isa.store(sums, isa.add(isa.add(isa.load(sums), even), odd));
            }
        }
    }
}

/// One vector of pairs along a line.
///
/// # Safety
/// As for [`pack_units`]; runs are lines.
#[inline(always)]
unsafe fn pack_vector<S: Bf16Isa, R: PairRuns>(
    isa: S,
    panel: &PanelBeside<'_, Bf16>,
    runs: R,
    width: usize,
    unit: usize,
) {
    let (p, line) = (unit / width * PAIR * S::LANES, unit % width);
    runs.prefetch(isa, line, p + 2 * PAIR * S::LANES);
    let mut pairs = MaybeUninit::<[f32; MAX_LANES]>::uninit();
    let to = panel.dst.wrapping_add(p * width + line * PAIR);
    // SAFETY: the pairs of a vector along a line from p on exist, and so do their places.
    unsafe {
        isa.store(pairs.as_mut_ptr().cast(), runs.along(isa, line, p, PAIR * S::LANES));
        move_apart::<f32>(pairs.as_ptr().cast(), to.cast(), S::LANES, width);
    }
}
