//! Rows of a matrix of bytes, chosen by index and normalized, as the source of panels.

use std::{fmt, ops::Range};

use crate::{
    error::{Error, Result},
    float::Float,
    kernels::pack::runs::Runs,
    simd::{Isa, MAX_LANES},
};

/// Rows of a matrix of bytes, chosen by index, with a scale and a shift for each column: element
/// (i, j) is `store[indices[i] * cols + j] * scale[j] + shift[j]`, one multiply-add. Nothing of it
/// is ever stored but the panels of the block at hand.
#[derive(Clone, Copy)]
pub struct GatheredRows<'a, T> {
    /// Whole rows; every index names one.
    store: &'a [u8],
    /// Bytes of a row of the store.
    row_len: usize,
    indices: &'a [u32],
    /// The column of the store that is column 0 here; `first + scale.len() <= row_len`.
    first: usize,
    scale: &'a [T],
    /// As long as `scale`.
    shift: &'a [T],
}

impl<'a, T: Float> GatheredRows<'a, T> {
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
        let row_len = scale.len();
        if shift.len() != row_len {
            return Err(Error::Length { what: "shifts", expected: row_len, found: shift.len() });
        }
        let rows = store.len() / row_len.max(1);
        if store.len() != rows * row_len {
            let (what, found) = ("store of whole rows", store.len());
            return Err(Error::Length { what, expected: rows * row_len, found });
        }
        if let Some(index) = indices.iter().find(|&&index| index as usize >= rows) {
            return Err(Error::setting("row index", index, format!("below {rows}")));
        }
        Ok(Self { store, row_len, indices, first: 0, scale, shift })
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
        let (scale, shift) = (self.scale[col], self.shift[col]);
        let byte = self.store[self.indices[row] as usize * self.row_len + self.first + col];
        T::from_f64(f64::from(byte)).mul_add(scale, shift)
    }

    /// The part in the given rows and columns, which lie inside.
    pub(crate) fn submatrix(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        Self {
            indices: &self.indices[rows],
            first: self.first + cols.start,
            scale: &self.scale[cols.clone()],
            shift: &self.shift[cols],
            ..self
        }
    }

    /// Where element (`row`, `col`) stands in the store; `col` may be any.
    ///
    /// # Safety
    /// There is such a row.
    #[inline(always)]
    unsafe fn address(&self, row: usize, col: usize) -> *const u8 {
        // SAFETY: the caller vouches for the row.
        let index = unsafe { *self.indices.get_unchecked(row) } as usize;
        self.store.as_ptr().wrapping_add(index * self.row_len + self.first + col)
    }
}

impl<T: Float> fmt::Debug for GatheredRows<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GatheredRows({} x {})", self.rows(), self.cols())
    }
}

/// Runs are rows.
impl<T: Float> Runs<T> for GatheredRows<'_, T> {
    /// Scales and shifts.
    type Columns<S: Isa<T>> = (S::Vector, S::Vector);

    const BY_PANEL: bool = true;

    #[inline(always)]
    unsafe fn columns<S: Isa<T>>(self, isa: S, at: usize, count: usize) -> Self::Columns<S> {
        // SAFETY: the caller vouches for the columns; each has its scale and shift.
        unsafe {
            let scale = isa.load_up_to(self.scale.as_ptr().add(at), count);
            (scale, isa.load_up_to(self.shift.as_ptr().add(at), count))
        }
    }

    #[inline(always)]
    unsafe fn load<S: Isa<T>>(
        self,
        isa: S,
        (scale, shift): Self::Columns<S>,
        run: usize,
        at: usize,
        count: usize,
    ) -> S::Vector {
        // SAFETY: the caller vouches for the row and its columns, all of which are in the store;
        // the copied bytes fit the longest vector.
        unsafe {
            let from = self.address(run, at);
            let bytes = if count == S::LANES {
                isa.load_bytes(from)
            } else {
                let mut bytes = [0; MAX_LANES];
                from.copy_to_nonoverlapping(bytes.as_mut_ptr(), count);
                isa.load_bytes(bytes.as_ptr())
            };
            isa.mul_add(bytes, scale, shift)
        }
    }

    #[inline(always)]
    fn prefetch<S: Isa<T>>(self, isa: S, run: usize, at: usize) {
        if run < self.indices.len() {
            // SAFETY: there is such a row.
            isa.prefetch(unsafe { self.address(run, at) }.cast());
        }
    }
}
