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
        dropout::{DropoutMask, dropout},
        elementwise,
        epilogue::{Companion, Epilogue, MAX_COMPANIONS},
        pack::{Along, GatheredRows, Packing, Strided, pack_elements},
        tile::{FinishFn, Tile},
        update::{self, Average, MAX_SLOTS, Parameters, RawRows, Update},
    },
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
};

/// `f32` or `f64`: the element types that kernels exist for.
pub trait Element: Float + Kernels {}

impl Element for f32 {}
impl Element for f64 {}

/// Where the kernels of an element type are found.
pub trait Kernels: Copy + 'static {
    /// The kernels of an instruction set.
    ///
    /// # Errors
    /// `Error::IsaUnavailable` if the CPU or the build lacks it.
    #[doc(hidden)]
    fn kernel_set(set: InstructionSet) -> Result<&'static KernelSet<Self>>;

    /// `C = alpha A B + beta C` by the crate `matrixmultiply`; the shapes must fit.
    #[cfg(feature = "matrixmultiply")]
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
pub struct KernelSet<T: Copy + 'static> {
    set: InstructionSet,
    /// For packed operands.
    packed: Tiles<T>,
    /// For operands in place.
    strided: Tiles<T>,
    /// For operands of either kind and very few rows: several panels of B wide.
    wide: Tiles<T>,
    /// For the tiles of all three.
    finish: FinishFn<T>,
    /// Multiply-adds of one step of `multiply_adds`.
    multiply_adds_per_step: usize,
    multiply_adds: unsafe fn(usize) -> T,
    pack: unsafe fn(&Packing<T, Strided<T>>),
    pack_gathered: unsafe fn(&Packing<T, GatheredRows<'_, T>>),
    relu: unsafe fn(&[T], &mut [T]),
    gate: unsafe fn(&[T], &mut [T]),
    add_scaled: unsafe fn(T, &[T], &mut [T]),
    move_average: unsafe fn(Average<T>, &[T], &mut [T]),
    update: unsafe fn(&Update<T>, &Parameters<T>),
    sum_of_squares: unsafe fn(&[T]) -> T,
    dropout: unsafe fn(DropoutMask, usize, T, &mut MatMut<'_, T>),
}

/// A packed operand, or a block of it.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a, T> {
    pub(crate) data: &'a [T],
    /// Elements from one panel to the next.
    pub(crate) stride: usize,
}

impl<T: Float> KernelSet<T> {
    pub(crate) fn instruction_set(&self) -> InstructionSet {
        self.set
    }

    /// MR: rows of a tile, width of the panels of A.
    pub(crate) fn tile_rows(&self) -> usize {
        self.packed.rows()
    }

    /// NR: columns of a tile, width of the panels of B.
    pub(crate) fn tile_cols(&self) -> usize {
        self.packed.cols()
    }

    /// Rows up to which operands in place are computed by short and wide tiles.
    pub(crate) fn wide_rows(&self) -> usize {
        self.wide.rows()
    }

    /// Packs `scale * x` into panels of `width` rows each; see `kernels::pack`. Packing the
    /// transposed matrix makes panels of columns. The elements of each row are added to `sums`,
    /// one for each row, if they are given; then the rows' elements of one column must be contiguous.
    pub(crate) fn pack_rows(
        &self,
        x: MatRef<'_, T>,
        width: usize,
        scale: T,
        panels: &mut [T],
        sums: Option<&mut [T]>,
    ) {
        let (lines, depth) = (x.rows(), x.cols());
        assert!(panels.len() >= lines.next_multiple_of(width) * depth, "room for the panels");
        assert!(
            sums.as_ref().is_none_or(|sums| sums.len() == lines && x.row_stride() == 1),
            "sums of contiguous lines"
        );
        let (along, stride) = if x.row_stride() == 1 {
            (Along::Lines, x.col_stride())
        } else {
            (Along::Depth, x.row_stride())
        };
        let packing = Packing {
            source: Strided { ptr: x.as_ptr(), stride, scale },
            along,
            lines,
            depth,
            width,
            dst: panels.as_mut_ptr(),
            sums: sums.map_or(std::ptr::null_mut(), <[T]>::as_mut_ptr),
        };
        // SAFETY: the view's elements are readable, the panels have room and are exclusive; the
        // CPU has the set, because `kernel_set` gave it out.
        unsafe {
            if x.row_stride() == 1 || x.col_stride() == 1 {
                (self.pack)(&packing);
            } else {
                pack_elements(&packing, x.col_stride());
            }
        }
    }

