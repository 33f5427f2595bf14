//! `MatRef` and `MatMut`: checked strided views of matrices in slices, and `Matrix`, which owns
//! its elements.
//!
//! Element (i, j) of a view is at index `offset + i * row_stride + j * col_stride` of its slice.
//! Strides count elements and may be negative. Every constructor checks that no element is outside
//! of the slice, and for `MatMut` that no two positions share an element; the kernels rely on it.
//!
//! A view keeps a pointer and not the slice: it covers only its own elements, so the elements
//! between them may belong to another view, as in the columns of an `ndarray` that was split.

use std::{any::TypeId, fmt, marker::PhantomData, ops::Range, slice};

use bytemuck::Pod;

use crate::{
    aligned::{ALIGNMENT, AlignedBuf},
    error::{Error, Result},
};

/// The positions of a view's elements, relative to its element (0, 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    rows: usize,
    cols: usize,
    row_stride: isize,
    col_stride: isize,
}

impl Layout {
    /// The layout, if all elements are inside of a slice of `len` with (0, 0) at `offset`.
    fn checked(self, offset: usize, len: usize) -> Result<Self> {
        if self.is_empty() {
            return Ok(self);
        }
        let last_row = (self.rows - 1) as i128 * self.row_stride as i128;
        let last_col = (self.cols - 1) as i128 * self.col_stride as i128;
        // Each step fits 128 bits; the sum of two need not.
        let reach = |row: i128, col: i128| (offset as i128 + row).saturating_add(col);
        let lowest = reach(last_row.min(0), last_col.min(0));
        let highest = reach(last_row.max(0), last_col.max(0));
        if lowest < 0 || highest >= len as i128 {
            let Layout { rows, cols, row_stride, col_stride } = self;
            return Err(Error::OutOfBounds { rows, cols, row_stride, col_stride, offset, len });
        }
        Ok(self)
    }

    /// Row-major without gaps.
    fn dense(what: &'static str, rows: usize, cols: usize, len: usize) -> Result<Self> {
        let expected = rows.checked_mul(cols).ok_or(Error::SizeOverflow { what, rows, cols })?;
        if len != expected {
            return Err(Error::Length { what, expected, found: len });
        }
        Ok(Self { rows, cols, row_stride: cols as isize, col_stride: 1 })
    }

    /// Two positions are the same element exactly if some step (di, dj) other than (0, 0) inside
    /// the view satisfies `di * row_stride + dj * col_stride == 0`; the smallest such step is
    /// (col_stride, -row_stride) divided by their greatest common divisor.
    fn overlaps(&self) -> bool {
        let (row, col) = (self.row_stride.unsigned_abs(), self.col_stride.unsigned_abs());
        if self.is_empty() {
            return false;
        }
        match (row, col) {
            (0, 0) => self.rows > 1 || self.cols > 1,
            (0, _) => self.rows > 1,
            (_, 0) => self.cols > 1,
            _ => {
                let divisor = greatest_common_divisor(row, col);
                col / divisor < self.rows && row / divisor < self.cols
            }
        }
    }

    fn without_overlap(self) -> Result<Self> {
        if self.overlaps() {
            let Layout { rows, cols, row_stride, col_stride } = self;
            return Err(Error::Overlap { rows, cols, row_stride, col_stride });
        }
        Ok(self)
    }

    fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// The layout of a part, and the place of its first element.
    fn part(self, rows: Range<usize>, cols: Range<usize>) -> Result<(isize, Self)> {
        if rows.start > rows.end
            || cols.start > cols.end
            || rows.end > self.rows
            || cols.end > self.cols
        {
            return Err(Error::Shape {
                what: "part of a matrix",
                expected: (self.rows, self.cols),
                found: (rows.end, cols.end),
            });
        }
        let part = Self { rows: rows.len(), cols: cols.len(), ..self };
        Ok((if part.is_empty() { 0 } else { self.place(rows.start, cols.start) }, part))
    }

    fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }

    /// Elements from (0, 0) to (`row`, `col`), a position inside.
    fn place(&self, row: usize, col: usize) -> isize {
        row as isize * self.row_stride + col as isize * self.col_stride
    }

    /// The place of row `row` if it is contiguous.
    fn row(&self, row: usize) -> Option<isize> {
        let place = || if self.is_empty() { 0 } else { self.place(row, 0) };
        (row < self.rows && self.has_contiguous_rows()).then(place)
    }

    fn has_contiguous_rows(&self) -> bool {
        self.col_stride == 1 || self.cols <= 1
    }

    /// The same elements with a column stride of 1 if rows are contiguous. A single column is, whatever
    /// its stride.
    fn canonical(self) -> Self {
        Self { col_stride: if self.has_contiguous_rows() { 1 } else { self.col_stride }, ..self }
    }

    /// The layouts of rows `0..at` and of rows `at..`, with the place of the first element of the
    /// latter; `at` is cut to the number of rows.
    fn split_rows(self, at: usize) -> (Self, isize, Self) {
        let at = at.min(self.rows);
        let (upper, lower) = (Self { rows: at, ..self }, Self { rows: self.rows - at, ..self });
        (upper, if lower.is_empty() { 0 } else { self.place(at, 0) }, lower)
    }
}

fn greatest_common_divisor(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A shared view of a `rows x cols` matrix.
#[derive(Clone, Copy)]
pub struct MatRef<'a, T> {
    /// Element (0, 0). All elements of the layout are readable from here; dangling if there are
    /// none.
    origin: *const T,
    layout: Layout,
    shared: PhantomData<&'a [T]>,
}

// SAFETY: a `MatRef` is shared access to its elements, as a `&[T]` would be.
unsafe impl<T: Sync> Send for MatRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for MatRef<'_, T> {}

/// An exclusive view of a `rows x cols` matrix; no two of its positions share an element.
pub struct MatMut<'a, T> {
    /// Element (0, 0). All elements of the layout are readable and writable from here, and nothing
    /// else accesses them; dangling if there are none.
    origin: *mut T,
    layout: Layout,
    exclusive: PhantomData<&'a mut [T]>,
}

// SAFETY: a `MatMut` is exclusive access to its elements, as a `&mut [T]` would be.
unsafe impl<T: Send> Send for MatMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for MatMut<'_, T> {}

impl<'a, T: Copy> MatRef<'a, T> {
    /// A contiguous row-major matrix.
    ///
    /// # Errors
    /// [`Error::Length`] unless `data` holds exactly `rows * cols` elements.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self> {
        Ok(Self::of(data, 0, Layout::dense("matrix", rows, cols, data.len())?))
    }

    /// A view whose element (0, 0) is `data[offset]`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if an element would lie outside of `data`.
    pub fn strided(
        data: &'a [T],
        offset: usize,
        (rows, cols): (usize, usize),
        (row_stride, col_stride): (isize, isize),
    ) -> Result<Self> {
        let layout = Layout { rows, cols, row_stride, col_stride };
        Ok(Self::of(data, offset, layout.checked(offset, data.len())?))
    }

    /// A view with a layout that was checked against `data`.
    fn of(data: &'a [T], offset: usize, layout: Layout) -> Self {
        let offset = if layout.is_empty() { 0 } else { offset };
        Self { origin: data.as_ptr().wrapping_add(offset), layout, shared: PhantomData }
    }

    /// A view of raw memory whose element (0, 0) is `*origin`.
    ///
    /// # Safety
    /// All elements at `origin + i * row_stride + j * col_stride` are initialized, and not
    /// written, during `'a`. `origin` is not null.
    pub(crate) unsafe fn from_raw(
        origin: *const T,
        (rows, cols): (usize, usize),
        (row_stride, col_stride): (isize, isize),
    ) -> Self {
        Self { origin, layout: Layout { rows, cols, row_stride, col_stride }, shared: PhantomData }
    }

    /// The transposed matrix, without moving an element.
    pub fn t(self) -> Self {
        Self { layout: self.layout.transposed(), ..self }
    }

    /// The part in the given rows and columns.
    ///
    /// # Errors
    /// [`Error::Shape`] if the part reaches outside of the matrix.
    pub fn part(self, rows: Range<usize>, cols: Range<usize>) -> Result<Self> {
        let (place, layout) = self.layout.part(rows, cols)?;
        Ok(Self { origin: self.origin.wrapping_offset(place), layout, ..self })
    }

    /// The elements of row `row` if they are contiguous, else `None`.
    pub fn row(&self, row: usize) -> Option<&'a [T]> {
        let first = self.origin.wrapping_offset(self.layout.row(row)?);
        // SAFETY: the elements of the row, which are contiguous, are readable during 'a.
        Some(unsafe { slice::from_raw_parts(first, self.layout.cols) })
    }

    /// Rows `0..at` and rows `at..`; `at` is limited to the number of rows.
    pub fn split_rows(self, at: usize) -> (Self, Self) {
        let (upper, place, lower) = self.layout.split_rows(at);
        let origin = self.origin.wrapping_offset(place);
        (Self { layout: upper, ..self }, Self { origin, layout: lower, ..self })
    }

    /// Columns `0..at` and columns `at..`; `at` is limited to the number of columns.
    pub fn split_cols(self, at: usize) -> (Self, Self) {
        let (left, right) = self.t().split_rows(at);
        (left.t(), right.t())
    }

    /// The part in the given rows and columns, which are inside of the matrix.
    ///
    /// # Panics
    /// If they do not.
    pub(crate) fn submatrix(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        self.part(rows, cols).expect("a part inside of its matrix")
    }

    /// Pointer to element (0, 0); dangling if the view is empty.
    pub(crate) fn as_ptr(&self) -> *const T {
        self.origin
    }
}

