//! Streams a CIFAR-10 archive, `.tar.gz`, once from its beginning to its end; nothing is unpacked
//! to disk.

use std::{
    io::{self, BufReader, Read},
    path::{Component, Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;

use super::{
    batch_files::{Collection, Encoding, Part},
    cifar10::Source,
};
use crate::{
    error::{Error, Result},
    input_file,
};

/// Three times the official archives; larger files are refused.
const MAX_ARCHIVE_BYTES: u64 = 1 << 29;
/// Six times the unpacked original; archives that unpack to more are refused.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;
/// Longest name, or other header extension, that is read into memory.
const MAX_EXTENSION_BYTES: u64 = 1 << 16;
/// Everything in a tar file starts at a multiple of this; two such blocks of zeros end it.
const BLOCK_BYTES: u64 = 512;

/// A member of an archive.
pub(super) struct Member<'a> {
    /// Its name, which is not trusted.
    pub(super) path: PathBuf,
    /// Whether it is a file, not a link, a directory or a device.
    pub(super) is_file: bool,
    /// Bytes of its content.
    pub(super) size: u64,
    /// Its content.
    pub(super) content: &'a mut dyn Read,
}

/// Calls `visit` with each member of a `.tar.gz`; `path` is its name in messages. Memory use is small
/// for any archive, and a truncated archive is an error.
///
/// # Errors
/// [`Error::File`] if the archive is damaged or incomplete; the errors of `visit`.
pub(super) fn visit(
    path: &Path,
    file: impl Read,
    visit: &mut dyn FnMut(Member<'_>) -> Result<()>,
) -> Result<()> {
    let unpacked = MultiGzDecoder::new(BufReader::new(file)).take(MAX_UNPACKED_BYTES);
    let mut archive = tar::Archive::new(Counting { reader: unpacked, bytes: 0 });
    let mut end = 0;
    let mut long_name = None;
    // Raw entries: otherwise the crate `tar` reads names of any length into memory.
    for entry in archive.entries().map_err(damaged(path))?.raw(true) {
        let mut entry = entry.map_err(damaged(path))?;
        let size = entry.size();
        end = entry.raw_file_position().saturating_add(size.next_multiple_of(BLOCK_BYTES));
        let kind = entry.header().entry_type();
        if kind.is_gnu_longlink() || kind.is_pax_global_extensions() {
            continue;
        }
        if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
            if size > MAX_EXTENSION_BYTES {
                let detail = format!(
                    "a name or header of {size} bytes: expected at most {MAX_EXTENSION_BYTES}"
                );
                return Err(Error::file(path, detail));
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(damaged(path))?;
            if kind.is_gnu_longname() {
                bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
                long_name = Some(bytes);
            } else if let Some(name) = name_of_pax(&bytes).map_err(damaged(path))? {
                long_name.get_or_insert(name);
            }
            continue;
        }
        if kind.is_gnu_sparse() {
            return Err(Error::file(path, "holds a sparse file, which CIFAR-10 has none of"));
        }
        let name = long_name.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let name = PathBuf::from(String::from_utf8_lossy(&name).into_owned());
        visit(Member { path: name, is_file: kind.is_file(), size, content: &mut entry })?;
    }
    let mut rest = archive.into_inner();
    // The first block of zeros has been read, if there is one, and nothing after it.
    let mut second = [0; BLOCK_BYTES as usize];
    let has_first = rest.bytes == end.saturating_add(BLOCK_BYTES);
    if !has_first || rest.read_exact(&mut second).is_err() || second.iter().any(|&byte| byte != 0) {
        let missing = io::Error::other("it ends without the two blocks of zeros that end a tar");
        return Err(damaged(path)(missing));
    }
    // What follows holds the checksum.
    io::copy(&mut rest, &mut io::sink()).map(drop).map_err(damaged(path))
}

/// The name in a PAX header.
///
/// # Errors
/// An error for a damaged header, or one that sets the size of the next member, which only members
/// above 8 GiB need.
fn name_of_pax(header: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut name = None;
    for extension in tar::PaxExtensions::new(header) {
        let extension = extension?;
        match extension.key_bytes() {
            b"path" => name = Some(extension.value_bytes().to_vec()),
            b"size" => return Err(io::Error::other("a member with a size of its own")),
            _ => {}
        }
    }
    Ok(name)
}

/// Counts what is read.
struct Counting<R> {
    reader: R,
    bytes: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.reader.read(buffer)?;
        self.bytes += bytes as u64;
        Ok(bytes)
    }
}

/// The part in the entry with this path, if the path is that of the originals: in their folder or at
/// the top.
pub(super) fn part_of(path: &Path, encoding: Encoding) -> Option<Part> {
    let mut names = path.components().filter(|component| *component != Component::CurDir).rev();
    let Component::Normal(file) = names.next()? else { return None };
    let at_home = match (names.next(), names.next()) {
        (None, _) => true,
        (Some(Component::Normal(folder)), None) => folder == encoding.folder(),
        _ => false,
    };
    Part::all().find(|part| at_home && file == part.file_name(encoding).as_str())
}

/// The error for an archive that cannot be read to its end. The caller adds what to do.
pub(super) fn damaged(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| {
        let detail = format!("damaged or incomplete archive: {source}");
        Error::file(path, detail).with_source(source)
    }
}

/// Reads all parts, in any order.
///
/// # Errors
/// [`Error::File`] if the archive is damaged or lacks a batch, [`Error::Io`] if it cannot be read.
pub(super) fn read(source: &Source) -> Result<Collection> {
    let path = &source.path;
    let (file, _) = input_file::open(path, MAX_ARCHIVE_BYTES)?;
    let encoding = source.form.encoding();
    let mut collection = Collection::new(encoding);
    let mut missing: Vec<Part> = Part::batches().collect();
    let visited = visit(path, file, &mut |member| {
        let Some(part) = part_of(&member.path, encoding) else { return Ok(()) };
        if !member.is_file {
            let detail = format!("{} is not a file in this archive", member.path.display());
            return Err(Error::file(path, detail));
        }
        missing.retain(|&other| other != part);
        let read = collection.read(part, &path.join(&member.path), member.content, member.size);
        read.map_err(|error| match error {
            Error::Io { source, .. } => damaged(path)(source),
            error => error,
        })
    });
    visited.map_err(|error| match error {
        Error::File { path, mut detail, source } => {
            detail += "; delete the archive and fetch it again";
            Error::File { path, detail, source }
        }
        error => error,
    })?;
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|part| part.file_name(encoding)).collect();
        let detail = format!(
            "{} missing in this archive; delete it and fetch it again, or unpack it to use what \
             it holds",
            match &names[..] {
                [name] => format!("{name} is"),
                names => format!("{} are", names.join(", ")),
            }
        );
        return Err(Error::file(path, detail));
    }
    Ok(collection)
}
