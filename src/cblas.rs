//! `cblas_sgemm`, `cblas_dgemm`, `sgemm_` and `dgemm_`, exported for programs that use BLAS in C,
//! Fortran or any other language.
//!
//! ```text
//! C = alpha op(A) op(B) + beta C,    op(X) is X or X transposed
//! op(A) (m, k), op(B) (k, n), C (m, n)
//! ```
//!
//! Built with the feature `cblas`; the library for C programs is made by
//!
//! ```sh
//! cargo rustc --release --lib --no-default-features --features cblas --crate-type cdylib
//! LD_PRELOAD=target/release/libtilewise.so program      # an existing program
//! cc program.c -Ltarget/release -ltilewise              # a program linked with it
//! ```
//!
//! and with `--crate-type staticlib` for `cc program.c target/release/libtilewise.a -lm`. It
//! exports these four routines and no other of BLAS; all others come from the BLAS that the program
//! is linked with. A Rust program with this feature defines them as well, and must not be linked
//! with another BLAS statically.
//!
//! # Interface
//!
//! That of the reference implementation of netlib, LP64: every size and leading dimension is an
//! `int` of 32 bits. The Fortran routines take everything by address and need no lengths of their
//! two strings; those that a compiler passes are ignored. `C` and `CblasConjTrans` mean the
//! transpose, as the elements are real. Sizes of 0 are allowed. With `beta == 0` C is not read, with
//! `alpha == 0` neither A nor B, and their pointers may be null.
//!
//! A call runs on the calling thread, keeps no state, and allocates its scratch memory; any number
//! of threads may call at once. A result has the same bits as that of [`crate::gemm::sgemm`] or
//! [`crate::gemm::dgemm`], in either layout.
//!
//! # Errors
//!
//! Arguments are checked in the order of the reference: in row-major order, B's before A's. The
//! first wrong one is reported to the error handler by its position, from 1, in the argument list
//! of the routine that was called; C is untouched.
//!
//! | routine | handler | without one |
//! |---|---|---|
//! | `cblas_sgemm` | `cblas_xerbla(position, "cblas_sgemm", format, …)` | `Parameter 9 to routine cblas_sgemm was incorrect` |
//! | `sgemm_` | `xerbla_("SGEMM ", &position, 6)` | ` ** On entry to SGEMM parameter number  8 had an illegal value` |
//!
//! This library refers to the handlers weakly and does not define them. A definition in the program
//! wins, then that of the BLAS it is linked with, whether the program is linked with the static
//! library, with the shared one, or with neither and has it preloaded. (Where the definition lies
//! in a static library, `-Wl,-u,xerbla_` makes the linker include it; a program that opens the
//! library by `dlopen` exports its own with `-rdynamic`.) With an `xerbla_` and no `cblas_xerbla`,
//! `xerbla_` serves `cblas_sgemm` too, with the position that the argument has in `sgemm_`, 0 being
//! the layout. With neither, the message above goes to standard error and the process exits with
//! status 255, as after the reference's `cblas_xerbla`. (After the reference's `xerbla_` the status
//! is 0, which hides the error from a shell.) A handler may return, and the routine returns; it may
//! also leave by `longjmp` or throw a C++ exception. Handlers are found on ELF systems (Linux,
//! BSD); elsewhere it is always the message.
//!
//! The reference computes a row-major product as the transposed column-major one and reports the
//! positions of that call: m and n (4 and 5), lda and ldb (9 and 11) are exchanged. Its
//! `cblas_xerbla`, and those of programs written for it, such as netlib's testers, exchange them
//! back if the variable `RowMajorStrg` is set. Wrong numbers, as opposed to a wrong layout or
//! transpose, it reports to `xerbla_`, which calls `cblas_xerbla` if the variable `CBLAS_CallFromC`
//! is set. This library follows that protocol where the process has the variables:
//!
//! | the process has | `cblas_sgemm` |
//! |---|---|
//! | `RowMajorStrg` | sets it during the report, and exchanges the positions of a row-major call |
//! | `CBLAS_CallFromC` | sets it during the report, and reports wrong numbers to `xerbla_` |
//! | neither | reports to `cblas_xerbla` the position in the caller's argument list |
//!
//! Either way the user gets the position in the argument list of the call. The variables are written
//! only while an error is reported, and are 0 afterwards, as with the reference; a handler that does
//! not return leaves them set. They belong to the process, so if two errors are reported at the
//! same time, one in each layout, one may get the other's order, as with the reference's
//! handlers.
//!
//! Errors that BLAS cannot report end the process by `abort`, with a message: not enough scratch
//! memory, a `TILEWISE_ISA` that names an unavailable instruction set, a panic. No panic
//! unwinds into the caller.