impl<'a, T: Copy> MatMut<'a, T> {
    /// A contiguous row-major matrix.
    ///
    /// # Errors
    /// [`Error::Length`] unless `data` holds exactly `rows * cols` elements.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self> {
        let layout = Layout::dense("matrix", rows, cols, data.len())?;
        Ok(Self::of(data, 0, layout))
    }

    /// A view whose element (0, 0) is `data[offset]`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if an element would lie outside of `data`, [`Error::Overlap`] if
    /// two positions would share one.
    pub fn strided(
        data: &'a mut [T],
        offset: usize,
        (rows, cols): (usize, usize),
        (row_stride, col_stride): (isize, isize),
    ) -> Result<Self> {
        let layout = Layout { rows, cols, row_stride, col_stride };
        let layout = layout.checked(offset, data.len())?.without_overlap()?;
        Ok(Self::of(data, offset, layout))
    }

    /// A view with a layout that was checked against `data`.
    fn of(data: &'a mut [T], offset: usize, layout: Layout) -> Self {
        let offset = if layout.is_empty() { 0 } else { offset };
        Self { origin: data.as_mut_ptr().wrapping_add(offset), layout, exclusive: PhantomData }
    }

    /// A view of raw memory whose element (0, 0) is `*origin`.
    ///
    /// # Safety
    /// All elements at `origin + i * row_stride + j * col_stride` are distinct, writable, and
    /// not accessed by other code, during `'a`. `origin` is not null. Elements that are not initialized
    /// are only written, as by products with a start of `Start::Bias` or `Start::Scaled(0)`, until
    /// they are.
    pub(crate) unsafe fn from_raw(
        origin: *mut T,
        (rows, cols): (usize, usize),
        (row_stride, col_stride): (isize, isize),
    ) -> Self {
        let layout = Layout { rows, cols, row_stride, col_stride };
        Self { origin, layout, exclusive: PhantomData }
    }

    /// Same as [`from_raw`](Self::from_raw), with a check that the elements are distinct.
    ///
    /// # Errors
    /// [`Error::Overlap`] if two positions share an element.
    ///
    /// # Safety
    /// As for [`from_raw`](Self::from_raw), but for that check.
    #[cfg(feature = "capi")]
    pub(crate) unsafe fn from_raw_distinct(
        origin: *mut T,
        (rows, cols): (usize, usize),
        (row_stride, col_stride): (isize, isize),
    ) -> Result<Self> {
        Layout { rows, cols, row_stride, col_stride }.without_overlap()?;
        // SAFETY: the elements are distinct, by the line above; the rest is the caller's promise.
        Ok(unsafe { Self::from_raw(origin, (rows, cols), (row_stride, col_stride)) })
    }

    /// Sets all elements, without reading them.
    pub(crate) fn fill(&mut self, value: T) {
        for row in 0..self.rows() {
            for col in 0..self.cols() {
                self.set(row, col, value);
            }
        }
    }

    /// The same elements as a shared view.
    pub fn as_ref(&self) -> MatRef<'_, T> {
        MatRef { origin: self.origin, layout: self.layout, shared: PhantomData }
    }

    /// Reborrows the view for a shorter lifetime.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { origin: self.origin, layout: self.layout, exclusive: PhantomData }
    }

    /// The transposed matrix, without moving an element.
    pub fn t(self) -> Self {
        Self { layout: self.layout.transposed(), ..self }
    }

    /// The part in the given rows and columns.
    ///
    /// # Errors
    /// [`Error::Shape`] if the part reaches outside of the matrix.
    pub fn part(self, rows: Range<usize>, cols: Range<usize>) -> Result<Self> {
        let (place, layout) = self.layout.part(rows, cols)?;
        Ok(Self { origin: self.origin.wrapping_offset(place), layout, ..self })
    }

    /// Rows `0..at` and rows `at..`, with any strides, for use on two threads; `at` is limited to the
    /// number of rows.
    pub fn split_rows(self, at: usize) -> (Self, Self) {
        // No element belongs to both: those of a `MatMut` are distinct.
        let (upper, place, lower) = self.layout.split_rows(at);
        let origin = self.origin.wrapping_offset(place);
        let lower = MatMut { origin, layout: lower, exclusive: PhantomData };
        (Self { layout: upper, ..self }, lower)
    }

    /// Columns `0..at` and columns `at..`, as [`split_rows`](Self::split_rows).
    pub fn split_cols(self, at: usize) -> (Self, Self) {
        let (left, right) = self.t().split_rows(at);
        (left.t(), right.t())
    }

    /// The elements of row `row` if they are contiguous, else `None`.
    pub fn row_mut(&mut self, row: usize) -> Option<&mut [T]> {
        let first = self.origin.wrapping_offset(self.layout.row(row)?);
        // SAFETY: the elements of the row, which are contiguous, belong to this view alone.
        Some(unsafe { slice::from_raw_parts_mut(first, self.layout.cols) })
    }

    /// Whether the elements of each row are contiguous.
    pub(crate) fn has_contiguous_rows(&self) -> bool {
        self.layout.has_contiguous_rows()
    }

    /// Sets element (`row`, `col`).
    ///
    /// # Panics
    /// If the position lies outside of the matrix.
    pub fn set(&mut self, row: usize, col: usize, value: T) {
        assert!(row < self.rows() && col < self.cols(), "({row}, {col}) lies outside");
        // SAFETY: an element of the view, by the line above.
        unsafe { *self.origin.wrapping_offset(self.layout.place(row, col)) = value };
    }

    /// Pointer to element (0, 0); dangling if the view is empty.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.origin
    }
}

