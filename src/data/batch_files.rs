//! The batch files of CIFAR-10: their names and encodings, and a `Collection` that reads them in
//! any order and stores every image once.

use std::{io::Read, iter, path::Path};

use super::{
    cifar10::{Cifar10, Source},
    images::{ImageSet, ImageShape, check_class_names},
};
use crate::error::{Error, Result};

const SHAPE: ImageShape = ImageShape { channels: 3, height: 32, width: 32 };
pub(super) const IMAGE_BYTES: usize = 3 * 32 * 32;
/// A label and an image.
pub(super) const RECORD_BYTES: usize = 1 + IMAGE_BYTES;
const CLASSES: usize = 10;
const TRAINING_BATCHES: usize = 5;
/// Records read at a time.
const CHUNK_RECORDS: usize = 32;
/// Ten times the largest file of the original; larger files are refused.
pub(super) const MAX_FILE_BYTES: u64 = 10 * 10_000 * RECORD_BYTES as u64;
/// Largest list of class names; the original has less than a hundred bytes.
pub(super) const MAX_NAMES_BYTES: u64 = 1 << 16;
/// Images in each batch of the original.
const ORIGINAL_BATCH: usize = 10_000;

/// The encoding of a batch file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Records of a label and 3,072 pixels.
    Binary,
    /// A pickled dictionary of an array and a list.
    Pickle,
}

impl Encoding {
    /// The folder in the archives.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Binary => "cifar-10-batches-bin",
            Self::Pickle => "cifar-10-batches-py",
        }
    }
}

/// The content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The training batch with this number, from 1.
    Train(usize),
    /// The test batch.
    Test,
    /// The names of the classes.
    Names,
}

impl Part {
    /// The files with images, in order.
    pub(super) fn batches() -> impl Iterator<Item = Part> {
        (1..=TRAINING_BATCHES).map(Part::Train).chain(iter::once(Part::Test))
    }

    /// All files, in order.
    pub(super) fn all() -> impl Iterator<Item = Part> {
        Self::batches().chain(iter::once(Part::Names))
    }

    pub(super) fn file_name(self, encoding: Encoding) -> String {
        let (batch, names) = match encoding {
            Encoding::Binary => (".bin", ".txt"),
            Encoding::Pickle => ("", ""),
        };
        match self {
            Self::Train(number) => format!("data_batch_{number}{batch}"),
            Self::Test => format!("test_batch{batch}"),
            Self::Names => format!("batches.meta{names}"),
        }
    }
}

/// The images and labels read so far.
#[derive(Debug, Default)]
struct Images {
    pixels: Vec<u8>,  // (images, 3072)
    labels: Vec<u32>, // (images)
}

impl Images {
    fn reserve(&mut self, images: u64, path: &Path) -> Result<()> {
        let too_large = || {
            let bytes = u128::from(images) * IMAGE_BYTES as u128;
            let detail = format!(
                "not enough memory for {images} images, {bytes} bytes; is it a batch of CIFAR-10, \
                 which has 10000?"
            );
            Error::file(path, detail)
        };
        let images = usize::try_from(images).map_err(|_| too_large())?;
        let bytes = images.checked_mul(IMAGE_BYTES).ok_or_else(too_large)?;
        self.pixels.try_reserve_exact(bytes).map_err(|_| too_large())?;
        self.labels.try_reserve_exact(images).map_err(|_| too_large())
    }

