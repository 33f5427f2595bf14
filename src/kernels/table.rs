//! The table of kernels: one [`KernelSet`] for each instruction set and element type.
//!
//! `stamp!` puts every generic kernel behind a function with the right `#[target_feature]`; the
//! methods of `KernelSet` check lengths and call them. A set can only be had through
//! [`Kernels::kernel_set`], which checks that the CPU has its instructions.

use std::hint::black_box;

use crate::{
    error::Result,
    float::Float,
    kernels::{
        block::{Block, Tiles, block},
        elementwise::{self, DropoutMask},
        output::Output,
        pack::Packing,
        tile::{TileFinish, TileStart},
    },
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
};

/// `f32` or `f64`: the element types that kernels exist for.
pub trait Element: Float + Kernels {}

impl Element for f32 {}
impl Element for f64 {}

/// Where the kernels of an element type are found.
pub trait Kernels: Sized + 'static {
    /// The kernels of an instruction set.
    ///
    /// # Errors
    /// `Error::IsaUnavailable` if the CPU or the build lacks it.
    #[doc(hidden)]
    fn kernel_set(set: InstructionSet) -> Result<&'static KernelSet<Self>>;

    /// `C = alpha A B + beta C` by the crate `matrixmultiply`; the shapes must fit.
    #[doc(hidden)]
    fn matrixmultiply(
        alpha: Self,
        a: MatRef<'_, Self>,
        b: MatRef<'_, Self>,
        beta: Self,
        c: MatMut<'_, Self>,
    );
}

/// The kernels of one instruction set for one element type.
pub struct KernelSet<T: 'static> {
    set: InstructionSet,
    tiles: Tiles<T>,
    /// Multiply-adds of one step of `multiply_adds`.
    multiply_adds_per_step: usize,
    multiply_adds: unsafe fn(usize) -> T,
    pack: unsafe fn(&Packing<T>),
    relu: unsafe fn(&[T], &mut [T]),
    gate: unsafe fn(&[T], &mut [T]),
    add_scaled: unsafe fn(T, &[T], &mut [T]),
    sum_of_squares: unsafe fn(&[T]) -> T,
    column_sums: unsafe fn(&MatRef<'_, T>, &mut [T]),
    dropout: unsafe fn(DropoutMask, usize, T, &mut Output<'_, T>),
}

/// An operand's block in panels.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a, T> {
    pub(crate) data: &'a [T],
    /// Elements from one panel to the next.
    pub(crate) stride: usize,
}

/// What the sums of a block start from.
#[derive(Clone, Copy)]
pub(crate) enum BlockStart<'a, T> {
    Zero,
    /// One value for each column of the block.
    Bias(&'a [T]),
    Load,
    Scale(T),
}

/// What happens to the finished sums of a block.
#[derive(Clone, Copy)]
pub(crate) enum BlockFinish<'a, T> {
    Store,
    Relu,
    Gate { activation: MatRef<'a, T>, scale: T },
}

impl<T: Float> KernelSet<T> {
    pub(crate) fn instruction_set(&self) -> InstructionSet {
        self.set
    }

    /// MR: rows of a tile, width of the panels of A.
    pub(crate) fn tile_rows(&self) -> usize {
        self.tiles.rows()
    }

    /// NR: columns of a tile, width of the panels of B.
    pub(crate) fn tile_cols(&self) -> usize {
        self.tiles.cols()
    }

    /// Packs `scale * x` into panels of `width` rows each; see `kernels::pack`. Packing the
    /// transposed matrix makes panels of columns.
    pub(crate) fn pack_rows(&self, x: MatRef<'_, T>, width: usize, scale: T, panels: &mut [T]) {
        let (lines, depth) = x.shape();
        assert!(panels.len() >= lines.next_multiple_of(width) * depth, "room for the panels");
        let packing = Packing {
            src: x.as_ptr(),
            line_stride: x.row_stride(),
            depth_stride: x.col_stride(),
            lines,
            depth,
            width,
            scale,
            dst: panels.as_mut_ptr(),
        };
        // SAFETY: the view's elements are readable, the panels have room and are exclusive; the
        // CPU has the set, because `kernel_set` gave it out.
        unsafe { (self.pack)(&packing) }
    }