macro_rules! impl_common {
    ($($view:ident, $kept:ident;)*) => {$(
        impl<'a, T: Copy> $view<'a, T> {
            /// The same view, if `U` is the type of its elements.
            pub(crate) fn of_type<U: Copy + 'static>(self) -> Option<$view<'a, U>>
            where
                T: 'static,
            {
                let Self { origin, layout, .. } = self;
                let is_same = TypeId::of::<T>() == TypeId::of::<U>();
                is_same.then(|| $view { origin: origin.cast(), layout, $kept: PhantomData })
            }

            /// Number of rows.
            pub fn rows(&self) -> usize {
                self.layout.rows
            }

            /// Number of columns.
            pub fn cols(&self) -> usize {
                self.layout.cols
            }

            /// Rows and columns.
            pub fn shape(&self) -> (usize, usize) {
                (self.layout.rows, self.layout.cols)
            }

            /// Elements from one row to the next.
            pub fn row_stride(&self) -> isize {
                self.layout.row_stride
            }

            /// Elements from one column to the next.
            pub fn col_stride(&self) -> isize {
                self.layout.col_stride
            }

            /// Element (`row`, `col`).
            ///
            /// # Panics
            /// If the position lies outside of the matrix.
            pub fn get(&self, row: usize, col: usize) -> T {
                assert!(row < self.rows() && col < self.cols(), "({row}, {col}) lies outside");
                // SAFETY: an element of the view, by the line above.
                unsafe { *self.origin.wrapping_offset(self.layout.place(row, col)) }
            }

            /// The same elements, with a column stride of 1 wherever rows are contiguous.
            pub(crate) fn canonical(self) -> Self {
                Self { layout: self.layout.canonical(), ..self }
            }

            /// An error that names `what` unless the shape is `expected`.
            pub(crate) fn expect_shape(
                &self,
                what: &'static str,
                expected: (usize, usize),
            ) -> Result<()> {
                let found = self.shape();
                if found == expected {
                    Ok(())
                } else {
                    Err(Error::Shape { what, expected, found })
                }
            }
        }

        impl<T: Copy> fmt::Debug for $view<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($view)).field("layout", &self.layout).finish()
            }
        }
    )*};
}

