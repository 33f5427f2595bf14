//! The methods of a [`KernelSet`] and of a [`Packer`]: they check every length once and are safe to call.

use std::{
    any::TypeId,
    array,
    hint::black_box,
    ptr::{null, null_mut},
};

use crate::{
    kernels::{
        block::{Block, SHALLOW, block},
        dropout::DropoutMask,
        epilogue::{Companion, Epilogue},
        map::{Map, Mapping},
        pack::{Along, Packing, Source, beside::PanelBeside},
        product::{PanelElement, Types},
        reduce::SumOfSquares,
        set::{Element, KernelSet, Packer, Panels},
        tile::Tile,
        update::{MAX_SLOTS, Parameters, RawRows, Update},
    },
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
};

/// Bytes of one way of the L1 cache, and its ways where they are fewest: 4 KiB on all x86-64 CPUs of
/// today, 8 ways on Zen (512x10x1024 on Zen 4: 0.35 of the peak with tiles of 14 rows, 0.62 with 8).
const L1_WAY_BYTES: usize = 4096;
const L1_WAYS: usize = 8;

/// A panel that is packed while a block is computed: the first lines of a source, as many as there
/// are in a panel, or all of them.
pub(crate) enum Beside<'a, P: Types> {
    /// None.
    Nothing,
    /// A panel of A.
    Left {
        /// Lines of A.
        source: Source<'a, P::Left>,
        /// Where to put it.
        panel: &'a mut [P::Left],
    },
    /// A panel of B.
    Right {
        /// Lines of B.
        source: Source<'a, P::Right>,
        /// Where to put it.
        panel: &'a mut [P::Right],
        /// As for [`Packer::pack`].
        sums: Option<&'a mut [P::Sum]>,
    },
}

impl<P: Types> KernelSet<P> {
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

    /// Makes panels of A.
    pub(crate) fn left(&self) -> Packer<P::Left> {
        self.left
    }

    /// Makes panels of B.
    pub(crate) fn right(&self) -> Packer<P::Right> {
        self.right
    }

    /// Steps of k that are taken at a time, whose elements are contiguous in a panel.
    pub(crate) fn depth_step(&self) -> usize {
        self.left.depth_step
    }

    /// Rows up to which products are computed by short and wide tiles.
    pub(crate) fn wide_rows(&self) -> usize {
        self.wide.rows()
    }

    /// Whether panels of this depth are packed while others are multiplied.
    pub(crate) fn packs_beside(&self, depth: usize) -> bool {
        depth > SHALLOW && self.left.lanes_beside > 0
    }

    /// Computes `c` from packed blocks: `a` of `c.rows() x depth`, `b` of `depth x c.cols()`. Fewer rows
    /// than those of a tile may come in panels of one row each.
    /// A bias, and a finish other than `Store` and `Relu`, need contiguous rows of C. A panel beside
    /// is packed before it returns, on the way if `c` is one row of full tiles.
    pub(crate) fn block(
        &self,
        depth: usize,
        a: Panels<'_, P::Left>,
        b: Panels<'_, P::Right>,
        c: &mut MatMut<'_, P::Output>,
        mut epilogue: Epilogue<'_, P::Sum, P::Output>,
        beside: Beside<'_, P>,
    ) {
        let (mr, nr) = (self.tile_rows(), self.tile_cols());
        let on_the_way = c.rows() == mr && c.cols() > 0 && self.packs_beside(depth);
        let (mut left, mut right) = (None, None);
        match beside {
            Beside::Nothing => {}
            Beside::Left { source, panel } => {
                left = self.left.begin(source, panel, None, on_the_way);
            }
            Beside::Right { source, panel, sums } => {
                right = self.right.begin(source, panel, sums, on_the_way);
            }
        }
        let packing = match (&left, &right) {
            (Some((_, units)), _) => Some((self.packing_left, *units)),
            (_, Some((_, units))) => Some((self.packing_right, *units)),
            _ => None,
        };
        if c.rows() == 0 || c.cols() == 0 {
            return;
        }
        let step = self.depth_step();
        // A panel is filled up to whole steps.
        let padded = depth.next_multiple_of(step);
        // Panels of one row each are so many rows of an A in pairs.
        let (width, a_row_stride) =
            if a.hold(1, c.rows(), padded) && c.rows() < mr { (1, a.stride()) } else { (mr, step) };
        assert!(a.hold(width, c.rows(), padded), "panels of A");
        assert!(b.hold(nr, c.cols(), padded), "panels of B");
        let first = Tile {
            depth,
            a: a.as_ptr(),
            a_row_stride: a_row_stride as isize,
            a_depth_stride: (width * step) as isize,
            b: b.as_ptr(),
            b_depth_stride: (nr * step) as isize,
            b_panel_stride: b.stride() as isize,
            left: left.as_ref().map(|(panel, _)| panel),
            right: right.as_ref().map(|(panel, _)| panel),
            ..self.first_tile(c, &mut epilogue)
        };
        let arguments = Block {
            rows: c.rows(),
            cols: c.cols(),
            first,
            tile_rows: mr,
            a_panel_stride: a.stride() as isize,
            b_panel_stride: b.stride() as isize,
            col_stride: c.col_stride(),
            packing,
        };
        // SAFETY: lengths and epilogue are checked above, `c` is exclusive, `begin` checked the panel
        // beside, and the CPU has the set, because `kernel_set` gave it out.
        unsafe { block(self.packed, Some(self.wide), &arguments) }
    }

