//! Opens files to read. Only regular files of a bounded size are opened: a FIFO or a terminal would
//! block, and a device may never end.

use std::{
    fs::{self, File, FileType, Metadata},
    io::{self, Read, Take},
    path::Path,
};

use crate::error::{Error, Result};

/// Opens a regular file of at most `max_bytes` bytes, following symbolic links; returns it with its
/// size. No more than that size is read, even if the file grows.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened or is a directory, [`Error::File`] if it is not a
/// regular file or is larger.
pub fn open(path: &Path, max_bytes: u64) -> Result<(Take<File>, u64)> {
    // Before opening: opening a FIFO waits for a writer, and opening some devices has side effects.
    check_regular(path, &fs::metadata(path).map_err(Error::io("read", path))?)?;
    let file = File::open(path).map_err(Error::io("read", path))?;
    // The path may be another file by now.
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    check_regular(path, &metadata)?;
    let size = metadata.len();
    if size > max_bytes {
        let detail =
            format!("has {size} bytes: expected at most {max_bytes}; is it the file meant?");
        return Err(Error::file(path, detail));
    }
    Ok((file.take(size), size))
}

/// Reads a file as [`open`] opens it.
///
/// # Errors
/// Those of [`open`]; [`Error::File`] if there is not enough memory.
pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let (mut file, size) = open(path, max_bytes)?;
    let mut bytes = Vec::new();
    read_rest(path, &mut file, size, &mut bytes)?;
    Ok(bytes)
}

/// Reads a file of text as [`open`] opens it.
///
/// # Errors
/// Those of [`read`]; [`Error::File`] if the file is not UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<String> {
    String::from_utf8(read(path, max_bytes)?).map_err(|error| {
        let error = error.utf8_error();
        let at = error.valid_up_to();
        let detail = format!("is not UTF-8 text: byte {at} starts no character");
        Error::file(path, detail).with_source(error)
    })
}

/// Appends the rest of `file`, about `size` bytes, to `bytes`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if there is not enough memory.
pub fn read_rest(path: &Path, file: &mut Take<File>, size: u64, bytes: &mut Vec<u8>) -> Result<()> {
    let room = usize::try_from(size).map(|size| bytes.try_reserve_exact(size));
    if !matches!(room, Ok(Ok(()))) {
        return Err(Error::file(path, format!("has {size} bytes: not enough memory")));
    }
    file.read_to_end(bytes).map(drop).map_err(Error::io("read", path))
}

/// An error unless the file is a regular one.
///
/// # Errors
/// [`Error::Io`] for a directory, [`Error::File`] for everything else.
pub fn check_regular(path: &Path, metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(Error::io("read", path)(io::ErrorKind::IsADirectory.into()));
    }
    let detail = format!("is {}: expected a regular file; copy its content to one", name(kind));
    Err(Error::file(path, detail))
}

#[cfg(unix)]
fn name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn name(_kind: FileType) -> &'static str {
    "a device"
}
