//! Products of bf16 operands with sums in f32, on portable vectors: that another type of operands
//! takes no more than a file is tested with it in `gemm`. Its panels hold pairs of consecutive k,
//! the even one in the upper half; an odd depth is filled up with a 0.

use std::sync::LazyLock;

#[cfg(feature = "matrixmultiply")]
use crate::matrix::{MatMut, MatRef};
use crate::{
    error::Result,
    kernels::{
        block::Tiles,
        finish as finishing,
        pack::{Along, Packing, Source},
        product::{MultiplyAdd, PanelElement, Types},
        set::{KernelSet, Packer, Product},
        tile::{PACKED, STRIDED, Tile, tile},
    },
    simd::{InstructionSet, Isa, portable::Portable},
};

/// The upper half of an f32.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(transparent)]
pub(crate) struct Bf16(u16);

// SAFETY: a `u16`, of which 0 is the number 0.
unsafe impl bytemuck::Zeroable for Bf16 {}
// SAFETY: a `u16`.
unsafe impl bytemuck::Pod for Bf16 {}

impl PanelElement for Bf16 {
    type Value = f32;

    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    /// Ties go to even; for finite numbers.
    fn nearest(value: f32) -> Self {
        let bits = value.to_bits();
        Self(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }
}

const STEP: usize = 2;
const MR: usize = 4;
const LANES: usize = <Portable as Isa<f32>>::LANES;

type Vector = <Portable as Isa<f32>>::Vector;

/// Values of the even k, and of the odd one.
type Pair = [Vector; 2];

// SAFETY: two `mul_add`, one after the other; memory is touched as the methods say.
unsafe impl MultiplyAdd<Bf16> for Portable {
    type Left = Pair;
    type Right = Pair;
    const STEP: usize = STEP;

    fn zeros(self) -> (Pair, Pair) {
        ([Vector::ZERO; 2], [Vector::ZERO; 2])
    }

    unsafe fn splat_left(self, from: *const Bf16) -> Pair {
        // SAFETY: the caller vouches for both.
        let [odd, even] = unsafe { from.cast::<[Bf16; 2]>().read() };
        [even, odd].map(|half| Vector::splat(half.value()))
    }

    unsafe fn load_right(self, from: *const Bf16) -> Pair {
        // SAFETY: the caller vouches for all lanes.
        unsafe { MultiplyAdd::<Bf16>::load_right_first(self, from, LANES) }
    }

    unsafe fn load_right_first(self, from: *const Bf16, count: usize) -> Pair {
        let (mut evens, mut odds) = ([0.0; LANES], [0.0; LANES]);
        for (lane, (even, odd)) in evens.iter_mut().zip(&mut odds).enumerate().take(count) {
            // SAFETY: the caller vouches for the pairs of `count` lanes.
            let pair = unsafe { from.cast::<[Bf16; 2]>().add(lane).read() };
            [*odd, *even] = pair.map(Bf16::value);
        }
        [evens, odds].map(Vector::new)
    }

    fn accumulate(self, a: Pair, b: Pair, sum: Vector) -> Vector {
        a[1].mul_add(b[1], a[0].mul_add(b[0], sum))
    }

    unsafe fn load_c(self, from: *const Bf16, count: usize) -> Vector {
        let mut values = [0.0; LANES];
        for (lane, value) in values.iter_mut().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` elements.
            *value = unsafe { from.add(lane).read() }.value();
        }
        Vector::new(values)
    }

    unsafe fn store_c(self, to: *mut Bf16, vector: Vector, count: usize) {
        for (lane, value) in vector.to_array().into_iter().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` elements.
            unsafe { to.add(lane).write(Bf16::nearest(value)) };
        }
    }
}

impl Types for Bf16 {
    type Left = Bf16;
    type Right = Bf16;
    type Sum = f32;
    type Output = Bf16;
}

impl Product for Bf16 {
    type Transposed = Bf16;

    fn kernel_set(_: InstructionSet) -> Result<&'static KernelSet<Self>> {
        static SET: LazyLock<KernelSet<Bf16>> = LazyLock::new(|| {
            let f32 =
                f32::kernel_set(InstructionSet::Portable).expect("it is available everywhere");
            let set = InstructionSet::Portable;
            KernelSet {
                set,
                packed: Tiles {
                    functions: &[
                        &[one_tile::<STRIDED, 1>],
                        &[one_tile::<STRIDED, 2>],
                        &[one_tile::<STRIDED, 3>],
                        &[one_tile::<PACKED, 4>],
                    ],
                    lanes: LANES,
                },
                strided: Tiles { functions: &[&[one_tile::<STRIDED, 1>]], lanes: LANES },
                wide: Tiles { functions: &[&[one_tile::<STRIDED, 1>]], lanes: LANES },
                finish,
                left: Packer { set, width: MR, depth_step: STEP, pack },
                right: Packer { set, width: LANES, depth_step: STEP, pack },
                multiply_adds_per_step: f32.multiply_adds_per_step,
                multiply_adds: f32.multiply_adds,
                update: f32.update,
                dropout: f32.dropout,
            }
        });
        Ok(&SET)
    }

    #[cfg(feature = "matrixmultiply")]
    fn matrixmultiply(
        alpha: f32,
        a: MatRef<'_, f32>,
        b: MatRef<'_, f32>,
        beta: f32,
        c: MatMut<'_, f32>,
    ) {
        f32::matrixmultiply(alpha, a, b, beta, c);
    }
}

// SAFETY of the functions here: what the generic kernel asks for.
unsafe fn one_tile<const FROM: bool, const ROWS: usize>(what: &Tile<'_, Bf16>) {
    // SAFETY: see above.
    unsafe { tile::<Portable, Bf16, FROM, ROWS, 1, MR, 1>(Portable::new(), what) }
}

unsafe fn finish(tile: &Tile<'_, Bf16>, shape: (usize, usize), sums: *const f32) {
    let f32 = f32::kernel_set(InstructionSet::Portable).expect("it is available everywhere");
    // SAFETY: see above.
    unsafe { finishing::finish(Portable::new(), f32.update, tile, shape, sums) }
}

/// Pairs, element by element.
unsafe fn pack(packing: &Packing<'_, Bf16>) {
    let Packing { source, width, dst, sums } = *packing;
    let (lines, depth) = (source.lines(), source.depth());
    let value = |line: usize, p: usize| match source {
        _ if line >= lines || p >= depth => 0.0,
        Source::Matrix(matrix, scale) => matrix.get(line, p).value() * scale,
        Source::Gathered(rows, Along::Depth) => rows.get(line, p),
        Source::Gathered(rows, Along::Lines) => rows.get(p, line),
    };
    let padded = depth.next_multiple_of(STEP);
    for line in 0..lines.next_multiple_of(width) {
        for p in 0..padded {
            let panel = line / width * width * padded;
            let pair = (p / STEP * width + line % width) * STEP;
            // SAFETY: the place of an element in its panel, and its sum.
            unsafe {
                dst.add(panel + pair + (STEP - 1 - p % STEP)).write(Bf16::nearest(value(line, p)));
                if !sums.is_null() && line < lines {
                    *sums.add(line) += value(line, p);
                }
            }
        }
    }
}
