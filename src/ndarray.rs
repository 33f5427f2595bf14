//! Conversion between views of the crate `ndarray` and of this one, without a copy, and products of
//! `ndarray` arrays.
//!
//! ```
//! use ndarray::{array, s};
//! use tilewise::{matrix::MatRef, ndarray::TilewiseDot};
//!
//! let a = array![[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]];
//! assert_eq!(a.t().tilewise_dot(&a)?, array![[35.0, 44.0], [44.0, 56.0]]);
//!
//! let backwards = MatRef::from(a.slice(s![..;-1, ..]));
//! assert_eq!((backwards.shape(), backwards.get(0, 1)), ((3, 2), 6.0));
//! # Ok::<(), tilewise::Error>(())
//! ```
//!
//! [`MatRef`], [`MatMut`], [`Operand`] and [`Examples`] convert [`From`] views, so products with an
//! epilogue and predictions accept arrays too: see [`Gemm::run`] and
//! [`Predictor::predict_into`](crate::infer::Predictor::predict_into).

use ::ndarray::{
    Array2, ArrayBase, ArrayRef2, ArrayView2, ArrayViewMut2, Axis, Data, DataMut, Ix2, ShapeBuilder,
};

use crate::{
    error::{Error, Result},
    gemm::{self, Epilogue, Gemm, Operand},
    infer::Examples,
    kernels::Element,
    matrix::{MatMut, MatRef},
};

impl<'a, T: Copy> From<ArrayView2<'a, T>> for MatRef<'a, T> {
    /// The same elements at the same places.
    fn from(view: ArrayView2<'a, T>) -> Self {
        let (shape, strides) = (view.dim(), (view.strides()[0], view.strides()[1]));
        // SAFETY: what `ndarray` says of a view: its elements are readable during 'a.
        unsafe { Self::from_raw(view.as_ptr(), shape, strides) }
    }
}

impl<'a, T: Copy> From<ArrayViewMut2<'a, T>> for MatMut<'a, T> {
    /// The same elements at the same places.
    fn from(mut view: ArrayViewMut2<'a, T>) -> Self {
        let (shape, strides) = (view.dim(), (view.strides()[0], view.strides()[1]));
        // SAFETY: what `ndarray` says of an exclusive view: its elements are distinct, and this
        // view, which ends here, is the only way to them during 'a.
        unsafe { Self::from_raw(view.as_mut_ptr(), shape, strides) }
    }
}

impl<'a, T: Copy, S: Data<Elem = T>> From<&'a ArrayBase<S, Ix2>> for MatRef<'a, T> {
    /// A view of the whole array.
    fn from(array: &'a ArrayBase<S, Ix2>) -> Self {
        array.view().into()
    }
}

impl<'a, T: Copy, S: DataMut<Elem = T>> From<&'a mut ArrayBase<S, Ix2>> for MatMut<'a, T> {
    /// A view of the whole array.
    fn from(array: &'a mut ArrayBase<S, Ix2>) -> Self {
        array.view_mut().into()
    }
}

impl<'a, T: Element> From<ArrayView2<'a, T>> for Operand<'a, T> {
    fn from(view: ArrayView2<'a, T>) -> Self {
        Self::Matrix(view.into())
    }
}

impl<'a, T: Copy> From<ArrayView2<'a, T>> for Examples<'a, T> {
    fn from(view: ArrayView2<'a, T>) -> Self {
        Self::Rows(view.into())
    }
}

/// A view as `ndarray` builds it: from its lowest element on, with strides that are not negative,
/// and axes reversed afterwards. It is not empty.
struct Upright {
    shape: (usize, usize),
    strides: (usize, usize),
    /// Elements from (0, 0) to the lowest one.
    lowest: isize,
    /// Which axes run backwards.
    backwards: [bool; 2],
}

impl Upright {
    /// # Errors
    /// [`Error::SizeOverflow`] if there are more positions than `isize::MAX`.
    fn new(shape: (usize, usize), strides: (isize, isize)) -> Result<Self> {
        check_size("array", shape)?;
        let (mut lowest, mut backwards) = (0, [false; 2]);
        let mut axis = |axis: usize, len: usize, stride: isize| {
            // The stride of an axis with one position is not used.
            if len == 1 {
                return 1;
            }
            if stride < 0 {
                lowest += (len - 1) as isize * stride;
                backwards[axis] = true;
            }
            stride.unsigned_abs()
        };
        let strides = (axis(0, shape.0, strides.0), axis(1, shape.1, strides.1));
        Ok(Self { shape, strides, lowest, backwards })
    }

