//! `write`: replaces a file atomically, so that a reader finds either the old or the new content,
//! never a part.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::Path,
};

use crate::error::{Error, Result};

/// Prefix of the name of a temporary file.
const PREFIX: &str = ".tilewise-";
/// Random characters after it: letters and digits.
const RANDOM: usize = 6;

/// Writes `path` with the output of `content`: first under a temporary name in the same directory,
/// which is synced and then renamed. An existing file is replaced. The file gets the permissions
/// that the process gives new files.
///
/// # Errors
/// [`Error::Io`] with `path` if a step fails; the temporary file is then removed, and the
/// previous file is unchanged unless only the last step, syncing the directory, failed.
pub fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    put(path, content).map_err(Error::io("write", path))
}

fn put(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let dir = directory(path);
    let mut file = temporary(dir)?;
    if cfg!(unix) {
        // Tells `remove_left_overs` that this file has a writer. File systems without locks cannot
        // tell, which matters only if the directory's owner starts at this moment; on other systems
        // a locked file could not be read.
        let _ = file.as_file().try_lock();
    }
    let mut writer = BufWriter::new(file.as_file_mut());
    content(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_directory(dir)
}

/// Checks that files can be created in `dir`.
///
/// # Errors
/// [`Error::Io`] with `dir` if not.
pub fn check_writable(dir: &Path) -> Result<()> {
    temporary(dir).map(drop).map_err(Error::io("write to", dir))
}

/// Removes the temporary files that killed processes left in `dir`: regular files with such names
/// that no living process is writing. Only the owner of the directory may call it: in other
/// directories such a file may still be needed.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be read or a file cannot be removed.
pub fn remove_left_overs(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        if !(kind.is_file() && is_temporary(&entry.file_name())) {
            continue;
        }
        let file = fs::File::options().read(true).write(true).open(&path);
        let unused = file.is_ok_and(|file| file.try_lock().is_ok());
        if unused {
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
        }
    }
    Ok(())
}

/// Whether a file has a name like those of [`temporary`].
fn is_temporary(name: &std::ffi::OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// The directory that a file is in.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn temporary(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    // Temporary files are private otherwise; the process's umask still applies.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir)
}

/// Makes a rename in `dir` survive a power failure.
fn sync_directory(dir: &Path) -> io::Result<()> {
    // On other systems a directory cannot be opened as a file.
    if cfg!(unix) { fs::File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn content_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        for text in ["first, the longer one", "second"] {
            write(&path, |file| file.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, "old").unwrap();
        let error = write(&path, |file| {
            file.write_all(b"new")?;
            Err(io::Error::other("no more ink"))
        });
        let message = error.unwrap_err().to_string();
        assert!(message.contains("a.txt") && message.contains("no more ink"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone").join("a.txt");
        let message = write(&path, |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn asking_whether_a_directory_is_writable_leaves_nothing_there() {
        let dir = tempfile::tempdir().unwrap();
        check_writable(dir.path()).unwrap();
        assert!(names(dir.path()).is_empty());
        let gone = dir.path().join("gone");
        let message = check_writable(&gone).unwrap_err().to_string();
        assert!(message.contains(&gone.display().to_string()), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn left_overs_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let kept = [
            ".tilewise-",
            ".tilewise-12345",
            ".tilewise-1234567",
            ".tilewise-12.456",
            ".tilewise-x\u{e9}123",
            "tilewise-123456",
            "a.tilewise-123456",
            "model.safetensors",
        ];
        for name in [&kept[..], &[".tilewise-aB3dE6", ".tilewise-000000"]].concat() {
            fs::write(path(name), "left over").unwrap();
        }
        fs::create_dir(path(".tilewise-folder")).unwrap();
        std::os::unix::fs::symlink(path("model.safetensors"), path(".tilewise-linked")).unwrap();
        // A name that a killed process really leaves, and one that is being written.
        let (_, left) = temporary(dir.path()).unwrap().keep().unwrap();
        write(&path("a.txt"), |_| remove_left_overs(dir.path()).map_err(io::Error::other)).unwrap();
        assert!(!left.exists());
        let mut names = names(dir.path());
        let mut expected = [&kept[..], &[".tilewise-folder", ".tilewise-linked", "a.txt"]].concat();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_other_new_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        write(&ours, |_| Ok(())).unwrap();
        fs::write(&theirs, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&theirs));
    }
}
