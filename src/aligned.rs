//! `AlignedBuf`: zeroed memory on a cache-line boundary, used for all numeric memory.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};

/// Bytes of a cache line, and the alignment of every [`AlignedBuf`].
pub const ALIGNMENT: usize = 64;

/// A fixed number of zeroed elements on a 64-byte boundary; it dereferences to a slice.
pub struct AlignedBuf<T: Copy + Zeroable> {
    ptr: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer owns its elements as a `Vec` would; `T` is plain data behind `Copy`.
unsafe impl<T: Copy + Zeroable + Send> Send for AlignedBuf<T> {}
// SAFETY: as above; a shared buffer only hands out `&[T]`.
unsafe impl<T: Copy + Zeroable + Sync> Sync for AlignedBuf<T> {}

impl<T: Copy + Zeroable> AlignedBuf<T> {
    /// `len` elements, all zero.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if their bytes exceed the address space or there is not enough memory.
    pub fn zeroed(len: usize) -> Result<Self> {
        let layout = Self::layout(len)?;
        if layout.size() == 0 {
            return Ok(Self { ptr: NonNull::dangling(), len });
        }
        // SAFETY: the layout's size is not zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr.cast::<T>()).ok_or(Self::too_large(len))?;
        Ok(Self { ptr, len })
    }

    /// A copy.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if the memory is exhausted.
    pub fn try_clone(&self) -> Result<Self> {
        let mut copy = Self::zeroed(self.len)?;
        copy.copy_from_slice(self);
        Ok(copy)
    }

    fn layout(len: usize) -> Result<Layout> {
        let array = Layout::array::<T>(len).and_then(|l| l.align_to(ALIGNMENT));
        array.map_err(|_| Self::too_large(len))
    }

    fn too_large(len: usize) -> Error {
        Error::SizeOverflow { what: "aligned buffer", rows: 1, cols: len }
    }
}

impl<T: Copy + Zeroable> Drop for AlignedBuf<T> {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.len)
            && layout.size() != 0
        {
            // SAFETY: the pointer came from `alloc_zeroed` with this very layout.
            unsafe { dealloc(self.ptr.as_ptr().cast(), layout) }
        }
    }
}

impl<T: Copy + Zeroable> Deref for AlignedBuf<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `ptr` holds `len` elements, zeroed at the start and initialized ever since;
        // when `len` is 0 or `T` has no size it is dangling and aligned, as slices allow.
        unsafe { slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Copy + Zeroable> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Copy + Zeroable> fmt::Debug for AlignedBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The part of `bytes` from the first cache-line boundary in it.
pub(crate) fn from_cache_line(bytes: &mut [u8]) -> &mut [u8] {
    let skipped = bytes.as_ptr().align_offset(ALIGNMENT).min(bytes.len());
    &mut bytes[skipped..]
}

/// The first `count` elements in `bytes`, which must start on a cache line unless `count` is 0.
pub(crate) fn elements<T: Pod>(bytes: &mut [u8], count: usize) -> &mut [T] {
    match count * size_of::<T>() {
        0 => &mut [],
        len => bytemuck::cast_slice_mut(&mut bytes[..len]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zeroed() {
        for len in [0, 1, 7, 1000] {
            let buf = AlignedBuf::<f32>::zeroed(len).unwrap();
            assert_eq!(buf.len(), len);
            assert!(buf.iter().all(|&x| x == 0.0));
            assert!(len == 0 || buf.as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
    }

    #[test]
    fn elements_begin_at_a_cache_line_of_any_bytes() {
        let mut bytes = [0u8; 300];
        for start in 0..64 {
            let part = from_cache_line(&mut bytes[start..]);
            assert!(part.len() > 300 - 64 - 64 && part.as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert_eq!(elements::<f64>(part, 16).len(), 16);
        }
        let nothing = from_cache_line(&mut bytes[1..1]);
        assert!(elements::<f64>(nothing, 0).is_empty());
    }

    #[test]
    fn a_copy_has_memory_of_its_own() {
        let mut a = AlignedBuf::<f64>::zeroed(3).unwrap();
        a[1] = 2.0;
        let b = a.try_clone().unwrap();
        a[1] = 3.0;
        assert_eq!(&b[..], &[0.0, 2.0, 0.0]);
    }

    #[test]
    fn a_size_beyond_the_address_space_is_an_error() {
        let error = AlignedBuf::<f64>::zeroed(usize::MAX / 4).unwrap_err();
        assert!(matches!(error, Error::SizeOverflow { cols, .. } if cols == usize::MAX / 4));
    }
}
