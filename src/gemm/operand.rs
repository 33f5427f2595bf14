//! Where the elements of an operand come from: a matrix, panels packed before, or pictures chosen
//! by index and normalised on the way.

use std::{fmt, ops::Range};

use crate::{
    aligned::AlignedBuf,
    error::{Error, Result},
    kernels::{Along, Element, Input, KernelSet, Panels, Pictures},
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

/// Rows of a matrix of bytes, chosen by index, with a scale and a shift for each column: element
/// (i, j) is `store[indices[i] * cols + j] * scale[j] + shift[j]`, one multiply-add. Nothing of it
/// is ever stored but the panels of the block at hand.
#[derive(Clone, Copy)]
pub struct GatheredRows<'a, T> {
    store: &'a [u8],
    indices: &'a [u32],
    scale: &'a [T],
    shift: &'a [T],
}

impl<'a, T: Element> GatheredRows<'a, T> {
    /// Rows `indices` of `store`, a row-major matrix of `scale.len()` columns.
    ///
    /// # Errors
    /// [`Error::Length`] if `shift` is not as long as `scale`, or the store has no whole number of
    /// rows; [`Error::Setting`] if an index names no row.
    pub fn new(
        store: &'a [u8],
        indices: &'a [u32],
        scale: &'a [T],
        shift: &'a [T],
    ) -> Result<Self> {
        let cols = scale.len();
        if shift.len() != cols {
            return Err(Error::Length { what: "shifts", expected: cols, found: shift.len() });
        }
        let rows = store.len() / cols.max(1);
        if store.len() != rows * cols {
            let (what, found) = ("store of whole rows", store.len());
            return Err(Error::Length { what, expected: rows * cols, found });
        }
        if let Some(index) = indices.iter().find(|&&index| index as usize >= rows) {
            return Err(Error::setting("row index", index, format!("below {rows}")));
        }
        Ok(Self { store, indices, scale, shift })
    }

    /// Number of gathered rows.
    pub fn rows(&self) -> usize {
        self.indices.len()
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.scale.len()
    }

    /// Element (`row`, `col`).
    ///
    /// # Panics
    /// If the position lies outside of the matrix.
    pub fn get(&self, row: usize, col: usize) -> T {
        let byte = self.store[self.indices[row] as usize * self.cols() + col];
        T::from_f64(f64::from(byte)).mul_add(self.scale[col], self.shift[col])
    }
}

impl<T: Element> fmt::Debug for GatheredRows<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GatheredRows({} x {})", self.rows(), self.cols())
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
#[derive(Clone)]
pub struct Packed<T: Element> {
    panels: AlignedBuf<T>,
    side: Side,
    set: InstructionSet,
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
            Side::A => (Input::from(matrix), kernels.tile_rows()),
            Side::B => (Input::from(matrix).t(), kernels.tile_cols()),
        };
        let overflow = || Error::SizeOverflow { what: "packed operand", rows, cols };
        let padded = lines.rows().checked_next_multiple_of(width).ok_or_else(overflow)?;
        let len = padded.checked_mul(lines.cols()).ok_or_else(overflow)?;
        let mut panels = AlignedBuf::zeroed(len)?;
        kernels.pack_rows(lines, width, scale, &mut panels, None);
        Ok(Self { panels, side, set: kernels.instruction_set(), rows, cols })
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
    Matrix(Input<'a, T>, T),
    Packed(&'a Packed<T>),
    Pictures(GatheredRows<'a, T>, Along),
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
            (Self::Matrix(matrix), Side::A) => Lines::Matrix(matrix.into(), scale),
            (Self::Matrix(matrix), Side::B) => Lines::Matrix(matrix.t().into(), scale),
            (_, Side::A) if scale != T::ONE => {
                let expected = "1 where A is packed before or gathered";
                return Err(Error::setting("alpha", scale, expected));
            }
            (Self::Gathered(rows), Side::A) | (Self::GatheredTransposed(rows), Side::B) => {
                Lines::Pictures(rows, Along::Depth)
            }
            (Self::Gathered(rows), Side::B) | (Self::GatheredTransposed(rows), Side::A) => {
                Lines::Pictures(rows, Along::Lines)
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
                kernels.pack_rows(matrix.part(lines, depth), width, scale, scratch, sums);
            }
            Self::Pictures(rows, along) => {
                let (pictures, features) = match along {
                    Along::Depth => (lines, depth),
                    Along::Lines => (depth, lines),
                };
                let GatheredRows { store, indices, scale, shift } = rows;
                let indices = &indices[pictures];
                let part = Pictures { store, features, indices, scale, shift };
                kernels.pack_pictures(part, along, width, scratch);
            }
            Self::Packed(packed) => return packed.part(width, lines.start, depth.start),
        }
        Panels { data: scratch, stride }
    }

    /// Whether neighbouring lines stand side by side in memory, so that they can be summed while
    /// they are packed.
    pub(super) fn has_lines_side_by_side(&self) -> bool {
        matches!(self, Self::Matrix(matrix, _) if matrix.row_stride() == 1)
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
    pub(super) fn part(&self, width: usize, line: usize, p: usize) -> Panels<'_, T> {
        let depth = match self.side {
            Side::A => self.cols,
            Side::B => self.rows,
        };
        let stride = depth * width;
        let start = line / width * stride + p * width;
        Panels { data: self.panels.get(start..).unwrap_or_default(), stride }
    }
}
