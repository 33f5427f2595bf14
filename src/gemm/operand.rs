//! Where the elements of an operand come from: a matrix, panels packed before, or rows gathered by
//! index from a store of bytes.

use std::{any::Any, fmt, ops::Range};

use crate::{
    aligned::AlignedBuf,
    error::{Error, Result},
    float::Float,
    kernels::{Along, GatheredRows, Packer, PanelElement, Panels, Source},
    matrix::MatRef,
    simd::InstructionSet,
    threads::{Tasks, cut, divide},
};

/// An operand of a product whose panels hold elements of type `E`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Operand<'a, E: PanelElement> {
    /// A matrix of any strides.
    Matrix(MatRef<'a, E>),
    /// The same of values, which are rounded to elements while they are packed: f32 for bf16.
    Rounded(MatRef<'a, E::Value>),
    /// Panels made by `Gemm::pack_a` or `Gemm::pack_b`, for that side of the product.
    Packed(&'a Packed<E>),
    /// Rows gathered from a store of bytes.
    Gathered(GatheredRows<'a, E::Value>),
    /// The same matrix transposed.
    GatheredTransposed(GatheredRows<'a, E::Value>),
}

impl<'a, E: PanelElement> From<MatRef<'a, E>> for Operand<'a, E> {
    fn from(matrix: MatRef<'a, E>) -> Self {
        Self::Matrix(matrix)
    }
}

impl<'a, E: PanelElement> From<&'a Packed<E>> for Operand<'a, E> {
    fn from(packed: &'a Packed<E>) -> Self {
        Self::Packed(packed)
    }
}

impl<'a, E: PanelElement> From<GatheredRows<'a, E::Value>> for Operand<'a, E> {
    fn from(rows: GatheredRows<'a, E::Value>) -> Self {
        Self::Gathered(rows)
    }
}

/// The side of a product that an operand is packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

impl Side {
    /// The lines (rows of A, columns of B) and the depth of an operand of this shape.
    fn lines_and_depth(self, (rows, cols): (usize, usize)) -> (usize, usize) {
        match self {
            Self::A => (rows, cols),
            Self::B => (cols, rows),
        }
    }
}

/// An operand in the panels of one instruction set's kernels, packed once and used often. It can
/// serve any blocking and any number of threads, and several products at once.
pub struct Packed<E: PanelElement> {
    panels: AlignedBuf<E>,
    side: Side,
    set: InstructionSet,
    /// Lines in a panel.
    width: usize,
    /// Elements from one panel to the next.
    stride: usize,
    rows: usize,
    cols: usize,
}

impl<E: PanelElement> Packed<E> {
    /// Panels of zeros for an operand of this shape.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if they exceed the address space or the memory.
    pub(super) fn zeroed(packer: Packer<E>, side: Side, shape: (usize, usize)) -> Result<Self> {
        let (rows, cols) = shape;
        let (lines, depth) = side.lines_and_depth(shape);
        let overflow = || Error::SizeOverflow { what: "packed operand", rows, cols };
        let width = packer.width();
        let stride = packer.stride(depth).ok_or_else(overflow)?;
        let len = lines.div_ceil(width).checked_mul(stride).ok_or_else(overflow)?;
        let (panels, set) = (AlignedBuf::zeroed(len)?, packer.instruction_set());
        Ok(Self { panels, side, set, width, stride, rows, cols })
    }

    /// Fills the panels with another operand of their shape, each task its part of them.
    ///
    /// # Errors
    /// [`Error::Setting`] if the panels are of another side or for other kernels, or the operand was
    /// packed before; [`Error::Shape`] if it has another shape. The panels are as they were.
    pub(super) fn fill(
        &mut self,
        packer: Packer<E>,
        side: Side,
        scale: E::Value,
        operand: Operand<'_, E>,
        tasks: Tasks,
    ) -> Result<()> {
        if self.side != side || self.set != packer.instruction_set() {
            let expected = format!("for side {side:?} and {}", packer.instruction_set());
            return Err(Error::setting("panels", format!("{self:?}"), expected));
        }
        let (expected, found) = (self.shape(), operand.shape());
        if found != expected {
            return Err(Error::Shape { what: "operand for its panels", expected, found });
        }
        let Lines::Source(source) = operand.lines(packer, side, scale)? else {
            let expected = "a matrix or gathered rows, to be packed";
            return Err(Error::setting("operand", format!("{operand:?}"), expected));
        };
        let (width, stride) = (self.width, self.stride);
        divide(
            (0..source.lines(), &mut self.panels[..]),
            tasks,
            &|(lines, panels): (Range<usize>, &mut [E]), left, parts| {
                let at = cut(lines.len(), width, left, parts);
                let (first, second) = panels.split_at_mut(at.div_ceil(width) * stride);
                let middle = lines.start + at;
                ((lines.start..middle, first), (middle..lines.end, second))
            },
            &|(lines, panels)| {
                let part = source.part(lines, 0..source.depth());
                packer.pack(part, panels, None);
            },
        );
        Ok(())
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

    /// The panels from line `line` and depth `p` on; `line` begins a panel.
    pub(super) fn part(&self, line: usize, p: usize) -> Panels<'_, E> {
        Panels::new(&self.panels, self.width, self.stride).part(line / self.width, p)
    }
}

impl<E: PanelElement> fmt::Debug for Packed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({:?}, {} x {}, {})", self.side, self.rows, self.cols, self.set)
    }
}

