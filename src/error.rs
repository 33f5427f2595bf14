//! The error type: every variant has the sizes, the path or the setting that are needed to fix the
//! problem.

use std::{error, fmt, io, path::PathBuf};

use crate::printable;

/// Longest detail of an [`Error::File`].
const MAX_DETAIL_CHARS: usize = 2000;

/// `Result` with tilewise's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What another crate or the system found wrong.
pub type Cause = Box<dyn error::Error + Send + Sync>;

/// Everything that can go wrong through an argument, a file or a setting.
///
/// The text of an error says all of it in one line, a cause included; `source()` has the cause
/// itself, for programs that look into it. Whoever prints an error has no need to print its sources.
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
    /// Work for several threads outside of a rayon pool: call it inside of `pool.install`.
    OutsidePool {
        /// Tasks that were asked for; none: as many as the pool has threads.
        tasks: Option<usize>,
    },
    /// A plan, a scratch or parameters of one network came with another: make them anew.
    OtherNetwork {
        /// What belongs to the other network.
        what: &'static str,
        /// The network that fits.
        expected: String,
        /// The network that came.
        found: String,
    },
    /// Another choice of frozen parameters than the one that was planned for: plan anew.
    Frozen {
        /// The parameter: "0.weight".
        parameter: String,
        /// Whether it is frozen now, and was not, or the other way round.
        frozen: bool,
    },
    /// A batch whose parts were not all accumulated, where a whole one is needed.
    IncompleteBatch {
        /// Rows that were accumulated.
        rows: usize,
        /// Rows of the batch; 0 if nothing was accumulated.
        of: usize,
    },
    /// A predictor got images of bytes and has no normalization for them.
    NoNormalization,
    /// A file lacks a tensor of the network.
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor in the file.
        name: String,
    },
    /// A file has a tensor that the network has no place for.
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor in the file.
        name: String,
        /// What is expected in the file.
        expected: String,
    },
    /// A tensor of a file has another shape than the network's.
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Name of the tensor in the file.
        name: String,
        /// The shape in the network.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A model file of a later version of this library.
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// Number of its format.
        format: u32,
        /// The latest format that is read.
        latest: u32,
    },
    /// Settings that do not go together, or one that is missing.
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
        /// What found it, if not this crate.
        source: Option<Cause>,
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
        /// What made the last attempt fail, unless it is an answer of the server.
        source: Option<Cause>,
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
        /// The system's answer.
        source: Cause,
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
            Self::OutsidePool { tasks } => {
                match tasks {
                    Some(tasks) => write!(f, "threads = Count({tasks})")?,
                    None => f.write_str("threads = Pool")?,
                }
                f.write_str(
                    ": expected a call inside of a rayon pool: wrap it in pool.install(|| ...), or \
                     use Threads::Caller",
                )
            }
            Self::OtherNetwork { what, expected, found } => {
                write!(f, "{what} = {found}: expected {expected}, for which it was made")
            }
            Self::Frozen { parameter, frozen } => write!(
                f,
                "frozen = {frozen} of {parameter}: expected {}, as when the steps were planned",
                !frozen
            ),
            Self::IncompleteBatch { rows, of } => {
                write!(f, "accumulated batch = {rows} of {of} rows: expected a whole batch")
            }
            Self::NoNormalization => f.write_str(
                "normalization = none: expected one scale and shift for each input, to take images \
                 of bytes",
            ),
            Self::MissingTensor { path, name } => {
                write!(f, "{}: `{}` is missing", path.display(), shown(name))
            }
            Self::UnexpectedTensor { path, name, expected } => {
                let expected = shown(expected);
                write!(f, "{}: unexpected tensor {name:?}: expected {expected}", path.display())
            }
            Self::TensorShape { path, name, expected, found } => write!(
                f,
                "{}: `{}` has shape {found:?}, expected {expected:?}",
                path.display(),
                shown(name)
            ),
            Self::UnsupportedFormat { path, format, latest } => write!(
                f,
                "{}: a model of format {format}, of a later version of tilewise; this one reads up \
                 to {latest}",
                path.display()
            ),
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
            Self::File { path, detail, .. } => write!(f, "{}: {detail}", path.display()),
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
            Self::Download { url, detail, .. } => write!(f, "cannot fetch {url}: {detail}"),
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
            Self::ThreadPool { threads, source } => {
                write!(f, "cannot start {threads} worker threads: {source}")
            }
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::ThreadPool { source, .. } => Some(&**source),
            Self::File { source: Some(source), .. }
            | Self::Download { source: Some(source), .. } => Some(&**source),
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
        Error::File { path: path.into(), detail, source: None }
    }

    /// The same [`Error::File`] or [`Error::Download`] with its cause; any other error as it is.
    #[must_use]
    pub fn with_source(mut self, cause: impl Into<Cause>) -> Error {
        if let Self::File { source, .. } | Self::Download { source, .. } = &mut self {
            *source = Some(cause.into());
        }
        self
    }

    /// An [`Error::Setting`]: `name = value` is not `expected`. Numbers are shown in the shortest
    /// form that reads back the same.
    pub fn setting(name: &'static str, value: impl ToString, expected: impl Into<String>) -> Error {
        Error::Setting { name, value: shortest(value.to_string()), expected: expected.into() }
    }
}

/// Text of a file on one line, of bounded length.
fn shown(text: &str) -> String {
    printable::inline(text, MAX_DETAIL_CHARS)
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

    #[test]
    fn causes_are_sources_and_part_of_the_text() {
        use std::error::Error as _;

        let cause = || "x".parse::<u8>().unwrap_err();
        let file = Error::file("a.bin", format!("not a count: {}", cause()));
        assert!(file.source().is_none());
        let file = file.with_source(cause());
        let source = file.source().unwrap().downcast_ref::<std::num::ParseIntError>();
        assert_eq!(source, Some(&cause()));
        assert_eq!(file.to_string().matches(&cause().to_string()).count(), 1);
        let pool = Error::ThreadPool { threads: 3, source: cause().into() };
        assert!(pool.source().unwrap().is::<std::num::ParseIntError>());
        assert_eq!(pool.to_string(), format!("cannot start 3 worker threads: {}", cause()));
        assert!(Error::setting("n", 1, "2").with_source(cause()).source().is_none());
        let io = Error::io("read", "a.bin")(io::ErrorKind::NotFound.into());
        assert!(io.source().unwrap().is::<io::Error>());
    }
}
