//! Blocking: how a product is cut so that its pieces stay in the caches, and the scratch memory
//! that takes.
//!
//! # The model
//!
//! A tile has MR rows and NR columns; an element has s bytes. Within a block the tiles go along the
//! rows of C: a panel of A (MR x kc) serves a whole row of tiles, while the panels of B (kc x NR) pass
//! by. For each multiply-add a tile reads and writes, in bytes:
//!
//! | what | bytes | from | f32, 14 x 32, kc 1024 | f32, 6 x 16, kc 1024 |
//! |---|---|---|---|---|
//! | B | s / MR | L2; L3 where a block of B exceeds L2 | 0.286 | 0.667 |
//! | A | s / NR | L1; L2 where a panel of A exceeds L1 | 0.125 | 0.250 |
//! | C, loaded and stored | 2 s / kc | L3 or memory | 0.008 | 0.008 |
//!
//! - The tile decides about A and B, the registers decide about the tile. What blocking decides is how
//!   often C passes by: once for each kc. Its bytes are few, but a tile waits for each of its MR rows, which
//!   are far apart in memory. So kc is as large as L2 allows, up to a depth beyond which C no longer
//!   counts.
//! - L2 holds a panel of B in use, those that are fetched after it, two panels of A (one is packed while
//!   the other is multiplied) and a row of tiles of C. kc is such that a panel of B takes an eighth of
//!   it. MR < NR, so that the panels of A take less than a quarter.
//! - L1 does not limit kc: a panel of A is read in order, by each tile again, and arrives from L2 in time
//!   where it exceeds L1, as with 14 rows and a kc of 1024 (56 KiB of f32).
//! - nc bounds scratch memory and what a block of B takes of L3, where it is read once for each MR rows,
//!   in order: 8 MiB of f32, 16 MiB of f64.
//! - Where rows of C are a multiple of 4 KiB apart, a tile's rows share the sets of L1, 14 rows of 8 or 12
//!   ways. No blocking helps; `kernels::tile` fetches the tile of C that comes next, and
//!   `kernels::checked` takes 8 rows in place.
//!
//! What follows for the caches of three CPU families, as a test below states:
//!
//! | L1d, L2 | CPU | AVX-512, f32 or f64 | AVX2, f32 or f64 | bf16, `avx512bf16` |
//! |---|---|---|---|---|
//! | 32 KiB, 512 KiB | Zen 3 (no AVX-512) | kc 512 | kc 1024 | kc 1024 |
//! | 32 KiB, 1 MiB | Zen 4 | kc 1024 | kc 1024 | kc 1024 |
//! | 48 KiB, 2 MiB | Sapphire Rapids | kc 1024 | kc 1024 | kc 1024 |
//!
//! It was measured on Zen 4 alone, see `docs/gemm.md`; for the others it is extrapolated.
//! `tilewise bench gemm --search` compares it with other blockings on any CPU.

use crate::{
    aligned::ALIGNMENT,
    config::with_fields,
    error::{Error, Result},
    kernels::{KernelSet, Product, SHALLOW},
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
    /// Rows of A that scratch memory has panels for. With two panels each is packed while the one
    /// before it is multiplied; blocks too shallow for that, and all blocks with one panel, are packed
    /// so many rows at a time.
    pub mc: usize,
    /// Depth of the packed blocks: C is loaded and stored once for each.
    pub kc: usize,
    /// Columns of a packed block of B, of which every task has its own.
    pub nc: usize,
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
        in_place_lines with_in_place_lines: usize,
        in_place_work with_in_place_work: usize,
    }
}

impl Blocking {
    /// Blocking for a kernel's tile and elements of `size` bytes.
    ///
    /// Within a block the tiles go along the rows of C: a panel of A serves a whole row of tiles,
    /// and the panels of B stream past it. What counts is then how often C passes by, once for each
    /// kc: a panel of B may fill an eighth of the L2 cache. mc: one panel of A is multiplied while
    /// the next is packed. `docs/gemm.md` has the measurements.
    fn for_tile(caches: Caches, tile: TileShape, size: usize) -> Self {
        let TileShape { rows: tile_rows, cols: tile_cols, .. } = tile;
        let kc = (caches.l2 / 8 / (tile_cols * size)).clamp(64, MAX_KC) / DEPTH_UNIT * DEPTH_UNIT;
        let nc = 2048usize.next_multiple_of(tile_cols);
        Self { mc: 2 * tile_rows, kc, nc, in_place_lines: 2 * tile_rows, in_place_work: 1 << 21 }
    }

