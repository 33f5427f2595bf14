//! The sizes of the CPU's caches, from which the default blocking of products follows.

use std::sync::OnceLock;

/// Sizes in bytes of the data caches of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// First level.
    pub l1: usize,
    /// Second level.
    pub l2: usize,
}

impl Caches {
    /// What the CPU reports, or 32 KiB and 512 KiB where it reports nothing. It is asked once.
    pub fn detect() -> Self {
        static CACHES: OnceLock<Caches> = OnceLock::new();
        *CACHES.get_or_init(|| {
            let l1 = reported(1).unwrap_or(32 * 1024);
            let l2 = reported(2).unwrap_or(512 * 1024);
            Self { l1, l2 }
        })
    }
}

/// Size of the data or unified cache of a level, by CPUID: Intel lists the caches in leaf 4, AMD in
/// the same form in leaf 0x8000_001D ("Deterministic Cache Parameters" in Intel's Software
/// Developer's Manual, volume 2, CPUID). Leaves that a CPU lacks, or leaves empty, report nothing.
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
fn reported(level: u32) -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
    const DATA: u32 = 1;
    const UNIFIED: u32 = 3;
    let size = |CpuidResult { eax, ebx, ecx, .. }: CpuidResult| {
        let field = |shift: u32, bits: u32| (ebx >> shift & ((1 << bits) - 1)) as usize + 1;
        let (ways, partitions, line, sets) =
            (field(22, 10), field(12, 10), field(0, 12), ecx as usize + 1);
        let found = matches!(eax & 0x1f, DATA | UNIFIED) && eax >> 5 & 7 == level;
        found.then_some(ways * partitions * line * sets)
    };
    let listed = |leaf: u32| leaf <= __cpuid(leaf & 0x8000_0000).eax;
    let mut leaves = [4, 0x8000_001d].into_iter().filter(|&leaf| listed(leaf));
    leaves.find_map(|leaf| (0..16).find_map(|cache| size(__cpuid_count(leaf, cache))))
}

#[cfg(any(tilewise_portable, not(target_arch = "x86_64")))]
fn reported(_level: u32) -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_knows_the_same_caches() {
        let read = |index: usize, what: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}");
            std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
        };
        let system = |level: &str| {
            let index = (0..8).find(|&index| {
                read(index, "level").as_deref() == Some(level)
                    && read(index, "type").as_deref() != Some("Instruction")
            })?;
            let kilobytes: usize = read(index, "size")?.strip_suffix('K')?.parse().ok()?;
            Some(kilobytes * 1024)
        };
        let caches = Caches::detect();
        for (level, found) in [("1", caches.l1), ("2", caches.l2)] {
            // Virtual machines and some boards do not tell.
            let (Some(expected), Some(_)) = (system(level), reported(1)) else {
                continue;
            };
            assert_eq!(found, expected, "level {level}");
        }
    }
}
