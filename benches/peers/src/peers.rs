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
    Bf16, Element,
    float::Float,
    gemm::{self as products, Epilogue, Gemm, PanelElement},
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
    GemmKit,
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
    /// It has no products of this type.
    OtherType,
}

impl Contestant {
    pub const ALL: [Self; 7] = [
        Self::Tilewise,
        Self::Faer,
        Self::Gemm,
        Self::GemmKit,
        Self::MatrixMultiply,
        Self::OpenBlas,
        Self::Mkl,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tilewise => "tilewise",
            Self::Faer => "faer",
            Self::Gemm => "gemm",
            Self::GemmKit => "gemmkit",
            Self::MatrixMultiply => "matrixmultiply",
            Self::OpenBlas => "OpenBLAS",
            Self::Mkl => "MKL",
        }
    }

    /// Whether its threads are those of the rayon pool that it is called in.
    pub fn uses_rayon(self) -> bool {
        matches!(self, Self::Tilewise | Self::Faer | Self::Gemm | Self::GemmKit)
    }

    /// Why it takes no part in products of this type on this number of threads, if so.
    pub fn absence<T: Scalar>(self, threads: usize, libraries: &Libraries) -> Option<Absence> {
        match self {
            _ if !T::has(self, libraries) => Some(Absence::OtherType),
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
            Self::OtherType => "other types",
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

/// The type of a row's products, which all have operands and a C of one type.
pub trait Scalar: products::Product<Left = Self::Of, Right = Self::Of, Output = Self::Of> {
    /// The type of the elements.
    type Of: PanelElement<Value = Self::Sum>;
    /// The distance from 1 to the next larger sum.
    const EPSILON: f64;
    /// That from 1 to the next larger element of C, if sums are rounded to it; else 0.
    const ROUNDING: f64 = 0.0;

    /// Whether a contestant, if it is there at all, has such products.
    fn has(_contestant: Contestant, _libraries: &Libraries) -> bool {
        true
    }

    /// Whether a contestant stores sums that are not rounded, where others store C.
    fn stores_sums(_contestant: Contestant) -> bool {
        false
    }

    /// Computes C by a contestant other than tilewise.
    ///
    /// # Errors
    /// If it refuses the product.
    fn peer(
        contestant: Contestant,
        threads: usize,
        libraries: &Libraries,
        product: &mut Product<Self>,
    ) -> Result<()>;
}

/// f32 or f64, with the functions of each peer that are not generic.
trait Real: Scalar<Of = Self> + Element + ComplexField + gemmkit::GemmScalar {
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
    type Of = Self;
    const EPSILON: f64 = Self::EPSILON as f64;

    fn peer(
        contestant: Contestant,
        threads: usize,
        libraries: &Libraries,
        product: &mut Product<Self>,
    ) -> Result<()> {
        peer_of_reals(contestant, threads, libraries, product)
    }
}

impl Real for f32 {
    const MATRIXMULTIPLY: MatrixMultiply<Self> = matrixmultiply::sgemm;

    fn cblas(blas: &Blas) -> CblasGemm<Self> {
        blas.sgemm
    }
}

impl Scalar for f64 {
    type Of = Self;
    const EPSILON: f64 = Self::EPSILON;

    fn peer(
        contestant: Contestant,
        threads: usize,
        libraries: &Libraries,
        product: &mut Product<Self>,
    ) -> Result<()> {
        peer_of_reals(contestant, threads, libraries, product)
    }
}

impl Real for f64 {
    const MATRIXMULTIPLY: MatrixMultiply<Self> = matrixmultiply::dgemm;

    fn cblas(blas: &Blas) -> CblasGemm<Self> {
        blas.dgemm
    }
}

impl Scalar for Bf16 {
    type Of = Self;
    const EPSILON: f64 = f32::EPSILON as f64;
    const ROUNDING: f64 = 1.0 / 128.0;

    fn has(contestant: Contestant, libraries: &Libraries) -> bool {
        match contestant {
            Contestant::Tilewise | Contestant::GemmKit => true,
            // Of one that is missing the version is not known.
            Contestant::Mkl => libraries.mkl.as_ref().is_none_or(|blas| blas.gemm_bf16.is_some()),
            _ => false,
        }
    }

    fn stores_sums(contestant: Contestant) -> bool {
        contestant == Contestant::Mkl
    }

    fn peer(
        contestant: Contestant,
        threads: usize,
        libraries: &Libraries,
        product: &mut Product<Self>,
    ) -> Result<()> {
        let Product { m, n, k, a, b, c, sums, .. } = product;
        let sizes = (*m, *n, *k);
        match contestant {
            Contestant::GemmKit => {
                let one = gemmkit::bf16::ONE;
                let zero = gemmkit::bf16::ZERO;
                let (strides, par) =
                    ([a.strides(), b.strides(), c.strides()], gemmkit_threads(threads));
                let (a, b) = (a.data.as_ptr().cast(), b.data.as_ptr().cast());
                let c = c.data.as_mut_ptr().cast();
                // SAFETY: `Product` holds matrices of these sizes and strides, C is borrowed alone,
                // and both types have the layout of a u16.
                unsafe { gemmkit_multiply(sizes, (one, zero), (a, b, c), strides, par) };
                Ok(())
            }
            Contestant::Mkl => {
                let gemm = libraries.mkl.as_ref().and_then(|blas| blas.gemm_bf16);
                let gemm = gemm.ok_or("it is not loaded")?;
                let stride = c.stride;
                let (a, b) = (blas_operand(a), blas_operand(b));
                // SAFETY: the function is the one of these types; `Product` holds matrices of these
                // sizes, and as many sums as elements of C.
                unsafe { blas::multiply(gemm, sizes, (1.0, 0.0), a, b, (sums, stride)) }
            }
            _ => Err("it has no bf16".into()),
        }
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
    if contestant != Contestant::Tilewise {
        return T::peer(contestant, threads, libraries, product);
    }
    let Product { a, b, c, scratch, .. } = product;
    let (a, b, c) = (a.view()?, b.view()?, c.view_mut()?);
    tilewise.run(T::Sum::ONE, a, b, c, Epilogue::default(), scratch)?;
    Ok(())
}

/// [`Scalar::peer`] of f32 and f64.
fn peer_of_reals<T: Real>(
    contestant: Contestant,
    threads: usize,
    libraries: &Libraries,
    product: &mut Product<T>,
) -> Result<()> {
    let Product { m, n, k, a, b, c, .. } = product;
    let (m, n, k) = (*m, *n, *k);
    let (one, zero) = (<T as Float>::ONE, <T as Float>::ZERO);
    let ((a_rs, a_cs), (b_rs, b_cs), (c_rs, c_cs)) = (a.strides(), b.strides(), c.strides());
    let with = |blas: Option<&Blas>, c: &mut [T]| {
        let gemm = T::cblas(blas.ok_or("it is not loaded")?);
        let (a, b) = (blas_operand(a), blas_operand(b));
        // SAFETY: the function is the one of this type; `Product` holds matrices of these sizes.
        unsafe { blas::multiply(gemm, (m, n, k), (one, zero), a, b, (c, c_rs as usize)) }
    };
    match contestant {
        Contestant::Tilewise => return Err("it is no peer".into()),
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
        Contestant::GemmKit => {
            let (strides, par) =
                ([a.strides(), b.strides(), c.strides()], gemmkit_threads(threads));
            let (a, b, c) = (a.data.as_ptr(), b.data.as_ptr(), c.data.as_mut_ptr());
            // SAFETY: `Product` holds matrices of these sizes and strides; C is borrowed alone.
            unsafe { gemmkit_multiply((m, n, k), (one, zero), (a, b, c), strides, par) };
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
fn faer_view<T: Real>(stored: &Stored<T>) -> MatRef<'_, T> {
    let Stored { data, rows, cols, stride, transposed } = stored;
    let view = MatRef::from_row_major_slice_with_stride(data, *rows, *cols, *stride);
    if *transposed { view.transpose() } else { view }
}

/// As CBLAS takes it.
fn blas_operand<T: PanelElement>(stored: &Stored<T>) -> blas::Operand<'_, T> {
    (stored.transposed, &stored.data, stored.stride)
}

fn gemmkit_threads(threads: usize) -> gemmkit::Parallelism {
    if threads == 1 { gemmkit::Parallelism::Serial } else { gemmkit::Parallelism::Rayon(threads) }
}

/// `C = A B` by gemmkit.
///
/// # Safety
/// The pointers are to (m, k), (k, n) and (m, n) elements with these row and column strides; nobody
/// else touches C meanwhile.
unsafe fn gemmkit_multiply<T: gemmkit::GemmScalar>(
    (m, n, k): (usize, usize, usize),
    (one, zero): (T, T),
    (a, b, c): (*const T, *const T, *mut T),
    [(a_rs, a_cs), (b_rs, b_cs), (c_rs, c_cs)]: [(isize, isize); 3],
    par: gemmkit::Parallelism,
) {
    // SAFETY: the caller's promise.
    unsafe {
        gemmkit::gemm_unchecked(
            m, k, n, one, a, a_rs, a_cs, b, b_rs, b_cs, zero, c, c_rs, c_cs, par,
        );
    }
}
