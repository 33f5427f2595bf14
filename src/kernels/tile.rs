//! The microkernel: one tile of C, ROWS rows by VECS vectors, held in registers.
//!
//! ```text
//! acc[i][v] = start                              zero, bias, or what stands in C
//! for p in 0..depth:
//!     for i in 0..ROWS, v in 0..VECS:
//!         acc[i][v] = a[i][p] * b[p][v] + acc[i][v]      one fused multiply-add
//! c[i][v] = finish(acc[i][v])                    stored, perhaps changed, or an update of C
//! ```
//!
//! Every element of C is one chain of multiply-adds in the order of k, so its bits do not depend
//! on the tile's shape, its position, the vector width, or where the operands are read from.

use crate::{
    float::Float,
    kernels::{
        epilogue::{Finish, MAX_COMPANIONS, Start},
        pack::beside::{PackUnits, PanelBeside},
        product::{MultiplyAdd, Types},
        update::RawRows,
    },
};

/// Finishes and stores a tile from the sums of its rows, so many vectors each: see
/// `kernels::finish`.
pub(crate) type FinishFn<P> = unsafe fn(&Tile<'_, P>, (usize, usize), *const <P as Types>::Sum);

/// One tile: where its operands are read, its place in C, and its epilogue.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a, P: Types> {
    /// Length of the chains.
    pub(crate) depth: usize,
    /// Element (0, 0) of A. Packed: for each step of k the MR elements of a column.
    pub(crate) a: *const P::Left,
    /// Elements from one row of A to the next.
    pub(crate) a_row_stride: isize,
    /// Elements from one step of k to the next in A.
    pub(crate) a_depth_stride: isize,
    /// Element (0, 0) of B. Packed: for each step of k the NR elements of a row.
    pub(crate) b: *const P::Right,
    /// Elements from one step of k to the next in B.
    pub(crate) b_depth_stride: isize,
    /// Elements from one column of B to the one NR after it.
    pub(crate) b_panel_stride: isize,
    /// First element of C, whose rows are contiguous.
    pub(crate) c: *mut P::Output,
    /// Elements from one row of C to the next.
    pub(crate) row_stride: isize,
    /// First element of a tile of C to fetch into the cache before the end of the chains: the next
    /// one where C is read, this one where it is only written. Null: none.
    pub(crate) ahead: *const P::Output,
    /// Panels that are packed while the tile is computed, if `FROM` says so, and those of their
    /// units that this tile packs.
    pub(crate) left: Option<&'a PanelBeside<'a, P::Left>>,
    pub(crate) right: Option<&'a PanelBeside<'a, P::Right>>,
    pub(crate) units: (usize, usize),
    /// Columns in the last vector, 1 to LANES.
    pub(crate) last_cols: usize,
    /// A bias begins with that of the tile's first column.
    pub(crate) start: Start<'a, P::Sum>,
    pub(crate) finish: &'a Finish<P::Sum>,
    /// Place of the tile's first element in the C that `finish` is for.
    pub(crate) row: usize,
    pub(crate) col: usize,
    /// From the tile's first element on, those that `finish` takes.
    pub(crate) companions: [RawRows<*mut P::Output>; MAX_COMPANIONS],
    /// For the finishes that work on memory.
    pub(crate) finish_in_memory: FinishFn<P>,
}

/// Steps before the end of the chains at which C is fetched into the cache.
const STEPS_AHEAD: usize = 64;

/// Where a tile's operands are read from: wherever the strides lead, in place or in panels. Nothing
/// need be padded, so the last vector of B is masked.
pub(crate) const STRIDED: u8 = 0;
/// Panels of width `MR` and `NR = NV * LANES`. For full tiles, which do most of the work.
pub(crate) const PACKED: u8 = 1;
/// As [`PACKED`], while a panel of A is packed, `Tile::left`.
pub(crate) const PACKING_A: u8 = 2;
/// As [`PACKED`], while a panel of B is packed, `Tile::right`.
pub(crate) const PACKING_B: u8 = 3;

