//! One block of A times one block of B: the loops over tiles.
//!
//! Tiles go along the rows of C: a panel of A stays in the L1 cache while the panels of B pass by,
//! and the rows of C are written one after another.

use std::ptr::null_mut;

use bytemuck::Zeroable;

use crate::{
    float::Float,
    kernels::{
        epilogue::{Finish, Start},
        product::Types,
        tile::Tile,
        update::RawRows,
    },
};

/// Rows of the largest packed tile, and columns, over all kernels; sizes of stack buffers.
pub(crate) const MAX_TILE: (usize, usize) = (14, 64);

/// Depth up to which a block is shallow. 512x1024x10 with B transposed, AVX-512 on Zen 4: 0.64 of the
/// peak with tiles of 14 rows, 0.77 with 7; 512x1024x32: 0.84 and 0.89.
pub(crate) const SHALLOW: usize = 32;

/// Rows that a tile of a shallow block has at least; the 6 of AVX2 are not halved.
const MIN_ROWS: usize = 6;

/// Computes a tile: see `kernels::tile::tile` for what must hold.
pub(crate) type TileFn<P> = unsafe fn(&Tile<'_, P>);

/// The tile functions of an instruction set for one kind of operands,
/// `functions[rows - 1][vectors - 1]`, and its vector width.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<P: Types> {
    pub(crate) functions: &'static [&'static [TileFn<P>]],
    pub(crate) lanes: usize,
}

impl<P: Types> Tiles<P> {
    /// MR: rows of a full tile, and width of a panel of A.
    pub(crate) fn rows(&self) -> usize {
        self.functions.len()
    }

    /// NR: columns of a full tile, and width of a panel of B.
    pub(crate) fn cols(&self) -> usize {
        self.functions[0].len() * self.lanes
    }
}

/// A block of A, `rows x depth`, a block of B, `depth x cols`, and their place in C. Packed or in
/// place, that is up to the tile functions.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a, P: Types> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Rows of a tile, up to those of a full one; of a packed A, those of a full one.
    pub(crate) tile_rows: usize,
    /// The first tile; the others follow from it.
    pub(crate) first: Tile<'a, P>,
    /// Elements from the first row of a tile in A to that of the next.
    pub(crate) a_panel_stride: isize,
    /// Elements from one panel (NR columns) of B to the next.
    pub(crate) b_panel_stride: isize,
    /// Elements from one column of C to the next.
    pub(crate) col_stride: isize,
    /// If a panel is packed beside: the functions of full tiles that do so, by vectors, and the units
    /// of the panel. Then the block is one row of full tiles, which share the units.
    pub(crate) packing: Option<(&'static [TileFn<P>], usize)>,
}

/// Computes a block. Rows that are left below the full tiles, if they are few, are computed by the
/// tiles `few`, whose columns are those of several of `tiles`: so many chains of multiply-adds
/// keep the units busy that a narrow tile of a row or two could not. They come first: with so
/// little to do for each element they fetch B nearly as fast as a plain read, and the others find
/// it in the cache (8 rows of 3072-512-1024-10 on one thread: a third less time).
///
/// # Safety
/// - The CPU has the instruction set of `tiles` and `few`.
/// - The operands are as their functions take them; `1 <= tile_rows <= tiles.rows()`.
/// - All `rows * cols` elements of C are writable, readable where start or finish read them, and
///   touched by nobody else meanwhile; likewise the companions that the finish takes. A bias has
///   `cols` elements.
/// - `packing` comes with the panel in `first` that its functions ask for, and `rows == tile_rows`.
/// - A bias, and every finish but `Store` and `Relu`, comes only with `col_stride == 1`.
pub(crate) unsafe fn block<P: Types>(tiles: Tiles<P>, few: Option<Tiles<P>>, block: &Block<'_, P>) {
    let (mr, nr) = (block.tile_rows, tiles.cols());
    let left = block.rows % mr;
    // Shallow blocks do little but store C: the fewer rows of it at a time, the better, if there is
    // work enough for the chains to overlap.
    let halved = few.is_some()
        && block.packing.is_none()
        && block.first.depth <= SHALLOW
        && mr >= 2 * MIN_ROWS;
    let height = if halved { mr / 2 } else { mr };
    let few = few.filter(|few| (1..=few.rows()).contains(&left) && block.col_stride == 1);
    let full = if few.is_some() { block.rows - left } else { block.rows };
    if let Some(few) = few {
        for j in (0..block.cols).step_by(few.cols()) {
            // SAFETY: the caller's promises are passed on.
            unsafe { tile_at(few, nr, block, (full, j), mr) };
        }
    }
    for i in (0..full).step_by(height) {
        for j in (0..block.cols).step_by(nr) {
            // SAFETY: the caller's promises are passed on.
            unsafe { tile_at(tiles, nr, block, (i, j), height) };
        }
    }
}

