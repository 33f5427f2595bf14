//! Where the elements of an operand come from: a matrix, panels packed before, or rows gathered by
//! index from a store of bytes.

use std::{fmt, ops::Range};

use crate::{
    aligned::AlignedBuf,
    error::{Error, Result},
    kernels::{Along, Element, GatheredRows, KernelSet, Panels},
    matrix::MatRef,
    simd::InstructionSet,
};

/// An operand of a product.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Operand<'a, T: Element> {
    /// A matrix of any strides.
    Matrix(MatRef<'a, T>),
    /// Panels made by `Gemm::pack_a` or `Gemm::pack_b`, for that side of the product.
    Packed(&'a Packed<T>),
    /// Rows gathered from a store of bytes.
    Gathered(GatheredRows<'a, T>),
    /// The same matrix transposed.
    GatheredTransposed(GatheredRows<'a, T>),
}

impl<'a, T: Element> From<MatRef<'a, T>> for Operand<'a, T> {
    fn from(matrix: MatRef<'a, T>) -> Self {
        Self::Matrix(matrix)
    }
}

impl<'a, T: Element> From<&'a Packed<T>> for Operand<'a, T> {
    fn from(packed: &'a Packed<T>) -> Self {
        Self::Packed(packed)
    }
}

impl<'a, T: Element> From<GatheredRows<'a, T>> for Operand<'a, T> {
    fn from(rows: GatheredRows<'a, T>) -> Self {
        Self::Gathered(rows)
    }
}

/// The side of a product that an operand is packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

/// An operand in the panels of one instruction set's kernels, packed once and used often. It can
/// serve any blocking and any number of threads, and several products at once.
pub struct Packed<T: Element> {
    panels: AlignedBuf<T>,
    side: Side,
    set: InstructionSet,
    /// Lines in a panel.
    width: usize,
    rows: usize,
    cols: usize,
}

impl<T: Element> Packed<T> {
    pub(super) fn new(
        kernels: &KernelSet<T>,
        side: Side,
        scale: T,
        matrix: MatRef<'_, T>,
    ) -> Result<Self> {
        let (rows, cols) = matrix.shape();
        let (lines, width) = match side {
            Side::A => (matrix.canonical(), kernels.tile_rows()),
            Side::B => (matrix.canonical().t(), kernels.tile_cols()),
        };
        let overflow = || Error::SizeOverflow { what: "packed operand", rows, cols };
        let padded = lines.rows().checked_next_multiple_of(width).ok_or_else(overflow)?;
        let len = padded.checked_mul(lines.cols()).ok_or_else(overflow)?;
        let mut panels = AlignedBuf::zeroed(len)?;
        kernels.pack_rows(lines, width, scale, &mut panels, None);
        Ok(Self { panels, side, set: kernels.instruction_set(), width, rows, cols })
    }

    /// A copy.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if the memory is exhausted.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { panels: self.panels.try_clone()?, ..*self })
    }

    /// Rows and columns of the operand.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Size of the panels.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.panels[..])
    }
}

impl<T: Element> fmt::Debug for Packed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({:?}, {} x {}, {})", self.side, self.rows, self.cols, self.set)
    }
}

