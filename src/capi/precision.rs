//! The precision of a trainer or a predictor.

use crate::{capi::error::Failure, error::Error};

/// The numbers that a network computes with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    F32 = 0,
    /// bf16 operands and layer outputs; f32 parameters, sums, logits and loss.
    Bf16 = 1,
}

impl Precision {
    /// The precision that a caller passed.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is none.
    pub(super) fn read(precision: i32) -> Result<crate::Precision, Failure> {
        match precision {
            f32 if f32 == Self::F32 as i32 => Ok(crate::Precision::F32),
            bf16 if bf16 == Self::Bf16 as i32 => Ok(crate::Precision::Bf16),
            other => Err(Error::setting("precision", other, "0 (f32) or 1 (bf16)").into()),
        }
    }
}

impl From<crate::Precision> for Precision {
    /// f64 is f32: no handle has parameters in f64.
    fn from(precision: crate::Precision) -> Self {
        match precision {
            crate::Precision::Bf16 => Self::Bf16,
            crate::Precision::F32 | crate::Precision::F64 => Self::F32,
        }
    }
}
