//! Packing: an operand copied into panels in the order in which the microkernel reads it.
//!
//! A panel holds `width` lines of the operand (rows of A, columns of B); for each p of the depth
//! its `width` elements are contiguous. The last panel is filled up with zeros, which the
//! kernel multiplies but never stores.
//!
//! ```text
//! dst[panel][p][i] = source(panel * width + i, p)
//! ```
//!
//! Where the elements come from is a [`Source`], the one way into panels. Each kind of source has a
//! file, in which it delivers vectors along the one direction in which its elements are contiguous in
//! memory, be it that of the lines or that of the depth: see `runs`.

pub(super) mod beside;
mod gathered;
mod pairs;
mod runs;
mod strided;

use std::ops::Range;

pub use gathered::GatheredRows;
pub(crate) use pairs::pack_pairs;
pub(crate) use runs::Along;
use runs::{Rectangle, pack_runs};
use strided::{Strided, pack_elements};

use crate::{float::Float, kernels::product::PanelElement, matrix::MatRef, simd::Isa};

/// An operand of which panels can be made, as lines (rows of A, columns of B) by depth.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a, E: PanelElement> {
    /// A matrix, (lines, depth), and the factor of its elements.
    Matrix(MatRef<'a, E>, E::Value),
    /// The same of values, which are rounded to elements.
    Rounded(MatRef<'a, E::Value>, E::Value),
    /// Gathered rows, which are lines along the depth, or steps of the depth along the lines.
    Gathered(GatheredRows<'a, E::Value>, Along),
}

impl<E: PanelElement> Source<'_, E> {
    pub(crate) fn lines(&self) -> usize {
        self.shape().0
    }

    pub(crate) fn depth(&self) -> usize {
        self.shape().1
    }

    fn shape(&self) -> (usize, usize) {
        match self {
            Self::Matrix(matrix, _) => matrix.shape(),
            Self::Rounded(matrix, _) => matrix.shape(),
            Self::Gathered(rows, Along::Depth) => (rows.rows(), rows.cols()),
            Self::Gathered(rows, Along::Lines) => (rows.cols(), rows.rows()),
        }
    }

    /// The part in the given lines and steps of the depth, which lie inside.
    pub(crate) fn part(self, lines: Range<usize>, depth: Range<usize>) -> Self {
        match self {
            Self::Matrix(matrix, scale) => Self::Matrix(matrix.submatrix(lines, depth), scale),
            Self::Rounded(matrix, scale) => Self::Rounded(matrix.submatrix(lines, depth), scale),
            Self::Gathered(matrix, along) => {
                let (rows, cols) = match along {
                    Along::Depth => (lines, depth),
                    Along::Lines => (depth, lines),
                };
                Self::Gathered(matrix.submatrix(rows, cols), along)
            }
        }
    }

    /// The direction in which its elements are contiguous, if there is one.
    pub(crate) fn along(&self) -> Option<Along> {
        match self {
            Self::Matrix(matrix, _) if matrix.row_stride() == 1 => Some(Along::Lines),
            Self::Matrix(matrix, _) if matrix.col_stride() == 1 => Some(Along::Depth),
            Self::Rounded(matrix, _) if matrix.row_stride() == 1 => Some(Along::Lines),
            Self::Rounded(matrix, _) if matrix.col_stride() == 1 => Some(Along::Depth),
            Self::Matrix(..) | Self::Rounded(..) => None,
            Self::Gathered(_, along) => Some(*along),
        }
    }

    /// Whether consecutive lines are contiguous in memory and not scaled, so that they can be summed
    /// while they are packed.
    pub(crate) fn can_be_summed(&self) -> bool {
        match self {
            Self::Matrix(matrix, _) => matrix.row_stride() == 1,
            Self::Rounded(matrix, _) => matrix.row_stride() == 1,
            Self::Gathered(..) => false,
        }
    }
}

/// A source, and where to put its panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing<'a, E: PanelElement> {
    pub(crate) source: Source<'a, E>,
    /// Lines in a panel.
    pub(crate) width: usize,
    /// Room for the lines rounded up to whole panels, times the depth rounded up to whole steps.
    pub(crate) dst: *mut E,
    /// One sum for each line, to which its values are added in the order of p; or null.
    pub(crate) sums: *mut E::Value,
}

/// Packs a source into panels, each step of k by itself.
///
/// # Safety
/// - All elements of the source are readable.
/// - `dst` is writable for `lines.next_multiple_of(width) * depth` elements and overlaps no
///   source element.
/// - `sums` is null, or writable for as many values as there are lines; then the source
///   [can be summed](Source::can_be_summed).
#[inline(always)]
pub(crate) unsafe fn pack<S, T>(isa: S, packing: &Packing<'_, T>)
where
    S: Isa<T>,
    T: Float + PanelElement<Value = T>,
{
    let Packing { source, width, dst, sums } = *packing;
    let (lines, depth) = source.shape();
    // SAFETY: the caller's promises; runs are contiguous the way that `along` says.
    unsafe {
        match source {
            Source::Matrix(matrix, scale) | Source::Rounded(matrix, scale) => {
                let (along, stride) = if matrix.row_stride() == 1 {
                    (Along::Lines, matrix.col_stride())
                } else {
                    (Along::Depth, matrix.row_stride())
                };
                let runs = Strided { ptr: matrix.as_ptr(), stride, scale };
                let rectangle = Rectangle { runs, along, lines, depth, width, dst, sums };
                if matrix.row_stride() == 1 || matrix.col_stride() == 1 {
                    pack_runs(isa, &rectangle);
                } else {
                    pack_elements(&rectangle, matrix.col_stride());
                }
            }
            Source::Gathered(runs, along) => {
                pack_runs(isa, &Rectangle { runs, along, lines, depth, width, dst, sums });
            }
        }
    }
}