/// An operand as lines (rows of A, columns of B) by depth.
#[derive(Clone, Copy)]
pub(super) enum Lines<'a, T: Element> {
    /// With the factor of its elements.
    Matrix(MatRef<'a, T>, T),
    Packed(&'a Packed<T>),
    Gathered(GatheredRows<'a, T>, Along),
}

impl<'a, T: Element> Operand<'a, T> {
    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Matrix(matrix) => matrix.shape(),
            Self::Packed(packed) => packed.shape(),
            Self::Gathered(rows) => (rows.rows(), rows.cols()),
            Self::GatheredTransposed(rows) => (rows.cols(), rows.rows()),
        }
    }

    /// The transposed operand.
    ///
    /// # Errors
    /// [`Error::Setting`] if it was packed before, for one side of a product.
    pub fn t(self) -> Result<Self> {
        match self {
            Self::Matrix(matrix) => Ok(Self::Matrix(matrix.t())),
            Self::Gathered(rows) => Ok(Self::GatheredTransposed(rows)),
            Self::GatheredTransposed(rows) => Ok(Self::Gathered(rows)),
            Self::Packed(_) => {
                let expected = "a matrix or gathered rows, which can be transposed";
                Err(Error::setting("operand", format!("{self:?}"), expected))
            }
        }
    }

    /// The matrix, for backends that take no other operand.
    pub(super) fn matrix(self) -> Result<MatRef<'a, T>> {
        match self {
            Self::Matrix(matrix) => Ok(matrix),
            other => {
                let found = format!("{other:?}");
                Err(Error::setting("operand", found, "a matrix, for this backend"))
            }
        }
    }

    /// The operand as lines for one side of a product with these kernels; `scale` is the factor
    /// of its elements.
    pub(super) fn lines(
        self,
        kernels: &KernelSet<T>,
        side: Side,
        scale: T,
    ) -> Result<Lines<'a, T>> {
        Ok(match (self, side) {
            (Self::Matrix(matrix), Side::A) => Lines::Matrix(matrix.canonical(), scale),
            (Self::Matrix(matrix), Side::B) => Lines::Matrix(matrix.t().canonical(), scale),
            (_, Side::A) if scale != T::ONE => {
                let expected = "1 where A is packed before or gathered";
                return Err(Error::setting("alpha", scale, expected));
            }
            (Self::Gathered(rows), Side::A) | (Self::GatheredTransposed(rows), Side::B) => {
                Lines::Gathered(rows, Along::Depth)
            }
            (Self::Gathered(rows), Side::B) | (Self::GatheredTransposed(rows), Side::A) => {
                Lines::Gathered(rows, Along::Lines)
            }
            (Self::Packed(packed), side) => {
                let set = kernels.instruction_set();
                if packed.side != side || packed.set != set {
                    let expected = format!("panels for side {side:?} and {set}");
                    return Err(Error::setting("operand", format!("{packed:?}"), expected));
                }
                Lines::Packed(packed)
            }
        })
    }
}

impl<'a, T: Element> Lines<'a, T> {
    /// The panels of the given part, of `width` lines each: packed into `scratch` unless they are
    /// there already. `sums` as for `KernelSet::pack_rows`.
    pub(super) fn panels<'p>(
        &self,
        kernels: &KernelSet<T>,
        width: usize,
        lines: Range<usize>,
        depth: Range<usize>,
        scratch: &'p mut [T],
        sums: Option<&mut [T]>,
    ) -> Panels<'p, T>
    where
        'a: 'p,
    {
        let stride = depth.len() * width;
        match *self {
            Self::Matrix(matrix, scale) => {
                kernels.pack_rows(matrix.submatrix(lines, depth), width, scale, scratch, sums);
            }
            Self::Gathered(matrix, along) => {
                let (rows, cols) = match along {
                    Along::Depth => (lines, depth),
                    Along::Lines => (depth, lines),
                };
                kernels.pack_gathered(matrix.submatrix(rows, cols), along, width, scratch);
            }
            Self::Packed(packed) => return packed.part(lines.start, depth.start),
        }
        Panels::new(scratch, width, stride)
    }

    /// Whether neighbouring lines are contiguous in memory, so that they can be summed while they
    /// are packed.
    pub(super) fn has_contiguous_lines(&self) -> bool {
        matches!(self, Self::Matrix(matrix, _) if matrix.row_stride() == 1)
    }

    /// The matrix, where its elements are those of the product.
    pub(super) fn in_place(&self) -> Option<MatRef<'a, T>> {
        match *self {
            Self::Matrix(matrix, scale) if scale == T::ONE => Some(matrix),
            _ => None,
        }
    }

    /// The panels if there is nothing to pack.
    pub(super) fn packed(&self) -> Option<&'a Packed<T>> {
        match *self {
            Self::Packed(packed) => Some(packed),
            _ => None,
        }
    }
}

impl<T: Element> Packed<T> {
    /// The panels from line `line` and depth `p` on; `line` begins a panel.
    pub(super) fn part(&self, line: usize, p: usize) -> Panels<'_, T> {
        let depth = match self.side {
            Side::A => self.cols,
            Side::B => self.rows,
        };
        Panels::new(&self.panels, self.width, depth * self.width).part(line / self.width, p)
    }
}
