//! One packed block of A times one packed block of B: the loops over tiles.
//!
//! For each panel of B (which stays in the L1 cache) all panels of A (which stay in L2) pass by.

use crate::{
    float::Float,
    kernels::tile::{Tile, TileFinish, TileStart},
};

/// Rows of the largest tile, and columns, over all kernels; sizes of stack buffers.
pub(crate) const MAX_TILE: (usize, usize) = (14, 64);

/// Computes a tile: see `kernels::tile::tile` for what must hold.
pub(crate) type TileFn<T> = unsafe fn(&Tile<T>);

/// A packed block of A, `rows x depth`, a packed block of B, `depth x cols`, and their place in C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<T> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) depth: usize,
    /// Panels of A, each `depth * MR` elements.
    pub(crate) a: *const T,
    /// Panels of B.
    pub(crate) b: *const T,
    /// Elements from one panel of B to the next, at least `depth * NR`.
    pub(crate) b_panel_stride: usize,
    pub(crate) c: *mut T,
    pub(crate) row_stride: isize,
    pub(crate) col_stride: isize,
    /// For the block's first tile; pointers are moved along for the others.
    pub(crate) start: TileStart<T>,
    pub(crate) finish: TileFinish<T>,
}

/// The tile functions of an instruction set: `tiles[rows - 1][vectors - 1]`, and its vector width.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<T: 'static> {
    pub(crate) functions: &'static [&'static [TileFn<T>]],
    pub(crate) lanes: usize,
}

impl<T> Tiles<T> {
    /// MR: rows of a full tile, and width of a panel of A.
    pub(crate) fn rows(&self) -> usize {
        self.functions.len()
    }

    /// NR: columns of a full tile, and width of a panel of B.
    pub(crate) fn cols(&self) -> usize {
        self.functions[0].len() * self.lanes
    }
}

/// Computes a block.
///
/// # Safety
/// - The CPU has the instruction set of `tiles`.
/// - `a` and `b` hold whole packed panels of the tiles' widths.
/// - All `rows * cols` elements of C are writable, readable where `start` reads them, and touched
///   by nobody else meanwhile; likewise readable are the bias and the activation.
/// - A bias or an activation comes only with `col_stride == 1`.
pub(crate) unsafe fn block<T: Float>(tiles: Tiles<T>, block: &Block<T>) {
    let (mr, nr) = (tiles.rows(), tiles.cols());
    let mut j = 0;
    while j < block.cols {
        let cols = nr.min(block.cols - j);
        let vectors = cols.div_ceil(tiles.lanes);
        let mut tile = Tile {
            depth: block.depth,
            a: block.a,
            b: block.b.wrapping_add(j / nr * block.b_panel_stride),
            c: block.c,
            row_stride: block.row_stride,
            last_cols: cols - (vectors - 1) * tiles.lanes,
            start: match block.start {
                TileStart::Bias(bias) => TileStart::Bias(bias.wrapping_add(j)),
                other => other,
            },
            finish: block.finish,
        };
        let mut i = 0;
        while i < block.rows {
            let rows = mr.min(block.rows - i);
            tile.a = block.a.wrapping_add(i * block.depth);
            tile.c = block
                .c
                .wrapping_offset(i as isize * block.row_stride + j as isize * block.col_stride);
            if let TileFinish::Gate { activation, row_stride, scale } = block.finish {
                let activation =
                    activation.wrapping_offset(i as isize * row_stride).wrapping_add(j);
                tile.finish = TileFinish::Gate { activation, row_stride, scale };
            }
            let function = tiles.functions[rows - 1][vectors - 1];
            // SAFETY: the tile lies in the block, and the function is one of the set's.
            unsafe {
                if block.col_stride == 1 {
                    function(&tile);
                } else {
                    through_buffer(function, tile, (rows, cols), block.col_stride);
                }
            }
            i += mr;
        }
        j += nr;
    }
}

/// Computes a tile of a C whose columns do not stand side by side.
///
/// # Safety
/// As for [`block`], for the tile's `shape`.
unsafe fn through_buffer<T: Float>(
    function: TileFn<T>,
    mut tile: Tile<T>,
    shape: (usize, usize),
    col_stride: isize,
) {
    let (rows, cols) = shape;
    let mut buffer = [T::ZERO; MAX_TILE.0 * MAX_TILE.1];
    let (c, row_stride) = (tile.c, tile.row_stride);
    let at =
        |i: usize, j: usize| c.wrapping_offset(i as isize * row_stride + j as isize * col_stride);
    if matches!(tile.start, TileStart::Load | TileStart::Scale(_)) {
        for i in 0..rows {
            for j in 0..cols {
                // SAFETY: an element of the tile.
                buffer[i * MAX_TILE.1 + j] = unsafe { *at(i, j) };
            }
        }
    }
    tile.c = buffer.as_mut_ptr();
    tile.row_stride = MAX_TILE.1 as isize;
    // SAFETY: the buffer holds the largest tile.
    unsafe { function(&tile) };
    for i in 0..rows {
        for j in 0..cols {
            // SAFETY: an element of the tile.
            unsafe { *at(i, j) = buffer[i * MAX_TILE.1 + j] };
        }
    }
}
