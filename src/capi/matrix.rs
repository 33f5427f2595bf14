//! Matrices as C callers describe them, and their views.

use std::{ops::Range, ptr::NonNull};

use crate::{
    capi::{
        error::{Failure, Status},
        pointers::{check, shared},
    },
    error::Result,
    float::Float,
    matrix::{MatMut, MatRef},
};

/// A matrix to be read: element (i, j) is `data[i * row_stride + j * col_stride]`. Strides count
/// elements and may be negative or 0. A matrix without elements may have null for data.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Matrix<T> {
    /// Element (0, 0).
    pub data: *const T,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub row_stride: isize,
    /// Elements from one column to the next.
    pub col_stride: isize,
}

/// A matrix to be written. Its elements need not be initialized, unless a function reads them. No
/// two of them are the same. Memory between its elements is neither read nor written, and other
/// threads may use it; the other arguments of the same call must be outside of the memory from its
/// lowest to its highest element.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MatrixMut<T> {
    /// Element (0, 0).
    pub data: *mut T,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub row_stride: isize,
    /// Elements from one column to the next.
    pub col_stride: isize,
}

/// The memory from the lowest to the highest element of a matrix.
#[derive(Clone, Copy)]
struct Span {
    /// Elements from element (0, 0) to the lowest, 0 or below.
    lowest: isize,
    len: usize,
}

impl<T> Matrix<T> {
    /// An array as a matrix of one row.
    pub(super) fn row(data: *const T, len: usize) -> Self {
        Self { data, rows: 1, cols: len, row_stride: 0, col_stride: 1 }
    }

    fn span(&self, what: &str) -> Result<Span, Failure> {
        let Self { data, rows, cols, row_stride, col_stride } = *self;
        if rows == 0 || cols == 0 {
            return Ok(Span { lowest: 0, len: 0 });
        }
        check(what, data)?;
        // Each product fits 128 bits; the sum of two, or a number of bytes, need not.
        let last_row = (rows - 1) as i128 * row_stride as i128;
        let last_col = (cols - 1) as i128 * col_stride as i128;
        let lowest = last_row.min(0).saturating_add(last_col.min(0));
        let len = last_row.max(0).saturating_add(last_col.max(0)).saturating_sub(lowest);
        let bytes = |elements: i128| elements.saturating_mul(size_of::<T>() as i128);
        let len = len.saturating_add(1);
        let start = bytes(lowest).saturating_add(data.addr() as i128);
        let end = start.saturating_add(bytes(len));
        if start <= 0 || end > usize::MAX as i128 || bytes(len) > isize::MAX as i128 {
            let text = format!(
                "{what}: {rows} x {cols} elements with strides ({row_stride}, {col_stride}) exceed \
                 the address space; check sizes and strides"
            );
            return Err(Failure::new(Status::Shape, text));
        }
        Ok(Span { lowest: lowest as isize, len: len as usize })
    }

    /// The addresses from its lowest to its highest element.
    pub(super) fn addresses(&self, what: &str) -> Result<Range<usize>, Failure> {
        let Span { lowest, len } = self.span(what)?;
        let start = self.data.wrapping_offset(lowest).addr();
        Ok(start..start + len * size_of::<T>())
    }

    /// An error if the memory of the matrix overlaps `addresses`, the memory of another.
    pub(super) fn expect_apart(
        &self,
        what: &str,
        other: &str,
        addresses: &Range<usize>,
    ) -> Result<(), Failure> {
        let own = self.addresses(what)?;
        let empty = own.is_empty() || addresses.is_empty();
        if !empty && own.start < addresses.end && addresses.start < own.end {
            let text = format!("{what} and {other} overlap in memory: expected separate memory");
            return Err(Failure::new(Status::Setting, text));
        }
        Ok(())
    }
}

impl<T> MatrixMut<T> {
    /// The same as a matrix to be read.
    fn as_matrix(&self) -> Matrix<T> {
        let Self { data, rows, cols, row_stride, col_stride } = *self;
        Matrix { data: data.cast_const(), rows, cols, row_stride, col_stride }
    }

    /// The addresses from its lowest to its highest element.
    pub(super) fn addresses(&self, what: &str) -> Result<Range<usize>, Failure> {
        self.as_matrix().addresses(what)
    }
}

impl<T: Float> Matrix<T> {
    /// # Safety
    /// That of the module `capi`.
    pub(super) unsafe fn view<'a>(&self, what: &str) -> Result<MatRef<'a, T>, Failure> {
        let Span { len, .. } = self.span(what)?;
        let (shape, strides) = ((self.rows, self.cols), (self.row_stride, self.col_stride));
        // Null is allowed where there are no elements, but not in a view.
        let data = if len == 0 { NonNull::dangling().as_ptr() } else { self.data.cast_mut() };
        // SAFETY: the span was checked, so that its elements lie in the address space; by the rules
        // of `capi` they are initialized and not changed.
        Ok(unsafe { MatRef::from_raw(data, shape, strides) })
    }
}

impl<T: Float> MatrixMut<T> {
    /// # Safety
    /// That of the module `capi`; no element is one of another view's. They are initialized, or
    /// the view goes where elements are written before they are read: to `Gemm::run` or
    /// `Predictor::predict_into`.
    pub(super) unsafe fn view<'a>(&self, what: &str) -> Result<MatMut<'a, T>, Failure> {
        let Span { len, .. } = self.as_matrix().span(what)?;
        let (shape, strides) = ((self.rows, self.cols), (self.row_stride, self.col_stride));
        let data = if len == 0 { NonNull::dangling().as_ptr() } else { self.data };
        // SAFETY: the span was checked; by the rules of `capi` no other code uses its elements, and
        // they are initialized where they are read.
        Ok(unsafe { MatMut::from_raw_distinct(data, shape, strides)? })
    }
}

/// A view of the matrix that `pointer` describes.
///
/// # Safety
/// That of the module `capi`.
pub(super) unsafe fn matrix<'a, T: Float>(
    what: &str,
    pointer: *const Matrix<T>,
) -> Result<MatRef<'a, T>, Failure> {
    // SAFETY: the caller's promises are passed on.
    unsafe { shared(what, pointer)?.view(what) }
}