    /// Appends the `size` bytes of a binary file.
    fn read_binary(&mut self, path: &Path, reader: &mut dyn Read, size: u64) -> Result<()> {
        let records = size / RECORD_BYTES as u64;
        if records == 0 || !size.is_multiple_of(RECORD_BYTES as u64) {
            let detail = format!(
                "{size} bytes: expected a multiple of {RECORD_BYTES}, found {records} whole \
                 records and {} bytes",
                size % RECORD_BYTES as u64
            );
            return Err(Error::file(path, detail));
        }
        self.reserve(records, path)?;
        let mut chunk = vec![0; CHUNK_RECORDS * RECORD_BYTES];
        let mut offset = 0;
        while offset < size {
            let bytes = (size - offset).min(chunk.len() as u64) as usize;
            let chunk = &mut chunk[..bytes];
            reader.read_exact(chunk).map_err(Error::io("read", path))?;
            for record in chunk.chunks_exact(RECORD_BYTES) {
                let index = (offset / RECORD_BYTES as u64) as usize;
                self.push_label(record[0], index, Some(offset), path)?;
                self.pixels.extend_from_slice(&record[1..]);
                offset += RECORD_BYTES as u64;
            }
        }
        Ok(())
    }

    /// Appends a label; `offset` is its byte in the file, if known.
    fn push_label(
        &mut self,
        label: u8,
        record: usize,
        offset: Option<u64>,
        path: &Path,
    ) -> Result<()> {
        if usize::from(label) >= CLASSES {
            let at = offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
            let detail = format!(
                "label {label} of record {record}{at}: expected a class from 0 to {}",
                CLASSES - 1
            );
            return Err(Error::file(path, detail));
        }
        self.labels.push(label.into());
        Ok(())
    }

    /// Appends a pickled batch.
    #[cfg(feature = "archives")]
    fn read_pickle(&mut self, path: &Path, reader: &mut dyn Read) -> Result<()> {
        let batch = super::pickle::read_batch(path, reader)?;
        self.reserve(batch.labels.len() as u64, path)?;
        for (record, &label) in batch.labels.iter().enumerate() {
            self.push_label(label, record, None, path)?;
        }
        self.pixels.extend_from_slice(&batch.pixels);
        Ok(())
    }

    #[cfg(not(feature = "archives"))]
    fn read_pickle(&mut self, path: &Path, _reader: &mut dyn Read) -> Result<()> {
        Err(no_pickles(path))
    }

    fn into_set(self, class_names: &[String]) -> Result<ImageSet> {
        ImageSet::new(SHAPE, class_names.to_vec(), self.pixels, self.labels)
    }
}

#[cfg(not(feature = "archives"))]
fn no_pickles(path: &Path) -> Error {
    Error::file(path, "reading pickled batches needs a build with the feature `archives`")
}

/// The files read so far.
pub(super) struct Collection {
    encoding: Encoding,
    train: Images,
    batches: Vec<(usize, usize)>, // (number, images), in the order of `train`
    test: Option<Images>,
    class_names: Option<Vec<String>>,
}

impl Collection {
    pub(super) fn new(encoding: Encoding) -> Self {
        let train = Images::default();
        Self { encoding, train, batches: Vec::new(), test: None, class_names: None }
    }

    /// Reserves memory for this many training images.
    pub(super) fn reserve(&mut self, images: u64, path: &Path) -> Result<()> {
        self.train.reserve(images, path)
    }

    /// An error unless the training batches among `parts` are numbered from 1 without gaps.
    pub(super) fn check_batches(parts: &[Part], source: &Source) -> Result<()> {
        let encoding = source.form.encoding();
        let last = parts.iter().filter_map(|&part| match part {
            Part::Train(number) => Some(number),
            _ => None,
        });
        let missing = |&number: &usize| !parts.contains(&Part::Train(number));
        match (1..=last.max().unwrap_or(1)).find(missing) {
            Some(number) => {
                let name = Part::Train(number).file_name(encoding);
                let detail = format!("{name} is missing: batches start at 1 and leave no gap");
                Err(Error::file(&source.path, detail))
            }
            None => Ok(()),
        }
    }

