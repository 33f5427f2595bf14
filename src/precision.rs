//! `Precision`: the numbers that a network computes with.

use std::{fmt, str::FromStr};

use crate::{
    error::{Error, Result},
    kernels::Element,
};

/// The numbers that a network computes with. It is part of a [`Context`](crate::Context).
///
/// With `F32` and `F64` everything has the type of the parameters. With `Bf16` the parameters, the
/// optimizer, the logits and the loss are f32; the operands of products, the outputs of layers and
/// their gradients are bf16. `docs/bf16.md` says what is rounded, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32.
    F32,
    /// f64.
    F64,
    /// bf16 operands, f32 sums and parameters.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: &[Self] = &[Self::F32, Self::F64, Self::Bf16];

    /// The name: "f32", "f64" or "bf16".
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
        }
    }

    /// The type of the parameters: "f32" or "f64".
    pub const fn parameter_type(self) -> &'static str {
        match self {
            Self::F32 | Self::Bf16 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Whether networks in this precision have parameters of type `T`.
    pub fn fits<T: Element>(self) -> bool {
        self.parameter_type() == T::NAME
    }

    /// # Errors
    /// [`Error::Setting`] called `name` unless it [`fits`](Self::fits).
    pub(crate) fn expect_parameters<T: Element>(self, name: &'static str) -> Result<()> {
        if self.fits::<T>() {
            return Ok(());
        }
        let fitting = Self::ALL.iter().filter(|precision| precision.fits::<T>());
        let names: Vec<_> = fitting.map(|precision| precision.name()).collect();
        let expected = format!("{} for parameters in {}", names.join(" or "), T::NAME);
        Err(Error::setting(name, self, expected))
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    /// # Errors
    /// [`Error::Setting`] unless it is the [`name`](Self::name) of a precision.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|precision| precision.name() == name);
        found.ok_or_else(|| Error::setting("precision", name, "f32, f64 or bf16"))
    }
}
