//! Division of work into tasks on the caller's rayon pool. The crate starts no threads, rayon's
//! global pool included.

use crate::{
    error::{Error, Result},
    simd::Denormals,
};

/// The number of tasks that an operation is divided into. The bits of the result do not depend on it.
///
/// Tasks run on the rayon pool that the calling thread belongs to. Outside of a pool,
/// [`Threads::Pool`] and a [`Threads::Count`] above 1 are errors: wrap the call in
/// `pool.install(|| ...)`.
///
/// ```
/// use tilewise::threads::Threads;
///
/// assert_eq!(Threads::default().tasks()?.get(), 1);
/// assert!(Threads::Pool.tasks().is_err());
/// let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
/// assert_eq!(pool.install(|| Threads::Pool.tasks())?.get(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread; no pool is used.
    #[default]
    Caller,
    /// As many tasks as the calling thread's pool has threads.
    Pool,
    /// This many tasks; 0 counts as 1.
    Count(usize),
}

impl Threads {
    /// The number of tasks that the calling thread divides its work into.
    ///
    /// # Errors
    /// [`Error::OutsidePool`] for [`Threads::Pool`], or a [`Threads::Count`] above 1, outside of a
    /// rayon pool.
    pub fn tasks(self) -> Result<Tasks> {
        if let Self::Caller | Self::Count(0 | 1) = self {
            return Ok(Tasks { count: 1, denormals: None });
        }
        if rayon::current_thread_index().is_none() {
            let tasks = if let Self::Count(count) = self { Some(count) } else { None };
            return Err(Error::OutsidePool { tasks });
        }
        let count = match self {
            Self::Count(count) => count,
            _ => rayon::current_num_threads(),
        };
        Ok(Tasks { count, denormals: None })
    }

    /// Resolves the size of the pool, for a plan whose memory depends on it.
    ///
    /// # Errors
    /// Same as [`tasks`](Self::tasks).
    pub(crate) fn resolved(self) -> Result<Self> {
        let tasks = self.tasks()?.count;
        Ok(if self == Self::Pool { Self::Count(tasks) } else { self })
    }
}

/// A number of tasks, at least 1; if more than one, the calling thread is in a rayon pool. Only
/// [`Threads::tasks`] makes it, so work cannot be divided without that check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tasks {
    count: usize,
    /// How the tasks handle denormal numbers; none: as the calling thread does.
    denormals: Option<Denormals>,
}

impl Tasks {
    /// The number.
    pub fn get(self) -> usize {
        self.count
    }

    /// Sets how the tasks handle denormal numbers.
    pub(crate) fn with_denormals(self, denormals: Option<Denormals>) -> Self {
        Self { denormals, ..self }
    }

    /// At most `most` tasks; at least 1.
    pub(crate) fn at_most(self, most: usize) -> Self {
        Self { count: self.count.min(most).max(1), ..self }
    }
}

/// Lets every thread of the caller's pool look for work once. A thread allocates when it does so for
/// the first time, and planned runs must not allocate. Outside of a pool it does nothing.
pub(crate) fn warm_up() {
    if rayon::current_thread_index().is_some() {
        rayon::broadcast(|_| rayon::yield_now());
    }
}

/// Divides `work` into a part for each task and runs all in parallel; returns when all are done.
///
/// `split(work, left, parts)` cuts off the first `left` of `parts` parts. Nothing is allocated. Each
/// part runs with the tasks' setting for denormal numbers, on any thread; other work is not
/// affected.
pub(crate) fn divide<W, S, R>(work: W, tasks: Tasks, split: &S, run: &R)
where
    W: Send,
    S: Fn(W, usize, usize) -> (W, W) + Sync,
    R: Fn(W) + Sync,
{
    let Tasks { count, denormals } = tasks;
    let denormals = denormals.unwrap_or_else(Denormals::current);
    if count > 1 {
        // Work that a thread does while it waits for the others is not part of these tasks.
        let _waiting = Denormals::Keep.scope();
        return divide_with(denormals, work, count, split, run);
    }
    divide_with(denormals, work, 1, split, run);
}