    /// Reads the file at `path`, which has `size` bytes.
    pub(super) fn read(
        &mut self,
        part: Part,
        path: &Path,
        reader: &mut dyn Read,
        size: u64,
    ) -> Result<()> {
        let max_bytes = if part == Part::Names { MAX_NAMES_BYTES } else { MAX_FILE_BYTES };
        if size > max_bytes {
            let detail = format!("{size} bytes: more than {max_bytes}, too large for such a file");
            return Err(Error::file(path, detail));
        }
        let twice = || Error::file(path, "the same file comes twice");
        match part {
            Part::Train(number) => {
                let before = self.train.labels.len();
                let place = self.batches.partition_point(|&(other, _)| other < number);
                if self.batches.get(place).is_some_and(|&(other, _)| other == number) {
                    return Err(twice());
                }
                Self::read_images(self.encoding, &mut self.train, path, reader, size)?;
                let images = self.train.labels.len() - before;
                // The new images are at the end; swap them with those of later batches.
                let start: usize = self.batches[..place].iter().map(|&(_, images)| images).sum();
                self.train.labels[start..].rotate_right(images);
                self.train.pixels[start * IMAGE_BYTES..].rotate_right(images * IMAGE_BYTES);
                self.batches.insert(place, (number, images));
            }
            Part::Test => {
                let mut test = Images::default();
                Self::read_images(self.encoding, &mut test, path, reader, size)?;
                if self.test.replace(test).is_some() {
                    return Err(twice());
                }
            }
            Part::Names => {
                let names = self.read_names(path, reader)?;
                if self.class_names.replace(names).is_some() {
                    return Err(twice());
                }
            }
        }
        Ok(())
    }

    fn read_images(
        encoding: Encoding,
        images: &mut Images,
        path: &Path,
        reader: &mut dyn Read,
        size: u64,
    ) -> Result<()> {
        match encoding {
            Encoding::Binary => images.read_binary(path, reader, size),
            Encoding::Pickle => images.read_pickle(path, reader),
        }
    }

    fn read_names(&self, path: &Path, reader: &mut dyn Read) -> Result<Vec<String>> {
        let names: Vec<String> = match self.encoding {
            Encoding::Binary => {
                let mut text = String::new();
                let mut bounded = reader.take(MAX_NAMES_BYTES);
                bounded.read_to_string(&mut text).map_err(Error::io("read", path))?;
                text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect()
            }
            #[cfg(feature = "archives")]
            Encoding::Pickle => super::pickle::read_names(path, &mut reader.take(MAX_NAMES_BYTES))?,
            #[cfg(not(feature = "archives"))]
            Encoding::Pickle => return Err(no_pickles(path)),
        };
        if names.len() != CLASSES {
            let detail = format!("expected the names of {CLASSES} classes, found {}", names.len());
            return Err(Error::file(path, detail));
        }
        check_class_names(&names).map_err(|detail| Error::file(path, detail))?;
        Ok(names)
    }

    /// A sentence for each batch whose number of images differs from the original.
    fn warnings(&self) -> Vec<String> {
        let training = self.batches.iter().map(|&(number, images)| (Part::Train(number), images));
        let test = self.test.iter().map(|test| (Part::Test, test.labels.len()));
        let others = training.chain(test).filter(|&(_, images)| images != ORIGINAL_BATCH);
        let warning = |(part, images): (Part, usize)| {
            let name = part.file_name(self.encoding);
            format!("{name} has {images} images: the original has {ORIGINAL_BATCH}")
        };
        others.map(warning).collect()
    }

    /// The sets of images, with `default_names` if no file has the names of the classes.
    pub(super) fn finish(self, source: &Source, default_names: &[&str]) -> Result<Cifar10> {
        let parts: Vec<Part> =
            self.batches.iter().map(|&(number, _)| Part::Train(number)).collect();
        Self::check_batches(&parts, source)?;
        let warnings = if source.form.is_archive() { self.warnings() } else { Vec::new() };
        let defaults = || default_names.iter().copied().map(String::from).collect();
        let names = self.class_names.unwrap_or_else(defaults);
        let test = self.test.map(|test| test.into_set(&names)).transpose()?;
        Ok(Cifar10 { train: self.train.into_set(&names)?, test, warnings })
    }
}