/// An operand as lines (rows of A, columns of B) by depth.
#[derive(Clone, Copy)]
pub(super) enum Lines<'a, E: PanelElement> {
    /// To be packed, or read in place.
    Source(Source<'a, E>),
    Packed(&'a Packed<E>),
}

impl<'a, E: PanelElement> Operand<'a, E> {
    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Matrix(matrix) => matrix.shape(),
            Self::Rounded(matrix) => matrix.shape(),
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
            Self::Rounded(matrix) => Ok(Self::Rounded(matrix.t())),
            Self::Gathered(rows) => Ok(Self::GatheredTransposed(rows)),
            Self::GatheredTransposed(rows) => Ok(Self::Gathered(rows)),
            Self::Packed(_) => {
                let expected = "a matrix or gathered rows, which can be transposed";
                Err(Error::setting("operand", format!("{self:?}"), expected))
            }
        }
    }

    /// The same operand for panels of other elements: its values are rounded while they are packed.
    ///
    /// # Errors
    /// [`Error::Setting`] if it was packed before into panels of its own elements, or is a matrix of
    /// elements that are not values.
    pub(crate) fn with_elements<F>(self) -> Result<Operand<'a, F>>
    where
        F: PanelElement<Value = E::Value>,
    {
        Ok(match self {
            Self::Rounded(matrix) => Operand::Rounded(matrix),
            Self::Gathered(rows) => Operand::Gathered(rows),
            Self::GatheredTransposed(rows) => Operand::GatheredTransposed(rows),
            Self::Matrix(matrix) => match (matrix.of_type(), matrix.of_type()) {
                (Some(elements), _) => Operand::Matrix(elements),
                (None, Some(values)) => Operand::Rounded(values),
                (None, None) => return Err(self.of_other_elements()),
            },
            Self::Packed(packed) => match (packed as &dyn Any).downcast_ref() {
                Some(packed) => Operand::Packed(packed),
                None => return Err(self.of_other_elements()),
            },
        })
    }

    fn of_other_elements(self) -> Error {
        let expected = "a matrix of values or gathered rows, for products in this precision";
        Error::setting("operand", format!("{self:?}"), expected)
    }

    /// Values that are elements need no rounding: a matrix like any other.
    fn as_elements(self) -> Self {
        match self {
            Self::Rounded(matrix) => matrix.of_type().map_or(self, Self::Matrix),
            other => other,
        }
    }

    /// The matrix, for backends that take no other operand.
    pub(super) fn matrix(self) -> Result<MatRef<'a, E>> {
        match self.as_elements() {
            Self::Matrix(matrix) => Ok(matrix),
            other => {
                let found = format!("{other:?}");
                Err(Error::setting("operand", found, "a matrix, for this backend"))
            }
        }
    }

    /// The operand as lines for one side of a product with the kernels of `packer`; `scale` is the
    /// factor of its elements.
    pub(super) fn lines(
        self,
        packer: Packer<E>,
        side: Side,
        scale: E::Value,
    ) -> Result<Lines<'a, E>> {
        Ok(Lines::Source(match (self.as_elements(), side) {
            (Self::Matrix(matrix), Side::A) => Source::Matrix(matrix.canonical(), scale),
            (Self::Matrix(matrix), Side::B) => Source::Matrix(matrix.t().canonical(), scale),
            (Self::Rounded(matrix), Side::A) => Source::Rounded(matrix.canonical(), scale),
            (Self::Rounded(matrix), Side::B) => Source::Rounded(matrix.t().canonical(), scale),
            (_, Side::A) if scale != E::Value::ONE => {
                let expected = "1 where A is packed before or gathered";
                return Err(Error::setting("alpha", scale, expected));
            }
            (Self::Gathered(rows), Side::A) | (Self::GatheredTransposed(rows), Side::B) => {
                Source::Gathered(rows, Along::Depth)
            }
            (Self::Gathered(rows), Side::B) | (Self::GatheredTransposed(rows), Side::A) => {
                Source::Gathered(rows, Along::Lines)
            }
            (Self::Packed(packed), side) => {
                let set = packer.instruction_set();
                if packed.side != side || packed.set != set {
                    let expected = format!("panels for side {side:?} and {set}");
                    return Err(Error::setting("operand", format!("{packed:?}"), expected));
                }
                return Ok(Lines::Packed(packed));
            }
        }))
    }
}

