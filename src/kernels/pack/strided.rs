//! A strided matrix as the source of panels.

use crate::{
    float::Float,
    kernels::pack::{Packing, Source},
    simd::Isa,
};

/// A matrix of which one stride is 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided<T> {
    pub(crate) ptr: *const T,
    /// Elements from one run to the next.
    pub(crate) stride: isize,
    /// Factor of every element.
    pub(crate) scale: T,
}

impl<T: Float> Source<T> for Strided<T> {
    type Columns<S: Isa<T>> = ();

    const BY_PANEL: bool = false;

    #[inline(always)]
    unsafe fn columns<S: Isa<T>>(self, _isa: S, _at: usize, _count: usize) {}

    #[inline(always)]
    unsafe fn load<S: Isa<T>>(
        self,
        isa: S,
        (): (),
        run: usize,
        at: usize,
        count: usize,
    ) -> S::Vector {
        // SAFETY: the caller vouches for the elements.
        let vector =
            unsafe { isa.load_up_to(self.ptr.offset(run as isize * self.stride).add(at), count) };
        isa.mul(vector, isa.splat(self.scale))
    }

    #[inline(always)]
    fn prefetch<S: Isa<T>>(self, isa: S, run: usize, at: usize) {
        let step = (run as isize).wrapping_mul(self.stride);
        isa.prefetch(self.ptr.wrapping_offset(step).wrapping_add(at));
    }
}

/// Packs a matrix of which no stride is 1, element by element; its runs are lines.
///
/// # Safety
/// As for [`pack`], with `sums` null.
pub(crate) unsafe fn pack_elements<T: Float>(packing: &Packing<T, Strided<T>>, step: isize) {
    let Packing { source, lines, depth, width, dst, .. } = *packing;
    for line in 0..lines.next_multiple_of(width) {
        let to = dst.wrapping_add(line / width * width * depth + line % width);
        let run = source.ptr.wrapping_offset(line as isize * source.stride);
        for p in 0..depth {
            // SAFETY: an element of a line, or nothing behind the last one, and its place.
            unsafe {
                let inside = line < lines;
                let value = if inside { *run.offset(p as isize * step) } else { T::ZERO };
                *to.add(p * width) = value * source.scale;
            }
        }
    }
}
