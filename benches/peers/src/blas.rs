//! OpenBLAS and MKL: CBLAS functions of a shared library that is loaded while the program runs.

use std::{
    ffi::{CStr, c_char, c_int},
    path::Path,
};

use libloading::{Library, Symbol};
use tilewise::Bf16;

use crate::Result;

/// `CblasRowMajor`.
const ROW_MAJOR: c_int = 101;
/// `CblasNoTrans`.
const NO_TRANS: c_int = 111;
/// `CblasTrans`.
const TRANS: c_int = 112;

/// `cblas_sgemm`, `cblas_dgemm` or, of MKL, `cblas_gemm_bf16bf16f32`, with 32-bit integers. `S` is the
/// type of the factors and of C.
pub type CblasGemm<T, S = T> = unsafe extern "C" fn(
    order: c_int,
    trans_a: c_int,
    trans_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: S,
    a: *const T,
    lda: c_int,
    b: *const T,
    ldb: c_int,
    beta: S,
    c: *mut S,
    ldc: c_int,
);

/// A loaded library. The functions are valid while it is.
pub struct Blas {
    pub sgemm: CblasGemm<f32>,
    pub dgemm: CblasGemm<f64>,
    /// If it has one.
    pub gemm_bf16: Option<CblasGemm<Bf16, f32>>,
    set_threads: unsafe extern "C" fn(c_int),
    threads: unsafe extern "C" fn() -> c_int,
    /// What it says about itself.
    pub version: String,
    _library: Library,
}

/// An operand of [`Blas`]: whether it is transposed, its elements, and those from row to row.
pub type Operand<'a, T> = (bool, &'a [T], usize);

impl Blas {
    /// OpenBLAS, also with the prefix that SciPy gives its symbols.
    ///
    /// # Errors
    /// If it cannot be loaded or lacks a function.
    pub fn openblas(path: &Path) -> Result<Self> {
        let library = load(path)?;
        // SAFETY: the type is that of the function in OpenBLAS's `cblas.h`.
        let prefixed = unsafe { library.get::<CblasGemm<f32>>("scipy_cblas_sgemm") }.is_ok();
        let name = |name: &str| if prefixed { format!("scipy_{name}") } else { name.to_owned() };
        // SAFETY: the types are those of OpenBLAS's `cblas.h`, with 32-bit integers: a library
        // with 64-bit integers has the suffix `64_` at every name, which is not found here. The
        // library lives as long as the pointers.
        unsafe {
            let text = |function: &str| -> Result<String> {
                let function =
                    symbol::<unsafe extern "C" fn() -> *const c_char>(&library, &name(function))?;
                Ok(CStr::from_ptr(function()).to_string_lossy().trim().to_owned())
            };
            let version = text("openblas_get_config")?;
            let core = text("openblas_get_corename")?;
            let version =
                if version.contains(&core) { version } else { format!("{version} {core}") };
            Ok(Self {
                sgemm: symbol(&library, &name("cblas_sgemm"))?,
                dgemm: symbol(&library, &name("cblas_dgemm"))?,
                gemm_bf16: None,
                set_threads: symbol(&library, &name("openblas_set_num_threads"))?,
                threads: symbol(&library, &name("openblas_get_num_threads"))?,
                version,
                _library: library,
            })
        }
    }

    /// MKL through its single dynamic library, with 32-bit integers, as many threads as told.
    ///
    /// # Errors
    /// If it cannot be loaded or lacks a function.
    pub fn mkl(path: &Path) -> Result<Self> {
        const LP64: c_int = 0;
        let library = load(path)?;
        // SAFETY: the types are those of `mkl_service.h` and `mkl_cblas.h` (the small names are
        // Fortran's). The version ends within its buffer, whose length is passed. The library lives
        // as long as the pointers.
        unsafe {
            type SetNumber<R> = unsafe extern "C" fn(c_int) -> R;
            let interface: SetNumber<c_int> = symbol(&library, "MKL_Set_Interface_Layer")?;
            if interface(LP64) != LP64 {
                return Err("MKL refuses 32-bit integers: unset MKL_INTERFACE_LAYER".into());
            }
            let dynamic: SetNumber<()> = symbol(&library, "MKL_Set_Dynamic")?;
            dynamic(0);
            let describe: unsafe extern "C" fn(*mut c_char, c_int) =
                symbol(&library, "MKL_Get_Version_String")?;
            let mut text = [0u8; 256];
            describe(text.as_mut_ptr().cast(), text.len() as c_int - 1);
            let version = CStr::from_bytes_until_nul(&text)?.to_string_lossy().trim().to_owned();
            Ok(Self {
                sgemm: symbol(&library, "cblas_sgemm")?,
                dgemm: symbol(&library, "cblas_dgemm")?,
                gemm_bf16: symbol(&library, "cblas_gemm_bf16bf16f32").ok(),
                set_threads: symbol(&library, "MKL_Set_Num_Threads")?,
                threads: symbol(&library, "MKL_Get_Max_Threads")?,
                version,
                _library: library,
            })
        }
    }

    /// Sets the number of threads of the following products.
    ///
    /// # Errors
    /// If the library does not take it.
    pub fn set_threads(&self, threads: usize) -> Result<()> {
        // SAFETY: both functions take any number.
        let found = unsafe {
            (self.set_threads)(c_int::try_from(threads)?);
            (self.threads)()
        };
        if usize::try_from(found) == Ok(threads) {
            return Ok(());
        }
        Err(format!("{found} threads where {threads} were asked for").into())
    }
}

/// `C = A B`, row-major.
///
/// # Safety
/// `gemm` is the CBLAS function of `T` and `S`; the operands and C hold (m, k), (k, n) and (m, n).
///
/// # Errors
/// If a size exceeds 32 bits.
pub unsafe fn multiply<T, S>(
    gemm: CblasGemm<T, S>,
    (m, n, k): (usize, usize, usize),
    (one, zero): (S, S),
    (trans_a, a, lda): Operand<'_, T>,
    (trans_b, b, ldb): Operand<'_, T>,
    (c, ldc): (&mut [S], usize),
) -> Result<()> {
    let int = |size: usize| c_int::try_from(size);
    let trans = |transposed| if transposed { TRANS } else { NO_TRANS };
    let [m, n, k, lda, ldb, ldc] = [int(m)?, int(n)?, int(k)?, int(lda)?, int(ldb)?, int(ldc)?];
    let (trans_a, trans_b) = (trans(trans_a), trans(trans_b));
    let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    // SAFETY: the caller's promise.
    unsafe { gemm(ROW_MAJOR, trans_a, trans_b, m, n, k, one, a, lda, b, ldb, zero, c, ldc) };
    Ok(())
}

fn load(path: &Path) -> Result<Library> {
    // SAFETY: the user names a BLAS library, whose initialization only prepares threads and memory.
    unsafe { Library::new(path) }.map_err(|error| format!("{}: {error}", path.display()).into())
}

/// A function of the library.
///
/// # Safety
/// `F` is the type of the function; it is not called once the library is closed.
unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> Result<F> {
    // SAFETY: the caller's promise.
    let found: Result<Symbol<'_, F>, _> = unsafe { library.get(name) };
    found.map(|symbol| *symbol).map_err(|error| format!("{name}: {error}").into())
}
