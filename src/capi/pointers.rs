//! Pointers from C callers: checked as far as possible, then borrowed for the duration of the call.
//! The safety of all functions here is that of the module `capi`.

use std::{
    ffi::{CStr, c_char},
    mem::MaybeUninit,
    path::Path,
    slice,
};

use crate::capi::error::{Failure, Status};

/// An error if a pointer is null or misaligned.
pub(super) fn check<T>(what: &str, pointer: *const T) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::new(Status::Pointer, format!("{what} is null")));
    }
    if !pointer.is_aligned() {
        let text = format!("{what} = {pointer:p}: expected a multiple of {}", align_of::<T>());
        return Err(Failure::new(Status::Pointer, text));
    }
    Ok(())
}

/// A struct or a handle.
pub(super) unsafe fn shared<'a, T>(what: &str, pointer: *const T) -> Result<&'a T, Failure> {
    check(what, pointer)?;
    // SAFETY: it is neither null nor misaligned, and by the rules of `capi` it points to a T that
    // does not change.
    Ok(unsafe { &*pointer })
}

/// A struct or a handle that may be missing.
pub(super) unsafe fn optional<'a, T>(
    what: &str,
    pointer: *const T,
) -> Result<Option<&'a T>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promises are passed on.
    unsafe { shared(what, pointer).map(Some) }
}

/// The place for a result.
pub(super) unsafe fn room<'a, T>(
    what: &str,
    pointer: *mut T,
) -> Result<&'a mut MaybeUninit<T>, Failure> {
    check(what, pointer)?;
    // SAFETY: it is neither null nor misaligned, and by the rules of `capi` it points to room for
    // a T that no other code uses.
    Ok(unsafe { &mut *pointer.cast() })
}

/// An error unless `len` elements from `pointer` on fit the address space; the pointer is not
/// checked if `len` is 0.
fn check_len<T>(what: &str, pointer: *const T, len: usize) -> Result<(), Failure> {
    if len == 0 {
        return Ok(());
    }
    check(what, pointer)?;
    let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
    if bytes.and_then(|bytes| pointer.addr().checked_add(bytes)).is_none() {
        let text = format!("{what}: {len} elements exceed the address space; check the length");
        return Err(Failure::new(Status::Shape, text));
    }
    Ok(())
}

/// `len` elements to be read.
pub(super) unsafe fn elements<'a, T>(
    what: &str,
    pointer: *const T,
    len: usize,
) -> Result<&'a [T], Failure> {
    check_len(what, pointer, len)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: pointer and length were checked; by the rules of `capi` the elements are there and
    // do not change.
    Ok(unsafe { slice::from_raw_parts(pointer, len) })
}

/// Room for `len` elements, which need not be initialized.
pub(super) unsafe fn rooms<'a, T>(
    what: &str,
    pointer: *mut T,
    len: usize,
) -> Result<&'a mut [MaybeUninit<T>], Failure> {
    check_len(what, pointer, len)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: pointer and length were checked; by the rules of `capi` there is room for as many
    // elements that no other code uses, and `MaybeUninit` needs no values in it.
    Ok(unsafe { slice::from_raw_parts_mut(pointer.cast(), len) })
}

/// A text that ends with a zero byte.
pub(super) unsafe fn text<'a>(what: &str, pointer: *const c_char) -> Result<&'a str, Failure> {
    check(what, pointer)?;
    // SAFETY: it is not null, and by the rules of `capi` a zero byte ends it.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| {
        let text = format!("{what} = {:?}: expected UTF-8", text.to_string_lossy());
        Failure::new(Status::Setting, text)
    })
}

/// The name of a file.
pub(super) unsafe fn path<'a>(pointer: *const c_char) -> Result<&'a Path, Failure> {
    // SAFETY: the caller's promises are passed on.
    unsafe { text("path", pointer).map(Path::new) }
}