    /// Packs gathered rows into panels of `width`: lines are rows if `along` is `Along::Depth`,
    /// columns if it is `Along::Lines`.
    pub(crate) fn pack_gathered(
        &self,
        x: GatheredRows<'_, T>,
        along: Along,
        width: usize,
        panels: &mut [T],
    ) {
        let (lines, depth) = match along {
            Along::Depth => (x.rows(), x.cols()),
            Along::Lines => (x.cols(), x.rows()),
        };
        assert!(panels.len() >= lines.next_multiple_of(width) * depth, "room for the panels");
        let (dst, sums) = (panels.as_mut_ptr(), std::ptr::null_mut());
        let packing = Packing { source: x, along, lines, depth, width, dst, sums };
        // SAFETY: all gathered rows are in their store, the panels have room; the CPU has the set.
        unsafe { (self.pack_gathered)(&packing) }
    }

    /// Computes `c` from packed blocks: `a` of `c.rows() x depth`, `b` of `depth x c.cols()`.
    /// A bias, and a finish other than `Store` and `Relu`, need contiguous rows of C.
    pub(crate) fn block(
        &self,
        depth: usize,
        a: Panels<'_, T>,
        b: Panels<'_, T>,
        c: &mut MatMut<'_, T>,
        mut epilogue: Epilogue<'_, T>,
    ) {
        if c.rows() == 0 || c.cols() == 0 {
            return;
        }
        let (mr, nr) = (self.tile_rows(), self.tile_cols());
        let holds = |panels: Panels<'_, T>, count: usize, width: usize| {
            panels.data.len() >= (count - 1) * panels.stride + depth * width
        };
        assert!(holds(a, c.rows().div_ceil(mr), mr), "panels of A");
        assert!(holds(b, c.cols().div_ceil(nr), nr), "panels of B");
        let companions = check_epilogue(c, &mut epilogue);
        let first = Tile {
            depth,
            a: a.data.as_ptr(),
            a_row_stride: 1,
            a_depth_stride: mr as isize,
            b: b.data.as_ptr(),
            b_depth_stride: nr as isize,
            b_panel_stride: b.stride as isize,
            c: c.as_mut_ptr(),
            row_stride: c.row_stride(),
            last_cols: 0,
            start: epilogue.start,
            finish: &epilogue.finish,
            row: 0,
            col: 0,
            companions,
            finish_in_memory: self.finish,
        };
        let arguments = Block {
            rows: c.rows(),
            cols: c.cols(),
            first,
            tile_rows: self.packed.rows(),
            a_panel_stride: a.stride as isize,
            b_panel_stride: b.stride as isize,
            col_stride: c.col_stride(),
        };
        // SAFETY: lengths and epilogue are checked above, `c` is exclusive, and the CPU has the
        // set, because `kernel_set` gave it out.
        unsafe { block(self.packed, Some(self.wide), &arguments) }
    }

    /// Computes `c` from operands in place; the rows of B and of C are contiguous.
    pub(crate) fn block_in_place(
        &self,
        a: MatRef<'_, T>,
        b: MatRef<'_, T>,
        c: &mut MatMut<'_, T>,
        mut epilogue: Epilogue<'_, T>,
    ) {
        let (rows, cols, depth) = (c.rows(), c.cols(), a.cols());
        assert!((a.rows(), b.rows(), b.cols()) == (rows, depth, cols), "operands of a block");
        assert!(b.col_stride() == 1 && c.col_stride() == 1, "contiguous rows");
        if rows == 0 || cols == 0 {
            return;
        }
        let tiles = if rows <= self.wide_rows() && cols > self.strided.cols() {
            self.wide
        } else {
            self.strided
        };
        let companions = check_epilogue(c, &mut epilogue);
        let first = Tile {
            depth,
            a: a.as_ptr(),
            a_row_stride: a.row_stride(),
            a_depth_stride: a.col_stride(),
            b: b.as_ptr(),
            b_depth_stride: b.row_stride(),
            b_panel_stride: self.tile_cols() as isize,
            c: c.as_mut_ptr(),
            row_stride: c.row_stride(),
            last_cols: 0,
            start: epilogue.start,
            finish: &epilogue.finish,
            row: 0,
            col: 0,
            companions,
            finish_in_memory: self.finish,
        };
        // Tiles of equal height: a low one would have too few chains to keep the units busy.
        let tile_rows = rows.div_ceil(rows.div_ceil(tiles.rows()));
        let arguments = Block {
            rows,
            cols,
            tile_rows,
            first,
            a_panel_stride: tile_rows as isize * a.row_stride(),
            b_panel_stride: tiles.cols() as isize,
            col_stride: 1,
        };
        // SAFETY: the views' elements are readable and fit, the epilogue is checked, `c` is
        // exclusive, and the CPU has the set.
        unsafe { block(tiles, None, &arguments) }
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

    /// `average = keep average + take x`.
    pub(crate) fn move_average(&self, factors: Average<T>, x: &[T], average: &mut [T]) {
        assert_eq!(x.len(), average.len());
        // SAFETY: equal lengths; the CPU has the set.
        unsafe { (self.move_average)(factors, x, average) }
    }

    /// Takes a step with all parameters `w`; slots that the rule does not have may be empty.
    pub(crate) fn update(
        &self,
        update: &Update<T>,
        w: &mut [T],
        gradient: &[T],
        slots: [&mut [T]; MAX_SLOTS],
    ) {
        assert_eq!(gradient.len(), w.len());
        let used = update.rule.slot_names().len();
        assert!(slots[..used].iter().all(|slot| slot.len() == w.len()), "slots");
        let parameters = Parameters {
            rows: 1,
            cols: w.len(),
            w: RawRows { ptr: w.as_mut_ptr(), row_stride: 0 },
            gradient: RawRows { ptr: gradient.as_ptr(), row_stride: 0 },
            slots: slots.map(|slot| RawRows { ptr: slot.as_mut_ptr(), row_stride: 0 }),
        };
        // SAFETY: equal lengths, exclusive slices; the CPU has the set.
        unsafe { (self.update)(update, &parameters) }
    }

    /// Sum of squares in the order that `elementwise::sum_of_squares` fixes.
    pub(crate) fn sum_of_squares(&self, x: &[T]) -> T {
        // SAFETY: the CPU has the set.
        unsafe { (self.sum_of_squares)(x) }
    }

    /// `x * scale` where the mask keeps an element, else 0, in place.
    pub(crate) fn dropout(
        &self,
        mask: DropoutMask,
        first_row: usize,
        scale: T,
        x: &mut MatMut<'_, T>,
    ) {
        assert!(x.has_contiguous_rows(), "contiguous rows under a mask");
        // SAFETY: contiguous rows; the CPU has the set.
        unsafe { (self.dropout)(mask, first_row, scale, x) }
    }
}

