//! Pools of threads, for callers without a rayon pool. The caller creates a pool; it ends when the
//! caller and all handles created with it have released it.
//!
//! A call from outside of a rayon pool sometimes allocates; a call from inside does not. So the
//! pool's first thread waits at a "desk" for the callers' jobs, and runs them inside of the pool.

use std::{
    fmt,
    mem::transmute,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use crate::{
    capi::{
        error::{Failure, Status, guard},
        handle::{destroy, give},
        pointers::room,
    },
    error::{Error, Result},
    threads::Threads,
};

/// Threads that share the work of one call. Any number of threads may use a pool; their calls take
/// turns.
pub struct Pool(Arc<Workers>);

/// Starts a pool of `threads` threads, 1 or more, into `pool`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_pool_create(threads: usize, pool: *mut *mut Pool) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let out = unsafe { room("pool", pool)? };
        give(Pool(Arc::new(Workers::start(threads)?)), out);
        Ok(())
    })
}

/// Releases a pool; null does nothing. Its threads end when all handles created with it have also
/// been destroyed; the last call waits for them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_pool_destroy(pool: *mut Pool) {
    // SAFETY: the caller keeps the rules of `capi`.
    unsafe { destroy(pool) }
}

/// Where the work of a handle runs.
#[derive(Clone, Debug)]
pub(super) struct Place(Option<Arc<Workers>>);

impl Place {
    /// In `pool`, or on the calling thread.
    pub(super) fn new(pool: Option<&Pool>) -> Self {
        Self(pool.map(|pool| Arc::clone(&pool.0)))
    }

    /// Number of tasks that work is divided into.
    pub(super) fn threads(&self) -> Threads {
        self.0.as_ref().map_or(Threads::Caller, |workers| Threads::Count(workers.threads.len()))
    }

    /// Runs some work there.
    pub(super) fn run<R: Send>(
        &self,
        work: impl FnOnce() -> Result<R, Failure> + Send,
    ) -> Result<R, Failure> {
        match &self.0 {
            Some(workers) => workers.run(work),
            None => work(),
        }
    }
}

/// The threads of a pool.
struct Workers {
    desk: Arc<Desk>,
    /// Only one caller at a time uses the desk.
    turn: Mutex<()>,
    /// There until the end.
    pool: Option<rayon::ThreadPool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn start(count: usize) -> Result<Self> {
        let most = rayon::max_num_threads();
        if !(1..=most).contains(&count) {
            return Err(Error::setting("threads", count, format!("from 1 to {most}")));
        }
        let mut threads = Vec::new();
        let built = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .spawn_handler(|worker| {
                let name = format!("tilewise-{}", worker.index());
                threads.push(thread::Builder::new().name(name).spawn(|| worker.run())?);
                Ok(())
            })
            .build();
        let pool = match built {
            Ok(pool) => Some(pool),
            Err(error) => {
                threads.into_iter().for_each(join);
                return Err(Error::ThreadPool { threads: count, source: error.into() });
            }
        };
        let workers = Self { desk: Arc::default(), turn: Mutex::new(()), pool, threads };
        if let Some(pool) = &workers.pool {
            let desk = Arc::clone(&workers.desk);
            pool.spawn(move || desk.serve());
        }
        Ok(workers)
    }

    /// Runs some work on a thread of the pool. Nothing is allocated.
    fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let (mut work, mut result) = (Some(work), None);
        let mut job = || {
            result = work.take().map(|work| catch_unwind(AssertUnwindSafe(work)));
        };
        let turn = lock(&self.turn);
        self.desk.bring(&mut job);
        drop(turn);
        match result.expect("the desk did the job") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.desk.set(Desktop::Closed);
        self.pool = None;
        self.threads.drain(..).for_each(join);
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({})", self.threads.len())
    }
}

/// Waits for a thread to end. It cannot have panicked: rayon would have ended the process.
fn join(thread: JoinHandle<()>) {
    let _ = thread.join();
}