fn divide_with<W, S, R>(denormals: Denormals, work: W, parts: usize, split: &S, run: &R)
where
    W: Send,
    S: Fn(W, usize, usize) -> (W, W) + Sync,
    R: Fn(W) + Sync,
{
    if parts <= 1 {
        let _own = denormals.scope();
        return run(work);
    }
    let left = parts / 2;
    let (first, second) = split(work, left, parts);
    rayon::join(
        || divide_with(denormals, first, left, split, run),
        || divide_with(denormals, second, parts - left, split, run),
    );
}

/// The position that divides `len` items, with parts starting at multiples of `step`, so that the
/// first `left` of `parts` equal parts come before it.
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
                let _own = setting.scope();
                let halves = |count: usize, left, parts| {
                    assert_eq!(Denormals::current(), Denormals::Keep);
                    (count * left / parts, count - count * left / parts)
                };
                let found = std::sync::Mutex::new(Vec::new());
                let tasks = Threads::Count(64).tasks().unwrap();
                divide(64, tasks, &halves, &|_| found.lock().unwrap().push(Denormals::current()));
                assert_eq!(found.into_inner().unwrap(), [setting; 64]);
                assert_eq!(Denormals::current(), setting);
            }
        });
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
    fn parts_have_the_setting_of_the_tasks_and_nothing_else_does() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        pool.install(|| {
            for (own, count) in [(Denormals::Keep, 1), (Denormals::Keep, 4), (Denormals::Flush, 4)]
            {
                let _own = own.scope();
                for setting in [Denormals::Flush, Denormals::Keep] {
                    let tasks = Threads::Count(count).tasks().unwrap();
                    let found = std::sync::Mutex::new(Vec::new());
                    let halves = |count: usize, left, parts| {
                        (count * left / parts, count - count * left / parts)
                    };
                    divide(count, tasks.with_denormals(Some(setting)), &halves, &|_| {
                        found.lock().unwrap().push(Denormals::current());
                    });
                    assert_eq!(found.into_inner().unwrap(), vec![setting; count]);
                    assert_eq!(Denormals::current(), own);
                }
            }
        });
    }

    fn cover_once(len: usize, step: usize, parts: usize) {
        let mut items = vec![0u8; len];
        divide(
            &mut items[..],
            Threads::Count(parts).tasks().unwrap(),
            &|items: &mut [u8], left, parts| {
                let at = cut(items.len(), step, left, parts);
                items.split_at_mut(at)
            },
            &|items: &mut [u8]| items.iter_mut().for_each(|x| *x += 1),
        );
        assert!(items.iter().all(|&x| x == 1), "{len} {step} {parts}");
    }

    #[test]
    fn parts_cover_everything_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let all = || {
            for len in 0..40 {
                (1..5).for_each(|step| (1..6).for_each(|parts| cover_once(len, step, parts)));
            }
        };
        pool.install(all);
    }

    #[test]
    fn tasks_are_counted_in_the_callers_pool_and_refused_outside_of_one() {
        let settings = [Threads::Caller, Threads::Count(0), Threads::Count(1)];
        for alone in settings {
            assert_eq!(alone.tasks().unwrap().get(), 1, "{alone:?}");
            assert_eq!(alone.resolved().unwrap(), alone);
        }
        for several in [Threads::Pool, Threads::Count(2), Threads::Count(usize::MAX)] {
            for error in [several.tasks().unwrap_err(), several.resolved().unwrap_err()] {
                assert!(error.to_string().contains("pool.install(|| ...)"), "{error}");
                assert!(error.to_string().contains(&format!("{several:?}")), "{error}");
            }
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| {
            assert_eq!(Threads::Pool.tasks().unwrap().get(), 3);
            assert_eq!(Threads::Pool.resolved().unwrap(), Threads::Count(3));
            assert_eq!(Threads::Count(5).tasks().unwrap().get(), 5);
            assert_eq!(Threads::Caller.tasks().unwrap().get(), 1);
        });
    }
}
