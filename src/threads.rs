//! How work is divided: a number of tasks on the caller's rayon pool, never a pool of our own.

use crate::simd::Denormals;

/// How many tasks an operation is divided into. The result's bits do not depend on it.
///
/// Tasks run on the rayon pool of the calling thread (see `rayon::ThreadPool::install`); a call
/// from outside of any pool runs them on rayon's global one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread alone; no pool is touched.
    #[default]
    Caller,
    /// As many tasks as the calling thread's pool has threads.
    Pool,
    /// This many tasks; 0 counts as 1.
    Count(usize),
}

impl Threads {
    /// The number of tasks, at least 1.
    pub fn tasks(self) -> usize {
        match self {
            Self::Caller => 1,
            Self::Pool => rayon::current_num_threads(),
            Self::Count(count) => count.max(1),
        }
    }
}

/// Lets every thread of the caller's pool look for work once: a thread that does so for the first
/// time allocates, and a planned run is to find that done. Outside of a pool it does nothing.
pub(crate) fn warm_up() {
    if rayon::current_thread_index().is_some() {
        rayon::broadcast(|_| rayon::yield_now());
    }
}

/// Divides `work` into `parts` and runs them all, in parallel; returns when all are done.
///
/// `split(work, left, parts)` cuts off the first `left` of `parts` parts. Nothing is allocated,
/// as long as the caller is inside of a rayon pool. The parts run with the caller's setting for
/// denormal numbers; what else a thread does while it waits for them does not.
pub(crate) fn divide<W, S, R>(work: W, parts: usize, split: &S, run: &R)
where
    W: Send,
    S: Fn(W, usize, usize) -> (W, W) + Sync,
    R: Fn(W) + Sync,
{
    if parts <= 1 {
        return run(work);
    }
    let denormals = Denormals::current();
    let _waiting = Denormals::Keep.set();
    divide_with(denormals, work, parts, split, run);
}

fn divide_with<W, S, R>(denormals: Denormals, work: W, parts: usize, split: &S, run: &R)
where
    W: Send,
    S: Fn(W, usize, usize) -> (W, W) + Sync,
    R: Fn(W) + Sync,
{
    if parts <= 1 {
        let _own = denormals.set();
        return run(work);
    }
    let left = parts / 2;
    let (first, second) = split(work, left, parts);
    rayon::join(
        || divide_with(denormals, first, left, split, run),
        || divide_with(denormals, second, parts - left, split, run),
    );
}

/// Where to cut `len` items of which parts begin at multiples of `step`, so that the first `left`
/// of `parts` equal parts come before the cut.
pub(crate) fn cut(len: usize, step: usize, left: usize, parts: usize) -> usize {
    let steps = len.div_ceil(step);
    (steps * left / parts * step).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_at_steps_and_in_proportion() {
        for (len, step, left, parts, at) in [
            (10, 1, 1, 2, 5),
            (10, 4, 1, 2, 4),
            (12, 4, 2, 3, 8),
            (5, 16, 1, 2, 0),
            (33, 16, 1, 2, 16),
            (7, 4, 2, 2, 7),
            (0, 4, 1, 2, 0),
        ] {
            assert_eq!(cut(len, step, left, parts), at, "{len} by {step}, {left} of {parts}");
        }
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
    fn parts_have_the_callers_setting_for_denormals_and_waiting_threads_do_not() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| {
            for setting in [Denormals::Flush, Denormals::Keep] {
                let _own = setting.set();
                let halves = |count: usize, left, parts| {
                    assert_eq!(Denormals::current(), Denormals::Keep);
                    (count * left / parts, count - count * left / parts)
                };
                let found = std::sync::Mutex::new(Vec::new());
                divide(64, 64, &halves, &|_| found.lock().unwrap().push(Denormals::current()));
                assert_eq!(found.into_inner().unwrap(), [setting; 64]);
                assert_eq!(Denormals::current(), setting);
            }
        });
    }

    #[test]
    fn parts_cover_everything_once() {
        for len in 0..40 {
            for step in 1..5 {
                for parts in 1..6 {
                    let mut items = vec![0u8; len];
                    divide(
                        &mut items[..],
                        parts,
                        &|items: &mut [u8], left, parts| {
                            let at = cut(items.len(), step, left, parts);
                            items.split_at_mut(at)
                        },
                        &|items: &mut [u8]| items.iter_mut().for_each(|x| *x += 1),
                    );
                    assert!(items.iter().all(|&x| x == 1), "{len} {step} {parts}");
                }
            }
        }
    }
}
