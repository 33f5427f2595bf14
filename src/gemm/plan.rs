//! Blocking: how a product is cut so that its pieces stay in the caches, and the scratch memory
//! that takes.

use crate::{
    error::{Error, Result},
    float::Float,
    gemm::cache::Caches,
    kernels::KernelSet,
};

/// Sizes, in elements, of the pieces that a product is cut into. They tune speed alone: the bits
/// of a result do not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Rows of a packed block of A: `mc * kc` elements stay in the L2 cache of a core.
    pub mc: usize,
    /// Depth of the packed blocks: a panel of B, `kc` times the tile's columns, stays in L1.
    pub kc: usize,
    /// Columns of B that are packed at a time, for all threads together.
    pub nc: usize,
    /// Rows of B that are packed at a time by one thread; a multiple of `kc`. Several threads pack
    /// more of them together, so as to meet less often.
    pub kb: usize,
    /// Rows, or columns, up to which operands are read in place instead of packed.
    pub in_place_lines: usize,
    /// Multiply-adds up to which operands are read in place.
    pub in_place_work: usize,
}

impl Blocking {
    /// Blocking for a kernel's tile and elements of `size` bytes.
    ///
    /// kc: a panel of B fills two thirds of the L1 cache, so that the panels of A can stream past
    /// it; mc: a block of A fills a tenth of the L2 cache, which it shares with B and C; kb: what
    /// is packed of B at a time is used while it is in L2. `docs/gemm.md` has the measurements.
    pub(super) fn for_tile(
        caches: Caches,
        tile_rows: usize,
        tile_cols: usize,
        size: usize,
    ) -> Self {
        let kc = (caches.l1 * 2 / 3 / (tile_cols * size)).max(64) / 8 * 8;
        let mc = (caches.l2 / 10 / (kc * size)).max(tile_rows) / tile_rows * tile_rows;
        let nc = 2048usize.next_multiple_of(tile_cols);
        let kb = kc;
        Self { mc, kc, nc, kb, in_place_lines: 2 * tile_rows, in_place_work: 1 << 21 }
    }

    /// The same for several tasks, which meet before and after each part of B: larger parts.
    fn shared_by(self, tasks: usize) -> Self {
        let kb = if tasks > 1 { self.kb.saturating_mul(DEPTH_BETWEEN_MEETINGS) } else { self.kb };
        Self { kb, ..self }
    }

    /// The same with blocks twice as deep and half as long, for half as many passes over C.
    fn deepened(self, tile: (usize, usize)) -> Self {
        let half = |size: usize, width: usize| (size / 2 / width * width).max(width);
        let (kc, kb) = (self.kc.max(1).saturating_mul(2), self.kb.max(1).saturating_mul(2));
        Self { mc: half(self.mc, tile.0), kc, nc: half(self.nc, tile.1), kb, ..self }
    }

    /// Elements of a block of A of the whole depth: several times those of another, so that it has
    /// rows enough, and so that gathered pictures are read in pieces of whole cache lines.
    fn whole_depth_a(&self) -> usize {
        self.mc.saturating_mul(self.kc.max(1)).saturating_mul(3)
    }

    /// The same, cut to whole tiles and to the sizes of one product. With `whole_depth` it has one
    /// block of the whole depth, of about as many elements.
    fn fitted(
        self,
        tile: (usize, usize),
        (m, n, k): (usize, usize, usize),
        whole_depth: bool,
    ) -> Self {
        let kc = self.kc.max(1);
        let kb = (self.kb / kc).max(1) * kc;
        let (mc, kc, nc, kb) = if whole_depth && k > kc {
            let rows = self.whole_depth_a() / k / tile.0 * tile.0;
            let cols = (self.nc.saturating_mul(kb) / k.max(kb)) / tile.1 * tile.1;
            (rows.max(tile.0), k, cols.max(tile.1), k)
        } else {
            (self.mc, kc, self.nc, kb)
        };
        Self {
            mc: mc.min(m).max(1).next_multiple_of(tile.0),
            kc: kc.min(k),
            nc: nc.min(n).max(1).next_multiple_of(tile.1),
            kb: kb.min(k),
            ..self
        }
    }
}

