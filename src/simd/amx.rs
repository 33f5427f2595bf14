//! Which parts of AMX, Intel's matrix extensions, the CPU has. No kernel uses them.

/// Parts of AMX that the CPU reports.
///
/// No kernel uses them. Its product of bf16, `TDPBF16PS`, sums the products of even and of odd
/// elements in two chains and adds these at the end: other bits than the one chain over k of every
/// other instruction set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Amx {
    /// Tile registers (`amx-tile`).
    pub tile: bool,
    /// Products of bf16 (`amx-bf16`).
    pub bf16: bool,
    /// Products of bytes (`amx-int8`).
    pub int8: bool,
}

impl Amx {
    /// What the CPU reports by CPUID. Whether the operating system lets a process use it is another
    /// question.
    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
    pub fn detect() -> Self {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        const FEATURES: u32 = 7;
        if __cpuid(0).eax < FEATURES {
            Self::default()
        } else {
            Self::of(__cpuid_count(FEATURES, 0).edx)
        }
    }

    /// Nothing: this build has the portable instruction set alone.
    #[cfg(any(tilewise_portable, not(target_arch = "x86_64")))]
    pub fn detect() -> Self {
        Self::default()
    }

    /// The parts in EDX of CPUID's leaf 7, subleaf 0 (Intel's Software Developer's Manual, volume 2,
    /// CPUID, "Structured Extended Feature Flags").
    #[cfg(any(test, all(target_arch = "x86_64", not(tilewise_portable))))]
    fn of(edx: u32) -> Self {
        let bit = |number: u32| edx >> number & 1 == 1;
        Self { tile: bit(24), bf16: bit(22), int8: bit(25) }
    }

    /// The names of the parts that the CPU has.
    pub fn features(self) -> impl Iterator<Item = &'static str> {
        let all = [(self.tile, "amx-tile"), (self.bf16, "amx-bf16"), (self.int8, "amx-int8")];
        all.into_iter().filter_map(|(has, name)| has.then_some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_is_one_part() {
        for (edx, expected) in [
            (0, &[][..]),
            (1 << 24, &["amx-tile"]),
            (1 << 22, &["amx-bf16"]),
            (1 << 25, &["amx-int8"]),
            (!(1 << 22 | 1 << 24 | 1 << 25), &[]),
            (!0, &["amx-tile", "amx-bf16", "amx-int8"]),
        ] {
            assert_eq!(Amx::of(edx).features().collect::<Vec<_>>(), expected, "{edx:#x}");
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64", not(tilewise_portable)))]
    fn what_the_system_knows_is_found() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = info.lines().find(|line| line.starts_with("flags")).unwrap();
        let known = flags.split_whitespace().filter(|flag| flag.starts_with("amx_"));
        let found: Vec<_> = Amx::detect().features().map(|name| name.replace('-', "_")).collect();
        // A kernel without AMX hides it, and there are parts of AMX that are of no interest here.
        for flag in known.filter(|flag| ["amx_tile", "amx_bf16", "amx_int8"].contains(flag)) {
            assert!(found.iter().any(|name| name == flag), "{flag} is not in {found:?}");
        }
    }
}
