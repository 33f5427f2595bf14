//! A strided matrix as the source of panels.

use crate::{
    float::Float,
    kernels::{
        pack::runs::{PanelAccess, Rectangle, Runs},
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

impl<E: PanelAccess> Runs<E> for Strided<E> {
    type Columns<S: Isa<E::Value>> = ();

    const BY_PANEL: bool = false;

    #[inline(always)]
    unsafe fn columns<S: Isa<E::Value>>(self, _isa: S, _at: usize, _count: usize) {}

    #[inline(always)]
    unsafe fn load<S: Isa<E::Value>>(
        self,
        isa: S,
        (): (),
        run: usize,
        at: usize,
        count: usize,
    ) -> S::Vector {
        // SAFETY: the caller vouches for the elements.
        let vector =
            unsafe { E::load(isa, self.ptr.offset(run as isize * self.stride).add(at), count) };
        isa.mul(vector, isa.splat(self.scale))
    }

    #[inline(always)]
    fn prefetch<S: Isa<E::Value>>(self, isa: S, run: usize, at: usize) {
        let step = (run as isize).wrapping_mul(self.stride);
        isa.prefetch(self.ptr.wrapping_offset(step).wrapping_add(at).cast());
    }
}

/// Packs a matrix of which no stride is 1, element by element; its runs are lines.
///
/// # Safety
/// As for [`pack`](super::pack), with `sums` null.
pub(super) unsafe fn pack_elements<E: PanelElement>(
    rectangle: &Rectangle<E, Strided<E>>,
    step: isize,
) {
    let Rectangle { runs, lines, depth, width, dst, .. } = *rectangle;
    for line in 0..lines.next_multiple_of(width) {
        let to = dst.wrapping_add(line / width * width * depth + line % width);
        let run = runs.ptr.wrapping_offset(line as isize * runs.stride);
        for p in 0..depth {
            // SAFETY: an element of a line, or nothing after the last one, and its place.
            unsafe {
                let inside = line < lines;
                let value =
                    if inside { (*run.offset(p as isize * step)).value() } else { E::Value::ZERO };
                *to.add(p * width) = E::nearest(value * runs.scale);
            }
        }
    }
}
