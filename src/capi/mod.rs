//! The C ABI: opaque handles, status codes, and the text of the last error. `include/tilewise.h` is
//! made from this module by cbindgen; its opening comment has the rules for callers, which
//! `cbindgen.toml` holds.
//!
//! Every function checks what it can before it writes anything, runs inside of [`guard`], which
//! catches panics, and does not change its outputs if it fails.
//!
//! # Safety
//! Of all `extern "C"` functions, and of the functions in `pointers` and `matrix` that read what a
//! C caller points to:
//! - A pointer that is not null points to what the parameter says during the call; numbers that are
//!   read are initialized. Those that are only written need not be.
//! - No other code uses the target of a mutable pointer during the call.
//! - A handle came from the function that makes its kind and was not destroyed.

mod error;
mod gemm;
mod handle;
mod matrix;
mod pointers;
mod pool;
mod precision;
mod predictor;
mod trainer;

use std::ffi::{CStr, c_char};

use crate::simd::InstructionSet;
use error::{Status, guard};
use pointers::room;

/// Number of the ABI that this header declares: structs, parameters, enumerators and their
/// meanings. It changes whenever one of these changes, but not when functions are added.
pub const TILEWISE_ABI_VERSION: u32 = 2;

/// ABI number of the library. A program that was compiled with another
/// `TILEWISE_ABI_VERSION` must not use the library: see `TILEWISE_ABI_MATCHES`.
#[unsafe(no_mangle)]
pub extern "C" fn tilewise_abi_version() -> u32 {
    TILEWISE_ABI_VERSION
}

/// The version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn tilewise_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The name of the instruction set in use, "avx512bf16", "avx512", "avx2" or "portable", into
/// `name`, which stays valid as long as the library is loaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_instruction_set(name: *mut *const c_char) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of this module.
        let name = unsafe { room("name", name)? };
        name.write(set_name(InstructionSet::preferred()?).as_ptr());
        Ok(())
    })
}

fn set_name(set: InstructionSet) -> &'static CStr {
    match set {
        InstructionSet::Portable => c"portable",
        InstructionSet::Avx2 => c"avx2",
        InstructionSet::Avx512 => c"avx512",
        InstructionSet::Avx512Bf16 => c"avx512bf16",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_the_same_names_as_in_rust() {
        for set in InstructionSet::ALL {
            assert_eq!(set_name(set).to_str().unwrap(), set.to_string());
        }
    }
}
