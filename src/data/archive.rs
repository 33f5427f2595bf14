//! Streams a CIFAR-10 archive, `.tar.gz`, once from its beginning to its end; nothing is unpacked
//! to disk.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Component, Path},
};

use flate2::bufread::MultiGzDecoder;

use super::{
    batch_files::{Collection, Encoding, Part},
    cifar10::Source,
};
use crate::error::{Error, Result};

/// Six times the unpacked original; what unpacks to more is nonsense.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;

/// An unpacking reader of a `.tar.gz`, bounded in size.
pub(super) fn open(file: impl Read) -> tar::Archive<impl Read> {
    tar::Archive::new(MultiGzDecoder::new(BufReader::new(file)).take(MAX_UNPACKED_BYTES))
}

/// The part that an entry of this path holds, if it stands where the originals have it: in their
/// folder or at the top.
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

/// What to say about an archive that cannot be read to its end.
pub(super) fn damaged(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| {
        let detail =
            format!("damaged or incomplete archive: {source}; delete it and fetch it again");
        Error::file(path, detail)
    }
}

/// Reads all parts, in whatever order they come.
pub(super) fn read(source: &Source) -> Result<Collection> {
    let path = &source.path;
    let file = File::open(path).map_err(Error::io("open", path))?;
    let encoding = source.form.encoding();
    let mut collection = Collection::new(encoding);
    let mut archive = open(file);
    for entry in archive.entries().map_err(damaged(path))? {
        let mut entry = entry.map_err(damaged(path))?;
        let entry_path = entry.path().map_err(damaged(path))?.into_owned();
        let Some(part) = part_of(&entry_path, encoding) else { continue };
        if !entry.header().entry_type().is_file() {
            let detail = format!("{} is not a file in this archive", entry_path.display());
            return Err(Error::file(path, detail));
        }
        let size = entry.size();
        collection.read(part, &path.join(&entry_path), &mut entry, size).map_err(|error| {
            match error {
                Error::Io { source, .. } => damaged(path)(source),
                error => error,
            }
        })?;
    }
    // What follows the last entry holds the checksum.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged(path))?;
    Ok(collection)
}
