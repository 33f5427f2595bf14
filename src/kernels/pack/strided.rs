//! A strided matrix as the source of panels.

use crate::{
    float::Float,
    kernels::{
        pack::runs::{Rectangle, Runs},
        product::PanelElement,
    },
    simd::Isa,
};

/// A matrix of which one stride is 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strided<E: PanelElement> {
    pub(super) ptr: *const E,
    /// Elements from one run to the next.
    pub(super) stride: isize,
    /// Factor of every element.
    pub(super) scale: E::Value,
}

impl<T: Float> Runs<T> for Strided<T> {
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
    fn in_place(self, run: usize, at: usize) -> Option<*const T> {
        let place = self.ptr.wrapping_offset(run as isize * self.stride).wrapping_add(at);
        (self.scale == T::ONE).then_some(place)
    }

    #[inline(always)]
    fn prefetch<S: Isa<T>>(self, isa: S, run: usize, at: usize) {
        let step = (run as isize).wrapping_mul(self.stride);
        isa.prefetch(self.ptr.wrapping_offset(step).wrapping_add(at).cast());
    }
}

/// Packs a matrix of which no stride is 1, element by element; its runs are lines.
///
/// # Safety
/// As for [`pack`](super::pack), with `sums` null.
pub(super) unsafe fn pack_elements<T: Float>(rectangle: &Rectangle<T, Strided<T>>, step: isize) {
    let Rectangle { runs, lines, depth, width, dst, .. } = *rectangle;
    for line in 0..lines.next_multiple_of(width) {
        let to = dst.wrapping_add(line / width * width * depth + line % width);
        let run = runs.ptr.wrapping_offset(line as isize * runs.stride);
        for p in 0..depth {
            // SAFETY: an element of a line, or nothing after the last one, and its place.
            unsafe {
                let value = if line < lines { *run.offset(p as isize * step) } else { T::ZERO };
                *to.add(p * width) = value * runs.scale;
            }
        }
    }
}