/// Computes one tile of `ROWS` rows and `VECS` vectors, with operands as `FROM` says.
///
/// # Safety
/// - An update comes only where C has the type of the sums.
/// - A is readable for `ROWS x depth` elements and B for `depth x ((VECS - 1) * LANES +
///   last_cols)` by their strides; packed panels for whole MR and NR.
/// - For each of the `ROWS` rows, `c` is writable for `(VECS - 1) * LANES + last_cols` elements,
///   and readable where `start` or `finish` reads C; likewise the companions that `finish` takes.
/// - `1 <= last_cols <= LANES`; `ROWS <= MR` and `VECS <= NV` unless `FROM` is [`STRIDED`].
/// - The units of a panel beside, if `FROM` asks for it, as [`PackUnits::pack_units`] says.
#[inline(always)]
pub(crate) unsafe fn tile<
    S,
    P,
    const FROM: u8,
    const ROWS: usize,
    const VECS: usize,
    const MR: usize,
    const NV: usize,
>(
    isa: S,
    tile: &Tile<'_, P>,
) where
    S: MultiplyAdd<P>,
    P: Types<Left: PackUnits<S>, Right: PackUnits<S>>,
{
    let zero = isa.splat(P::Sum::ZERO);
    let mut acc = [[zero; VECS]; ROWS];
    let cols = |v: usize| if v + 1 == VECS { tile.last_cols } else { S::LANES };
    let at = |i: usize, v: usize| i as isize * tile.row_stride + (v * S::LANES) as isize;

    match tile.start {
        Start::Bias(bias) => {
            for v in 0..VECS {
                // SAFETY: the caller vouches for the bias of the tile's columns.
                let bias = unsafe { isa.load_up_to(bias.as_ptr().add(v * S::LANES), cols(v)) };
                for row in &mut acc {
                    row[v] = bias;
                }
            }
        }
        Start::Scaled(factor) if factor == P::Sum::ZERO => {}
        Start::Scaled(factor) => {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    // SAFETY: the caller vouches for the tile's elements of C.
                    *sum = unsafe { isa.load_c(tile.c.offset(at(i, v)), cols(v)) };
                }
            }
            if factor != P::Sum::ONE {
                let factor = isa.splat(factor);
                for sum in acc.as_flattened_mut() {
                    *sum = isa.mul(*sum, factor);
                }
            }
        }
    }

    let (mut a, mut b) = (tile.a, tile.b);
    let (a_row_stride, a_depth_stride, b_depth_stride) = if FROM == STRIDED {
        (tile.a_row_stride, tile.a_depth_stride, tile.b_depth_stride)
    } else {
        (S::STEP as isize, (MR * S::STEP) as isize, (NV * S::LANES * S::STEP) as isize)
    };
    let load_b = |b: *const P::Right, v: usize| {
        let panel = (v / NV) as isize * tile.b_panel_stride;
        let from = b.wrapping_offset(panel).wrapping_add(v % NV * S::LANES * S::STEP);
        // SAFETY: row p of B; packed panels are padded to whole vectors.
        unsafe {
            if FROM != STRIDED || v + 1 < VECS {
                isa.load_right(from)
            } else {
                isa.load_right_first(from, tile.last_cols)
            }
        }
    };
    let splat_a = |a: *const P::Left, i: usize| {
        // SAFETY: row i of column p of A.
        unsafe { isa.splat_left(a.offset(i as isize * a_row_stride)) }
    };
    let (no_a, no_b) = isa.zeros();
    let steps = tile.depth.div_ceil(S::STEP);
    // A macro: as a function the sums would have an address.
    macro_rules! run {
        ($count:expr) => {
            for _ in 0..$count {
                // The shorter side of the tile is kept in registers beside the sums.
                if ROWS < VECS {
                    let mut a_column = [no_a; ROWS];
                    for (i, a_value) in a_column.iter_mut().enumerate() {
                        *a_value = splat_a(a, i);
                    }
                    for v in 0..VECS {
                        let vector = load_b(b, v);
                        for (row, &a_value) in acc.iter_mut().zip(&a_column) {
                            row[v] = isa.accumulate(a_value, vector, row[v]);
                        }
                    }
                } else {
                    let mut b_row = [no_b; VECS];
                    for (v, vector) in b_row.iter_mut().enumerate() {
                        *vector = load_b(b, v);
                    }
                    for (i, row) in acc.iter_mut().enumerate() {
                        let a_value = splat_a(a, i);
                        for (sum, &vector) in row.iter_mut().zip(&b_row) {
                            *sum = isa.accumulate(a_value, vector, *sum);
                        }
                    }
                }
                a = a.wrapping_offset(a_depth_stride);
                b = b.wrapping_offset(b_depth_stride);
            }
        };
    }
    let fetch = || {
        for i in 0..ROWS {
            let row = tile.ahead.wrapping_offset(at(i, 0));
            isa.prefetch(row.cast());
            isa.prefetch(row.wrapping_add((VECS - 1) * S::LANES).cast());
        }
    };
    let mut left = steps;
    if (FROM == PACKING_A || FROM == PACKING_B) && left > 0 {
        let (mut unit, end) = tile.units;
        // After so many steps, some units: one, if there are not more units than steps.
        let count = end - unit;
        let (some, interval) = (count.div_ceil(left), (left / count.max(1)).max(1));
        let mut to_fetch = !tile.ahead.is_null();
        while left > 0 {
            let run = interval.min(left);
            run!(run);
            left -= run;
            if to_fetch && left <= STEPS_AHEAD {
                to_fetch = false;
                fetch();
            }
            let units = unit..end.min(unit + some);
            unit = units.end;
            if FROM == PACKING_A
                && let Some(panel) = tile.left
            {
                // SAFETY: the caller vouches for the units.
                unsafe { P::Left::pack_units(isa, panel, MR, units) };
            } else if FROM == PACKING_B
                && let Some(panel) = tile.right
            {
                // SAFETY: the caller vouches for the units.
                unsafe { P::Right::pack_units(isa, panel, NV * S::LANES, units) };
            }
        }
    } else if FROM != STRIDED && steps > STEPS_AHEAD && !tile.ahead.is_null() {
        run!(steps - STEPS_AHEAD);
        left = STEPS_AHEAD;
        fetch();
    }
    run!(left);

    match tile.finish {
        Finish::Store => {}
        Finish::Relu => {
            for sum in acc.as_flattened_mut() {
                *sum = isa.relu(*sum);
            }
        }
        Finish::ReluGradient { scale } => {
            let (scale, [activation, _]) = (isa.splat(*scale), tile.companions);
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    let step = i as isize * activation.row_stride + (v * S::LANES) as isize;
                    // SAFETY: the caller vouches for the tile's elements of the activation.
                    let gate = unsafe { isa.load_c(activation.ptr.offset(step), cols(v)) };
                    *sum = isa.gate(isa.mul(*sum, scale), gate);
                }
            }
        }
        // See `kernels::finish`. The sums are copied, so that those above need not have an address.
        Finish::ReluDropout { .. } | Finish::Update(_) => {
            let mut sums = [[zero; VECS]; ROWS];
            for (row, from) in sums.iter_mut().zip(&acc) {
                for (sum, &from) in row.iter_mut().zip(from) {
                    *sum = from;
                }
            }
            // SAFETY: the sums of all rows and vectors of the tile, which the caller vouches for;
            // the function is that of the instruction set.
            unsafe {
                let sums = sums.as_flattened().as_ptr().cast();
                (tile.finish_in_memory)(tile, (ROWS, VECS), sums);
            }
            return;
        }
    }

    for (i, row) in acc.iter().enumerate() {
        for (v, &sum) in row.iter().enumerate() {
            // SAFETY: the caller vouches for the tile's elements of C.
            unsafe {
                let c = tile.c.offset(at(i, v));
                isa.store_c(c, sum, cols(v));
            }
        }
    }
}
