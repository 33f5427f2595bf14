//! The sizes of the CPU's caches, from which the default blocking follows.

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

/// Size of the data or unified cache of a level, by CPUID.
#[cfg(target_arch = "x86_64")]
fn reported(level: u8) -> Option<usize> {
    use raw_cpuid::{CacheType, CpuId};
    CpuId::new().get_cache_parameters()?.find_map(|cache| {
        let holds_data = matches!(cache.cache_type(), CacheType::Data | CacheType::Unified);
        let bytes = cache.associativity()
            * cache.physical_line_partitions()
            * cache.coherency_line_size()
            * cache.sets();
        (holds_data && cache.level() == level && bytes > 0).then_some(bytes)
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn reported(_level: u8) -> Option<usize> {
    None
}