/// The place where callers hand jobs to a thread of the pool.
#[derive(Default)]
struct Desk {
    desktop: Mutex<Desktop>,
    changed: Condvar,
}

/// The state of a desk.
#[derive(Clone, Copy, Default)]
enum Desktop {
    #[default]
    Empty,
    Waiting(Job),
    Running,
    Done,
    Closed,
}

/// Work of a caller who waits until it is done.
#[derive(Clone, Copy)]
struct Job(*mut (dyn FnMut() + Send));

// SAFETY: the closure may go to another thread, and only the one that serves calls it.
unsafe impl Send for Job {}

impl Desk {
    /// Hands over a job and waits; the job does not panic.
    fn bring(&self, job: &mut (dyn FnMut() + Send)) {
        // SAFETY: only the lifetime changes; the job is gone from the desk when this returns.
        let job = Job(unsafe {
            transmute::<*mut (dyn FnMut() + Send + '_), *mut (dyn FnMut() + Send)>(job)
        });
        self.set(Desktop::Waiting(job));
        self.wait(|desktop| matches!(desktop, Desktop::Done));
        self.set(Desktop::Empty);
    }

    /// Runs jobs until the desk is closed.
    fn serve(&self) {
        loop {
            match self.wait(|desktop| matches!(desktop, Desktop::Waiting(_) | Desktop::Closed)) {
                Desktop::Waiting(Job(job)) => {
                    self.set(Desktop::Running);
                    // SAFETY: the caller of the job waits for `Done` and does not touch it.
                    unsafe { (*job)() };
                    self.set(Desktop::Done);
                }
                _ => return,
            }
        }
    }

    fn set(&self, desktop: Desktop) {
        *lock(&self.desktop) = desktop;
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(&Desktop) -> bool) -> Desktop {
        let desktop = self.changed.wait_while(lock(&self.desktop), |desktop| !until(desktop));
        *desktop.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks a mutex whose value no panic can leave half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::handle::Exclusive;

    #[test]
    fn work_runs_inside_of_the_pool_and_callers_take_turns() {
        let workers = Workers::start(3).unwrap();
        thread::scope(|scope| {
            for caller in 0..8 {
                let workers = &workers;
                scope.spawn(move || {
                    for round in 0..200 {
                        let (a, b) = workers.run(|| {
                            assert_eq!(rayon::current_num_threads(), 3);
                            rayon::join(|| caller + round, || caller * round)
                        });
                        assert_eq!((a, b), (caller + round, caller * round));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_comes_back_and_breaks_what_it_used_and_not_the_pool() {
        let pool = Pool(Arc::new(Workers::start(2).unwrap()));
        let place = Place::new(Some(&pool));
        let used = Exclusive::new(1);
        let status = guard(|| {
            let mut used = used.take("it")?;
            let used = &mut *used;
            place.run(|| panic!("{used} on a worker"))
        });
        assert_eq!(status, Status::Internal);
        assert_eq!(used.take("it").map(|_| ()).map_err(Failure::status), Err(Status::Internal));
        assert_eq!(place.run(|| Ok(5)).unwrap(), 5);
    }

    #[test]
    fn threads_end_with_the_last_that_uses_them() {
        let pool = Pool(Arc::new(Workers::start(2).unwrap()));
        let place = Place::new(Some(&pool));
        let desk = Arc::downgrade(&pool.0.desk);
        drop(pool);
        assert_eq!(place.run(|| Ok(rayon::current_num_threads())).unwrap(), 2);
        drop(place);
        assert!(desk.upgrade().is_none(), "the thread that serves still has the desk");
    }

    #[test]
    fn numbers_of_threads_that_make_no_sense_are_errors() {
        for count in [0, usize::MAX] {
            assert!(matches!(Workers::start(count), Err(Error::Setting { .. })), "{count}");
        }
    }
}