/// How many times `kb` rows of B are packed at a time where several tasks share them. Two tasks at
/// 512x512x3072: 251 GFLOP/s with 1, 271 with 4, 281 with 12.
const DEPTH_BETWEEN_MEETINGS: usize = 12;

/// Elements of a C that is so large that each pass over it comes out of memory. 2048 cubed in f32:
/// 135 GFLOP/s without deeper blocks, 147 with.
const LARGE_C: usize = 1 << 21;

/// Blocking of one product, and where its scratch memory is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) blocking: Blocking,
    /// Elements of one task's packed block of A.
    pub(super) a_len: usize,
    /// Elements of the packed part of B.
    pub(super) b_len: usize,
    /// Elements in all.
    pub(super) scratch_len: usize,
}

impl Plan {
    /// # Errors
    /// `Error::SizeOverflow` if the scratch memory exceeds the address space.
    pub(super) fn new<T: Float>(
        kernels: &KernelSet<T>,
        blocking: Blocking,
        tasks: usize,
        sizes: (usize, usize, usize),
        whole_depth: bool,
    ) -> Result<Self> {
        let tile = (kernels.tile_rows(), kernels.tile_cols());
        let blocking = blocking.shared_by(tasks);
        let large = sizes.0.saturating_mul(sizes.1) >= LARGE_C && !whole_depth;
        let blocking = if large { blocking.deepened(tile) } else { blocking };
        Self::fitting(tile, blocking, tasks, sizes, whole_depth)
    }

    /// # Errors
    /// `Error::Length` if the scratch memory is too short.
    pub(super) fn check_scratch<T>(&self, scratch: &[T]) -> Result<()> {
        let (expected, found) = (self.scratch_len, scratch.len());
        if found < expected {
            return Err(Error::Length { what: "scratch memory of a product", expected, found });
        }
        Ok(())
    }

    fn fitting(
        tile: (usize, usize),
        blocking: Blocking,
        tasks: usize,
        sizes: (usize, usize, usize),
        whole_depth: bool,
    ) -> Result<Self> {
        let blocking = blocking.fitted(tile, sizes, whole_depth);
        let checked = || {
            let a_len = blocking.mc.checked_mul(blocking.kc)?;
            let b_len = blocking.nc.checked_mul(blocking.kb)?;
            let scratch_len = a_len.checked_mul(tasks)?.checked_add(b_len)?;
            Some(Self { blocking, a_len, b_len, scratch_len })
        };
        checked().ok_or(Error::SizeOverflow {
            what: "scratch memory of a product",
            rows: blocking.mc,
            cols: blocking.nc,
        })
    }

    /// Elements that serve every product of up to these sizes. A block of the whole depth is
    /// rounded down to whole tiles, so a plan may need less than that of a smaller product.
    ///
    /// # Errors
    /// `Error::SizeOverflow` if that exceeds the address space.
    pub(super) fn scratch_bound<T: Float>(
        kernels: &KernelSet<T>,
        blocking: Blocking,
        tasks: usize,
        (m, n, k): (usize, usize, usize),
    ) -> Result<usize> {
        let tile = (kernels.tile_rows(), kernels.tile_cols());
        let blocking = blocking.shared_by(tasks);
        let mut len = 0;
        for blocking in [blocking, blocking.deepened(tile)] {
            let plan = Self::fitting(tile, blocking, tasks, (m, n, k), false)?;
            len = len.max(plan.scratch_len);
        }
        let Blocking { kc, nc, kb, .. } = blocking;
        if k > kc.max(1) {
            let block = |elements: usize, lines: usize, width: usize| {
                let whole = lines.div_ceil(width).max(1).saturating_mul(width).saturating_mul(k);
                whole.min(elements.max(width.saturating_mul(k)))
            };
            let a_len = block(blocking.whole_depth_a(), m, kernels.tile_rows());
            let b_len = block(nc.saturating_mul(kb.max(kc).max(1)), n, kernels.tile_cols());
            let elements = a_len.checked_mul(tasks).and_then(|a_len| a_len.checked_add(b_len));
            let what = "scratch memory of a product";
            len = len.max(elements.ok_or(Error::SizeOverflow { what, rows: m, cols: n })?);
        }
        Ok(len)
    }
}