    /// The axes to be reversed.
    fn backwards(&self) -> impl Iterator<Item = Axis> {
        let backwards = self.backwards;
        (0..2).filter(move |&axis| backwards[axis]).map(Axis)
    }
}

/// An error unless `ndarray` can count the positions of `what`.
fn check_size(what: &'static str, shape: (usize, usize)) -> Result<()> {
    let positions = shape.0.max(1).checked_mul(shape.1.max(1));
    let counted = positions.is_some_and(|positions| isize::try_from(positions).is_ok());
    if counted { Ok(()) } else { Err(too_large(what, shape)) }
}

fn too_large(what: &'static str, (rows, cols): (usize, usize)) -> Error {
    Error::SizeOverflow { what, rows, cols }
}

impl<'a, T: Copy> TryFrom<MatRef<'a, T>> for ArrayView2<'a, T> {
    type Error = Error;

    /// The same elements at the same places. [`Error::SizeOverflow`] if a view that repeats its
    /// elements has more than `isize::MAX` positions.
    fn try_from(view: MatRef<'a, T>) -> Result<Self> {
        let shape = view.shape();
        if shape.0 == 0 || shape.1 == 0 {
            return Self::from_shape(shape, &[]).map_err(|_| too_large("array", shape));
        }
        let upright = Upright::new(shape, (view.row_stride(), view.col_stride()))?;
        let lowest = view.as_ptr().wrapping_offset(upright.lowest);
        // SAFETY: the elements of a `MatRef` are readable during 'a; the strides are not negative
        // and lead from the lowest of them to the others.
        let mut array =
            unsafe { Self::from_shape_ptr(upright.shape.strides(upright.strides), lowest) };
        upright.backwards().for_each(|axis| array.invert_axis(axis));
        Ok(array)
    }
}

impl<'a, T: Copy> TryFrom<MatMut<'a, T>> for ArrayViewMut2<'a, T> {
    type Error = Error;

    /// The same elements at the same places. [`Error::SizeOverflow`] if an empty view has an axis
    /// of more than `isize::MAX` positions.
    fn try_from(mut view: MatMut<'a, T>) -> Result<Self> {
        let shape = view.shape();
        if shape.0 == 0 || shape.1 == 0 {
            return Self::from_shape(shape, &mut []).map_err(|_| too_large("array", shape));
        }
        let upright = Upright::new(shape, (view.row_stride(), view.col_stride()))?;
        let lowest = view.as_mut_ptr().wrapping_offset(upright.lowest);
        // SAFETY: the elements of a `MatMut` are distinct and its own during 'a; the strides are
        // not negative and lead from the lowest of them to the others.
        let mut array =
            unsafe { Self::from_shape_ptr(upright.shape.strides(upright.strides), lowest) };
        upright.backwards().for_each(|axis| array.invert_axis(axis));
        Ok(array)
    }
}

/// Products of arrays, owned or views, with this crate's kernels.
pub trait TilewiseDot<T: Element> {
    /// The product with `rhs`, (m, k) by (k, n), as a new row-major array (m, n), computed on the
    /// calling thread. Like `dot` of `ndarray`, with sums in the order of k.
    ///
    /// # Errors
    /// [`Error::Shape`] if the arrays do not fit, [`Error::SizeOverflow`] if the product has too
    /// many elements, and as [`Gemm::new`].
    fn tilewise_dot(&self, rhs: &ArrayRef2<T>) -> Result<Array2<T>>;
}

impl<T: Element> TilewiseDot<T> for ArrayRef2<T> {
    fn tilewise_dot(&self, rhs: &ArrayRef2<T>) -> Result<Array2<T>> {
        let shape = (self.nrows(), rhs.ncols());
        check_size("product", shape)?;
        let mut product = Array2::from_elem(shape, T::ZERO);
        let (a, b) = (self.view().into(), rhs.view().into());
        gemm::gemm(T::ONE, a, b, T::ZERO, MatMut::from(&mut product))?;
        Ok(product)
    }
}

/// `C = alpha A B + beta C`, as `ndarray::linalg::general_mat_mul`, by the kernels and on the
/// threads of `gemm`, without allocating. With `beta == 0` C is not read. `scratch` comes from
/// [`Gemm::scratch`] for products of at least this size.
///
/// # Errors
/// Same as [`Gemm::run`].
pub fn general_mat_mul<T: Element>(
    gemm: &Gemm<T>,
    alpha: T,
    a: &ArrayRef2<T>,
    b: &ArrayRef2<T>,
    beta: T,
    c: &mut ArrayRef2<T>,
    scratch: &mut [u8],
) -> Result<()> {
    let c = c.view_mut().into();
    gemm.run(alpha, a.view(), b.view(), c, Epilogue::scaled(beta), scratch)
}