    /// Computes `c` from operands in place; the rows of B and of C are contiguous.
    pub(crate) fn block_in_place(
        &self,
        a: MatRef<'_, P::Left>,
        b: MatRef<'_, P::Right>,
        c: &mut MatMut<'_, P::Output>,
        mut epilogue: Epilogue<'_, P::Sum, P::Output>,
    ) {
        let (rows, cols, depth) = (c.rows(), c.cols(), a.cols());
        assert!((a.rows(), b.rows(), b.cols()) == (rows, depth, cols), "operands of a block");
        assert!(b.col_stride() == 1, "contiguous rows of B");
        assert_eq!(self.depth_step(), 1, "steps of k one by one");
        if rows == 0 || cols == 0 {
            return;
        }
        let contiguous = c.col_stride() == 1;
        let tiles = if contiguous && rows <= self.wide_rows() && cols > self.strided.cols() {
            self.wide
        } else {
            self.strided
        };
        let first = Tile {
            depth,
            a: a.as_ptr(),
            a_row_stride: a.row_stride(),
            a_depth_stride: a.col_stride(),
            b: b.as_ptr(),
            b_depth_stride: b.row_stride(),
            b_panel_stride: self.tile_cols() as isize,
            ..self.first_tile(c, &mut epilogue)
        };
        // Rows whose elements of one k share a set of the L1 cache push each other out of it, where
        // they are more than the ways of the cache.
        let row_bytes = a.row_stride().unsigned_abs() * size_of::<P::Left>();
        let collide = a.col_stride() == 1 && row_bytes.is_multiple_of(L1_WAY_BYTES);
        let most = if collide { tiles.rows().min(L1_WAYS) } else { tiles.rows() };
        // Tiles of equal height: a low one would have too few chains to keep the units busy.
        let tile_rows = rows.div_ceil(rows.div_ceil(most));
        let arguments = Block {
            rows,
            cols,
            tile_rows,
            first,
            a_panel_stride: tile_rows as isize * a.row_stride(),
            b_panel_stride: tiles.cols() as isize,
            col_stride: c.col_stride(),
            packing: None,
        };
        // SAFETY: the views' elements are readable and fit, the epilogue is checked, `c` is
        // exclusive, and the CPU has the set.
        unsafe { block(tiles, None, &arguments) }
    }

