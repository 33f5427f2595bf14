//! The same products by other means, selectable wherever tilewise multiplies: to compare with.

use crate::{
    error::Result,
    gemm::{Epilogue, naive},
    kernels::Element,
    matrix::{MatMut, MatRef},
};

/// Who computes the products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// This crate's kernels.
    #[default]
    Tilewise,
    /// With the feature `matrixmultiply`: that crate on the calling thread, with the epilogue as
    /// passes of its own. Its sums are not in one fixed order, so its bits differ.
    #[cfg(feature = "matrixmultiply")]
    MatrixMultiply,
    /// Three loops on the calling thread, two roundings for each multiply-add.
    Naive,
}

impl Backend {
    /// All that this build has, this crate's kernels first.
    pub const ALL: &[Self] = &[
        Self::Tilewise,
        #[cfg(feature = "matrixmultiply")]
        Self::MatrixMultiply,
        Self::Naive,
    ];

    /// The name: "tilewise", "matrixmultiply" or "naive".
    pub fn name(self) -> &'static str {
        match self {
            Self::Tilewise => "tilewise",
            #[cfg(feature = "matrixmultiply")]
            Self::MatrixMultiply => "matrixmultiply",
            Self::Naive => "naive",
        }
    }
}

/// A product by three loops.
pub(super) fn naive<T: Element>(
    alpha: T,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    c: MatMut<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Result<()> {
    naive::gemm(naive::Rounding::Twice, alpha, a, b, c, epilogue)
}