/// The companions of the first tile of `c`, if everything that the epilogue takes fits `c`.
fn check_epilogue<T: Float>(
    c: &MatMut<'_, T>,
    epilogue: &mut Epilogue<'_, T>,
) -> [RawRows<*mut T>; MAX_COMPANIONS] {
    epilogue.check(c.shape(), c.col_stride()).expect("an epilogue that fits C");
    std::array::from_fn(|index| match epilogue.companions.get_mut(index) {
        // One that is shared is only read: `check` lets none through where the finish writes.
        Some(Companion::Shared(matrix)) => {
            RawRows { ptr: matrix.as_ptr().cast_mut(), row_stride: matrix.row_stride() }
        }
        Some(Companion::Exclusive(matrix)) => {
            RawRows { ptr: matrix.as_mut_ptr(), row_stride: matrix.row_stride() }
        }
        None => RawRows { ptr: std::ptr::null_mut(), row_stride: 0 },
    })
}

/// One row of the table of tile functions.
macro_rules! tile_row {
    ($from:ident, $rows:literal, [$($vectors:literal),*]) => {
        &[$(tile::<$from, $rows, $vectors>),*]
    };
}

/// A module with one instruction set's kernels for one element type.
macro_rules! stamp {
    (
        $module:ident, $t:ident, $set:ident, $token:path, [$(#[$feature:meta])?],
        rows: [$($rows:literal),*], full: $full:literal, vectors: $vectors:tt,
        wide_rows: [$($wide_rows:literal),*], wide_vectors: $wide_vectors:tt,
        peak_chains: $chains:literal
    ) => {
        mod $module {
            use super::*;
            use crate::{
                kernels::{
                    block::MAX_TILE,
                    finish as finishing, pack, peak,
                    tile::{self as microkernel, PACKED, STRIDED},
                },
                simd::Isa,
            };
            use $token as Token;

            const MR: usize = $full;
            const NV: usize = $vectors.len();
            const LANES: usize = <Token as Isa<$t>>::LANES;
            const _: () = assert!([$($rows),*].len() + 1 == MR, "all rows");
            const _: () = assert!(MR <= MAX_TILE.0 && NV * LANES <= MAX_TILE.1);
            const _: () = assert!($wide_vectors.len().is_multiple_of(NV), "whole panels");

            pub(super) static SET: KernelSet<$t> = KernelSet {
                set: InstructionSet::$set,
                packed: Tiles {
                    functions: &[
                        $(tile_row!(STRIDED, $rows, $vectors)),*,
                        tile_row!(PACKED, $full, $vectors),
                    ],
                    lanes: LANES,
                },
                strided: Tiles {
                    functions: &[
                        $(tile_row!(STRIDED, $rows, $vectors)),*,
                        tile_row!(STRIDED, $full, $vectors),
                    ],
                    lanes: LANES,
                },
                wide: Tiles {
                    functions: &[$(tile_row!(STRIDED, $wide_rows, $wide_vectors)),*],
                    lanes: LANES,
                },
                finish,
                multiply_adds_per_step: $chains * LANES,
                multiply_adds,
                pack,
                pack_gathered,
                relu,
                gate,
                add_scaled,
                move_average,
                update,
                sum_of_squares,
                dropout,
            };

            // SAFETY of every function here: the CPU has the instruction set, which makes the
            // token; the rest is what the generic kernel of the same name asks for.

            $(#[$feature])?
            unsafe fn tile<const FROM: bool, const ROWS: usize, const VECS: usize>(
                tile: &Tile<'_, $t>,
            ) {
                // SAFETY: see above.
                unsafe {
                    microkernel::tile::<Token, $t, FROM, ROWS, VECS, MR, NV>(Token::new(), tile)
                }
            }
            $(#[$feature])?
            unsafe fn finish(tile: &Tile<'_, $t>, shape: (usize, usize), sums: *const $t) {
                // SAFETY: see above.
                unsafe { finishing::finish(Token::new(), update, tile, shape, sums) }
            }
            $(#[$feature])?
            unsafe fn multiply_adds(steps: usize) -> $t {
                // SAFETY: see above.
                unsafe { peak::multiply_adds::<Token, $t, $chains>(Token::new(), steps) }
            }
            $(#[$feature])?
            unsafe fn pack(packing: &Packing<$t, Strided<$t>>) {
                // SAFETY: see above.
                unsafe { pack::pack(Token::new(), packing) }
            }
            $(#[$feature])?
            unsafe fn pack_gathered(packing: &Packing<$t, GatheredRows<'_, $t>>) {
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
            unsafe fn move_average(factors: Average<$t>, x: &[$t], average: &mut [$t]) {
                // SAFETY: see above.
                unsafe { elementwise::move_average(Token::new(), factors, x, average) }
            }
            $(#[$feature])?
            unsafe fn update(update: &Update<$t>, parameters: &Parameters<$t>) {
                // SAFETY: see above.
                unsafe { update::update(Token::new(), update, parameters) }
            }
            $(#[$feature])?
            unsafe fn sum_of_squares(x: &[$t]) -> $t {
                // SAFETY: see above.
                unsafe { elementwise::sum_of_squares(Token::new(), x) }
            }
            $(#[$feature])?
            unsafe fn dropout(
                mask: DropoutMask,
                first_row: usize,
                scale: $t,
                x: &mut MatMut<'_, $t>,
            ) {
                super::dropout(mask, first_row, scale, x)
            }
        }
    };
}

// Tile shapes: as many accumulators as the registers hold beside the vectors of B and the value
// of A: 28 of 32 for AVX-512, 12 of 16 for AVX2, 8 of 16 for the portable set on SSE2 (one of its
// vectors takes two registers).
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx512_f32, f32, Avx512, crate::simd::avx512::Avx512, [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], full: 14, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6, 7, 8], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx512_f64, f64, Avx512, crate::simd::avx512::Avx512, [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], full: 14, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6, 7, 8], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx2_f32, f32, Avx2, crate::simd::avx2::Avx2, [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3, 4, 5], full: 6, vectors: [1, 2],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3, 4, 5, 6], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx2_f64, f64, Avx2, crate::simd::avx2::Avx2, [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3, 4, 5], full: 6, vectors: [1, 2],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3, 4, 5, 6], peak_chains: 12
);
stamp!(
    portable_f32, f32, Portable, crate::simd::portable::Portable, [],
    rows: [1, 2, 3], full: 4, vectors: [1],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3], peak_chains: 6
);
stamp!(
    portable_f64, f64, Portable, crate::simd::portable::Portable, [],
    rows: [1, 2, 3], full: 4, vectors: [1],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3], peak_chains: 6
);

macro_rules! impl_kernels {
    ($t:ident, $matrixmultiply:ident, $avx512:ident, $avx2:ident, $portable:ident) => {
        impl Kernels for $t {
            fn kernel_set(set: InstructionSet) -> Result<&'static KernelSet<$t>> {
                Ok(match set.require()? {
                    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                    InstructionSet::Avx512 => &$avx512::SET,
                    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                    InstructionSet::Avx2 => &$avx2::SET,
                    _ => &$portable::SET,
                })
            }

            #[cfg(feature = "matrixmultiply")]
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