    /// The same for a depth of k, with blocks of about equal depth: a shallow last block would load
    /// and store all of C for little. Where all is shallow, many panels of A are packed at a time.
    fn balanced(self, tile: TileShape, k: usize) -> Self {
        if k <= SHALLOW {
            return Self { mc: SHALLOW_TILES * tile.rows, ..self };
        }
        if k <= self.kc {
            return self;
        }
        let kc = k.div_ceil(k.div_ceil(self.kc)).next_multiple_of(DEPTH_UNIT);
        Self { kc, ..self }
    }

    /// The same in whole tiles and steps of k.
    fn rounded(self, tile: TileShape) -> Self {
        let up = |size: usize, to: usize| size.max(1).checked_next_multiple_of(to).unwrap_or(size);
        let kc = up(self.kc, tile.depth_step);
        Self { mc: up(self.mc, tile.rows), kc, nc: up(self.nc, tile.cols), ..self }
    }

    /// The same, cut to the sizes of one product, in whole tiles and whole steps of k.
    fn cut(self, tile: TileShape, (m, n, k): (usize, usize, usize)) -> Self {
        Self {
            mc: self.mc.min(m).max(1).next_multiple_of(tile.rows),
            kc: self.kc.min(k).next_multiple_of(tile.depth_step),
            nc: self.nc.min(n).max(1).next_multiple_of(tile.cols),
            ..self
        }
    }

    /// The same with blocks of the whole depth `k`, of B with about as many elements.
    fn of_whole_depth(self, tile: TileShape, k: usize) -> Self {
        let cols = self.nc.saturating_mul(self.kc) / k / tile.cols * tile.cols;
        Self { kc: k, nc: cols.max(tile.cols), ..self }
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
        sizes: (usize, usize, usize),
        whole_depth: bool,
    ) -> Blocking {
        let (_, _, k) = sizes;
        let blocking = match self {
            Self::Given(blocking) if whole_depth => Blocking { kc: k, ..blocking },
            Self::Given(blocking) => blocking,
            Self::Derived(blocking) if whole_depth && k > blocking.kc => {
                blocking.of_whole_depth(tile, k)
            }
            Self::Derived(blocking) => blocking.balanced(tile, k),
        };
        blocking.cut(tile, sizes)
    }
}

/// Depth of a block beyond which C passes by so rarely that its time no longer counts. 1024 cubed in
/// f32, AVX-512 on Zen 4: 0.88 of the peak with 512, 0.92 with 1024.
const MAX_KC: usize = 1024;

/// Panels of A that are packed at a time for shallow products.
const SHALLOW_TILES: usize = 32;

/// Depths of blocks are multiples of it.
const DEPTH_UNIT: usize = 8;

/// Blocking of one product, and where its scratch memory is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) blocking: Blocking,
    /// Bytes of one task's panels of A.
    pub(super) a_bytes: usize,
    /// Bytes of one task's block of B.
    pub(super) b_bytes: usize,
    /// Bytes in all, and as many as aligning the first of them can take.
    scratch_bytes: usize,
}