impl_common! {
    MatRef, shared;
    MatMut, exclusive;
}

/// A `rows x cols` matrix that owns its elements: row-major, each row on a cache-line boundary.
#[derive(Debug)]
pub struct Matrix<T: Pod> {
    data: AlignedBuf<T>,
    layout: Layout,
}

impl<T: Pod> Matrix<T> {
    /// A matrix of zeros.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if it exceeds the address space.
    pub fn zeros(rows: usize, cols: usize) -> Result<Self> {
        let overflow = || Error::SizeOverflow { what: "matrix", rows, cols };
        let stride = row_stride::<T>(cols).ok_or_else(overflow)?;
        let data = AlignedBuf::zeroed(rows.checked_mul(stride).ok_or_else(overflow)?)?;
        let row_stride = isize::try_from(stride).map_err(|_| overflow())?;
        Ok(Self { data, layout: Layout { rows, cols, row_stride, col_stride: 1 } })
    }

    /// A copy.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if the memory is exhausted.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { data: self.data.try_clone()?, layout: self.layout })
    }

    /// A matrix with element (i, j) = `f(i, j)`.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if it exceeds the address space.
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> T) -> Result<Self> {
        let mut matrix = Self::zeros(rows, cols)?;
        for i in 0..rows {
            for j in 0..cols {
                matrix.view_mut().set(i, j, f(i, j));
            }
        }
        Ok(matrix)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// A shared view of the whole matrix.
    pub fn view(&self) -> MatRef<'_, T> {
        MatRef::of(&self.data, 0, self.layout)
    }

    /// An exclusive view of the whole matrix.
    pub fn view_mut(&mut self) -> MatMut<'_, T> {
        MatMut::of(&mut self.data, 0, self.layout)
    }
}

