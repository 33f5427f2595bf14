//! Finds CIFAR-10 in a directory, in any of its distributed forms, and loads it.

use std::{
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    batch_files::{Collection, Encoding, MAX_FILE_BYTES, MAX_NAMES_BYTES, Part, RECORD_BYTES},
    images::ImageSet,
};
use crate::{
    error::{Error, Result},
    input_file,
};

/// The ten classes, by label.
const CLASS_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Names of the ten classes, by label.
pub fn class_names() -> [&'static str; 10] {
    CLASS_NAMES
}

/// The labeled images of CIFAR-10, 3 x 32 x 32.
#[derive(Debug)]
pub struct Cifar10 {
    /// The training batches, one after another: 50,000 images in the original.
    pub train: ImageSet,
    /// The test batch, if there is one: 10,000 images in the original.
    pub test: Option<ImageSet>,
    /// Differences in size between an archive and the original: a sentence for each batch, to show
    /// to the user.
    pub warnings: Vec<String>,
}

/// The form of a CIFAR-10 data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `data_batch_1.bin` and so on.
    BinaryFiles,
    /// `data_batch_1` and so on, pickled by Python; needs the feature `archives`.
    PickledFiles,
    /// `cifar-10-binary.tar.gz`; needs the feature `archives`.
    BinaryArchive,
    /// `cifar-10-python.tar.gz`; needs the feature `archives`.
    PickledArchive,
}

impl Form {
    /// Whether this is an archive.
    pub(super) fn is_archive(self) -> bool {
        matches!(self, Self::BinaryArchive | Self::PickledArchive)
    }

    /// The encoding of the images.
    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::BinaryFiles | Self::BinaryArchive => Encoding::Binary,
            Self::PickledFiles | Self::PickledArchive => Encoding::Pickle,
        }
    }

    /// Name of the archive.
    fn archive(self) -> &'static str {
        match self.encoding() {
            Encoding::Binary => "cifar-10-binary.tar.gz",
            Encoding::Pickle => "cifar-10-python.tar.gz",
        }
    }
}

/// The place and the form of a CIFAR-10 data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The form.
    pub form: Form,
    /// The archive, or the directory that holds the files.
    pub path: PathBuf,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match self.form {
            Form::BinaryFiles => "binary files in",
            Form::PickledFiles => "pickled files in",
            Form::BinaryArchive => "binary files packed in",
            Form::PickledArchive => "pickled files packed in",
        };
        write!(f, "{form} {}", self.path.display())
    }
}

impl Source {
    /// Loads the data, as [`load`] does.
    ///
    /// # Errors
    /// Those of [`load`].
    pub fn load(&self) -> Result<Cifar10> {
        let collection = match self.form {
            Form::BinaryFiles | Form::PickledFiles => read_files(self)?,
            Form::BinaryArchive | Form::PickledArchive => read_archive(self)?,
        };
        collection.finish(self, &CLASS_NAMES)
    }

    /// Names of the batch files that are missing; none for an archive, which would have to be read to
    /// know.
    #[cfg(feature = "download")]
    pub(super) fn missing(&self) -> Result<Vec<String>> {
        match self.form {
            Form::BinaryFiles | Form::PickledFiles => {
                let encoding = self.form.encoding();
                let names = names_in(&self.path)?.unwrap_or_default();
                let wanted = Part::batches().map(|part| part.file_name(encoding));
                Ok(wanted.filter(|name| !names.contains(name)).collect())
            }
            Form::BinaryArchive | Form::PickledArchive => Ok(Vec::new()),
        }
    }
}