impl Plan {
    /// # Errors
    /// `Error::SizeOverflow` if the scratch memory exceeds the address space.
    pub(super) fn new<P: Product>(
        kernels: &KernelSet<P>,
        choice: Choice,
        tasks: usize,
        sizes: (usize, usize, usize),
        whole_depth: bool,
    ) -> Result<Self> {
        let (tile, packer) = (TileShape::of(kernels), kernels.left());
        let blocking = choice.of_product(tile, sizes, whole_depth);
        let Blocking { mc, kc, nc, .. } = blocking;
        let of_a = packer.stride(kc).and_then(|panel| panel.checked_mul(mc / tile.rows));
        let scratch = Scratch::new::<P>(of_a, nc.checked_mul(kc), tasks);
        let what = "scratch memory of a product";
        let Scratch { a, b, all } =
            scratch.ok_or(Error::SizeOverflow { what, rows: mc, cols: nc })?;
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

    /// Bytes that serve every product of up to these sizes, of the whole depth or not.
    ///
    /// # Errors
    /// `Error::SizeOverflow` if that exceeds the address space.
    pub(super) fn scratch_bound<P: Product>(
        kernels: &KernelSet<P>,
        choice: Choice,
        tasks: usize,
        (m, n, k): (usize, usize, usize),
    ) -> Result<usize> {
        let (tile, packer) = (TileShape::of(kernels), kernels.left());
        let whole = |len: usize, to: usize| len.max(1).checked_next_multiple_of(to);
        let elements = || {
            let (m, n) = (whole(m, tile.rows)?, whole(n, tile.cols)?);
            let k = k.checked_next_multiple_of(tile.depth_step)?;
            let block = |lines: usize, depth: usize| lines.checked_mul(depth);
            let of_a = |lines: usize, depth: usize| block(lines / tile.rows, packer.stride(depth)?);
            Some(match choice {
                Choice::Given(Blocking { mc, nc, .. }) => {
                    (of_a(mc.min(m), k)?, block(nc.min(n), k)?)
                }
                Choice::Derived(Blocking { mc, kc, nc, .. }) => {
                    let shallow = of_a(m.min(SHALLOW_TILES * tile.rows), k.min(SHALLOW))?;
                    let of_b = (nc * kc).max(block(tile.cols, k)?);
                    // A B beyond the address space is cut to blocks.
                    let all_of_b = n.saturating_mul(k);
                    (of_a(mc.min(m), k)?.max(shallow), of_b.min(all_of_b))
                }
            })
        };
        let bytes = || {
            let (a, b) = elements()?;
            Some(Scratch::new::<P>(Some(a), Some(b), tasks)?.all)
        };
        let what = "scratch memory of a product";
        bytes().ok_or(Error::SizeOverflow { what, rows: m, cols: n })
    }
}

/// Bytes of one task's panels of A, of its block of B, and of all.
struct Scratch {
    a: usize,
    b: usize,
    all: usize,
}

impl Scratch {
    /// Whole cache lines for so many elements; `None` where they exceed the address space.
    fn new<P: Product>(a: Option<usize>, b: Option<usize>, tasks: usize) -> Option<Self> {
        let lines = |elements: usize, size: usize| {
            elements.checked_mul(size)?.checked_next_multiple_of(ALIGNMENT)
        };
        let (a, b) = (lines(a?, size_of::<P::Left>())?, lines(b?, size_of::<P::Right>())?);
        let all = a.checked_add(b)?.checked_mul(tasks)?;
        let slack = if all == 0 { 0 } else { ALIGNMENT - 1 };
        Some(Self { a, b, all: all.checked_add(slack)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L1 and L2 in KiB.
    const ZEN_3: (usize, usize) = (32, 512);
    const ZEN_4: (usize, usize) = (32, 1024);
    const SAPPHIRE_RAPIDS: (usize, usize) = (48, 2048);

    fn choice((l1, l2): (usize, usize), tile: TileShape, size: usize) -> Choice {
        Choice::for_tile(Caches { l1: l1 << 10, l2: l2 << 10 }, tile, size)
    }

    fn tile(rows: usize, cols: usize) -> TileShape {
        TileShape { rows, cols, depth_step: 1 }
    }

    #[test]
    fn a_panel_of_b_takes_an_eighth_of_l2_up_to_a_depth() {
        let pairs = TileShape { depth_step: 2, ..tile(14, 32) };
        let tiles = [
            ("AVX-512 f32", tile(14, 32), 4, [512, 1024, 1024]),
            ("AVX-512 f64", tile(14, 16), 8, [512, 1024, 1024]),
            ("AVX2 f32", tile(6, 16), 4, [1024, 1024, 1024]),
            ("AVX2 f64", tile(6, 8), 8, [1024, 1024, 1024]),
            ("AVX512-BF16", pairs, 2, [1024, 1024, 1024]),
        ];
        for (name, tile, size, expected) in tiles {
            for (caches, kc) in [ZEN_3, ZEN_4, SAPPHIRE_RAPIDS].into_iter().zip(expected) {
                let blocking = choice(caches, tile, size).blocking();
                let Blocking { mc, nc, in_place_lines, in_place_work, .. } = blocking;
                assert_eq!(blocking.kc, kc, "{name}, {caches:?}");
                assert_eq!(mc, 2 * tile.rows, "{name}, {caches:?}");
                assert_eq!(nc, 2048, "{name}, {caches:?}");
                assert_eq!((in_place_lines, in_place_work), (mc, 1 << 21), "{name}, {caches:?}");
            }
        }
    }

    #[test]
    fn the_depth_is_cut_into_equal_blocks() {
        let tile = tile(14, 32);
        let of = |k: usize| choice(ZEN_4, tile, 4).of_product(tile, (5000, 5000, k), false);
        for (k, kc) in
            [(512, 512), (1024, 1024), (1025, 520), (1536, 768), (3072, 1024), (3073, 776)]
        {
            let Blocking { kc: found, mc, nc, .. } = of(k);
            assert_eq!((found, mc, nc), (kc, 28, 2048), "{k}");
        }
        // A shallow block is packed many rows at a time.
        assert_eq!((of(32).kc, of(32).mc), (32, 32 * 14));
        assert_eq!((of(33).kc, of(33).mc), (33, 28));
    }

    #[test]
    fn an_update_takes_the_whole_depth_and_fewer_columns() {
        let tile = tile(14, 32);
        let choice = choice(ZEN_4, tile, 4);
        let Blocking { kc, nc, .. } = choice.of_product(tile, (5000, 5000, 4096), true);
        assert_eq!((kc, nc), (4096, 512));
        let Blocking { kc, nc, .. } = choice.of_product(tile, (5000, 5000, 1 << 30), true);
        assert_eq!((kc, nc), (1 << 30, 32));
    }
}
