//! Status codes, the text of a thread's last error, and the guard around every function.

use std::{
    any::Any,
    cell::RefCell,
    ffi::{CString, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::error::Error;

/// The result of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// A pointer is null or not aligned.
    Pointer = 1,
    /// Sizes, lengths or strides do not fit each other or the address space.
    Shape = 2,
    /// A setting, a label or an enumerator has an invalid value, an operand or scratch was made for
    /// something else, or memory that is written overlaps memory that is read.
    Setting = 3,
    /// Out of memory.
    Memory = 4,
    /// The content of a file is invalid or does not fit the handle.
    File = 5,
    /// The operating system refused to read or write a file.
    Io = 6,
    /// The loss is not finite; nothing was updated.
    Diverged = 7,
    /// This machine lacks the instruction set that `TILEWISE_ISA` names, or cannot start threads.
    Unavailable = 8,
    /// Another thread is using a handle that one thread at a time may use.
    Busy = 9,
    /// A bug in tilewise. Handles that were used in the call, and that only one thread at a time may
    /// use, can only be destroyed.
    Internal = 10,
}

/// Why a call failed.
#[derive(Debug)]
pub(super) struct Failure {
    status: Status,
    text: String,
}

impl Failure {
    pub(super) fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    #[cfg(test)]
    pub(super) fn status(self) -> Status {
        self.status
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Shape { .. }
            | Error::Length { .. }
            | Error::OutOfBounds { .. }
            | Error::Overlap { .. }
            | Error::BatchTooLarge { .. } => Status::Shape,
            Error::Setting { .. }
            | Error::Settings { .. }
            | Error::OutsidePool { .. }
            | Error::OtherNetwork { .. }
            | Error::Frozen { .. }
            | Error::IncompleteBatch { .. }
            | Error::NoNormalization
            | Error::Label { .. } => Status::Setting,
            Error::SizeOverflow { .. } => Status::Memory,
            Error::File { .. }
            | Error::MissingTensor { .. }
            | Error::UnexpectedTensor { .. }
            | Error::TensorShape { .. }
            | Error::UnsupportedFormat { .. } => Status::File,
            Error::Io { .. } | Error::Download { .. } => Status::Io,
            Error::Diverged { .. } | Error::NotFinite { .. } => Status::Diverged,
            Error::IsaUnavailable { .. } | Error::ThreadPool { .. } => Status::Unavailable,
        };
        Self::new(status, error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// The text of the last error on the calling thread, in UTF-8; empty if there was none. It lives
/// until the next call on this thread that fails, or the end of the thread. A successful call does
/// not change it.
#[unsafe(no_mangle)]
pub extern "C" fn tilewise_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Runs the body of a function. An error or a panic becomes a status, and its text the thread's
/// last error.
pub(super) fn guard(work: impl FnOnce() -> Result<(), Failure>) -> Status {
    // State that a panic can leave half done is inside a mutex, which is then poisoned.
    let Failure { status, text } = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = format!("a bug in tilewise, please report it: {}", message(&*panic));
            Failure { status: Status::Internal, text }
        }
    };
    let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
    // A thread that is about to end has no text.
    let _ = LAST.try_with(|last| last.replace(text));
    status
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last_error() -> String {
        // SAFETY: the text lives until the next failure on this thread.
        unsafe { CStr::from_ptr(tilewise_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_a_status_with_its_text() {
        assert_eq!(guard(|| panic!("index {} is bad", 7)), Status::Internal);
        assert!(last_error().ends_with("index 7 is bad"), "{}", last_error());
        assert_eq!(guard(|| panic!("plain")), Status::Internal);
        assert!(last_error().ends_with("plain"), "{}", last_error());
    }

    #[test]
    fn the_text_stays_until_the_next_failure_and_belongs_to_its_thread() {
        assert_eq!(last_error(), "");
        let fail = || Err(Failure::new(Status::Shape, "a text with \0 in it"));
        assert_eq!(guard(fail), Status::Shape);
        assert_eq!(guard(|| Ok(())), Status::Ok);
        assert_eq!(last_error(), "a text with \u{fffd} in it");
        std::thread::spawn(|| assert_eq!(last_error(), "")).join().unwrap();
    }
}
