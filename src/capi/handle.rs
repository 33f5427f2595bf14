//! Handles: how they are created and destroyed, and the lock of those for one thread at a time.

use std::{
    mem::MaybeUninit,
    sync::{Mutex, MutexGuard, TryLockError},
};

use crate::capi::error::{Failure, Status, guard};

/// A value that one thread at a time may use. A second thread gets an error instead of waiting.
#[derive(Debug)]
pub(super) struct Exclusive<T>(Mutex<T>);

impl<T> Exclusive<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// The value, while the guard lives.
    pub(super) fn take(&self, what: &str) -> Result<MutexGuard<'_, T>, Failure> {
        self.0.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let text = format!("{what} is in use by another thread: use one for each thread");
                Failure::new(Status::Busy, text)
            }
            TryLockError::Poisoned(_) => {
                let text = format!("{what} is invalid after a bug in an earlier call: destroy it");
                Failure::new(Status::Internal, text)
            }
        })
    }
}

/// Gives a new object to the caller, whose threads may share it.
pub(super) fn give<T: Send + Sync>(object: T, out: &mut MaybeUninit<*mut T>) {
    out.write(Box::into_raw(Box::new(object)));
}

/// Destroys an object; null does nothing.
///
/// # Safety
/// `handle` is null or came from [`give`] and was not destroyed; it is not in use.
pub(super) unsafe fn destroy<T>(handle: *mut T) {
    if handle.is_null() {
        return;
    }
    guard(|| {
        // SAFETY: `give` made it of a box, and this is the only time that it is taken back.
        drop(unsafe { Box::from_raw(handle) });
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_user_is_refused_and_so_is_everyone_after_a_panic() {
        let value = Exclusive::new(1);
        let found = || value.take("it").map(|value| *value).map_err(Failure::status);
        let first = value.take("it").unwrap();
        assert_eq!(found(), Err(Status::Busy));
        drop(first);
        assert_eq!(found(), Ok(1));
        let status = guard(|| {
            let _broken = value.take("it")?;
            panic!("in use");
        });
        assert_eq!((status, found()), (Status::Internal, Err(Status::Internal)));
    }
}
