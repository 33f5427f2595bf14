//! The microkernel: one tile of C, ROWS rows by VECS vectors, held in registers.
//!
//! ```text
//! acc[i][v] = start                              zero, bias, or what stands in C
//! for p in 0..depth:
//!     for i in 0..ROWS, v in 0..VECS:
//!         acc[i][v] = a[p][i] * b[p][v] + acc[i][v]      one fused multiply-add
//! c[i][v] = finish(acc[i][v])                    as it is, max(acc, 0), or gated
//! ```
//!
//! Every element of C is one chain of multiply-adds in the order of k, so its bits do not depend
//! on the tile's shape, its position, or the vector width.

use crate::{float::Float, simd::Isa};

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

/// What happens to the finished sums of a tile before they are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TileFinish<T> {
    /// Nothing.
    Store,
    /// `max(sum, 0)`.
    Relu,
    /// `sum * scale` where the stored activation is above 0, else 0.
    Gate {
        /// The activation at the tile's first element; columns side by side.
        activation: *const T,
        /// Elements from one of its rows to the next.
        row_stride: isize,
        /// Factor of what passes.
        scale: T,
    },
}

/// One tile: packed panels, its place in C, and its epilogue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<T> {
    /// Length of the chains.
    pub(crate) depth: usize,
    /// Panel of A: for each p the MR elements of a column.
    pub(crate) a: *const T,
    /// Panel of B: for each p the NR elements of a row.
    pub(crate) b: *const T,
    /// First element of C; columns side by side.
    pub(crate) c: *mut T,
    /// Elements from one row of C to the next.
    pub(crate) row_stride: isize,
    /// Columns in the last vector, 1 to LANES.
    pub(crate) last_cols: usize,
    pub(crate) start: TileStart<T>,
    pub(crate) finish: TileFinish<T>,
}

/// `LANES` elements, or the first `count` of them.
///
/// # Safety
/// `1 <= count <= LANES`, and `from` is valid for reading `count` elements.
#[inline(always)]
unsafe fn load<S: Isa<T>, T: Float>(isa: S, from: *const T, count: usize) -> S::Vector {
    // SAFETY: the caller vouches for the elements.
    unsafe { if count == S::LANES { isa.load(from) } else { isa.load_first(from, count) } }
}

/// Computes one tile of `ROWS` rows and `VECS` vectors from panels of width `MR` and
/// `NR = NV * LANES`.
///
/// # Safety
/// - `a` is readable for `depth * MR` elements and `b` for `depth * NR`.
/// - For each of the `ROWS` rows, `c` is writable for `(VECS - 1) * LANES + last_cols` elements,
///   and readable where `start` reads C; likewise the bias and the activation.
/// - `1 <= last_cols <= LANES`, `ROWS <= MR`, `VECS <= NV`.
#[inline(always)]
pub(crate) unsafe fn tile<
    S,
    T,
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

    match tile.start {
        TileStart::Zero => {}
        TileStart::Bias(bias) => {
            for v in 0..VECS {
                // SAFETY: the caller vouches for the bias of the tile's columns.
                let bias = unsafe { load(isa, bias.add(v * S::LANES), cols(v)) };
                for row in &mut acc {
                    row[v] = bias;
                }
            }
        }
        TileStart::Load | TileStart::Scale(_) => {
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    // SAFETY: the caller vouches for the tile's elements of C.
                    *sum = unsafe {
                        let c = tile.c.offset(i as isize * tile.row_stride).add(v * S::LANES);
                        load(isa, c, cols(v))
                    };
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
    for _ in 0..tile.depth {
        let mut b_row = [zero; VECS];
        for (v, vector) in b_row.iter_mut().enumerate() {
            // SAFETY: inside the panel of B, of which `p * NR` elements are behind `b`.
            *vector = unsafe { isa.load(b.add(v * S::LANES)) };
        }
        for (i, row) in acc.iter_mut().enumerate() {
            // SAFETY: inside the panel of A, of which `p * MR` elements are behind `a`.
            let a_value = isa.splat(unsafe { *a.add(i) });
            for (sum, &vector) in row.iter_mut().zip(&b_row) {
                *sum = isa.mul_add(a_value, vector, *sum);
            }
        }
        a = a.wrapping_add(MR);
        b = b.wrapping_add(NV * S::LANES);
    }

    match tile.finish {
        TileFinish::Store => {}
        TileFinish::Relu => {
            for sum in acc.as_flattened_mut() {
                *sum = isa.relu(*sum);
            }
        }
        TileFinish::Gate { activation, row_stride, scale } => {
            let scale = isa.splat(scale);
            for (i, row) in acc.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    // SAFETY: the caller vouches for the tile's elements of the activation.
                    let gate = unsafe {
                        let h = activation.offset(i as isize * row_stride).add(v * S::LANES);
                        load(isa, h, cols(v))
                    };
                    *sum = isa.gate(isa.mul(*sum, scale), gate);
                }
            }
        }
    }

    for (i, row) in acc.iter().enumerate() {
        for (v, &sum) in row.iter().enumerate() {
            // SAFETY: the caller vouches for the tile's elements of C.
            unsafe {
                let c = tile.c.offset(i as isize * tile.row_stride).add(v * S::LANES);
                if cols(v) == S::LANES {
                    isa.store(c, sum);
                } else {
                    isa.store_first(c, sum, cols(v));
                }
            }
        }
    }
}
