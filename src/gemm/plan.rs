//! Blocking: how a product is cut so that its pieces stay in the caches, and the scratch memory
//! that takes.

use crate::{
    aligned::ALIGNMENT,
    config::with_fields,
    error::{Error, Result},
    kernels::{KernelSet, Product},
    simd::Caches,
};

/// The tile that is computed in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TileShape {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Steps of k that are taken at a time.
    pub(super) depth_step: usize,
}

impl TileShape {
    pub(super) fn of<P: Product>(kernels: &KernelSet<P>) -> Self {
        let (rows, cols) = (kernels.tile_rows(), kernels.tile_cols());
        Self { rows, cols, depth_step: kernels.depth_step() }
    }
}

/// Sizes, in elements, of the pieces that a product is cut into. They tune speed alone: the bits
/// of a result do not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blocking {
    /// Rows of a packed block of A: `mc * kc` elements stay in the L2 cache of a core.
    pub mc: usize,
    /// Depth of the packed blocks: C is loaded and stored once for each.
    pub kc: usize,
    /// Columns of B that are packed at a time, for all threads together.
    pub nc: usize,
    /// Rows of B that are packed at a time, by all threads together; a multiple of `kc`.
    pub kb: usize,
    /// Rows, or columns, up to which operands are read in place instead of packed.
    pub in_place_lines: usize,
    /// Multiply-adds up to which operands are read in place.
    pub in_place_work: usize,
}

with_fields! {
    Blocking {
        mc with_mc: usize,
        kc with_kc: usize,
        nc with_nc: usize,
        kb with_kb: usize,
        in_place_lines with_in_place_lines: usize,
        in_place_work with_in_place_work: usize,
    }
}

impl Blocking {
    /// Blocking for a kernel's tile and elements of `size` bytes.
    ///
    /// Within a block the tiles go along the rows of C: a panel of A serves a whole row of tiles,
    /// and the panels of B stream past it. What counts is then how often C passes by, once for each
    /// kc: a panel of B may fill an eighth of the L2 cache. mc: a few panels of A fill a quarter of
    /// it, so that an A stored by columns is packed from whole cache lines. `docs/gemm.md` has the
    /// measurements.
    fn for_tile(caches: Caches, tile: TileShape, size: usize) -> Self {
        let TileShape { rows: tile_rows, cols: tile_cols, .. } = tile;
        let kc = (caches.l2 / 8 / (tile_cols * size)).clamp(64, MAX_KC) / DEPTH_UNIT * DEPTH_UNIT;
        let mc = (caches.l2 / 4 / (kc * size)).max(tile_rows) / tile_rows * tile_rows;
        let nc = 2048usize.next_multiple_of(tile_cols);
        Self { mc, kc, nc, kb: kc, in_place_lines: 2 * tile_rows, in_place_work: 1 << 21 }
    }

    /// The same for a depth of k, with blocks of about equal depth: a shallow last block would load
    /// and store all of C for little.
    fn balanced(self, k: usize) -> Self {
        if k <= self.kc {
            return self;
        }
        let kc = k.div_ceil(k.div_ceil(self.kc)).next_multiple_of(DEPTH_UNIT);
        Self { kc, kb: kc, ..self }
    }

    /// The same for several tasks, with a barrier before and after each part of B: deeper parts.
    fn shared_by(self, tasks: usize) -> Self {
        let blocks = if tasks > 1 { BLOCKS_BETWEEN_BARRIERS } else { 1 };
        Self { kb: self.kc.saturating_mul(blocks), ..self }
    }

    /// Elements of a block of A of the whole depth: those of another.
    fn whole_depth_a(&self) -> usize {
        self.mc.saturating_mul(self.kc.max(1))
    }