    /// The first tile of `c`, without its operands, if everything that the epilogue takes fits `c`.
    fn first_tile<'e>(
        &self,
        c: &mut MatMut<'_, P::Output>,
        epilogue: &'e mut Epilogue<'_, P::Sum, P::Output>,
    ) -> Tile<'e, P> {
        let same = TypeId::of::<P::Output>() == TypeId::of::<P::Sum>();
        assert!(same || !epilogue.is_update(), "updates of a C of the type of the sums");
        epilogue.check(c.shape(), c.col_stride()).expect("an epilogue that fits C");
        let companions = array::from_fn(|index| match epilogue.companions.get_mut(index) {
            // One that is shared is only read: `check` lets none through where the finish writes.
            Some(Companion::Shared(matrix)) => {
                RawRows { ptr: matrix.as_ptr().cast_mut(), row_stride: matrix.row_stride() }
            }
            Some(Companion::Exclusive(matrix)) => {
                RawRows { ptr: matrix.as_mut_ptr(), row_stride: matrix.row_stride() }
            }
            None => RawRows { ptr: null_mut(), row_stride: 0 },
        });
        Tile {
            depth: 0,
            a: null(),
            a_row_stride: 0,
            a_depth_stride: 0,
            b: null(),
            b_depth_stride: 0,
            b_panel_stride: 0,
            c: c.as_mut_ptr(),
            row_stride: c.row_stride(),
            ahead: null(),
            left: None,
            right: None,
            units: (0, 0),
            last_cols: 0,
            start: epilogue.start,
            finish: &epilogue.finish,
            row: 0,
            col: 0,
            companions,
            finish_in_memory: self.finish,
        }
    }

    /// Runs multiply-adds on registers alone for `steps` steps, and returns how many it were.
    pub(crate) fn multiply_adds(&self, steps: usize) -> usize {
        // SAFETY: the CPU has the set.
        black_box(unsafe { (self.multiply_adds)(steps) });
        steps * self.multiply_adds_per_step
    }
}

impl<E: PanelElement> Packer<E> {
    pub(crate) fn instruction_set(&self) -> InstructionSet {
        self.set
    }

    /// Lines in a panel.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Elements from one panel to the next, for lines of this depth; `None` where that exceeds the
    /// address space.
    pub(crate) fn stride(&self, depth: usize) -> Option<usize> {
        depth.checked_next_multiple_of(self.depth_step)?.checked_mul(self.width)
    }

    /// Whether panels of B are packed while others are multiplied, one for each tile: those of
    /// contiguous lines (512x512x1024 with B transposed, Zen 4, AVX-512: a row of tiles that packs
    /// vectors along lines so takes 1.03 of its time without packing, packed in advance 0.86).
    pub(crate) fn packs_beside(&self, source: &Source<'_, E>) -> bool {
        source.along() == Some(Along::Lines)
    }

    /// The same for panels of one line each, of sources whose lines are contiguous along the depth: a
    /// few rows of A need no panel of a whole tile.
    pub(crate) fn of_single_lines(self) -> Self {
        Self { width: 1, lanes_beside: 0, ..self }
    }

    /// Packs a source into panels; see `kernels::pack`. The values of each line are added to `sums`,
    /// one for each line, if they are given; then the source can be summed.
    pub(crate) fn pack(
        &self,
        source: Source<'_, E>,
        panels: &mut [E],
        sums: Option<&mut [E::Value]>,
    ) {
        let (lines, stride) = (source.lines(), self.stride(source.depth()));
        let room = stride.and_then(|stride| lines.div_ceil(self.width).checked_mul(stride));
        assert!(room.is_some_and(|room| panels.len() >= room), "room for the panels");
        assert!(self.width > 1 || source.along() == Some(Along::Depth), "single lines of depth");
        let summed = sums.as_ref().map(|sums| sums.len());
        assert!(
            summed.is_none_or(|len| len == source.lines() && source.can_be_summed()),
            "sums of contiguous lines"
        );
        let (dst, sums) = (panels.as_mut_ptr(), sums.map_or(null_mut(), <[_]>::as_mut_ptr));
        let packing = Packing { source, width: self.width, dst, sums };
        // SAFETY: the elements of a source are readable, the panels have room and are exclusive, and sums
        // are as many as lines; the CPU has the instruction set, because `kernel_set` gave this out.
        unsafe { (self.pack)(&packing) }
    }