/// Looks for CIFAR-10 in `dir`: for a folder `cifar-10-batches-bin` or `cifar-10-batches-py`, for
/// the files of either in `dir` itself, and for the two archives. Unpacked files come before
/// archives and binary files before pickled ones. `None` if `dir` does not exist or has none of
/// these.
///
/// # Errors
/// [`Error::Io`] if `dir` or one of the two folders cannot be listed.
pub fn locate(dir: &Path) -> Result<Option<Source>> {
    let Some(names) = names_in(dir)? else { return Ok(None) };
    for form in [Form::BinaryFiles, Form::PickledFiles] {
        let encoding = form.encoding();
        let has_batch =
            |names: &[String]| Part::batches().any(|p| names.contains(&p.file_name(encoding)));
        let folder = dir.join(encoding.folder());
        if names_in(&folder)?.is_some_and(|names| has_batch(&names)) {
            return Ok(Some(Source { form, path: folder }));
        }
        if has_batch(&names) {
            return Ok(Some(Source { form, path: dir.to_path_buf() }));
        }
    }
    let mut archives = [Form::BinaryArchive, Form::PickledArchive].into_iter();
    let found = archives.find(|form| names.iter().any(|name| name == form.archive()));
    Ok(found.map(|form| Source { form, path: dir.join(form.archive()) }))
}

/// Names in a directory, or `None` if it does not exist.
fn names_in(dir: &Path) -> Result<Option<Vec<String>>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(Error::io("list", dir))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(Some(names))
}

/// The CIFAR-10 that [`locate`] finds in `dir`.
///
/// # Errors
/// Those of [`locate`], and [`Error::File`] if there is none.
pub fn find(dir: &Path) -> Result<Source> {
    let folders = [Encoding::Binary, Encoding::Pickle].map(Encoding::folder).join(" or ");
    locate(dir)?.ok_or_else(|| {
        let detail = format!(
            "no CIFAR-10 here: expected {folders}; `tilewise data download {}` fetches it",
            dir.display()
        );
        Error::file(dir, detail)
    })
}

/// Loads the CIFAR-10 that [`locate`] finds in `dir`.
///
/// In a directory, training batches must be numbered from 1 without gaps, and the test batch may be
/// missing. An archive must have all six batches. A batch may have any number of images;
/// [`Cifar10::warnings`] lists the batches of an archive that differ from the original. In addition
/// to the result, this needs memory for at most two batches, or three if they are pickled.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read, [`Error::File`] if there is nothing to load, a batch is
/// missing, or a file is damaged, not a regular file (a FIFO, a device) or too large; it names the
/// file and the place.
pub fn load(dir: &Path) -> Result<Cifar10> {
    find(dir)?.load()
}

fn read_files(source: &Source) -> Result<Collection> {
    let encoding = source.form.encoding();
    let names = names_in(&source.path)?.unwrap_or_default();
    let mut collection = Collection::new(encoding);
    let mut files = Vec::new();
    for part in Part::all() {
        let name = part.file_name(encoding);
        if !names.contains(&name) {
            continue;
        }
        let path = source.path.join(name);
        let max_bytes = if part == Part::Names { MAX_NAMES_BYTES } else { MAX_FILE_BYTES };
        let (file, size) = input_file::open(&path, max_bytes)?;
        files.push((part, path, file, size));
    }
    let present: Vec<Part> = files.iter().map(|&(part, ..)| part).collect();
    Collection::check_batches(&present, source)?;
    let training = files.iter().filter(|(part, ..)| matches!(part, Part::Train(_)));
    let bytes: u64 = training.clone().map(|&(.., size)| size).fold(0, u64::saturating_add);
    let largest = training.max_by_key(|&&(.., size)| size).map(|(_, path, ..)| path.as_path());
    collection.reserve(bytes / RECORD_BYTES as u64, largest.unwrap_or(&source.path))?;
    for (part, path, mut file, size) in files {
        collection.read(part, &path, &mut file, size)?;
    }
    Ok(collection)
}

#[cfg(feature = "archives")]
fn read_archive(source: &Source) -> Result<Collection> {
    super::archive::read(source)
}

#[cfg(not(feature = "archives"))]
fn read_archive(source: &Source) -> Result<Collection> {
    let detail = "reading archives needs a build with the feature `archives`; or unpack it here";
    Err(Error::file(&source.path, detail))
}
