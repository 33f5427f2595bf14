//! The stamping: every generic kernel behind a function with the `#[target_feature]` of an
//! instruction set, for every element type.

#[cfg(feature = "matrixmultiply")]
use crate::matrix::MatRef;
use crate::{
    error::Result,
    kernels::{
        block::Tiles,
        dropout::{DropoutMask, dropout},
        pack::Packing,
        set::{Element, KernelSet, Packer, Product},
        tile::Tile,
        update::{self, Parameters, Update},
    },
    matrix::MatMut,
    simd::{InstructionSet, Work},
};

/// One row of the table of tile functions.
macro_rules! tile_row {
    ($from:ident, $rows:literal, [$($vectors:literal),*]) => {
        &[$(tile::<$from, $rows, $vectors>),*]
    };
}

/// A module with one instruction set's kernels for one element type.
macro_rules! stamp {
    (
        $module:ident, $t:ident, $set:ident, $token:path, [$(#[$feature:meta])?],
        rows: [$($rows:literal),*], full: $full:literal, vectors: $vectors:tt,
        wide_rows: [$($wide_rows:literal),*], wide_vectors: $wide_vectors:tt,
        peak_chains: $chains:literal
    ) => {
        mod $module {
            use super::*;
            use crate::{
                kernels::{
                    block::MAX_TILE,
                                        finish as finishing, pack, peak,
                    tile::{self as microkernel, PACKED, STRIDED},
                },
                simd::Isa,
            };
            use $token as Token;

            const MR: usize = $full;
            const NV: usize = $vectors.len();
            const LANES: usize = <Token as Isa<$t>>::LANES;
            const _: () = assert!([$($rows),*].len() + 1 == MR, "all rows");
            const _: () = assert!(MR <= MAX_TILE.0 && NV * LANES <= MAX_TILE.1);
            const _: () = assert!($wide_vectors.len().is_multiple_of(NV), "whole panels");

            pub(super) static SET: KernelSet<$t> = KernelSet {
                set: InstructionSet::$set,
                packed: Tiles {
                    functions: &[
                        $(tile_row!(STRIDED, $rows, $vectors)),*,
                        tile_row!(PACKED, $full, $vectors),
                    ],
                    lanes: LANES,
                },
                strided: Tiles {
                    functions: &[
                        $(tile_row!(STRIDED, $rows, $vectors)),*,
                        tile_row!(STRIDED, $full, $vectors),
                    ],
                    lanes: LANES,
                },
                wide: Tiles {
                    functions: &[$(tile_row!(STRIDED, $wide_rows, $wide_vectors)),*],
                    lanes: LANES,
                },
                finish,
                left: Packer { set: InstructionSet::$set, width: MR, depth_step: 1, pack },
                right: Packer {
                    set: InstructionSet::$set,
                    width: NV * LANES,
                    depth_step: 1,
                    pack,
                },
                multiply_adds_per_step: $chains * LANES,
                multiply_adds,
                update,
                dropout,
            };

            // SAFETY of every function here: the CPU has the instruction set, which makes the
            // token; the rest is what the generic kernel of the same name asks for.

            $(#[$feature])?
            pub(super) unsafe fn run<W: Work<$t>>(work: W) -> W::Output {
                work.run(Token::new())
            }
            $(#[$feature])?
            unsafe fn tile<const FROM: bool, const ROWS: usize, const VECS: usize>(
                tile: &Tile<'_, $t>,
            ) {
                // SAFETY: see above.
                unsafe {
                    microkernel::tile::<Token, $t, FROM, ROWS, VECS, MR, NV>(Token::new(), tile)
                }
            }
            $(#[$feature])?
            unsafe fn finish(tile: &Tile<'_, $t>, shape: (usize, usize), sums: *const $t) {
                // SAFETY: see above.
                unsafe { finishing::finish(Token::new(), update, tile, shape, sums) }
            }
            $(#[$feature])?
            unsafe fn multiply_adds(steps: usize) -> $t {
                // SAFETY: see above.
                unsafe { peak::multiply_adds::<Token, $t, $chains>(Token::new(), steps) }
            }
            $(#[$feature])?
            unsafe fn pack(packing: &Packing<'_, $t>) {
                // SAFETY: see above.
                unsafe { pack::pack(Token::new(), packing) }
            }
            $(#[$feature])?
            unsafe fn update(update: &Update<$t>, parameters: &Parameters<$t>) {
                // SAFETY: see above.
                unsafe { update::update(Token::new(), update, parameters) }
            }
            $(#[$feature])?
            unsafe fn dropout(
                mask: DropoutMask,
                first_row: usize,
                scale: $t,
                x: &mut MatMut<'_, $t>,
            ) {
                super::dropout(mask, first_row, scale, x)
            }
        }
    };
}

// Tile shapes: as many accumulators as the registers hold beside the vectors of B and the value
// of A: 28 of 32 for AVX-512, 12 of 16 for AVX2, 8 of 16 for the portable instruction set on SSE2 (one of its
// vectors takes two registers).
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx512_f32, f32, Avx512, crate::simd::avx512::Avx512, [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], full: 14, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6, 7, 8], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx512_f64, f64, Avx512, crate::simd::avx512::Avx512, [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], full: 14, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6, 7, 8], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx2_f32, f32, Avx2, crate::simd::avx2::Avx2, [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3, 4, 5], full: 6, vectors: [1, 2],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3, 4, 5, 6], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx2_f64, f64, Avx2, crate::simd::avx2::Avx2, [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3, 4, 5], full: 6, vectors: [1, 2],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3, 4, 5, 6], peak_chains: 12
);
stamp!(
    portable_f32, f32, Portable, crate::simd::portable::Portable, [],
    rows: [1, 2, 3], full: 4, vectors: [1],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3], peak_chains: 6
);
stamp!(
    portable_f64, f64, Portable, crate::simd::portable::Portable, [],
    rows: [1, 2, 3], full: 4, vectors: [1],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3], peak_chains: 6
);

macro_rules! impl_product {
    ($t:ident, $matrixmultiply:ident, $avx512:ident, $avx2:ident, $portable:ident) => {
        impl Element for $t {
            fn run<W: Work<$t>>(kernels: &KernelSet<$t>, work: W) -> W::Output {
                // SAFETY: the CPU has the set, because `kernel_set` gave it out.
                unsafe {
                    match kernels.set {
                        #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                        InstructionSet::Avx512 | InstructionSet::Avx512Bf16 => $avx512::run(work),
                        #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                        InstructionSet::Avx2 => $avx2::run(work),
                        _ => $portable::run(work),
                    }
                }
            }
        }

        impl Product for $t {
            type Transposed = $t;

            fn kernel_set(set: InstructionSet) -> Result<&'static KernelSet<$t>> {
                #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                static AVX512_BF16: KernelSet<$t> =
                    $avx512::SET.also_for(InstructionSet::Avx512Bf16);
                Ok(match set.require()? {
                    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                    InstructionSet::Avx512Bf16 => &AVX512_BF16,
                    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                    InstructionSet::Avx512 => &$avx512::SET,
                    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                    InstructionSet::Avx2 => &$avx2::SET,
                    _ => &$portable::SET,
                })
            }

            #[cfg(feature = "matrixmultiply")]
            fn matrixmultiply(
                alpha: $t,
                a: MatRef<'_, $t>,
                b: MatRef<'_, $t>,
                beta: $t,
                c: MatMut<'_, $t>,
            ) {
                super::matrixmultiply::$matrixmultiply(alpha, a, b, beta, c)
            }
        }
    };
}

impl_product!(f32, sgemm, avx512_f32, avx2_f32, portable_f32);
impl_product!(f64, dgemm, avx512_f64, avx2_f64, portable_f64);
