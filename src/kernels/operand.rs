//! `Input` and `Output`: operands as raw strided views, which can be cut by rows and by columns
//! and given to several threads, whatever their strides.

use std::{marker::PhantomData, ops::Range};

use crate::matrix::{MatMut, MatRef};

/// Elements from one column to the next: a single column stands side by side with itself, whatever
/// its view says.
fn col_stride(cols: usize, stride: isize) -> isize {
    if cols <= 1 { 1 } else { stride }
}

/// A shared view of `rows x cols` elements, as `MatRef`.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a, T> {
    ptr: *const T,
    rows: usize,
    cols: usize,
    row_stride: isize,
    col_stride: isize,
    shared: PhantomData<&'a T>,
}

// SAFETY: an `Input` is shared access to its elements, as a `&[T]` would be.
unsafe impl<T: Sync> Send for Input<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Input<'_, T> {}

impl<'a, T: Copy> From<MatRef<'a, T>> for Input<'a, T> {
    fn from(matrix: MatRef<'a, T>) -> Self {
        // `MatRef` has checked that all elements lie in its slice.
        Self {
            ptr: matrix.as_ptr(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            row_stride: matrix.row_stride(),
            col_stride: col_stride(matrix.cols(), matrix.col_stride()),
            shared: PhantomData,
        }
    }
}

impl<T: Copy> Input<'_, T> {
    /// A view of raw memory.
    ///
    /// # Safety
    /// All elements at `ptr + i * row_stride + j * col_stride` are readable, and written by
    /// nobody, as long as the view lives.
    pub(crate) unsafe fn from_raw(
        ptr: *const T,
        (rows, cols): (usize, usize),
        (row_stride, col_stride): (isize, isize),
    ) -> Self {
        Self { ptr, rows, cols, row_stride, col_stride, shared: PhantomData }
    }

    pub(crate) fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// The part in the given rows and columns, which must lie inside.
    pub(crate) fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows of an operand");
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns of an operand");
        let step = (rows.start as isize)
            .wrapping_mul(self.row_stride)
            .wrapping_add((cols.start as isize).wrapping_mul(self.col_stride));
        Self { ptr: self.ptr.wrapping_offset(step), rows: rows.len(), cols: cols.len(), ..self }
    }
}

/// An exclusive view of `rows x cols` elements, as `MatMut`, but divisible in both directions
/// whatever its strides.
pub(crate) struct Output<'a, T> {
    ptr: *mut T,
    rows: usize,
    cols: usize,
    row_stride: isize,
    col_stride: isize,
    exclusive: PhantomData<&'a mut T>,
}

// SAFETY: an `Output` is the only access to its elements, as a `&mut [T]` would be.
unsafe impl<T: Send> Send for Output<'_, T> {}

impl<'a, T: Copy> From<MatMut<'a, T>> for Output<'a, T> {
    fn from(mut matrix: MatMut<'a, T>) -> Self {
        // `MatMut` has checked that all elements lie in its slice and that none are shared.
        Self {
            ptr: matrix.as_mut_ptr(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            row_stride: matrix.row_stride(),
            col_stride: col_stride(matrix.cols(), matrix.col_stride()),
            exclusive: PhantomData,
        }
    }
}

impl<T: Copy> Output<'_, T> {
    /// A view of raw memory.
    ///
    /// # Safety
    /// All elements at `ptr + i * row_stride + j * col_stride` are readable, writable, distinct,
    /// and touched by nobody else, as long as the view lives.
    pub(crate) unsafe fn from_raw(
        ptr: *mut T,
        (rows, cols): (usize, usize),
        (row_stride, col_stride): (isize, isize),
    ) -> Self {
        Self { ptr, rows, cols, row_stride, col_stride, exclusive: PhantomData }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }

    /// The same view for a shorter time.
    pub(crate) fn reborrow(&mut self) -> Output<'_, T> {
        Output { exclusive: PhantomData, ..*self }
    }

    /// Rows `0..at` and rows `at..`; `at` is cut to the number of rows.
    pub(crate) fn split_rows(self, at: usize) -> (Self, Self) {
        let at = at.min(self.rows);
        // Wrapping, because a lower half without elements may begin anywhere.
        let ptr = self.ptr.wrapping_offset((at as isize).wrapping_mul(self.row_stride));
        (Self { rows: at, ..self }, Self { ptr, rows: self.rows - at, ..self })
    }

    /// Columns `0..at` and columns `at..`; `at` is cut to the number of columns.
    pub(crate) fn split_cols(self, at: usize) -> (Self, Self) {
        let (left, right) = self.t().split_rows(at);
        (left.t(), right.t())
    }
}

macro_rules! impl_common {
    ($($view:ident),*) => {$(
        impl<T: Copy> $view<'_, T> {
            pub(crate) fn rows(&self) -> usize {
                self.rows
            }

            pub(crate) fn cols(&self) -> usize {
                self.cols
            }

            pub(crate) fn row_stride(&self) -> isize {
                self.row_stride
            }

            pub(crate) fn col_stride(&self) -> isize {
                self.col_stride
            }

            /// The transposed view.
            pub(crate) fn t(self) -> Self {
                Self {
                    rows: self.cols,
                    cols: self.rows,
                    row_stride: self.col_stride,
                    col_stride: self.row_stride,
                    ..self
                }
            }
        }
    )*};
}

impl_common!(Input, Output);
