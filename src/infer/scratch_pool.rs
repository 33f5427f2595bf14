//! `ScratchPool`: a fixed number of scratches, for callers that do not keep one for each thread.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Mutex, MutexGuard, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    error::{Error, Result},
    infer::predictor::Scratch,
    kernels::Element,
};

/// Scratches that any thread can take and give back, without blocking or allocating. The bits of
/// atomic words mark the free ones; the thread that clears a bit owns that scratch.
#[derive(Debug)]
pub struct ScratchPool<T: Element> {
    free: Vec<AtomicU64>,
    /// Bit `i` of the words is for scratch `i`. No thread ever waits for these locks.
    scratches: Vec<Mutex<Scratch<T>>>,
}

impl<T: Element> ScratchPool<T> {
    /// `count` copies of `scratch`.
    ///
    /// # Errors
    /// [`Error::Setting`] if `count` is 0, [`Error::SizeOverflow`] if the memory exceeds what there
    /// is.
    pub fn new(scratch: &Scratch<T>, count: usize) -> Result<Self> {
        if count == 0 {
            return Err(Error::setting("scratches", count, "at least 1"));
        }
        let bits = |first: usize| match count - first {
            rest @ 0..64 => (1 << rest) - 1,
            _ => u64::MAX,
        };
        let scratches = (0..count).map(|_| scratch.try_clone().map(Mutex::new));
        Ok(Self {
            free: (0..count).step_by(64).map(|first| AtomicU64::new(bits(first))).collect(),
            scratches: scratches.collect::<Result<_>>()?,
        })
    }

    /// Number of scratches.
    pub fn count(&self) -> usize {
        self.scratches.len()
    }

    /// A scratch that returns to the pool when it is dropped, or `None` while all are taken. With one
    /// scratch for each predicting thread there is always a free one.
    pub fn take(&self) -> Option<PooledScratch<'_, T>> {
        for (number, word) in self.free.iter().enumerate() {
            let mut bits = word.load(Ordering::Relaxed);
            while bits != 0 {
                let rest = bits & (bits - 1);
                match word.compare_exchange_weak(bits, rest, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => {
                        let index = 64 * number + bits.trailing_zeros() as usize;
                        let scratch = match self.scratches[index].try_lock() {
                            Ok(scratch) => scratch,
                            // A panic cannot leave a scratch in an invalid state.
                            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                            Err(TryLockError::WouldBlock) => {
                                unreachable!("whoever clears the bit is alone")
                            }
                        };
                        return Some(PooledScratch { pool: self, index, scratch: Some(scratch) });
                    }
                    Err(now) => bits = now,
                }
            }
        }
        None
    }
}

/// A [`Scratch`] taken from a [`ScratchPool`].
#[derive(Debug)]
pub struct PooledScratch<'a, T: Element> {
    pool: &'a ScratchPool<T>,
    index: usize,
    /// There until it is dropped.
    scratch: Option<MutexGuard<'a, Scratch<T>>>,
}

impl<T: Element> Deref for PooledScratch<'_, T> {
    type Target = Scratch<T>;

    fn deref(&self) -> &Scratch<T> {
        self.scratch.as_ref().expect("taken back only when dropped")
    }
}

impl<T: Element> DerefMut for PooledScratch<'_, T> {
    fn deref_mut(&mut self) -> &mut Scratch<T> {
        self.scratch.as_mut().expect("taken back only when dropped")
    }
}

impl<T: Element> Drop for PooledScratch<'_, T> {
    fn drop(&mut self) {
        // The lock first, so that it is open when the bit says so.
        self.scratch = None;
        self.pool.free[self.index / 64].fetch_or(1 << (self.index % 64), Ordering::Release);
    }
}
