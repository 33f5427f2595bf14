//! The error type: every variant has the sizes, the path or the setting that are needed to fix the
//! problem.

use std::{fmt, io, path::PathBuf};

use crate::printable;

/// Longest detail of an [`Error::File`].
const MAX_DETAIL_CHARS: usize = 2000;

/// `Result` with tilewise's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error caused by an argument, a file, a setting or the system.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A matrix has other dimensions than the operation needs.
    Shape {
        /// Which operand.
        what: &'static str,
        /// The expected rows and columns.
        expected: (usize, usize),
        /// The rows and columns found.
        found: (usize, usize),
    },
    /// A slice has a different length than the operation needs.
    Length {
        /// Which slice.
        what: &'static str,
        /// The expected length.
        expected: usize,
        /// The length found.
        found: usize,
    },
    /// A size computed from the arguments does not fit the address space or the memory.
    SizeOverflow {
        /// What would have this size.
        what: &'static str,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
    },
    /// A strided view reaches outside of its slice.
    OutOfBounds {
        /// Rows of the view.
        rows: usize,
        /// Columns of the view.
        cols: usize,
        /// Elements from one row to the next.
        row_stride: isize,
        /// Elements from one column to the next.
        col_stride: isize,
        /// Index of the element (0, 0).
        offset: usize,
        /// Length of the slice.
        len: usize,
    },
    /// Two positions of a mutable view are the same element.
    Overlap {
        /// Rows of the view.
        rows: usize,
        /// Columns of the view.
        cols: usize,
        /// Elements from one row to the next.
        row_stride: isize,
        /// Elements from one column to the next.
        col_stride: isize,
    },
    /// A setting has an invalid value.
    Setting {
        /// Name of the setting in this library.
        name: &'static str,
        /// The value found.
        value: String,
        /// The values that are allowed.
        expected: String,
    },
    /// Settings that contradict each other, or a setting that is missing.
    Settings {
        /// The settings, the problem, and what to do.
        detail: String,
    },
    /// The CPU or the build lacks the requested instruction set.
    IsaUnavailable {
        /// The requested name.
        wanted: String,
        /// The available names, separated by commas.
        available: String,
    },
    /// A batch is larger than the workspace was planned for.
    BatchTooLarge {
        /// Rows of the batch.
        batch: usize,
        /// Rows that the workspace was planned for.
        capacity: usize,
    },
    /// A label is out of range.
    Label {
        /// The label.
        label: u32,
        /// Its row in the batch.
        row: usize,
        /// Number of classes.
        classes: usize,
    },
    /// The logits or the loss of an image are not finite.
    NotFinite {
        /// Index of the image in its set.
        image: usize,
        /// What is not finite: a logit, or the loss.
        what: &'static str,
        /// Its value: NaN or infinite.
        value: f64,
    },
    /// The content of a file is invalid.
    File {
        /// The file.
        path: PathBuf,
        /// What was expected, what was found, and where.
        detail: String,
    },
    /// An operation of the operating system failed.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried: "read", "create", …
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A download failed.
    Download {
        /// The address.
        url: String,
        /// What happened, and what to do next.
        detail: String,
    },
    /// Training diverged; histories and best parameters up to this point are kept.
    Diverged {
        /// Iteration since the start of training, from 1.
        iteration: usize,
        /// Learning rate of that iteration.
        learning_rate: f64,
        /// The loss of that iteration. If it is NaN or infinite, nothing was updated; if it is finite,
        /// the update gave parameters or logits that are not finite.
        loss: f64,
    },
    /// A pool of worker threads could not be started.
    ThreadPool {
        /// The requested number of threads.
        threads: usize,
        /// The system's error.
        detail: String,
    },
}

