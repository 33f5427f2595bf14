//! The contestants, and how each one computes a product. A new peer is a variant, its name and its
//! arm.

use std::{fmt, path::Path};

use faer::{
    Accum, Par,
    linalg::matmul::matmul,
    mat::{MatMut, MatRef},
    traits::ComplexField,
};
use gemm::Parallelism;
use tilewise::{
    Element,
    gemm::{Epilogue, Gemm},
};

use crate::{
    Result,
    blas::{self, Blas, CblasGemm},
    product::{Product, Stored},
};

/// Who is compared, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    Tilewise,
    Faer,
    Gemm,
    MatrixMultiply,
    OpenBlas,
    Mkl,
}

/// A contestant does not take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Its library was not named.
    Missing,
    /// It cannot be told to use this number of threads.
    OneThread,
}

impl Contestant {
    pub const ALL: [Self; 6] =
        [Self::Tilewise, Self::Faer, Self::Gemm, Self::MatrixMultiply, Self::OpenBlas, Self::Mkl];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tilewise => "tilewise",
            Self::Faer => "faer",
            Self::Gemm => "gemm",
            Self::MatrixMultiply => "matrixmultiply",
            Self::OpenBlas => "OpenBLAS",
            Self::Mkl => "MKL",
        }
    }

    /// Whether its threads are those of the rayon pool that it is called in.
    pub fn uses_rayon(self) -> bool {
        matches!(self, Self::Tilewise | Self::Faer | Self::Gemm)
    }

    /// Why it takes no part in products on this number of threads, if so.
    pub fn absence(self, threads: usize, libraries: &Libraries) -> Option<Absence> {
        match self {
            // Its number of threads is read once, from the environment.
            Self::MatrixMultiply if threads > 1 => Some(Absence::OneThread),
            Self::OpenBlas if libraries.openblas.is_none() => Some(Absence::Missing),
            Self::Mkl if libraries.mkl.is_none() => Some(Absence::Missing),
            _ => None,
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "missing",
            Self::OneThread => "one thread",
        })
    }
}

/// The libraries that are loaded; none where no path was given.
pub struct Libraries {
    pub openblas: Option<Blas>,
    pub mkl: Option<Blas>,
}

impl Libraries {
    /// Loads those that have a path.
    ///
    /// # Errors
    /// If one with a path cannot be loaded.
    pub fn open(openblas: Option<&Path>, mkl: Option<&Path>) -> Result<Self> {
        let openblas = openblas.map(Blas::openblas).transpose();
        let mkl = mkl.map(Blas::mkl).transpose();
        Ok(Self {
            openblas: openblas.map_err(|error| format!("OpenBLAS: {error}"))?,
            mkl: mkl.map_err(|error| format!("MKL: {error}"))?,
        })
    }

    /// Sets the threads of those that have their own.
    ///
    /// # Errors
    /// If one does not take the number.
    pub fn set_threads(&self, threads: usize) -> Result<()> {
        self.openblas.iter().chain(&self.mkl).try_for_each(|blas| blas.set_threads(threads))
    }
}

/// An element type, with the functions of each peer that are not generic.
pub trait Scalar: Element + ComplexField {
    const MATRIXMULTIPLY: MatrixMultiply<Self>;

    fn cblas(blas: &Blas) -> CblasGemm<Self>;
}

/// `matrixmultiply::sgemm` or `dgemm`.
pub type MatrixMultiply<T> = unsafe fn(
    m: usize,
    k: usize,
    n: usize,
    alpha: T,
    a: *const T,
    rsa: isize,
    csa: isize,
    b: *const T,
    rsb: isize,
    csb: isize,
    beta: T,
    c: *mut T,
    rsc: isize,
    csc: isize,
);

impl Scalar for f32 {
    const MATRIXMULTIPLY: MatrixMultiply<Self> = matrixmultiply::sgemm;

    fn cblas(blas: &Blas) -> CblasGemm<Self> {
        blas.sgemm
    }
}

impl Scalar for f64 {
    const MATRIXMULTIPLY: MatrixMultiply<Self> = matrixmultiply::dgemm;

    fn cblas(blas: &Blas) -> CblasGemm<Self> {
        blas.dgemm
    }
}

/// Computes C by one contestant, in the pool if it uses that. OpenBLAS and MKL run on the threads
/// that [`Libraries::set_threads`] set.
///
/// # Errors
/// If the contestant refuses the product.
pub fn multiply<T: Scalar>(
    contestant: Contestant,
    threads: usize,
    tilewise: &Gemm<T>,
    libraries: &Libraries,
    product: &mut Product<T>,
) -> Result<()> {
    let Product { m, n, k, a, b, c, scratch } = product;
    let (m, n, k) = (*m, *n, *k);
    let (one, zero) = (T::ONE, T::ZERO);
    let ((a_rs, a_cs), (b_rs, b_cs), (c_rs, c_cs)) = (a.strides(), b.strides(), c.strides());
    let with = |blas: Option<&Blas>, c: &mut [T]| {
        let gemm = T::cblas(blas.ok_or("it is not loaded")?);
        let (a, b) = ((a.transposed, &*a.data, a.stride), (b.transposed, &*b.data, b.stride));
        // SAFETY: the function is the one of this type; `Product` holds matrices of these sizes.
        unsafe { blas::multiply(gemm, (m, n, k), (one, zero), a, b, (c, c_rs as usize)) }
    };
    match contestant {
        Contestant::Tilewise => {
            let (a, b, c) = (a.view()?, b.view()?, c.view_mut()?);
            tilewise.run(one, a, b, c, Epilogue::default(), scratch)?;
        }
        Contestant::Faer => {
            let (a, b) = (faer_view(a), faer_view(b));
            // Not `from_row_major_slice_with_stride_mut`: in faer 0.24.4 that is column-major.
            let c = MatMut::from_column_major_slice_with_stride_mut(&mut c.data, n, m, c.stride);
            let c = c.transpose_mut();
            let par = if threads == 1 { Par::Seq } else { Par::rayon(threads) };
            matmul(c, Accum::Replace, a, b, one, par);
        }
        Contestant::Gemm => {
            let parallelism =
                if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
            let (a, b, c) = (a.data.as_ptr(), b.data.as_ptr(), c.data.as_mut_ptr());
            // Column strides come first. This alpha is the factor of C, beta that of A B.
            // SAFETY: `Product` holds matrices of these sizes and strides; C is borrowed alone.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    c,
                    c_cs,
                    c_rs,
                    false,
                    a,
                    a_cs,
                    a_rs,
                    b,
                    b_cs,
                    b_rs,
                    zero,
                    one,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        }
        Contestant::MatrixMultiply => {
            let (a, b, c) = (a.data.as_ptr(), b.data.as_ptr(), c.data.as_mut_ptr());
            // SAFETY: `Product` holds matrices of these sizes and strides; C is borrowed alone.
            unsafe {
                T::MATRIXMULTIPLY(m, k, n, one, a, a_rs, a_cs, b, b_rs, b_cs, zero, c, c_rs, c_cs);
            }
        }
        Contestant::OpenBlas => with(libraries.openblas.as_ref(), &mut c.data)?,
        Contestant::Mkl => with(libraries.mkl.as_ref(), &mut c.data)?,
    }
    Ok(())
}

/// As the product takes it.
fn faer_view<T: Scalar>(stored: &Stored<T>) -> MatRef<'_, T> {
    let Stored { data, rows, cols, stride, transposed } = stored;
    let view = MatRef::from_row_major_slice_with_stride(data, *rows, *cols, *stride);
    if *transposed { view.transpose() } else { view }
}