    /// Computes `c` from packed blocks: `a` of `c.rows() x depth`, `b` of `depth x c.cols()`.
    /// A bias and an activation need a C with its columns side by side.
    pub(crate) fn block(
        &self,
        depth: usize,
        a: &[T],
        b: Panels<'_, T>,
        c: &mut Output<'_, T>,
        start: BlockStart<'_, T>,
        finish: BlockFinish<'_, T>,
    ) {
        let (rows, cols) = (c.rows(), c.cols());
        if rows == 0 || cols == 0 {
            return;
        }
        let (mr, nr) = (self.tile_rows(), self.tile_cols());
        assert!(a.len() >= rows.next_multiple_of(mr) * depth, "panels of A");
        let last_panel = (cols.div_ceil(nr) - 1) * b.stride;
        assert!(b.data.len() >= last_panel + depth * nr, "panels of B");
        let start = match start {
            BlockStart::Zero => TileStart::Zero,
            BlockStart::Bias(bias) => {
                assert!(bias.len() == cols && c.col_stride() == 1, "bias of the columns");
                TileStart::Bias(bias.as_ptr())
            }
            BlockStart::Load => TileStart::Load,
            BlockStart::Scale(factor) => TileStart::Scale(factor),
        };
        let finish = match finish {
            BlockFinish::Store => TileFinish::Store,
            BlockFinish::Relu => TileFinish::Relu,
            BlockFinish::Gate { activation, scale } => {
                assert!(
                    activation.shape() == (rows, cols)
                        && activation.col_stride() == 1
                        && c.col_stride() == 1,
                    "activation of the block"
                );
                let row_stride = activation.row_stride();
                TileFinish::Gate { activation: activation.as_ptr(), row_stride, scale }
            }
        };
        let arguments = Block {
            rows,
            cols,
            depth,
            a: a.as_ptr(),
            b: b.data.as_ptr(),
            b_panel_stride: b.stride,
            c: c.as_mut_ptr(),
            row_stride: c.row_stride(),
            col_stride: c.col_stride(),
            start,
            finish,
        };
        // SAFETY: lengths are checked above, `c` is exclusive, and the CPU has the set, because
        // `kernel_set` gave it out.
        unsafe { block(self.tiles, &arguments) }
    }

    /// Runs multiply-adds on registers alone for `steps` steps, and returns how many it were.
    pub(crate) fn multiply_adds(&self, steps: usize) -> usize {
        // SAFETY: the CPU has the set.
        black_box(unsafe { (self.multiply_adds)(steps) });
        steps * self.multiply_adds_per_step
    }

    /// `out = max(x, 0)`.
    pub(crate) fn relu(&self, x: &[T], out: &mut [T]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths; the CPU has the set.
        unsafe { (self.relu)(x, out) }
    }

    /// `x` where `gate > 0`, else 0, in place.
    pub(crate) fn gate(&self, gate: &[T], x: &mut [T]) {
        assert_eq!(x.len(), gate.len());
        // SAFETY: equal lengths; the CPU has the set.
        unsafe { (self.gate)(gate, x) }
    }

    /// `y = factor * x + y`, each element one multiply-add.
    pub(crate) fn add_scaled(&self, factor: T, x: &[T], y: &mut [T]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths; the CPU has the set.
        unsafe { (self.add_scaled)(factor, x, y) }
    }

    /// Sum of squares in the order that `elementwise::sum_of_squares` fixes.
    pub(crate) fn sum_of_squares(&self, x: &[T]) -> T {
        // SAFETY: the CPU has the set.
        unsafe { (self.sum_of_squares)(x) }
    }

    /// Sums of the columns of `x`, from the first row to the last.
    pub(crate) fn column_sums(&self, x: MatRef<'_, T>, sums: &mut [T]) {
        assert!(x.cols() == sums.len() && x.col_stride() == 1);
        // SAFETY: one sum for each column, columns side by side; the CPU has the set.
        unsafe { (self.column_sums)(&x, sums) }
    }

    /// `x * scale` where the mask keeps an element, else 0, in place.
    pub(crate) fn dropout(
        &self,
        mask: DropoutMask,
        first_row: usize,
        scale: T,
        x: &mut Output<'_, T>,
    ) {
        assert!(x.col_stride() == 1 || x.cols() <= 1);
        // SAFETY: columns side by side; the CPU has the set.
        unsafe { (self.dropout)(mask, first_row, scale, x) }
    }
}

/// One row of the table of tile functions.
macro_rules! tile_row {
    ($rows:literal, [$($vectors:literal),*]) => { &[$(tile::<$rows, $vectors>),*] };
}