// Written by hand: a derive macro would add more to an embedder's first build than all other small
// dependencies of this crate together.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { what, expected: (rows, cols), found } => {
                write!(f, "{what}: expected {rows} x {cols}, found {} x {}", found.0, found.1)
            }
            Self::Length { what, expected, found } => {
                write!(f, "{what}: expected {expected} elements, found {found}")
            }
            Self::SizeOverflow { what, rows, cols } => {
                write!(f, "{what}: {rows} x {cols} elements exceed the memory; use smaller sizes")
            }
            Self::OutOfBounds { rows, cols, row_stride, col_stride, offset, len } => write!(
                f,
                "a {rows} x {cols} view with strides ({row_stride}, {col_stride}) from offset \
                 {offset} reaches outside of its {len} elements"
            ),
            Self::Overlap { rows, cols, row_stride, col_stride } => write!(
                f,
                "a mutable {rows} x {cols} view with strides ({row_stride}, {col_stride}) overlaps \
                 itself"
            ),
            Self::Setting { name, value, expected } => {
                write!(f, "{name} = {value}: expected {expected}")
            }
            Self::Settings { detail } => f.write_str(detail),
            Self::IsaUnavailable { wanted, available } => write!(
                f,
                "instruction set {wanted:?} is not available here; available: {available}"
            ),
            Self::BatchTooLarge { batch, capacity } => {
                write!(f, "a batch of {batch} rows does not fit a workspace planned for {capacity}")
            }
            Self::Label { label, row, classes } => {
                write!(f, "label {label} in row {row}: expected a class from 0 to {}", classes - 1)
            }
            Self::NotFinite { image, what, value } => write!(
                f,
                "image {image}: {what} is {value}, expected finite numbers; the network's weights \
                 or its inputs are too large: train it with a smaller learning rate, or compute in \
                 f64"
            ),
            Self::File { path, detail } => write!(f, "{}: {detail}", path.display()),
            Self::Io { path, action, source } => {
                write!(f, "cannot {action} {}: ", path.display())?;
                match source.kind() {
                    io::ErrorKind::NotFound => f.write_str("no such file or directory"),
                    io::ErrorKind::IsADirectory => f.write_str("is a directory, not a file"),
                    io::ErrorKind::NotADirectory => f.write_str("not a directory"),
                    io::ErrorKind::AlreadyExists => f.write_str("a file of that name exists"),
                    _ => write!(f, "{source}"),
                }
            }
            Self::Download { url, detail } => write!(f, "cannot fetch {url}: {detail}"),
            Self::Diverged { iteration, learning_rate, loss } if loss.is_finite() => write!(
                f,
                "the update of iteration {iteration}, at learning rate {learning_rate:?}, left \
                 parameters or logits that are not finite; try a smaller learning rate or weight \
                 scale"
            ),
            Self::Diverged { iteration, learning_rate, loss } => write!(
                f,
                "the loss became {loss} in iteration {iteration}, at learning rate \
                 {learning_rate:?}; try a smaller learning rate or weight scale"
            ),
            Self::ThreadPool { threads, detail } => {
                write!(f, "cannot start {threads} worker threads: {detail}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Error {
    /// An [`Error::Io`] for `path`, to be used with `map_err`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, action, source }
    }

    /// An [`Error::File`] for `path`. Details may quote the file: they are cut to 2,000 characters,
    /// and control characters are escaped.
    pub fn file(path: impl Into<PathBuf>, detail: impl AsRef<str>) -> Error {
        let detail = printable::inline(detail.as_ref(), MAX_DETAIL_CHARS);
        Error::File { path: path.into(), detail }
    }

    /// An [`Error::Setting`]: `name = value` is not `expected`. Numbers are shown in the shortest
    /// form that reads back the same.
    pub fn setting(name: &'static str, value: impl ToString, expected: impl Into<String>) -> Error {
        Error::Setting { name, value: shortest(value.to_string()), expected: expected.into() }
    }
}

/// Digits of the largest `u64`; longer decimal numbers are easier to read with an exponent.
const DIGITS: usize = 20;

/// A number from `Display`, which writes no exponents, in the shortest form that parses to the same
/// number; any other text unchanged.
fn shortest(text: String) -> String {
    match text.parse::<f64>() {
        Ok(number) if text.len() > DIGITS => format!("{number:?}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_their_shortest_form() {
        for (value, expected) in [
            (1e300, "1e300"),
            (-1e-300, "-1e-300"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1.0 / 3e5, "3.3333333333333333e-6"),
            (0.95, "0.95"),
            (3.0, "3"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            let text = Error::setting("lr", value, "less").to_string();
            assert_eq!(text, format!("lr = {expected}: expected less"));
        }
        let text = |value: &dyn fmt::Display| Error::setting("n", value, "less").to_string();
        assert_eq!(text(&u64::MAX), format!("n = {}: expected less", u64::MAX));
        assert_eq!(text(&1e-30f32), "n = 1e-30: expected less");
        assert_eq!(text(&"not a number, and long"), "n = not a number, and long: expected less");
        let diverged = Error::Diverged { iteration: 3, learning_rate: 1e-200, loss: f64::INFINITY };
        let text = diverged.to_string();
        assert!(text.contains("became inf in iteration 3, at learning rate 1e-200;"), "{text}");
    }
}
