//! The same products by other means, selectable wherever tilewise multiplies: to compare with.

#[cfg(feature = "matrixmultiply")]
use crate::gemm::matrixmultiply;
use crate::{
    error::{Error, Result},
    gemm::{Epilogue, naive},
    kernels::Product,
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

    /// A product by another backend than this crate's kernels.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Length`] if an operand does not fit; [`Error::Setting`] if the
    /// backend cannot do what is asked for.
    pub(super) fn run<P: Product>(
        self,
        alpha: P::Sum,
        a: MatRef<'_, P::Left>,
        b: MatRef<'_, P::Right>,
        c: MatMut<'_, P::Output>,
        epilogue: Epilogue<'_, P::Sum, P::Output>,
    ) -> Result<()> {
        let (Some(a), Some(b), Some(c), Some(epilogue)) =
            (a.of_type(), b.of_type(), c.of_type(), epilogue.of_type())
        else {
            return Err(Error::setting("backend", self.name(), "tilewise, for such elements"));
        };
        match self {
            #[cfg(feature = "matrixmultiply")]
            Self::MatrixMultiply => matrixmultiply::product::<P>(alpha, a, b, c, epilogue),
            _ => naive::gemm(naive::Rounding::Twice, alpha, a, b, c, epilogue),
        }
    }
}
