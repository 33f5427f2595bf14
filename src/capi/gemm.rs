//! Products with epilogues, and packed operands.

use crate::{
    aligned::AlignedBuf,
    capi::{
        error::{Failure, Status, guard},
        handle::{Exclusive, destroy, give},
        matrix::{Matrix, MatrixMut, matrix},
        pointers::{elements, optional, room, shared},
        pool::{Place, Pool},
    },
    error::{Error, Result},
    gemm,
    kernels::Element,
    matrix::MatRef,
};

/// A plan for products, with the memory that they need. Only one thread at a time may use it.
pub struct Gemm<T: Element> {
    gemm: gemm::Gemm<T>,
    scratch: Exclusive<AlignedBuf<u8>>,
    place: Place,
}

/// An operand packed as A or B, for use in many products. It holds a copy of its matrix. Any number
/// of threads may use it at once.
pub struct Packed<T: Element>(gemm::Packed<T>);

/// A or B of a product: `packed` if that is not null, else `matrix`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Operand<T: Element> {
    /// The elements.
    pub matrix: Matrix<T>,
    /// The packed operand, or null.
    pub packed: *const Packed<T>,
}

/// The operation on each finished sum of a product.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Store it.
    Store = 0,
    /// ReLU: store it if it is above 0, else 0; NaN stays NaN.
    Relu = 1,
    /// Store it if the activation is above 0, else 0: the gradient of a ReLU.
    Gate = 2,
}

/// The start values of a product's sums, and the operation before they are stored. All zeros: only
/// the product.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<T: Element> {
    /// Factor of the old C. With 0, C is not read. It must be 0 if there is a bias.
    pub beta: T,
    /// One number for each column of C to start from, or null.
    pub bias: *const T,
    /// A `tilewise_finish`.
    pub finish: i32,
    /// For `TILEWISE_FINISH_GATE`: the activation, with the shape of C and contiguous columns.
    pub activation: Matrix<T>,
}

/// # Safety
/// That of the module `capi`.
unsafe fn create<T: Element>(
    pool: *const Pool,
    (m, n, k): (usize, usize, usize),
    gemm: *mut *mut Gemm<T>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promises are passed on.
    let (pool, out) = unsafe { (optional("pool", pool)?, room("gemm", gemm)?) };
    let place = Place::new(pool);
    let gemm = gemm::Gemm::new()?.with_threads(place.threads());
    let scratch = Exclusive::new(place.run(|| Ok(gemm.scratch(m, n, k)?))?);
    give(Gemm { gemm, scratch, place }, out);
    Ok(())
}

/// # Safety
/// That of the module `capi`.
unsafe fn pack<T: Element>(
    (what, operand): (&str, *const Matrix<T>),
    pack: impl FnOnce(gemm::Gemm<T>, MatRef<'_, T>) -> Result<gemm::Packed<T>>,
    packed: *mut *mut Packed<T>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promises are passed on.
    let (operand, out) = unsafe { (matrix(what, operand)?, room("packed", packed)?) };
    give(Packed(pack(gemm::Gemm::new()?, operand)?), out);
    Ok(())
}

/// # Safety
/// That of the module `capi`.
unsafe fn run<T: Element>(
    gemm: *mut Gemm<T>,
    alpha: T,
    a: *const Operand<T>,
    b: *const Operand<T>,
    c: *const MatrixMut<T>,
    epilogue: *const Epilogue<T>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promises are passed on.
    let (Gemm { gemm, scratch, place }, a, b, c, epilogue) = unsafe {
        let epilogue = optional("epilogue", epilogue)?;
        (shared("gemm", gemm)?, shared("a", a)?, shared("b", b)?, shared("c", c)?, epilogue)
    };
    let written = c.addresses("c")?;
    // SAFETY: as above.
    let (a, b) = unsafe {
        let operand = |what, operand: &Operand<T>| match optional(what, operand.packed)? {
            Some(Packed(packed)) => Ok::<_, Failure>(gemm::Operand::Packed(packed)),
            None => {
                operand.matrix.expect_apart(what, "c", &written)?;
                Ok(operand.matrix.view(what)?.into())
            }
        };
        (operand("a", a)?, operand("b", b)?)
    };
    let epilogue = match epilogue {
        None => gemm::Epilogue::default(),
        Some(Epilogue { beta, bias, finish, activation }) => {
            let start = if bias.is_null() {
                gemm::Start::Scaled(*beta)
            } else {
                if *beta != T::ZERO {
                    return Err(Error::setting("beta", beta, "0 if there is a bias").into());
                }
                Matrix::row(*bias, c.cols).expect_apart("bias", "c", &written)?;
                // SAFETY: as above.
                gemm::Start::Bias(unsafe { elements("bias", *bias, c.cols)? })
            };
            let (finish, companions) = match *finish {
                finish if finish == Finish::Store as i32 => {
                    (gemm::Finish::Store, gemm::Companions::default())
                }
                finish if finish == Finish::Relu as i32 => {
                    (gemm::Finish::Relu, gemm::Companions::default())
                }
                finish if finish == Finish::Gate as i32 => {
                    activation.expect_apart("activation", "c", &written)?;
                    // SAFETY: as above.
                    let activation = unsafe { activation.view("activation")? };
                    (gemm::Finish::ReluGradient { scale: T::ONE }, activation.into())
                }
                other => {
                    let expected = "0 (store), 1 (ReLU) or 2 (gate)";
                    return Err(Error::setting("finish", other, expected).into());
                }
            };
            gemm::Epilogue { start, finish, companions, column_sums: None }
        }
    };
    // SAFETY: as above; its memory does not overlap that of any operand, and a product reads it only
    // with a `beta` other than 0.
    let c = unsafe { c.view("c")? };
    let mut scratch = scratch.take("gemm")?;
    let scratch = &mut scratch[..];
    place.run(|| Ok(gemm.run(alpha, a, b, c, epilogue, scratch)?))
}

/// Plans f32 products of up to these sizes into `gemm`: A is (m, k), B (k, n), C (m, n). They run
/// on the threads of `pool`, or on the calling thread if that is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_gemm_f32_create(
    pool: *const Pool,
    m: usize,
    n: usize,
    k: usize,
    gemm: *mut *mut Gemm<f32>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { create(pool, (m, n, k), gemm) })
}