    /// The same in whole tiles, and kb in whole kc.
    fn rounded(self, tile: TileShape) -> Self {
        let up = |size: usize, to: usize| size.max(1).checked_next_multiple_of(to).unwrap_or(size);
        let kc = up(self.kc, tile.depth_step);
        let (mc, nc, kb) = (up(self.mc, tile.rows), up(self.nc, tile.cols), up(self.kb, kc));
        Self { mc, kc, nc, kb, ..self }
    }

    /// The same, cut to the sizes of one product, in whole tiles and whole steps of k.
    fn cut(self, tile: TileShape, (m, n, k): (usize, usize, usize)) -> Self {
        Self {
            mc: self.mc.min(m).max(1).next_multiple_of(tile.rows),
            kc: self.kc.min(k).next_multiple_of(tile.depth_step),
            nc: self.nc.min(n).max(1).next_multiple_of(tile.cols),
            kb: self.kb.min(k).next_multiple_of(tile.depth_step),
            ..self
        }
    }

    /// The same with one block of the whole depth `k`, of about as many elements.
    fn of_whole_depth(self, tile: TileShape, k: usize) -> Self {
        let rows = self.whole_depth_a() / k / tile.rows * tile.rows;
        let cols = (self.nc.saturating_mul(self.kb) / k.max(self.kb)) / tile.cols * tile.cols;
        Self { mc: rows.max(tile.rows), kc: k, nc: cols.max(tile.cols), kb: k, ..self }
    }
}

/// Who chose a blocking.
#[derive(Clone, Copy, Debug)]
pub(super) enum Choice {
    /// It follows from caches and tile, and adapts to the sizes of a product.
    Derived(Blocking),
    /// The user: it stays as it is.
    Given(Blocking),
}

impl Choice {
    /// Derived for elements of `size` bytes.
    pub(super) fn for_tile(caches: Caches, tile: TileShape, size: usize) -> Self {
        Self::Derived(Blocking::for_tile(caches, tile, size))
    }

    /// Given, in whole tiles.
    pub(super) fn given(blocking: Blocking, tile: TileShape) -> Self {
        Self::Given(blocking.rounded(tile))
    }

    pub(super) fn blocking(self) -> Blocking {
        match self {
            Self::Derived(blocking) | Self::Given(blocking) => blocking,
        }
    }

    /// The blocking of a product.
    fn of_product(
        self,
        tile: TileShape,
        tasks: usize,
        sizes: (usize, usize, usize),
        whole_depth: bool,
    ) -> Blocking {
        let (_, _, k) = sizes;
        let blocking = match self {
            Self::Given(blocking) if whole_depth => Blocking { kc: k, kb: k, ..blocking },
            Self::Given(blocking) => blocking,
            Self::Derived(blocking) if whole_depth && k > blocking.kc => {
                blocking.of_whole_depth(tile, k)
            }
            Self::Derived(blocking) => blocking.balanced(k).shared_by(tasks),
        };
        blocking.cut(tile, sizes)
    }
}

/// Depth of a block beyond which C passes by so rarely that its time no longer counts. 1024 cubed in
/// f32, AVX-512 on Zen 4: 0.88 of the peak with 512, 0.92 with 1024.
const MAX_KC: usize = 1024;

/// How many blocks of the depth of B are packed at a time where several tasks share them: a step of
/// 3072-100-100-100-100-10 at batch 128 on two threads of Zen 4 takes 4 % more with 1.
const BLOCKS_BETWEEN_BARRIERS: usize = 3;

/// Depths of blocks are multiples of it.
const DEPTH_UNIT: usize = 8;

/// Blocking of one product, and where its scratch memory is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) blocking: Blocking,
    /// Bytes of one task's packed block of A.
    pub(super) a_bytes: usize,
    /// Bytes of the packed part of B.
    pub(super) b_bytes: usize,
    /// Bytes in all, and as many as aligning the first of them can take.
    scratch_bytes: usize,
}

