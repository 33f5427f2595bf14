//! Memory that must not be touched: operands between pages without access, and operands that
//! their factors take out of the product.

use tilewise::{
    Element,
    gemm::gemm,
    matrix::{MatMut, MatRef},
};

/// With a factor of 0 nothing of an operand reaches the result: here all of it is NaN.
fn leaves_out_what_is_multiplied_by_0<T: Element>() {
    let nan = T::from_f64(f64::NAN);
    let sizes = [(1, 1, 1), (1, 300, 20), (3, 5, 7), (70, 80, 90), (100, 10, 200)];
    for (m, n, k) in sizes {
        let (a, b, mut c) = (vec![T::ONE; m * k], vec![T::ONE; k * n], vec![nan; m * n]);
        let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
        gemm(T::ONE, a, b, T::ZERO, MatMut::new(&mut c, m, n).unwrap()).unwrap();
        let depth = T::from_f64(k as f64);
        assert!(c.iter().all(|&c| c == depth), "beta 0: {m} x {n} x {k} {}", T::NAME);

        let (a, b) = (vec![nan; m * k], vec![nan; k * n]);
        let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
        let half = T::from_f64(0.5);
        gemm(T::ZERO, a, b, half, MatMut::new(&mut c, m, n).unwrap()).unwrap();
        let expected = half * depth;
        assert!(c.iter().all(|&c| c == expected), "alpha 0: {m} x {n} x {k} {}", T::NAME);

        c.fill(nan);
        gemm(T::ZERO, a, b, T::ZERO, MatMut::new(&mut c, m, n).unwrap()).unwrap();
        assert!(c.iter().all(|&c| c == T::ZERO), "both 0: {m} x {n} x {k} {}", T::NAME);
    }
}

#[test]
fn a_factor_of_0_leaves_out_its_operand_in_f32() {
    leaves_out_what_is_multiplied_by_0::<f32>();
}

#[test]
fn a_factor_of_0_leaves_out_its_operand_in_f64() {
    leaves_out_what_is_multiplied_by_0::<f64>();
}

/// Every buffer of a random product ends where a page without access begins, or begins where one
/// ends. A touch outside kills the process; a handler says first which case it was.
#[cfg(target_os = "linux")]
mod pages {
    use std::{
        marker::PhantomData,
        ops::{Deref, DerefMut},
        ptr, slice,
        sync::Once,
    };

    use bytemuck::Pod;
    use rand::{RngExt, rngs::ChaCha8Rng};
    use tilewise::{Bf16, Element, gemm::Bf16ToF32, simd::InstructionSet};

    use crate::{bf16, cases::Census, operands::Memory};

    /// Cases of each instruction set and element type.
    const CASES: u64 = 2_000;

    /// Bytes of a page, or a multiple.
    fn page() -> usize {
        // SAFETY: a question to the system.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap()
    }

    /// A slice in pages of its own, hard up against a page without access: `base` and `size` are
    /// of the whole mapping, with such a page at either end.
    pub struct Pages<E> {
        base: *mut libc::c_void,
        size: usize,
        first: *mut E,
        len: usize,
        owned: PhantomData<E>,
    }

    // SAFETY: the pages are owned as the memory of a `Vec` is, and `E` is plain data.
    unsafe impl<E: Send> Send for Pages<E> {}
    // SAFETY: as above; shared access gives out `&[E]` alone.
    unsafe impl<E: Sync> Sync for Pages<E> {}