/// A module with one instruction set's kernels for one element type.
macro_rules! stamp {
    (
        $module:ident, $t:ident, $set:ident, $token:path, [$(#[$feature:meta])?],
        rows: [$($rows:literal),*], vectors: $vectors:tt, peak_chains: $chains:literal
    ) => {
        mod $module {
            use super::*;
            use crate::{
                kernels::{block::MAX_TILE, pack, peak, tile as microkernel},
                simd::Isa,
            };
            use $token as Token;

            const MR: usize = [$($rows),*].len();
            const NV: usize = $vectors.len();
            const LANES: usize = <Token as Isa<$t>>::LANES;
            const _: () = assert!(MR <= MAX_TILE.0 && NV * LANES <= MAX_TILE.1);

            pub(super) static SET: KernelSet<$t> = KernelSet {
                set: InstructionSet::$set,
                tiles: Tiles { functions: &[$(tile_row!($rows, $vectors)),*], lanes: LANES },
                multiply_adds_per_step: $chains * LANES,
                multiply_adds,
                pack,
                relu,
                gate,
                add_scaled,
                sum_of_squares,
                column_sums,
                dropout,
            };

            // SAFETY of every function here: the CPU has the instruction set, which makes the
            // token; the rest is what the generic kernel of the same name asks for.

            $(#[$feature])?
            unsafe fn tile<const ROWS: usize, const VECS: usize>(tile: &microkernel::Tile<$t>) {
                // SAFETY: see above.
                unsafe {
                    microkernel::tile::<Token, $t, ROWS, VECS, MR, NV>(Token::new(), tile)
                }
            }
            $(#[$feature])?
            unsafe fn multiply_adds(steps: usize) -> $t {
                // SAFETY: see above.
                unsafe { peak::multiply_adds::<Token, $t, $chains>(Token::new(), steps) }
            }
            $(#[$feature])?
            unsafe fn pack(packing: &Packing<$t>) {
                // SAFETY: see above.
                unsafe { pack::pack(Token::new(), packing) }
            }
            $(#[$feature])?
            unsafe fn relu(x: &[$t], out: &mut [$t]) {
                // SAFETY: see above.
                unsafe { elementwise::relu(Token::new(), x, out) }
            }
            $(#[$feature])?
            unsafe fn gate(gate: &[$t], x: &mut [$t]) {
                // SAFETY: see above.
                unsafe { elementwise::gate(Token::new(), gate, x) }
            }
            $(#[$feature])?
            unsafe fn add_scaled(factor: $t, x: &[$t], y: &mut [$t]) {
                // SAFETY: see above.
                unsafe { elementwise::add_scaled(Token::new(), factor, x, y) }
            }
            $(#[$feature])?
            unsafe fn sum_of_squares(x: &[$t]) -> $t {
                // SAFETY: see above.
                unsafe { elementwise::sum_of_squares(Token::new(), x) }
            }
            $(#[$feature])?
            unsafe fn column_sums(x: &MatRef<'_, $t>, sums: &mut [$t]) {
                // SAFETY: see above.
                unsafe { elementwise::column_sums(Token::new(), x, sums) }
            }
            $(#[$feature])?
            unsafe fn dropout(
                mask: DropoutMask,
                first_row: usize,
                scale: $t,
                x: &mut Output<'_, $t>,
            ) {
                // SAFETY: see above.
                unsafe { elementwise::dropout(mask, first_row, scale, x) }
            }
        }
    };
}

// Tile shapes: as many accumulators as the registers hold beside the vectors of B and the value
// of A: 28 of 32 for AVX-512, 12 of 16 for AVX2, 8 of 16 for the portable set on SSE2 (one of its
// vectors takes two registers).
#[cfg(target_arch = "x86_64")]
stamp!(
    avx512_f32, f32, Avx512, crate::simd::avx512::Avx512, [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], vectors: [1, 2], peak_chains: 12
);
#[cfg(target_arch = "x86_64")]
stamp!(
    avx512_f64, f64, Avx512, crate::simd::avx512::Avx512, [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], vectors: [1, 2], peak_chains: 12
);
#[cfg(target_arch = "x86_64")]
stamp!(
    avx2_f32, f32, Avx2, crate::simd::avx2::Avx2, [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3, 4, 5, 6], vectors: [1, 2], peak_chains: 12
);
#[cfg(target_arch = "x86_64")]
stamp!(
    avx2_f64, f64, Avx2, crate::simd::avx2::Avx2, [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3, 4, 5, 6], vectors: [1, 2], peak_chains: 12
);
stamp!(
    portable_f32, f32, Portable, crate::simd::portable::Portable, [],
    rows: [1, 2, 3, 4], vectors: [1], peak_chains: 6
);
stamp!(
    portable_f64, f64, Portable, crate::simd::portable::Portable, [],
    rows: [1, 2, 3, 4], vectors: [1], peak_chains: 6
);

macro_rules! impl_kernels {
    ($t:ident, $matrixmultiply:ident, $avx512:ident, $avx2:ident, $portable:ident) => {
        impl Kernels for $t {
            fn kernel_set(set: InstructionSet) -> Result<&'static KernelSet<$t>> {
                Ok(match set.require()? {
                    #[cfg(target_arch = "x86_64")]
                    InstructionSet::Avx512 => &$avx512::SET,
                    #[cfg(target_arch = "x86_64")]
                    InstructionSet::Avx2 => &$avx2::SET,
                    _ => &$portable::SET,
                })
            }

            fn matrixmultiply(
                alpha: $t,
                a: MatRef<'_, $t>,
                b: MatRef<'_, $t>,
                beta: $t,
                c: MatMut<'_, $t>,
            ) {
                super::matrixmultiply::$matrixmultiply(alpha, a, b, beta, c)
            }
        }
    };
}

impl_kernels!(f32, sgemm, avx512_f32, avx2_f32, portable_f32);
impl_kernels!(f64, dgemm, avx512_f64, avx2_f64, portable_f64);