    /// Begins a panel of the first lines of a source: what cannot be packed in units, or all of it if
    /// not `in_units`, is packed at once. Returns the panel and the number of units that are left.
    fn begin<'a>(
        &self,
        source: Source<'a, E>,
        panel: &'a mut [E],
        sums: Option<&'a mut [E::Value]>,
        in_units: bool,
    ) -> Option<(PanelBeside<'a, E>, usize)> {
        let (lines, depth) = (source.lines().min(self.width), source.depth());
        let room = self.stride(depth).is_some_and(|stride| panel.len() >= stride);
        let together = self.depth_step * size_of::<E>();
        assert!(room && panel.as_ptr().addr().is_multiple_of(together), "room for the panel");
        let summed = sums.as_ref().map(|sums| sums.len());
        assert!(
            summed.is_none_or(|len| len == lines && source.can_be_summed()),
            "sums of contiguous lines"
        );
        let (units, covered) = if in_units {
            source.units(self.width, (self.lanes_beside, self.depth_step), summed.is_some())
        } else {
            (0, 0)
        };
        if units == 0 {
            self.pack(source.part(0..lines, 0..depth), panel, sums);
            return None;
        }
        let (begun, rest) = panel.split_at_mut(covered * self.width);
        self.pack(source.part(0..lines, covered..depth), rest, None);
        let sums = sums.map_or(null_mut(), <[_]>::as_mut_ptr);
        Some((PanelBeside { source, dst: begun.as_mut_ptr(), sums }, units))
    }
}

impl<T: Element> KernelSet<T> {
    /// `out = map(x...)`, element by element.
    pub(crate) fn map<const N: usize>(&self, map: impl Map<T, N>, x: [&[T]; N], out: &mut [T]) {
        T::run(self, Mapping::new(map, x, out));
    }

    /// `y = map(x, y)`, element by element.
    pub(crate) fn map_onto(&self, map: impl Map<T, 2>, x: &[T], y: &mut [T]) {
        T::run(self, Mapping::onto(map, x, y));
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

    /// Sum of squares in the order that [`SumOfSquares`] fixes.
    pub(crate) fn sum_of_squares(&self, x: &[T]) -> T {
        T::run(self, SumOfSquares(x))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{
        Isa,
        math::{exp, logistic, normal},
        scalar::Scalar,
    };

    /// One of the functions of `simd::math`.
    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Distribution,
        Density,
        Logistic,
        OfMinus,
    }

    impl<T: Element> Map<T, 1> for Function {
        #[inline(always)]
        fn apply<S: Isa<T>>(self, isa: S, [x]: [S::Vector; 1]) -> S::Vector {
            match self {
                Self::Exp => exp(isa, x),
                Self::Distribution => normal(isa, x).0,
                Self::Density => normal(isa, x).1,
                Self::Logistic => logistic(isa, x).0,
                Self::OfMinus => logistic(isa, x).1,
            }
        }
    }

    fn check<T: Element>(special: &[T])
    where
        Scalar: Isa<T, Vector = T>,
    {
        use Function::{Density, Distribution, Exp, Logistic, OfMinus};
        let grid = (0..4001).map(|i| T::from_f64(f64::from(i - 2000) * 0.0611));
        let x: Vec<T> = grid.chain(special.iter().copied()).collect();
        for set in InstructionSet::available() {
            let kernels: &KernelSet<T> = T::kernel_set(set).unwrap();
            let scalar = Scalar { fused: set.is_fused() };
            for function in [Exp, Distribution, Density, Logistic, OfMinus] {
                // Every length on both sides of a vector's.
                for len in (0..40).chain([x.len()]) {
                    let x = &x[x.len() - len..];
                    let mut out = vec![T::ZERO; len];
                    kernels.map(function, [x], &mut out);
                    for (&x, found) in x.iter().zip(out) {
                        let expected = function.apply(scalar, [x]);
                        // Bits, but for NaN.
                        let same = bytemuck::bytes_of(&found) == bytemuck::bytes_of(&expected);
                        let nan = found.partial_cmp(&found).or(expected.partial_cmp(&expected));
                        assert!(
                            same || nan.is_none(),
                            "{set}, {function:?}({x}): {found}, {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn functions_have_the_bits_of_one_lane_on_every_instruction_set() {
        let (most, least) = (f32::MAX, f32::from_bits(1));
        let special = [0.0, -0.0, least, -least, most, -most, f32::INFINITY, -f32::INFINITY];
        check(&special);
        check(&[f32::NAN, -88.1, -95.3, -103.9, 88.8, 13.4, -13.9]);
        let (most, least) = (f64::MAX, f64::from_bits(1));
        let special = [0.0, -0.0, least, -least, most, -most, f64::INFINITY, -f64::INFINITY];
        check(&special);
        check(&[f64::NAN, -708.5, -735.3, -745.2, 709.9, 37.9, -38.3]);
    }
}