    impl<E: Pod> Pages<E> {
        fn new(len: usize, at_the_end: bool) -> Self {
            let (page, bytes) = (page(), len * size_of::<E>());
            let inner = bytes.next_multiple_of(page);
            let size = inner + 2 * page;
            let (private, anonymous) = (libc::MAP_PRIVATE, libc::MAP_ANONYMOUS);
            // SAFETY: a mapping at an address of the system's choice, of which all but the first
            // and the last page is made accessible.
            let base = unsafe {
                let base =
                    libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, private | anonymous, -1, 0);
                assert_ne!(base, libc::MAP_FAILED, "mmap of {size} bytes");
                let access = libc::PROT_READ | libc::PROT_WRITE;
                assert_eq!(libc::mprotect(base.byte_add(page), inner, access), 0, "mprotect");
                base
            };
            let start = if at_the_end { page + inner - bytes } else { page };
            // SAFETY: `start` is in the mapping.
            let first = unsafe { base.byte_add(start).cast() };
            Self { base, size, first, len, owned: PhantomData }
        }
    }

    impl<E> Drop for Pages<E> {
        fn drop(&mut self) {
            // SAFETY: the mapping of `new`, which nothing refers to any more.
            unsafe { libc::munmap(self.base, self.size) };
        }
    }

    impl<E> Deref for Pages<E> {
        type Target = [E];

        fn deref(&self) -> &[E] {
            // SAFETY: `len` elements between the outer pages, zeroed by the system, aligned
            // because a page and the size of their type are multiples of the alignment.
            unsafe { slice::from_raw_parts(self.first, self.len) }
        }
    }

    impl<E> DerefMut for Pages<E> {
        fn deref_mut(&mut self) -> &mut [E] {
            // SAFETY: as for `deref`; `&mut self` makes the access exclusive.
            unsafe { slice::from_raw_parts_mut(self.first, self.len) }
        }
    }

    /// Memory between pages without access.
    struct Guarded;

    impl Memory for Guarded {
        type Buffer<E: Pod + Send + Sync> = Pages<E>;

        fn buffer<E: Pod + Send + Sync>(rng: &mut ChaCha8Rng, len: usize) -> Pages<E> {
            let mut pages = Pages::new(len, rng.random_bool(0.6));
            bytemuck::cast_slice_mut::<E, u8>(&mut pages).fill(0xff);
            pages
        }

        fn margin(_: &mut ChaCha8Rng) -> usize {
            0
        }
    }

    /// Says which case of which test touched a page without access, and ends the process.
    extern "C" fn report(signal: libc::c_int) {
        let mut text = *b"memory outside of an operand was touched in case 00000000000000000000\n";
        let mut number = Census::current();
        for digit in text[..69].iter_mut().rev().take(20) {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        // SAFETY: calls that are allowed in a handler of signals, on memory of this function.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }

    /// Lets the signal of a touch outside name the case.
    fn report_touches() {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            let handler: extern "C" fn(libc::c_int) = report;
            for signal in [libc::SIGSEGV, libc::SIGBUS] {
                // SAFETY: the handler does only what a handler may do.
                unsafe { libc::signal(signal, handler as libc::sighandler_t) };
            }
        });
    }

    fn stays_inside<T: Element>(seed: u64) {
        report_touches();
        for set in InstructionSet::available() {
            println!("{set} {} seed {seed}", T::NAME);
            Census::take::<T, Guarded>(set, seed, CASES).expect_success();
        }
    }

    #[test]
    fn operands_between_guard_pages_in_f32() {
        stays_inside::<f32>(3);
    }

    #[test]
    fn operands_between_guard_pages_in_f64() {
        stays_inside::<f64>(4);
    }

    #[test]
    fn operands_between_guard_pages_in_bf16() {
        report_touches();
        for set in InstructionSet::available() {
            println!("{set} bf16");
            bf16::Census::take::<Bf16, Guarded>(set, 5, CASES).expect_success();
            bf16::Census::take::<Bf16ToF32, Guarded>(set, 6, CASES).expect_success();
        }
    }

    #[test]
    fn a_guard_page_stops_a_reader() {
        let pages = Pages::<f32>::new(100, true);
        // SAFETY: the child touches nothing but the pages, and leaves at once.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                ptr::read_volatile(pages.as_ptr().add(100));
                libc::_exit(0);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child, "waitpid");
            status
        };
        assert!(libc::WIFSIGNALED(status), "the reader got away with it");
    }
}