impl Plan {
    /// # Errors
    /// `Error::SizeOverflow` if the scratch memory exceeds the address space.
    pub(super) fn new<P: Product>(
        tile: TileShape,
        choice: Choice,
        tasks: usize,
        sizes: (usize, usize, usize),
        whole_depth: bool,
    ) -> Result<Self> {
        let blocking = choice.of_product(tile, tasks, sizes, whole_depth);
        let Blocking { mc, kc, nc, kb, .. } = blocking;
        let elements = |lines: usize, depth: usize| lines.checked_mul(depth);
        let scratch = || Scratch::new::<P>(elements(mc, kc)?, elements(nc, kb)?, tasks);
        let what = "scratch memory of a product";
        let Scratch { a, b, all } =
            scratch().ok_or(Error::SizeOverflow { what, rows: mc, cols: nc })?;
        Ok(Self { blocking, a_bytes: a, b_bytes: b, scratch_bytes: all })
    }

    /// # Errors
    /// `Error::Length` if the scratch memory is too short.
    pub(super) fn check_scratch(&self, scratch: &[u8]) -> Result<()> {
        let (expected, found) = (self.scratch_bytes, scratch.len());
        if found < expected {
            let what = "scratch memory of a product, in bytes";
            return Err(Error::Length { what, expected, found });
        }
        Ok(())
    }

    /// Bytes that serve every product of up to these sizes. A block of the whole depth is rounded
    /// down to whole tiles, so a plan may need less than that of a smaller product.
    ///
    /// # Errors
    /// `Error::SizeOverflow` if that exceeds the address space.
    pub(super) fn scratch_bound<P: Product>(
        tile: TileShape,
        choice: Choice,
        tasks: usize,
        (m, n, k): (usize, usize, usize),
    ) -> Result<usize> {
        let what = "scratch memory of a product";
        let overflow = || Error::SizeOverflow { what, rows: m, cols: n };
        let bytes = |blocking: Blocking| {
            let Blocking { mc, kc, nc, kb, .. } = blocking.cut(tile, (m, n, k));
            let all = Scratch::new::<P>(mc.checked_mul(kc)?, nc.checked_mul(kb)?, tasks)?.all;
            Some(all)
        };
        let blocking = match choice {
            // An update takes the whole depth.
            Choice::Given(blocking) => {
                return bytes(Blocking { kc: k, kb: k, ..blocking }).ok_or_else(overflow);
            }
            Choice::Derived(blocking) => blocking.shared_by(tasks),
        };
        let mut most = bytes(blocking).ok_or_else(overflow)?;
        if k > blocking.kc {
            let k = k.checked_next_multiple_of(tile.depth_step).ok_or_else(overflow)?;
            let block = |elements: usize, lines: usize, width: usize| {
                let whole = lines.div_ceil(width).max(1).saturating_mul(width).saturating_mul(k);
                whole.min(elements.max(width.saturating_mul(k)))
            };
            let a = block(blocking.whole_depth_a(), m, tile.rows);
            let b = block(blocking.nc.saturating_mul(blocking.kb), n, tile.cols);
            most = most.max(Scratch::new::<P>(a, b, tasks).ok_or_else(overflow)?.all);
        }
        Ok(most)
    }
}

/// Bytes of a block of A, of a part of B, and of all.
struct Scratch {
    a: usize,
    b: usize,
    all: usize,
}

impl Scratch {
    /// Whole cache lines for so many elements of the blocks; `None` where that exceeds the address
    /// space.
    fn new<P: Product>(a: usize, b: usize, tasks: usize) -> Option<Self> {
        let lines = |elements: usize, size: usize| {
            elements.checked_mul(size)?.checked_next_multiple_of(ALIGNMENT)
        };
        let (a, b) = (lines(a, size_of::<P::Left>())?, lines(b, size_of::<P::Right>())?);
        let all = a.checked_mul(tasks)?.checked_add(b)?;
        let slack = if all == 0 { 0 } else { ALIGNMENT - 1 };
        Some(Self { a, b, all: all.checked_add(slack)? })
    }
}
