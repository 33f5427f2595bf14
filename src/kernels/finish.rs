//! The finishes that work on memory instead of registers: on the registers they would make the
//! compiler spill the accumulators in the loop of the microkernel. The tiles of an instruction set
//! share one copy of them.

use crate::{
    float::Float,
    kernels::{
        epilogue::Finish,
        product::{MultiplyAdd, Types},
        tile::Tile,
        update::{Parameters, RawRows, Update},
    },
    simd::MAX_LANES,
};

/// Finishes and stores a tile from its sums: `rows` rows of `vectors` whole vectors.
///
/// # Safety
/// As for `kernels::tile::tile`; all sums are readable. `update` is that of the instruction set.
#[inline(always)]
pub(crate) unsafe fn finish<S: MultiplyAdd<P>, P: Types>(
    isa: S,
    update: unsafe fn(&Update<P::Sum>, &Parameters<P::Sum>),
    tile: &Tile<'_, P>,
    (rows, vectors): (usize, usize),
    sums: *const P::Sum,
) {
    let cols = (vectors - 1) * S::LANES + tile.last_cols;
    let stride = vectors * S::LANES;
    // SAFETY: the tile's elements of C and of its companions, for which the caller vouches.
    unsafe {
        match tile.finish {
            Finish::ReluDropout { mask, scale } => {
                let scale = isa.splat(*scale);
                for i in 0..rows {
                    let c = tile.c.offset(i as isize * tile.row_stride);
                    for col in (0..cols).step_by(S::LANES) {
                        // No vector has more than MAX_LANES lanes.
                        let mut kept = [P::Sum::ZERO; MAX_LANES];
                        mask.fill(tile.row + i, tile.col + col, &mut kept[..S::LANES]);
                        let sum = isa.load(sums.add(i * stride + col));
                        let value = isa.mul(isa.relu(sum), scale);
                        let value = isa.gate(value, isa.load(kept.as_ptr()));
                        isa.store_c(c.add(col), value, S::LANES.min(cols - col));
                    }
                }
            }
            Finish::Update(step) => {
                let w = RawRows { ptr: tile.c.cast::<P::Sum>(), row_stride: tile.row_stride };
                let gradient = RawRows { ptr: sums, row_stride: stride as isize };
                let slots = tile.companions.map(|RawRows { ptr, row_stride }| RawRows {
                    ptr: ptr.cast::<P::Sum>(),
                    row_stride,
                });
                update(step, &Parameters { rows, cols, w, gradient, slots });
            }
            // Done on registers.
            Finish::Store | Finish::Relu | Finish::ReluGradient { .. } => {}
        }
    }
}
