//! The stamping: every generic kernel behind a function with the `#[target_feature]` of an
//! instruction set, for every element type.

#[cfg(feature = "matrixmultiply")]
use crate::matrix::MatRef;
use crate::{
    bf16::Bf16,
    error::Result,
    float::Float,
    kernels::{
        bf16::Bf16ToF32,
        block::Tiles,
        dropout::{DropoutMask, dropout},
        pack::Packing,
        set::{Element, KernelSet, Packer, Product},
        tile::Tile,
        update::{self, Parameters, Update},
    },
    matrix::MatMut,
    simd::{InstructionSet, Isa, Work},
};

/// One row of the table of tile functions.
macro_rules! tile_row {
    ($from:ident, $rows:literal, [$($vectors:literal),*]) => {
        &[$(tile::<$from, $rows, $vectors>),*]
    };
}

/// A module with one instruction set's kernels for one product, whose sums are of type `$t`. Panels
/// are made by the function `$pack` of `kernels::pack`.
macro_rules! stamp {
    (
        $module:ident, $product:ident, $t:ident, $pack:ident,
        $set:ident, $token:path, [$(#[$feature:meta])?],
        rows: [$($rows:literal),*], full: $full:literal, vectors: $vectors:tt,
        wide_rows: [$($wide_rows:literal),*], wide_vectors: $wide_vectors:tt,
        peak_chains: $chains:literal
    ) => {
        mod $module {
            use super::*;
            use crate::{
                kernels::{
                    block::MAX_TILE,
                    finish as finishing,
                    pack::{self as packing, beside::PackUnits},
                    peak,
                    product::{MultiplyAdd, Types},
                    tile::{self as microkernel, PACKED, PACKING_A, PACKING_B, STRIDED},
                },
                simd::Isa,
            };
            use $token as Token;

            const MR: usize = $full;
            const NV: usize = $vectors.len();
            const LANES: usize = <Token as Isa<$t>>::LANES;
            const STEP: usize = <Token as MultiplyAdd<$product>>::STEP;
            const _: () = assert!([$($rows),*].len() + 1 == MR, "all rows");
            const _: () = assert!(MR <= MAX_TILE.0 && NV * LANES <= MAX_TILE.1);
            const _: () = assert!($wide_vectors.len().is_multiple_of(NV), "whole panels");

            const PACKER: Packer<<$product as Types>::Left> = Packer {
                set: InstructionSet::$set,
                width: MR,
                depth_step: STEP,
                lanes_beside: <<$product as Types>::Left as PackUnits<Token>>::LANES,
                pack,
            };

            pub(super) static SET: KernelSet<$product> = KernelSet {
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
                packing_left: tile_row!(PACKING_A, $full, $vectors),
                packing_right: tile_row!(PACKING_B, $full, $vectors),
                finish,
                left: PACKER,
                right: Packer { width: NV * LANES, ..PACKER },
                multiply_adds_per_step: $chains * LANES * STEP,
                multiply_adds,
                update,
                dropout,
            };

            // SAFETY of every function here: the CPU has the instruction set, which makes the
            // token; the rest is what the generic kernel of the same name asks for.

            $(#[$feature])?
            unsafe fn tile<const FROM: u8, const ROWS: usize, const VECS: usize>(
                tile: &Tile<'_, $product>,
            ) {
                // SAFETY: see above.
                unsafe {
                    microkernel::tile::<Token, $product, FROM, ROWS, VECS, MR, NV>(
                        Token::new(),
                        tile,
                    )
                }
            }
            $(#[$feature])?
            unsafe fn finish(tile: &Tile<'_, $product>, shape: (usize, usize), sums: *const $t) {
                // SAFETY: see above.
                unsafe { finishing::finish(Token::new(), update, tile, shape, sums) }
            }
            $(#[$feature])?
            unsafe fn multiply_adds(steps: usize) -> $t {
                // SAFETY: see above.
                unsafe { peak::multiply_adds::<Token, $product, $chains>(Token::new(), steps) }
            }
            $(#[$feature])?
            unsafe fn pack(source: &Packing<'_, <$product as Types>::Left>) {
                // SAFETY: see above.
                unsafe { packing::$pack(Token::new(), source) }
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
    avx512_f32, f32, f32, pack, Avx512, crate::simd::avx512::Avx512, [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], full: 14, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6, 7, 8], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx512_f64, f64, f64, pack, Avx512, crate::simd::avx512::Avx512, [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], full: 14, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6, 7, 8], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx2_f32, f32, f32, pack, Avx2, crate::simd::avx2::Avx2, [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3, 4, 5], full: 6, vectors: [1, 2],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3, 4, 5, 6], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx2_f64, f64, f64, pack, Avx2, crate::simd::avx2::Avx2, [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3, 4, 5], full: 6, vectors: [1, 2],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3, 4, 5, 6], peak_chains: 12
);
stamp!(
    portable_f32, f32, f32, pack, Portable, crate::simd::portable::Portable, [],
    rows: [1, 2, 3], full: 4, vectors: [1],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3], peak_chains: 6
);
stamp!(
    portable_f64, f64, f64, pack, Portable, crate::simd::portable::Portable, [],
    rows: [1, 2, 3], full: 4, vectors: [1],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3], peak_chains: 6
);

// bf16: AVX512-BF16 multiplies pairs as they are; the others widen them, which takes two vectors for
// each of B's, two for the value of A and one for a mask: 24 accumulators of AVX-512, 8 of AVX2. The
// portable set computes in software.
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx512_bf16_bf16, Bf16, f32, pack_pairs, Avx512Bf16, crate::simd::avx512::Avx512Bf16,
    [#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], full: 14, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6, 7, 8], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx512_bf16, Bf16, f32, pack_pairs, Avx512, crate::simd::avx512::Avx512,
    [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], full: 12, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx2_bf16, Bf16, f32, pack_pairs, Avx2, crate::simd::avx2::Avx2,
    [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3], full: 4, vectors: [1, 2],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3, 4], peak_chains: 12
);
stamp!(
    portable_bf16, Bf16, f32, pack_pairs, Portable, crate::simd::flushed::Flushed, [],
    rows: [1, 2, 3], full: 4, vectors: [1],
    wide_rows: [1], wide_vectors: [1, 2], peak_chains: 1
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx512_bf16_bf16_to_f32, Bf16ToF32, f32, pack_pairs, Avx512Bf16, crate::simd::avx512::Avx512Bf16,
    [#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], full: 14, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6, 7, 8], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx512_bf16_to_f32, Bf16ToF32, f32, pack_pairs, Avx512, crate::simd::avx512::Avx512,
    [#[target_feature(enable = "avx512f")]],
    rows: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], full: 12, vectors: [1, 2],
    wide_rows: [1, 2, 3], wide_vectors: [1, 2, 3, 4, 5, 6], peak_chains: 12
);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp!(
    avx2_bf16_to_f32, Bf16ToF32, f32, pack_pairs, Avx2, crate::simd::avx2::Avx2,
    [#[target_feature(enable = "avx2,fma")]],
    rows: [1, 2, 3], full: 4, vectors: [1, 2],
    wide_rows: [1, 2], wide_vectors: [1, 2, 3, 4], peak_chains: 12
);
stamp!(
    portable_bf16_to_f32, Bf16ToF32, f32, pack_pairs, Portable, crate::simd::flushed::Flushed, [],
    rows: [1, 2, 3], full: 4, vectors: [1],
    wide_rows: [1], wide_vectors: [1, 2], peak_chains: 1
);

/// Work with the instruction set of a token, compiled for it.
macro_rules! stamp_work {
    ($name:ident, $token:path, [$(#[$feature:meta])?]) => {
        $(#[$feature])?
        unsafe fn $name<T: Float, W: Work<T>>(work: W) -> W::Output
        where
            $token: Isa<T>,
        {
            work.run(<$token>::new())
        }
    };
}

#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp_work!(run_avx512, crate::simd::avx512::Avx512, [#[target_feature(enable = "avx512f")]]);
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
stamp_work!(run_avx2, crate::simd::avx2::Avx2, [#[target_feature(enable = "avx2,fma")]]);
stamp_work!(run_portable, crate::simd::portable::Portable, []);

macro_rules! impl_element {
    (
        $t:ident, [$rounded:ident, $product:ident, $operands:ident],
        $matrixmultiply:ident, $avx512:ident, $avx2:ident, $portable:ident
    ) => {
        impl Element for $t {
            type Rounded = $rounded;
            type RoundedProduct = $product;
            type RoundedOperands = $operands;

            fn run<W: Work<$t>>(kernels: &KernelSet<$t>, work: W) -> W::Output {
                // SAFETY: the CPU has the set, because `kernel_set` gave it out.
                unsafe {
                    match kernels.set {
                        #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                        InstructionSet::Avx512 | InstructionSet::Avx512Bf16 => run_avx512(work),
                        #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                        InstructionSet::Avx2 => run_avx2(work),
                        _ => run_portable(work),
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

impl_element!(f32, [Bf16, Bf16, Bf16ToF32], sgemm, avx512_f32, avx2_f32, portable_f32);
impl_element!(f64, [f64, f64, f64], dgemm, avx512_f64, avx2_f64, portable_f64);

macro_rules! impl_bf16 {
    (
        $product:ident, $avx512_bf16:ident, $avx512:ident, $avx2:ident, $portable:ident
    ) => {
        impl Product for $product {
            type Transposed = $product;

            fn kernel_set(set: InstructionSet) -> Result<&'static KernelSet<$product>> {
                Ok(match set.require()? {
                    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                    InstructionSet::Avx512Bf16 => &$avx512_bf16::SET,
                    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                    InstructionSet::Avx512 => &$avx512::SET,
                    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
                    InstructionSet::Avx2 => &$avx2::SET,
                    _ => &$portable::SET,
                })
            }

            #[cfg(feature = "matrixmultiply")]
            fn matrixmultiply(
                alpha: f32,
                a: MatRef<'_, f32>,
                b: MatRef<'_, f32>,
                beta: f32,
                c: MatMut<'_, f32>,
            ) {
                f32::matrixmultiply(alpha, a, b, beta, c)
            }
        }
    };
}

impl_bf16!(Bf16, avx512_bf16_bf16, avx512_bf16, avx2_bf16, portable_bf16);
impl_bf16!(
    Bf16ToF32,
    avx512_bf16_bf16_to_f32,
    avx512_bf16_to_f32,
    avx2_bf16_to_f32,
    portable_bf16_to_f32
);
