//! `RunLock`: one process owns the directory of a run or of a sweep while it writes there. Commands
//! that only read (`eval`, `predict`, `report`) need no lock: files are replaced atomically.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::console::complain;
use tilewise::{
    atomic_file,
    error::{Error, Result},
};

/// The locked file. It is empty and stays when the lock ends: if it were removed, two processes
/// could each lock a file of this name.
const LOCK: &str = ".lock";
/// The file that makes a directory a sweep's.
pub(super) const SWEEP: &str = "sweep.toml";
/// What the names of directories of a sweep's trials begin with.
pub(super) const TRIAL: &str = "trial-";

/// Ownership of a directory. The system ends it with the process, however that ends.
#[derive(Debug)]
pub(super) struct RunLock {
    path: PathBuf,
    /// Locked as long as they are open: the directory's lock file, and the sweep's if the directory
    /// is that of a trial.
    _locks: [Option<File>; 2],
}

impl RunLock {
    /// Makes the directory where it is missing, owns it, and removes temporary files that a killed
    /// run left in it. The directory of a trial also needs that its sweep is not running.
    ///
    /// # Errors
    /// [`Error::File`] if another process owns the directory or its sweep, [`Error::Io`] if the
    /// directory cannot be made, locked or cleaned.
    pub(super) fn take(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        // Shared: several trials of a sweep that is not running may be trained at once.
        let sweep = match sweep_of(path)? {
            Some(sweep) => Some(lock(&sweep, File::try_lock_shared)?),
            None => None,
        };
        Self::take_with(path, sweep)
    }

    /// Owns the directory of a trial of the sweep whose directory this lock owns.
    ///
    /// # Errors
    /// Same as [`take`](Self::take).
    pub(super) fn take_trial(&self, path: &Path) -> Result<Self> {
        debug_assert_eq!(path.parent(), Some(self.path()));
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        Self::take_with(path, None)
    }

    fn take_with(path: &Path, sweep: Option<File>) -> Result<Self> {
        let own = lock(path, File::try_lock)?;
        atomic_file::remove_left_overs(path)?;
        Ok(Self { path: path.to_owned(), _locks: [Some(own), sweep] })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The directory of the sweep that the existing directory `path` is a trial of, if it is one.
fn sweep_of(path: &Path) -> Result<Option<PathBuf>> {
    let path = path.canonicalize().map_err(Error::io("read", path))?;
    let is_trial = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TRIAL));
    let Some(parent) = path.parent().filter(|_| is_trial) else { return Ok(None) };
    let file = parent.join(SWEEP);
    let is_sweep = file.try_exists().map_err(Error::io("read", file))?;
    Ok(is_sweep.then(|| parent.to_owned()))
}

/// Locks a directory's lock file with `try_lock`.
fn lock(dir: &Path, try_lock: impl FnOnce(&File) -> Result<(), TryLockError>) -> Result<File> {
    let mut options = File::options();
    let file = options.create(true).truncate(false).read(true).write(true).open(dir.join(LOCK));
    let file = file.map_err(Error::io("write to", dir))?;
    is_locked(dir, try_lock(&file))?;
    Ok(file)
}

/// Turns the answer to a try to lock the file of `dir` into what the user is told.
fn is_locked(dir: &Path, answer: Result<(), TryLockError>) -> Result<()> {
    match answer {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let detail = "another process is training in this directory; wait until it ends or \
                          stop it, or choose another directory";
            Err(Error::file(dir, detail))
        }
        // Some network file systems, often those of clusters, have no locks; training there must
        // still be possible.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            complain(&format_args!(
                "warning: {} is on a file system without locks: make sure that no other process \
                 trains in it",
                dir.display(),
            ));
            Ok(())
        }
        Err(TryLockError::Error(error)) => Err(Error::io("lock", dir.join(LOCK))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_until_the_lock_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = RunLock::take(&path).unwrap();
        let message = RunLock::take(&path).unwrap_err().to_string();
        assert!(message.starts_with(&path.display().to_string()), "{message}");
        assert!(message.contains("another process") && message.contains("wait"), "{message}");
        drop(first);
        RunLock::take(&path).unwrap();
    }

    #[test]
    fn trials_and_their_sweep_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SWEEP), "").unwrap();
        let trial = |number: usize| dir.path().join(format!("{TRIAL}{number}"));
        let trials = [1, 2].map(|number| RunLock::take(&trial(number)).unwrap());
        RunLock::take(dir.path()).unwrap_err();
        drop(trials);
        let sweep = RunLock::take(dir.path()).unwrap();
        RunLock::take(&trial(1)).unwrap_err();
        let own = sweep.take_trial(&trial(1)).unwrap();
        sweep.take_trial(&trial(1)).unwrap_err();
        drop(own);
        // What is no trial is no part of the sweep.
        RunLock::take(&dir.path().join("other")).unwrap();
    }

    #[test]
    fn a_file_system_without_locks_is_no_obstacle_and_another_failure_is_one() {
        let answer = |kind: io::ErrorKind| Err(TryLockError::Error(kind.into()));
        is_locked(Path::new("a"), answer(io::ErrorKind::Unsupported)).unwrap();
        let refused = is_locked(Path::new("a"), answer(io::ErrorKind::PermissionDenied));
        assert!(refused.unwrap_err().to_string().contains(LOCK));
    }
}
