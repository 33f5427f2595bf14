//! `Denormals`: whether the CPU computes with denormal numbers, which can cost a hundred cycles
//! each, or takes them for zeros.

/// What vector units do with denormal numbers, in results and in operands. It is a setting of the
/// thread, which kernels change for as long as they run: code of the user's never runs under a
/// setting that it did not choose. On CPUs other than x86-64, and in builds with
/// `--cfg tilewise_portable`, it cannot be changed here, and is always `Keep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denormals {
    /// Computed with, as IEEE 754 says.
    Keep,
    /// Flushed to zero.
    Flush,
}

impl Denormals {
    /// The setting of the calling thread.
    pub fn current() -> Self {
        if control::read() & control::FLUSH == control::FLUSH { Self::Flush } else { Self::Keep }
    }

    /// Changes the setting of the calling thread until the guard is dropped, be it in a panic. Only
    /// kernels of the crate run meanwhile: the compiler takes the default setting for granted
    /// everywhere else.
    pub(crate) fn scope(self) -> DenormalsGuard {
        let before = control::read();
        let wanted = match self {
            Self::Keep => before & !control::FLUSH,
            Self::Flush => before | control::FLUSH,
        };
        if wanted != before {
            control::write(wanted);
        }
        DenormalsGuard { before, changed: wanted != before, _of_this_thread: std::ptr::null() }
    }
}

/// Gives the thread its former setting back when dropped; see [`Denormals::scope`].
#[must_use = "the former setting is back as soon as the guard is dropped"]
#[derive(Debug)]
pub(crate) struct DenormalsGuard {
    before: u32,
    changed: bool,
    /// Neither `Send` nor `Sync`: the setting belongs to one thread.
    _of_this_thread: *const (),
}

impl Drop for DenormalsGuard {
    fn drop(&mut self) {
        if self.changed {
            let flags = control::read() & !control::FLUSH | self.before & control::FLUSH;
            control::write(flags);
        }
    }
}

/// The control register of the vector units.
#[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
mod control {
    use std::arch::asm;

    /// Flush results to zero (bit 15) and take denormal operands for zeros (bit 6).
    pub(super) const FLUSH: u32 = 1 << 15 | 1 << 6;

    pub(super) fn read() -> u32 {
        let mut flags = 0u32;
        // SAFETY: every x86-64 CPU has the instruction; it writes to `flags` alone.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut flags, options(nostack, preserves_flags)) };
        flags
    }

    pub(super) fn write(flags: u32) {
        // SAFETY: `flags` are the CPU's own, but for the two bits of `FLUSH`: no exception is
        // unmasked and no rounding changed.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &flags, options(nostack, preserves_flags)) };
    }
}

#[cfg(any(tilewise_portable, not(target_arch = "x86_64")))]
mod control {
    pub(super) const FLUSH: u32 = 1;

    pub(super) fn read() -> u32 {
        0
    }

    pub(super) fn write(_flags: u32) {}
}

#[cfg(all(test, target_arch = "x86_64", not(tilewise_portable)))]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn halved_smallest() -> f32 {
        black_box(f32::MIN_POSITIVE) * black_box(0.5)
    }

    #[test]
    fn a_guard_flushes_until_it_is_dropped() {
        assert_eq!(Denormals::current(), Denormals::Keep);
        assert!(halved_smallest() > 0.0);
        {
            let _flush = Denormals::Flush.scope();
            assert_eq!((Denormals::current(), halved_smallest()), (Denormals::Flush, 0.0));
            {
                let _keep = Denormals::Keep.scope();
                assert!(halved_smallest() > 0.0);
            }
            assert_eq!(Denormals::current(), Denormals::Flush);
        }
        assert_eq!(Denormals::current(), Denormals::Keep);
        assert!(halved_smallest() > 0.0);
    }

    #[test]
    fn a_panic_restores_the_setting() {
        let result = std::panic::catch_unwind(|| {
            let _flush = Denormals::Flush.scope();
            panic!("on purpose");
        });
        assert!(result.is_err());
        assert_eq!(Denormals::current(), Denormals::Keep);
    }
}