/// Elements from one row to the next for rows of `cols` elements: whole cache lines, and never a
/// multiple of 4096 bytes, because rows at such a distance compete for one set of an L1 cache.
/// `None` if that exceeds the address space.
pub(crate) fn row_stride<T>(cols: usize) -> Option<usize> {
    let line = ALIGNMENT / size_of::<T>();
    let page = 4096 / size_of::<T>();
    let stride = cols.checked_next_multiple_of(line)?;
    if stride != 0 && stride.is_multiple_of(page) { stride.checked_add(line) } else { Some(stride) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn overlap_is_found_exactly() {
        for rows in 1..5 {
            for cols in 1..5 {
                for row_stride in -6..=6 {
                    for col_stride in -6..=6 {
                        let layout = Layout { rows, cols, row_stride, col_stride };
                        let distinct: HashSet<isize> = (0..rows)
                            .flat_map(|i| (0..cols).map(move |j| layout.place(i, j)))
                            .collect();
                        assert_eq!(
                            layout.overlaps(),
                            distinct.len() < rows * cols,
                            "{rows} x {cols} ({row_stride}, {col_stride})"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn views_keep_inside_their_slice() {
        let data = [0.0f32; 12];
        assert!(MatRef::strided(&data, 0, (3, 4), (4, 1)).is_ok());
        assert!(MatRef::strided(&data, 11, (3, 4), (-4, -1)).is_ok());
        assert!(MatRef::strided(&data, 0, (3, 4), (isize::MAX, 1)).is_err());
        assert!(MatRef::strided(&data, 10, (3, 4), (-4, -1)).is_err());
        assert!(MatRef::strided(&data, 1, (3, 4), (4, 1)).is_err());
        assert!(MatRef::strided(&data, usize::MAX, (0, 4), (4, 1)).is_ok());
        assert!(MatRef::new(&data, 3, 3).is_err());
        assert!(MatRef::new(&data, usize::MAX, 2).is_err());
    }

    #[test]
    fn parts_and_transposes_name_the_same_elements() {
        let data: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let whole = MatRef::new(&data, 3, 4).unwrap();
        let part = whole.part(1..3, 2..4).unwrap();
        assert_eq!(part.shape(), (2, 2));
        assert_eq!(part.t().get(1, 0), 7.0);
        assert_eq!(part.row(1), Some(&data[10..12]));
        assert_eq!(part.t().row(0), None);
        assert!(whole.part(0..4, 0..1).is_err());
    }

    #[test]
    fn halves_hold_the_same_elements_once() {
        // Padded rows, contiguous columns, both backwards, and rows that interleave.
        for (offset, strides) in [(1, (5, 1)), (0, (1, 3)), (14, (-5, -1)), (0, (2, 3))] {
            for at in 0..=6 {
                let mut data: Vec<usize> = (0..16).collect();
                let whole = MatMut::strided(&mut data, offset, (3, 4), strides).unwrap();
                let expected: Vec<usize> = (0..3)
                    .flat_map(|i| (0..4).map(move |j| (i, j)))
                    .map(|(i, j)| whole.get(i, j))
                    .collect();
                let (upper, lower) = whole.split_rows(at);
                assert_eq!((upper.shape(), lower.shape()), ((at.min(3), 4), (3 - at.min(3), 4)));
                let half = |i: usize, j: usize| {
                    if i < at { upper.get(i, j) } else { lower.get(i - at, j) }
                };
                let found: Vec<usize> = (0..3)
                    .flat_map(|i| (0..4).map(move |j| (i, j)))
                    .map(|(i, j)| half(i, j))
                    .collect();
                assert_eq!(found, expected, "rows cut at {at}, {strides:?}");

                let whole = MatMut::strided(&mut data, offset, (3, 4), strides).unwrap();
                let (left, right) = whole.split_cols(at);
                assert_eq!((left.cols(), right.cols()), (at.min(4), 4 - at.min(4)));
                let half = |i: usize, j: usize| {
                    if j < at { left.get(i, j) } else { right.get(i, j - at) }
                };
                let found: Vec<usize> = (0..3)
                    .flat_map(|i| (0..4).map(move |j| (i, j)))
                    .map(|(i, j)| half(i, j))
                    .collect();
                assert_eq!(found, expected, "columns cut at {at}, {strides:?}");
            }
        }
    }

    #[test]
    fn a_lone_column_is_contiguous() {
        let data = [1.0f32, 2.0, 3.0];
        let column = MatRef::strided(&data, 2, (3, 1), (-1, 7)).unwrap().canonical();
        assert_eq!((column.row_stride(), column.col_stride()), (-1, 1));
        assert_eq!([0, 1, 2].map(|i| column.get(i, 0)), [3.0, 2.0, 1.0]);
        let pair = MatRef::strided(&data, 0, (1, 2), (1, 2)).unwrap().canonical();
        assert_eq!(pair.col_stride(), 2);
    }

    #[test]
    fn rows_do_not_fall_into_one_cache_set() {
        assert_eq!(row_stride::<f32>(3072), Some(3088));
        assert_eq!(row_stride::<f32>(10), Some(16));
        assert_eq!(row_stride::<f64>(512), Some(520));
        assert_eq!(row_stride::<f32>(usize::MAX), None);
    }
}