impl<'a, E: PanelElement> Lines<'a, E> {
    /// The panels of the given part: packed into `scratch` unless they are there already. `sums` as
    /// for [`Packer::pack`].
    pub(super) fn panels<'p>(
        &self,
        packer: Packer<E>,
        lines: Range<usize>,
        depth: Range<usize>,
        scratch: &'p mut [E],
        sums: Option<&mut [E::Value]>,
    ) -> Panels<'p, E>
    where
        'a: 'p,
    {
        match *self {
            Self::Source(source) => {
                let part = source.part(lines, depth);
                packer.pack(part, scratch, sums);
                // The scratch memory has room for it.
                let stride = packer.stride(part.depth()).unwrap_or(usize::MAX);
                Panels::new(scratch, packer.width(), stride)
            }
            Self::Packed(packed) => packed.part(lines.start, depth.start),
        }
    }

    /// Elements from one line to the next, of a matrix.
    pub(super) fn row_stride(&self) -> Option<isize> {
        match self {
            Self::Source(Source::Matrix(matrix, _)) => Some(matrix.row_stride()),
            Self::Source(Source::Rounded(matrix, _)) => Some(matrix.row_stride()),
            Self::Source(Source::Gathered(..)) | Self::Packed(_) => None,
        }
    }

    /// Whether its lines can be summed while they are packed.
    pub(super) fn can_be_summed(&self) -> bool {
        matches!(self, Self::Source(source) if source.can_be_summed())
    }

    /// The matrix, where its elements are those of the product.
    pub(super) fn in_place(&self) -> Option<MatRef<'a, E>> {
        match *self {
            Self::Source(Source::Matrix(matrix, scale)) if scale == E::Value::ONE => Some(matrix),
            _ => None,
        }
    }

    /// The panels if there is nothing to pack.
    pub(super) fn packed(&self) -> Option<&'a Packed<E>> {
        match *self {
            Self::Packed(packed) => Some(packed),
            Self::Source(_) => None,
        }
    }
}