use std::{
    ffi::{CStr, c_char, c_int},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::atomic::{AtomicI32, Ordering},
};

use crate::{gemm::blas::product, kernels::Element, threads::Threads};

/// The values of `CBLAS_LAYOUT`.
const ROW_MAJOR: c_int = 101;
const COL_MAJOR: c_int = 102;

/// The values of `CBLAS_TRANSPOSE`.
const NO_TRANS: c_int = 111;
const TRANS: c_int = 112;
const CONJ_TRANS: c_int = 113;

/// Name of a routine, as both interfaces pass it to their handlers.
#[derive(Clone, Copy)]
struct Routine {
    cblas: &'static CStr,
    /// Six letters.
    fortran: &'static CStr,
}

const SGEMM: Routine = Routine { cblas: c"cblas_sgemm", fortran: c"SGEMM " };
const DGEMM: Routine = Routine { cblas: c"cblas_dgemm", fortran: c"DGEMM " };

/// The arguments that both interfaces share, the numbers not yet checked.
struct Arguments<T> {
    by_rows: bool,
    /// Of A and of B.
    transposed: (bool, bool),
    /// m, n, k.
    sizes: (c_int, c_int, c_int),
    alpha: T,
    /// Elements, and the leading dimension.
    a: (*const T, c_int),
    b: (*const T, c_int),
    beta: T,
    c: (*mut T, c_int),
}

impl<T: Element> Arguments<T> {
    /// The Fortran position of the first argument that is wrong. The reference computes a product
    /// by rows transposed, and so checks its A and B the other way round.
    fn wrong(&self) -> Option<c_int> {
        let (m, n, k) = self.sizes;
        let least = |rows, cols, transposed| {
            let line: c_int = if self.by_rows != transposed { cols } else { rows };
            line.max(1)
        };
        let mut checks = [
            (m < 0, 3),
            (n < 0, 4),
            (k < 0, 5),
            (self.a.1 < least(m, k, self.transposed.0), 8),
            (self.b.1 < least(k, n, self.transposed.1), 10),
            (self.c.1 < least(m, n, false), 13),
        ];
        if self.by_rows {
            checks.swap(0, 1);
            checks.swap(3, 4);
        }
        checks.iter().find(|check| check.0).map(|check| check.1)
    }

    /// The product, of arguments that are not [`wrong`](Self::wrong).
    ///
    /// # Safety
    /// As for [`cblas_sgemm`].
    unsafe fn compute(&self, routine: &CStr) {
        let &Self { by_rows, transposed, sizes, alpha, a, b, beta, c } = self;
        let [m, n, k] = [sizes.0, sizes.1, sizes.2].map(|size| size as usize);
        let nothing_added = alpha == T::ZERO || k == 0;
        if m == 0 || n == 0 || nothing_added && beta == T::ONE {
            return;
        }
        let strides = |leading: c_int, transposed| {
            if by_rows != transposed { (leading as isize, 1) } else { (1, leading as isize) }
        };
        let (a_strides, b_strides) = (strides(a.1, transposed.0), strides(b.1, transposed.1));
        let c_strides = strides(c.1, false);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let a = (a.0, a_strides.0, a_strides.1);
            let b = (b.0, b_strides.0, b_strides.1);
            let c = (c.0, c_strides.0, c_strides.1);
            // SAFETY: the caller's promises; the leading dimensions were checked, so that the
            // elements of C are distinct.
            unsafe { product(Threads::Caller, (m, k, n), alpha, a, b, beta, c) }
        }));
        let detail = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a panic, reported above".to_owned(),
        };
        say(&format!("tilewise: {}: {detail}", routine.to_string_lossy().trim_end()));
        process::abort();
    }
}

