//! Which instruction sets the CPU has, and which one to use.

use std::{env, fmt, str::FromStr, sync::OnceLock};

use crate::error::{Error, Result};

/// The instruction sets that kernels exist for, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum InstructionSet {
    /// Whatever the build's target offers, through the crate `wide`; present everywhere.
    Portable,
    /// AVX2 with fused multiply-add (`avx2`, `fma`).
    Avx2,
    /// AVX-512 (`avx512f`).
    Avx512,
    /// AVX-512 with products of bf16 (`avx512bf16`, with `avx512bw` and `avx512vl`). Products of f32
    /// and f64 are those of AVX-512.
    Avx512Bf16,
}

/// Name of the environment variable that forces an instruction set.
const FORCE: &str = "TILEWISE_ISA";

impl InstructionSet {
    /// All sets, best last.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// Whether this CPU and this build have the set.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
            Self::Avx2 => super::avx2::Avx2::detect().is_some(),
            #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
            Self::Avx512 => super::avx512::Avx512::detect().is_some(),
            #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
            Self::Avx512Bf16 => super::avx512::Avx512Bf16::detect().is_some(),
            #[cfg(any(tilewise_portable, not(target_arch = "x86_64")))]
            _ => false,
        }
    }

    /// The sets that this CPU and this build have, best last.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// The set to use where none is asked for: the one that the environment variable
    /// `TILEWISE_ISA` names, else the best available. The variable is read once per process.
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`] if the variable names a set that is unknown or not available.
    pub fn preferred() -> Result<Self> {
        static PREFERRED: OnceLock<std::result::Result<InstructionSet, String>> = OnceLock::new();
        let preferred = PREFERRED.get_or_init(|| match env::var(FORCE) {
            Ok(name) => name.parse().map_err(|_: Error| name),
            Err(env::VarError::NotPresent) => {
                Ok(Self::available().last().unwrap_or(Self::Portable))
            }
            Err(env::VarError::NotUnicode(name)) => Err(name.to_string_lossy().into_owned()),
        });
        preferred.clone().map_err(unavailable)
    }

    /// The set itself if it is available.
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`] if it is not.
    pub fn require(self) -> Result<Self> {
        if self.is_available() { Ok(self) } else { Err(unavailable(self.to_string())) }
    }

    /// Whether a multiply-add of f32 and f64 rounds once in this set. All such sets compute the same
    /// bits. Products of bf16 have the same bits in every set.
    pub fn is_fused(self) -> bool {
        match self {
            Self::Portable => super::portable::FUSED,
            Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }
}

fn unavailable(wanted: String) -> Error {
    let names: Vec<&str> = InstructionSet::available().map(InstructionSet::name).collect();
    Error::IsaUnavailable { wanted, available: names.join(", ") }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for InstructionSet {
    type Err = Error;

    /// Parses "portable", "avx2", "avx512" or "avx512bf16"; the set must be available.
    fn from_str(name: &str) -> Result<Self> {
        Self::available().find(|set| set.name() == name).ok_or_else(|| unavailable(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_where_available() {
        for set in InstructionSet::available() {
            assert_eq!(set.to_string().parse::<InstructionSet>().unwrap(), set);
        }
        let error = "sse9".parse::<InstructionSet>().unwrap_err().to_string();
        assert!(error.contains("sse9") && error.contains("portable"), "{error}");
    }

    #[test]
    fn a_better_set_comes_with_those_below_it() {
        let available: Vec<_> = InstructionSet::available().collect();
        assert_eq!(available, InstructionSet::ALL[..available.len()]);
    }
}
