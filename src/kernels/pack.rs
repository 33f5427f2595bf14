//! Packing: an operand copied into panels in the order in which the microkernel reads it.
//!
//! A panel holds `width` lines of the operand (rows of A, columns of B); for each p of the depth
//! its `width` elements stand side by side. The last panel is filled up with zeros, which the
//! kernel multiplies but never stores.
//!
//! ```text
//! dst[panel][p][i] = scale * src[(panel * width + i) * line_stride + p * depth_stride]
//! ```

use crate::{float::Float, simd::Isa};

/// A rectangle of an operand and where to put its panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing<T> {
    /// Element (line 0, p = 0).
    pub(crate) src: *const T,
    /// Elements from one line to the next.
    pub(crate) line_stride: isize,
    /// Elements from one p to the next.
    pub(crate) depth_stride: isize,
    /// Lines to pack.
    pub(crate) lines: usize,
    /// Elements of a line to pack.
    pub(crate) depth: usize,
    /// Lines in a panel.
    pub(crate) width: usize,
    /// Factor of every element.
    pub(crate) scale: T,
    /// Room for `lines` rounded up to whole panels, times `depth`.
    pub(crate) dst: *mut T,
}

/// Packs a rectangle.
///
/// # Safety
/// - All `lines * depth` elements of the source are readable.
/// - `dst` is writable for `lines.next_multiple_of(width) * depth` elements and overlaps no
///   source element.
#[inline(always)]
pub(crate) unsafe fn pack<S: Isa<T>, T: Float>(isa: S, packing: &Packing<T>) {
    let Packing { src, line_stride, depth_stride, depth, width, lines, .. } = *packing;
    let mut line = 0;
    while line < lines {
        let used = width.min(lines - line);
        let panel = Packing {
            src: src.wrapping_offset(line as isize * line_stride),
            lines: used,
            dst: packing.dst.wrapping_add(line * depth),
            ..*packing
        };
        // SAFETY: the panel's lines are among the caller's, and its elements start behind those
        // of the panels before it.
        unsafe {
            if used < width {
                panel.dst.write_bytes(0, width * depth);
            }
            if line_stride == 1 {
                pack_side_by_side(isa, &panel);
            } else if depth_stride == 1 {
                pack_transposed(isa, &panel);
            } else {
                pack_strided(&panel);
            }
        }
        line += width;
    }
}

/// One panel whose lines stand side by side in memory: whole vectors are copied.
///
/// # Safety
/// As for [`pack`], with `lines <= width`.
#[inline(always)]
unsafe fn pack_side_by_side<S: Isa<T>, T: Float>(isa: S, panel: &Packing<T>) {
    let scale = isa.splat(panel.scale);
    for p in 0..panel.depth {
        let mut done = 0;
        while done < panel.lines {
            let count = S::LANES.min(panel.lines - done);
            // SAFETY: the first `count` of `lines - done` elements of this p.
            unsafe {
                let from = panel.src.offset(p as isize * panel.depth_stride).add(done);
                let to = panel.dst.add(p * panel.width + done);
                if count == S::LANES {
                    isa.store(to, isa.mul(isa.load(from), scale));
                } else {
                    isa.store_first(to, isa.mul(isa.load_first(from, count), scale), count);
                }
            }
            done += S::LANES;
        }
    }
}

/// Lanes of the widest vector: vectors in the largest square that is transposed in registers.
const MAX_LANES: usize = 16;

/// One panel whose lines run along memory: squares are transposed in registers.
///
/// # Safety
/// As for [`pack`], with `lines <= width`.
#[inline(always)]
unsafe fn pack_transposed<S: Isa<T>, T: Float>(isa: S, panel: &Packing<T>) {
    let scale = isa.splat(panel.scale);
    let whole = panel.depth - panel.depth % S::LANES;
    let mut first_line = 0;
    while first_line < panel.lines {
        let count = S::LANES.min(panel.lines - first_line);
        let mut p = 0;
        while p < whole {
            let mut square = [isa.splat(T::ZERO); MAX_LANES];
            for (i, row) in square.iter_mut().enumerate().take(count) {
                // SAFETY: elements p to p + LANES - 1 of a line.
                *row = unsafe {
                    let line = (first_line + i) as isize * panel.line_stride;
                    isa.mul(isa.load(panel.src.offset(line).add(p)), scale)
                };
            }
            isa.transpose(&mut square[..S::LANES]);
            for (i, &column) in square.iter().enumerate().take(S::LANES) {
                // SAFETY: the first `count` of the elements that p + i has behind `first_line`.
                unsafe {
                    isa.store_first(
                        panel.dst.add((p + i) * panel.width + first_line),
                        column,
                        count,
                    );
                }
            }
            p += S::LANES;
        }
        first_line += S::LANES;
    }
    let rest = Packing {
        src: panel.src.wrapping_add(whole),
        depth: panel.depth - whole,
        dst: panel.dst.wrapping_add(whole * panel.width),
        ..*panel
    };
    // SAFETY: the elements from `whole` on.
    unsafe { pack_strided(&rest) }
}

/// One panel of any strides: a transposition in pieces that stay in the L1 cache.
///
/// # Safety
/// As for [`pack`], with `lines <= width`.
#[inline(always)]
unsafe fn pack_strided<T: Float>(panel: &Packing<T>) {
    // Elements of a cache line, so that each is fetched once.
    const PIECE: usize = 16;
    let mut start = 0;
    while start < panel.depth {
        let end = panel.depth.min(start + PIECE);
        for line in 0..panel.lines {
            // SAFETY: `line < lines` and `p < depth`.
            unsafe {
                let from = panel.src.offset(line as isize * panel.line_stride);
                let to = panel.dst.add(line);
                for p in start..end {
                    let value = *from.offset(p as isize * panel.depth_stride);
                    *to.add(p * panel.width) = value * panel.scale;
                }
            }
        }
        start = end;
    }
}