/// Computes the tile of a block at row `i` and column `j`, of up to `height` rows; panels of B are
/// `nr` wide.
///
/// # Safety
/// As for [`block`]; `i` and `j` are multiples of the tile's sizes inside of the block.
#[inline(always)]
unsafe fn tile_at<P: Types>(
    tiles: Tiles<P>,
    nr: usize,
    block: &Block<'_, P>,
    (i, j): (usize, usize),
    height: usize,
) {
    let mr = block.tile_rows;
    let Block { first, a_panel_stride, b_panel_stride, col_stride, .. } = *block;
    let (rows, cols) = (height.min(block.rows - i), tiles.cols().min(block.cols - j));
    let vectors = cols.div_ceil(tiles.lanes);
    let step = i as isize * first.row_stride + j as isize * col_stride;
    let c = first.c.wrapping_offset(step);
    // Sums that begin with C have it by now.
    let reads_c = matches!(first.start, Start::Scaled(factor) if factor != P::Sum::ZERO);
    let ahead = if col_stride != 1 {
        null_mut()
    } else if !reads_c {
        c
    } else if j + nr < block.cols {
        c.wrapping_add(nr)
    } else {
        first.c.wrapping_offset((i + height) as isize * first.row_stride)
    };
    let mut tile = Tile {
        ahead: ahead.cast_const(),
        a: first.a.wrapping_offset(
            (i / mr) as isize * a_panel_stride + (i % mr) as isize * first.a_row_stride,
        ),
        b: first.b.wrapping_offset((j / nr) as isize * b_panel_stride),
        c,
        last_cols: cols - (vectors - 1) * tiles.lanes,
        start: match first.start {
            Start::Bias(bias) => Start::Bias(&bias[j..]),
            other => other,
        },
        row: i,
        col: j,
        companions: first.companions.map(|RawRows { ptr, row_stride }| {
            let step = i as isize * row_stride + j as isize;
            RawRows { ptr: ptr.wrapping_offset(step), row_stride }
        }),
        ..first
    };
    let function = match block.packing {
        None => tiles.functions[rows - 1][vectors - 1],
        Some((functions, units)) => {
            let (index, count) = (j / nr, block.cols.div_ceil(nr));
            tile.units = (units * index / count, units * (index + 1) / count);
            functions[vectors - 1]
        }
    };
    // SAFETY: the tile lies in the block, and the function is one of the set's.
    unsafe {
        if col_stride == 1 {
            function(&tile);
        } else {
            through_buffer(function, tile, (rows, cols), col_stride);
        }
    }
}

/// Computes a tile of a C whose rows are not contiguous.
///
/// # Safety
/// As for [`block`], for the tile's `shape`, of at most MAX_TILE.
unsafe fn through_buffer<P: Types>(
    function: TileFn<P>,
    mut tile: Tile<'_, P>,
    shape: (usize, usize),
    col_stride: isize,
) {
    debug_assert!(matches!(tile.finish, Finish::Store | Finish::Relu));
    let (rows, cols) = shape;
    let mut buffer = [P::Output::zeroed(); MAX_TILE.0 * MAX_TILE.1];
    let (c, row_stride) = (tile.c, tile.row_stride);
    let at =
        |i: usize, j: usize| c.wrapping_offset(i as isize * row_stride + j as isize * col_stride);
    if matches!(tile.start, Start::Scaled(factor) if factor != P::Sum::ZERO) {
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
