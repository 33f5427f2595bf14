//! The microkernel: one tile of C, ROWS rows by VECS vectors, held in registers.
//!
//! ```text
//! acc[i][v] = start                              zero, bias, or what stands in C
//! for p in 0..depth:
//!     for i in 0..ROWS, v in 0..VECS:
//!         acc[i][v] = a[i][p] * b[p][v] + acc[i][v]      one fused multiply-add
//! c[i][v] = finish(acc[i][v])                    stored, rectified, gated, or an update of C
//! ```
//!
//! Every element of C is one chain of multiply-adds in the order of k, so its bits do not depend
//! on the tile's shape, its position, the vector width, or where the operands are read from.

use crate::{
    float::Float,
    kernels::{
        elementwise::DropoutMask,
        update::{Descent, Momentum, Rule},
    },
    simd::{Isa, MAX_LANES},
};

/// What the accumulators of a tile start from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TileStart<T> {
    /// 0; C is not read.
    Zero,
    /// One value for each column, from the tile's first column on; C is not read.
    Bias(*const T),
    /// What stands in C.
    Load,
    /// What stands in C, times a factor.
    Scale(T),
}

/// Another matrix of the shape of C, at the tile's first element; its rows are contiguous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside<P> {
    pub(crate) ptr: P,
    /// Elements from one row to the next.
    pub(crate) row_stride: isize,
}

/// What happens to the finished sums of a tile.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TileFinish<T> {
    /// They are stored.
    Store,
    /// `max(sum, 0)` is stored.
    Relu,
    /// `max(sum, 0) * scale` is stored where the mask keeps the element, else 0.
    ReluDropout {
        mask: DropoutMask,
        /// Place of the tile's first element in the masked matrix.
        row: usize,
        col: usize,
        scale: T,
    },
    /// `sum * scale` is stored where the activation is above 0, else 0.
    Gate { activation: Beside<*const T>, scale: T },
    /// C are weights and the sum their gradient; a step of the rule is taken.
    Descent(Descent<T>),
    /// As `Descent`.
    Momentum { velocity: Beside<*mut T>, rule: Momentum<T> },
}

impl<T> TileFinish<T> {
    /// The same for the element `rows` below and `cols` to the right.
    pub(crate) fn at(self, rows: usize, cols: usize) -> Self {
        let step = |stride: isize| rows as isize * stride + cols as isize;
        match self {
            Self::Gate { activation: Beside { ptr, row_stride }, scale } => {
                let ptr = ptr.wrapping_offset(step(row_stride));
                Self::Gate { activation: Beside { ptr, row_stride }, scale }
            }
            Self::Momentum { velocity: Beside { ptr, row_stride }, rule } => {
                let ptr = ptr.wrapping_offset(step(row_stride));
                Self::Momentum { velocity: Beside { ptr, row_stride }, rule }
            }
            Self::ReluDropout { mask, row, col, scale } => {
                Self::ReluDropout { mask, row: row + rows, col: col + cols, scale }
            }
            other => other,
        }
    }
}

/// One tile: where its operands are read, its place in C, and its epilogue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<T> {
    /// Length of the chains.
    pub(crate) depth: usize,
    /// Element (0, 0) of A. Packed: for each p the MR elements of a column.
    pub(crate) a: *const T,
    /// Elements from one row of A to the next.
    pub(crate) a_row_stride: isize,
    /// Elements from one column of A to the next.
    pub(crate) a_depth_stride: isize,
    /// Element (0, 0) of B. Packed: for each p the NR elements of a row.
    pub(crate) b: *const T,
    /// Elements from one row of B to the next.
    pub(crate) b_depth_stride: isize,
    /// Elements from one column of B to the one NR behind it.
    pub(crate) b_panel_stride: isize,
    /// First element of C, whose rows are contiguous.
    pub(crate) c: *mut T,
    /// Elements from one row of C to the next.
    pub(crate) row_stride: isize,
    /// Columns in the last vector, 1 to LANES.
    pub(crate) last_cols: usize,
    pub(crate) start: TileStart<T>,
    pub(crate) finish: TileFinish<T>,
}