/// Same as `tilewise_gemm_f32_create`, for f64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_gemm_f64_create(
    pool: *const Pool,
    m: usize,
    n: usize,
    k: usize,
    gemm: *mut *mut Gemm<f64>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { create(pool, (m, n, k), gemm) })
}

/// Destroys a plan; null does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_gemm_f32_destroy(gemm: *mut Gemm<f32>) {
    // SAFETY: the caller keeps the rules of `capi`.
    unsafe { destroy(gemm) }
}

/// Destroys a plan; null does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_gemm_f64_destroy(gemm: *mut Gemm<f64>) {
    // SAFETY: the caller keeps the rules of `capi`.
    unsafe { destroy(gemm) }
}

/// `C = finish(start + alpha A B)`, without allocating. With `alpha` 0 neither A nor B is read;
/// with a packed A it is 1. `epilogue` may be null: only the product. The memory of C must not
/// overlap memory that is read. Unless C is read, it need not be initialized. The bits of the
/// result do not depend on threads, packing or strides. An epilogue with a bias
/// or a gate needs a C whose columns are contiguous.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_gemm_f32_run(
    gemm: *mut Gemm<f32>,
    alpha: f32,
    a: *const Operand<f32>,
    b: *const Operand<f32>,
    c: *const MatrixMut<f32>,
    epilogue: *const Epilogue<f32>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { run(gemm, alpha, a, b, c, epilogue) })
}

/// Same as `tilewise_gemm_f32_run`, for f64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_gemm_f64_run(
    gemm: *mut Gemm<f64>,
    alpha: f64,
    a: *const Operand<f64>,
    b: *const Operand<f64>,
    c: *const MatrixMut<f64>,
    epilogue: *const Epilogue<f64>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { run(gemm, alpha, a, b, c, epilogue) })
}

/// Packs `scale * a` as A of products, into `packed`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_pack_a_f32(
    scale: f32,
    a: *const Matrix<f32>,
    packed: *mut *mut Packed<f32>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { pack(("a", a), |gemm, a| gemm.pack_a(scale, a), packed) })
}

/// Same as `tilewise_pack_a_f32`, for f64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_pack_a_f64(
    scale: f64,
    a: *const Matrix<f64>,
    packed: *mut *mut Packed<f64>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { pack(("a", a), |gemm, a| gemm.pack_a(scale, a), packed) })
}

/// Packs `b` as B of products, into `packed`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_pack_b_f32(
    b: *const Matrix<f32>,
    packed: *mut *mut Packed<f32>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { pack(("b", b), |gemm, b| gemm.pack_b(b), packed) })
}

/// Same as `tilewise_pack_b_f32`, for f64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_pack_b_f64(
    b: *const Matrix<f64>,
    packed: *mut *mut Packed<f64>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { pack(("b", b), |gemm, b| gemm.pack_b(b), packed) })
}

/// Destroys a packed operand; null does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_packed_f32_destroy(packed: *mut Packed<f32>) {
    // SAFETY: the caller keeps the rules of `capi`.
    unsafe { destroy(packed) }
}

/// Destroys a packed operand; null does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_packed_f64_destroy(packed: *mut Packed<f64>) {
    // SAFETY: the caller keeps the rules of `capi`.
    unsafe { destroy(packed) }
}