/// Prints a line on standard error, if there is one.
fn say(line: &str) {
    // If the message cannot be printed, there is nowhere to report it.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints the message of a default handler and ends the process.
fn stop(line: &str) -> ! {
    say(line);
    process::exit(255)
}

/// Handlers of C++ programs may throw.
type CblasXerbla = unsafe extern "C-unwind" fn(c_int, *const c_char, *const c_char, ...);
type Xerbla = unsafe extern "C-unwind" fn(*const c_char, *const c_int, usize);

/// The error handlers of the process, and the variables by which those of the reference know where
/// a report comes from.
#[repr(C)]
struct Handlers {
    cblas: Option<CblasXerbla>,
    fortran: Option<Xerbla>,
    /// `RowMajorStrg`: positions are those of the column-major call that computes a row-major one.
    row_major: Option<&'static AtomicI32>,
    /// `CBLAS_CallFromC`: the error passed to `xerbla_` comes from a `cblas_` routine.
    call_from_c: Option<&'static AtomicI32>,
}

impl Handlers {
    /// Sets those variables of the reference that the process has.
    fn set_variables(&self, row_major: bool, call_from_c: bool) {
        for (variable, value) in [(self.row_major, row_major), (self.call_from_c, call_from_c)] {
            if let Some(variable) = variable {
                variable.store(value.into(), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(all(unix, not(target_vendor = "apple")))]
mod elf {
    // Addresses of symbols that need not exist: the linker fills in those of a static program, the
    // loader those of a program that has this library loaded, and 0 if they are not defined.
    std::arch::global_asm!(
        ".weak cblas_xerbla",
        ".weak xerbla_",
        ".weak RowMajorStrg",
        ".weak CBLAS_CallFromC",
        ".pushsection .data.rel.ro.tilewise_blas_handlers, \"aw\", %progbits",
        ".balign {size}",
        ".globl TILEWISE_BLAS_HANDLERS",
        ".hidden TILEWISE_BLAS_HANDLERS",
        ".type TILEWISE_BLAS_HANDLERS, %object",
        ".size TILEWISE_BLAS_HANDLERS, 4 * {size}",
        "TILEWISE_BLAS_HANDLERS:",
        ".{size}byte cblas_xerbla",
        ".{size}byte xerbla_",
        ".{size}byte RowMajorStrg",
        ".{size}byte CBLAS_CallFromC",
        ".popsection",
        size = const size_of::<usize>(),
    );

    // SAFETY: the assembly above defines it so, and nothing changes it once it is relocated. The
    // variables are an `int` each wherever they are defined, and C code reads them only in the
    // handlers, after they are written here.
    unsafe extern "C" {
        pub(super) safe static TILEWISE_BLAS_HANDLERS: super::Handlers;
    }
}

#[cfg(all(unix, not(target_vendor = "apple")))]
use elf::TILEWISE_BLAS_HANDLERS;

#[cfg(not(all(unix, not(target_vendor = "apple"))))]
static TILEWISE_BLAS_HANDLERS: Handlers =
    Handlers { cblas: None, fortran: None, row_major: None, call_from_c: None };

/// Reports a wrong argument of a `cblas_` routine, by its position in the caller's list. `setting`
/// describes a value that is not a CBLAS setting.
fn report(
    routine: Routine,
    row_major: bool,
    position: c_int,
    setting: Option<(&'static CStr, c_int)>,
) {
    // Nothing here has a destructor, so that a handler may jump out.
    let handlers = &TILEWISE_BLAS_HANDLERS;
    let name = routine.cblas.as_ptr();
    let told = match position {
        4 | 5 if row_major && handlers.row_major.is_some() => 9 - position,
        9 | 11 if row_major && handlers.row_major.is_some() => 20 - position,
        _ => position,
    };
    handlers.set_variables(row_major, true);
    match (handlers, setting) {
        (Handlers { fortran: Some(handler), call_from_c: Some(_), .. }, None) => {
            tell(*handler, routine, told - 1);
        }
        (Handlers { cblas: Some(handler), .. }, Some((format, value))) => {
            // SAFETY: `cblas_xerbla` takes a format and its arguments, here one `int`.
            unsafe { handler(told, name, format.as_ptr(), value) }
        }
        (Handlers { cblas: Some(handler), .. }, None) => {
            // SAFETY: `cblas_xerbla` takes a format and its arguments; this one has none.
            unsafe { handler(told, name, c"".as_ptr()) }
        }
        (Handlers { fortran: Some(handler), .. }, _) => tell(*handler, routine, told - 1),
        _ => {
            let routine = routine.cblas.to_string_lossy();
            let line = format!("Parameter {position} to routine {routine} was incorrect");
            let detail = setting.map(|(format, value)| {
                format!(
                    "\n{}",
                    format.to_string_lossy().trim_end().replace("%d", &value.to_string())
                )
            });
            stop(&(line + &detail.unwrap_or_default()))
        }
    }
    handlers.set_variables(false, false);
}

/// Reports a wrong argument of a Fortran routine. `CBLAS_CallFromC` is left alone: a `cblas_`
/// routine of another library may have called.
fn report_fortran(routine: Routine, position: c_int) {
    if let Some(handler) = TILEWISE_BLAS_HANDLERS.fortran {
        tell(handler, routine, position);
    } else {
        let name = routine.fortran.to_string_lossy();
        stop(&format!(
            " ** On entry to {} parameter number {position:2} had an illegal value",
            name.trim_end()
        ))
    }
}

/// Calls the error handler of Fortran programs.
fn tell(handler: Xerbla, routine: Routine, position: c_int) {
    let name = routine.fortran;
    // SAFETY: `xerbla_` takes a name of that many letters, and the address of a number.
    unsafe { handler(name.as_ptr(), &position, name.count_bytes()) }
}

/// Whether a value of `CBLAS_TRANSPOSE` means the transpose.
fn cblas_transposed(trans: c_int) -> Option<bool> {
    match trans {
        NO_TRANS => Some(false),
        TRANS | CONJ_TRANS => Some(true),
        _ => None,
    }
}

/// Whether a letter of Fortran's means the transpose.
fn fortran_transposed(trans: c_char) -> Option<bool> {
    match (trans as u8).to_ascii_uppercase() {
        b'N' => Some(false),
        b'T' | b'C' => Some(true),
        _ => None,
    }
}

macro_rules! routines {
    ($cblas:ident, $fortran:ident, $routine:ident, $t:ident) => {
        /// `C = alpha op(A) op(B) + beta C`, as C programs call it; see the [module](self).
        ///
        /// # Safety
        /// - The elements of op(A) (m, k), op(B) (k, n) and C (m, n) are readable, as far as they
        ///   are read, and those of C writable, at the leading dimensions given.
        /// - No element of C is one of A or B.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $cblas(
            layout: c_int,
            trans_a: c_int,
            trans_b: c_int,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: $t,
            a: *const $t,
            lda: c_int,
            b: *const $t,
            ldb: c_int,
            beta: $t,
            c: *mut $t,
            ldc: c_int,
        ) {
            let by_rows = layout == ROW_MAJOR;
            let illegal = |position, format: &'static CStr, value: c_int| {
                report($routine, by_rows, position, Some((format, value)));
            };
            if !by_rows && layout != COL_MAJOR {
                return illegal(1, c"Illegal layout setting, %d\n", layout);
            }
            let Some(transposed_a) = cblas_transposed(trans_a) else {
                return illegal(2, c"Illegal TransA setting, %d\n", trans_a);
            };
            let Some(transposed_b) = cblas_transposed(trans_b) else {
                return illegal(3, c"Illegal TransB setting, %d\n", trans_b);
            };
            let arguments = Arguments {
                by_rows,
                transposed: (transposed_a, transposed_b),
                sizes: (m, n, k),
                alpha,
                a: (a, lda),
                b: (b, ldb),
                beta,
                c: (c, ldc),
            };
            if let Some(position) = arguments.wrong() {
                return report($routine, by_rows, position + 1, None);
            }
            // SAFETY: the caller's promises, and the arguments are right.
            unsafe { arguments.compute($routine.cblas) }
        }

        /// `C = alpha op(A) op(B) + beta C` by columns, as Fortran programs call it; see the
        /// [module](self).
        ///
        /// # Safety
        /// - Every argument points to a value of its type; of the strings one letter is read.
        /// - The matrices are as the C routine asks for them.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $fortran(
            trans_a: *const c_char,
            trans_b: *const c_char,
            m: *const c_int,
            n: *const c_int,
            k: *const c_int,
            alpha: *const $t,
            a: *const $t,
            lda: *const c_int,
            b: *const $t,
            ldb: *const c_int,
            beta: *const $t,
            c: *mut $t,
            ldc: *const c_int,
        ) {
            // SAFETY: the caller vouches for the letters.
            let trans = unsafe { (*trans_a, *trans_b) };
            let Some(transposed_a) = fortran_transposed(trans.0) else {
                return report_fortran($routine, 1);
            };
            let Some(transposed_b) = fortran_transposed(trans.1) else {
                return report_fortran($routine, 2);
            };
            // SAFETY: the caller vouches for the numbers.
            let arguments = unsafe {
                Arguments {
                    by_rows: false,
                    transposed: (transposed_a, transposed_b),
                    sizes: (*m, *n, *k),
                    alpha: *alpha,
                    a: (a, *lda),
                    b: (b, *ldb),
                    beta: *beta,
                    c: (c, *ldc),
                }
            };
            if let Some(position) = arguments.wrong() {
                return report_fortran($routine, position);
            }
            // SAFETY: the caller's promises, and the arguments are right.
            unsafe { arguments.compute($routine.fortran) }
        }
    };
}

routines!(cblas_sgemm, sgemm_, SGEMM, f32);
routines!(cblas_dgemm, dgemm_, DGEMM, f64);