/// Where a tile's operands are read from: panels of width `MR` and `NR = NV * LANES`. For full
/// tiles, which do most of the work.
pub(crate) const PACKED: bool = true;
/// Wherever the strides lead: the operands in place, or panels. Nothing need be padded, so the last
/// vector of B is masked.
pub(crate) const STRIDED: bool = false;

/// Computes one tile of `ROWS` rows and `VECS` vectors, with operands as `FROM` says.
///
/// # Safety
/// - A is readable for `ROWS x depth` elements and B for `depth x ((VECS - 1) * LANES +
///   last_cols)` by their strides; packed panels for whole MR and NR.
/// - For each of the `ROWS` rows, `c` is writable for `(VECS - 1) * LANES + last_cols` elements,
///   and readable where `start` or `finish` reads C; likewise what stands beside C.
/// - `1 <= last_cols <= LANES`; `ROWS <= MR` and `VECS <= NV` if `FROM` is [`PACKED`].
#[inline(always)]
pub(crate) unsafe fn tile<
    S,
    T,
    const FROM: bool,
    const ROWS: usize,
    const VECS: usize,
    const MR: usize,
    const NV: usize,
>(
    isa: S,
    tile: &Tile<T>,
) where
    S: Isa<T>,
    T: Float,
{
    let zero = isa.splat(T::ZERO);
    let mut acc = [[zero; VECS]; ROWS];
    let cols = |v: usize| if v + 1 == VECS { tile.last_cols } else { S::LANES };
    let at = |i: usize, v: usize| i as isize * tile.row_stride + (v * S::LANES) as isize;

    match tile.start {
        TileStart::Zero => {}
        TileStart::Bias(bias) => {
            for v in 0..VECS {
                // SAFETY: the caller vouches for the bias of the tile's columns.
                let bias = unsafe { isa.load_up_to(bias.add(v * S::LANES), cols(v)) };
                for row in &mut acc {
                    row[v] = bias;
                }
            }
        }
        TileStart::Load | TileStart::Scale(_) => {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    // SAFETY: the caller vouches for the tile's elements of C.
                    *sum = unsafe { isa.load_up_to(tile.c.offset(at(i, v)), cols(v)) };
                }
            }
            if let TileStart::Scale(factor) = tile.start {
                let factor = isa.splat(factor);
                for sum in acc.as_flattened_mut() {
                    *sum = isa.mul(*sum, factor);
                }
            }
        }
    }

    let (mut a, mut b) = (tile.a, tile.b);
    let (a_row_stride, a_depth_stride, b_depth_stride) = if FROM == PACKED {
        (1, MR as isize, (NV * S::LANES) as isize)
    } else {
        (tile.a_row_stride, tile.a_depth_stride, tile.b_depth_stride)
    };
    let load_b = |b: *const T, v: usize| {
        let panel = (v / NV) as isize * tile.b_panel_stride;
        let from = b.wrapping_offset(panel).wrapping_add(v % NV * S::LANES);
        // SAFETY: row p of B; packed panels are padded to whole vectors.
        unsafe {
            if FROM == PACKED || v + 1 < VECS {
                isa.load(from)
            } else {
                isa.load_first(from, tile.last_cols)
            }
        }
    };
    let splat_a = |a: *const T, i: usize| {
        // SAFETY: row i of column p of A.
        isa.splat(unsafe { *a.offset(i as isize * a_row_stride) })
    };
    for _ in 0..tile.depth {
        // The shorter side of the tile is kept in registers beside the sums.
        if ROWS < VECS {
            let mut a_column = [zero; ROWS];
            for (i, a_value) in a_column.iter_mut().enumerate() {
                *a_value = splat_a(a, i);
            }
            for v in 0..VECS {
                let vector = load_b(b, v);
                for (row, &a_value) in acc.iter_mut().zip(&a_column) {
                    row[v] = isa.mul_add(a_value, vector, row[v]);
                }
            }
        } else {
            let mut b_row = [zero; VECS];
            for (v, vector) in b_row.iter_mut().enumerate() {
                *vector = load_b(b, v);
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let a_value = splat_a(a, i);
                for (sum, &vector) in row.iter_mut().zip(&b_row) {
                    *sum = isa.mul_add(a_value, vector, *sum);
                }
            }
        }
        a = a.wrapping_offset(a_depth_stride);
        b = b.wrapping_offset(b_depth_stride);
    }

    match tile.finish {
        TileFinish::Store => {}
        TileFinish::Relu => {
            for sum in acc.as_flattened_mut() {
                *sum = isa.relu(*sum);
            }
        }
        TileFinish::Gate { activation, scale } => {
            let scale = isa.splat(scale);
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    let step = i as isize * activation.row_stride + (v * S::LANES) as isize;
                    // SAFETY: the caller vouches for the tile's elements of the activation.
                    let gate = unsafe { isa.load_up_to(activation.ptr.offset(step), cols(v)) };
                    *sum = isa.gate(isa.mul(*sum, scale), gate);
                }
            }
        }
        // Longer finishes work on memory: on the registers they would make the compiler spill
        // the accumulators in the loop above.
        _ => {
            let mut sums = [[zero; VECS]; ROWS];
            for (row, from) in sums.iter_mut().zip(&acc) {
                for (sum, &from) in row.iter_mut().zip(from) {
                    *sum = from;
                }
            }
            // SAFETY: the sums of all rows and vectors of the tile, which the caller vouches for.
            unsafe { finish_in_memory(isa, tile, ROWS, VECS, sums.as_flattened().as_ptr()) };
            return;
        }
    }

    for (i, row) in acc.iter().enumerate() {
        for (v, &sum) in row.iter().enumerate() {
            // SAFETY: the caller vouches for the tile's elements of C.
            unsafe {
                let c = tile.c.offset(at(i, v));
                isa.store_up_to(c, sum, cols(v));
            }
        }
    }
}

