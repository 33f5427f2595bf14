//! `Shutdown`: a request by a signal to end the program, which the running work follows at its next
//! step, so that its results are saved.

use std::{
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::console::{complain, print};
use tilewise::error::{Error, Result};

/// Exit code of a run that a signal ended.
const INTERRUPTED: u8 = 130;
/// Signals this soon after the first are the same request: GNU `timeout` signals a process and
/// then its group, and a closed terminal is signalled by the system and by the shell.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Whether the program is to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Shutdown {
    requested: Arc<AtomicBool>,
    begun: Arc<Mutex<bool>>,
}

impl Shutdown {
    /// A request that Ctrl-C, SIGTERM or SIGHUP makes. Before [`begin`](Self::begin) such a signal
    /// ends the program at once, and so does a further one at least [`SAME_REQUEST`] after the
    /// first. A signal that is ignored, as SIGHUP under `nohup`, stays ignored. To be called once.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(super) fn on_signals() -> Result<Self> {
        let shutdown = Self::default();
        let Self { requested, begun } = shutdown.clone();
        let mut first = None;
        let handler = move || {
            let begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
            if !*begun {
                complain(&"interrupted before training began");
                std::process::exit(INTERRUPTED.into());
            }
            drop(begun);
            let first = *first.get_or_insert_with(Instant::now);
            requested.store(true, Ordering::Relaxed);
            if first.elapsed() >= SAME_REQUEST {
                complain(
                    &"interrupted again: ended at once; a file that was not yet written is missing \
                      or the previous one, every file that is there is whole",
                );
                std::process::exit(INTERRUPTED.into());
            }
        };
        let refused = |error| Error::io("handle", "signals")(std::io::Error::other(error));
        let ignored = ignored::signals();
        ctrlc::set_handler(handler).map_err(refused)?;
        ignored::ignore(&ignored).map_err(Error::io("handle", "signals"))?;
        Ok(shutdown)
    }

    /// From now on there is something to save, and a signal is a request.
    pub(super) fn begin(&self) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Whether a signal has come since [`begin`](Self::begin).
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }
}

/// Says what was interrupted, and gives the exit code. All is saved by now: a terminal that is gone
/// and cannot be told is no failure.
pub(super) fn interrupted(text: &str) -> ExitCode {
    if let Err(error) = print(text) {
        complain(&error);
    }
    ExitCode::from(INTERRUPTED)
}

/// The signals that the parent process set to be ignored, which `ctrlc` does not check.
#[cfg(unix)]
mod ignored {
    use std::{io, ptr};

    use libc::{SIG_ERR, SIG_IGN, SIGHUP, SIGINT, SIGTERM, c_int};

    /// Those of the signals of a [`Shutdown`](super::Shutdown) that are ignored.
    pub(super) fn signals() -> Vec<c_int> {
        let is_ignored = |&signal: &c_int| {
            // SAFETY: all zeros are a value of this struct of integers, pointers and a nullable
            // function pointer.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: without a new action this only writes the present one to `action`, which is a
            // local of the right type.
            let failed = unsafe { libc::sigaction(signal, ptr::null(), &mut action) } != 0;
            !failed && action.sa_sigaction == SIG_IGN
        };
        [SIGINT, SIGTERM, SIGHUP].into_iter().filter(is_ignored).collect()
    }

    /// Ignores signals.
    ///
    /// # Errors
    /// The system's, for a signal that cannot be ignored.
    pub(super) fn ignore(signals: &[c_int]) -> io::Result<()> {
        for &signal in signals {
            // SAFETY: SIG_IGN runs no code of this program.
            if unsafe { libc::signal(signal, SIG_IGN) } == SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// Elsewhere no signal is ignored from the start.
#[cfg(not(unix))]
mod ignored {
    use std::io;

    pub(super) fn signals() {}

    pub(super) fn ignore((): &()) -> io::Result<()> {
        Ok(())
    }
}