/// Finishes and stores a tile from its `rows * vectors` sums.
///
/// # Safety
/// As for [`tile`]; `sums` is readable for all of them.
#[inline(always)]
unsafe fn finish_in_memory<S: Isa<T>, T: Float>(
    isa: S,
    tile: &Tile<T>,
    rows: usize,
    vectors: usize,
    sums: *const S::Vector,
) {
    for i in 0..rows {
        for v in 0..vectors {
            let count = if v + 1 == vectors { tile.last_cols } else { S::LANES };
            let col = v * S::LANES;
            // SAFETY: a sum of the tile, and its elements of C and of the velocity, for which the
            // caller vouches; no vector has more than MAX_LANES lanes.
            unsafe {
                let sum = *sums.add(i * vectors + v);
                let c = tile.c.offset(i as isize * tile.row_stride).add(col);
                let value = match tile.finish {
                    TileFinish::ReluDropout { mask, row, col: first_col, scale } => {
                        let mut kept = [T::ZERO; MAX_LANES];
                        mask.fill(row + i, first_col + col, &mut kept[..S::LANES]);
                        let kept = isa.load(kept.as_ptr());
                        isa.gate(isa.mul(isa.relu(sum), isa.splat(scale)), kept)
                    }
                    TileFinish::Descent(rule) => {
                        rule.step(isa, isa.load_up_to(c, count), sum, &mut [])
                    }
                    TileFinish::Momentum { velocity, rule } => {
                        let place = velocity.ptr.offset(i as isize * velocity.row_stride).add(col);
                        let mut slots = [isa.load_up_to(place, count)];
                        let value = rule.step(isa, isa.load_up_to(c, count), sum, &mut slots);
                        isa.store_up_to(place, slots[0], count);
                        value
                    }
                    TileFinish::Store | TileFinish::Relu | TileFinish::Gate { .. } => sum,
                };
                isa.store_up_to(c, value, count);
            }
        }
    }
}
