//! The images of a subcommand: CIFAR-10 if it is found, else synthetic ones.

use std::{
    env, fmt,
    path::{Path, PathBuf},
};

use crate::console::{Console, warn};
use tilewise::{
    data::{Cifar10, Source, find, locate, synthetic},
    error::Result,
};

/// The default directory.
pub(super) const DEFAULT_DIR: &str = "data/";
/// Name of the environment variable with the directory.
const DIR_VARIABLE: &str = "TILEWISE_DATA";

/// The directory in the environment variable. An empty variable counts as not set.
pub(super) fn dir_of_environment() -> Option<PathBuf> {
    env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// Synthetic images for training and validation.
const SYNTHETIC_TRAINING: usize = 12_000;
/// How many of them are for validation by default.
const SYNTHETIC_VALIDATION: usize = 2_000;
/// Synthetic images for the final test.
const SYNTHETIC_TEST: usize = 2_000;
/// Seeds of the two, which are the same in every run: `--seed` does not change the task.
const SYNTHETIC_SEEDS: [u64; 2] = [0, 1];

/// Which images to use.
#[derive(Debug, clap::Args)]
pub(super) struct DatasetArgs {
    /// Directory of CIFAR-10 [default: the environment variable TILEWISE_DATA, else data/]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Use the built-in synthetic images instead of CIFAR-10.
    #[arg(long, conflicts_with = "data")]
    synthetic: bool,
}

/// Where images come from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// CIFAR-10, looked for in `dir` and found as `source`.
    Cifar10 { dir: PathBuf, source: Source },
    /// Drawn from a seed.
    Synthetic,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cifar10 { source, .. } => write!(f, "CIFAR-10 ({source})"),
            Self::Synthetic => f.write_str("synthetic images"),
        }
    }
}

impl DatasetArgs {
    /// Whether the command line says which images to use.
    pub(super) fn is_given(&self) -> bool {
        self.synthetic || self.data.is_some()
    }

    /// The images that a run's settings name.
    pub(super) fn of_run(settings: &toml::Table) -> Self {
        let dir = settings.get("data").and_then(toml::Value::as_str).map(PathBuf::from);
        let synthetic = settings.get("synthetic").and_then(toml::Value::as_bool);
        Self { synthetic: synthetic.unwrap_or(false), data: dir }
    }

    /// Finds the images. CIFAR-10 must be in a directory that was named; nothing in the
    /// default directory means synthetic images, and a line that says so and what to do.
    ///
    /// # Errors
    /// `Error::File` if a directory was named that does not hold CIFAR-10, `Error::Io` if it
    /// cannot be read.
    pub(super) fn find(&self, console: &Console) -> Result<Origin> {
        if self.synthetic {
            return Ok(Origin::Synthetic);
        }
        let named = self.data.clone();
        let named = named.or_else(dir_of_environment);
        if let Some(dir) = named {
            let source = find(&dir)?;
            return Ok(Origin::Cifar10 { dir, source });
        }
        if let Some(source) = locate(Path::new(DEFAULT_DIR))? {
            return Ok(Origin::Cifar10 { dir: DEFAULT_DIR.into(), source });
        }
        console.line(format_args!(
            "no CIFAR-10 in {DEFAULT_DIR} (`tilewise data download` fetches it, --data DIR names \
             another place): using the built-in synthetic images"
        ))?;
        Ok(Origin::Synthetic)
    }
}

impl Origin {
    /// Directory that was searched, for CIFAR-10.
    pub(super) fn dir(&self) -> Option<&Path> {
        match self {
            Self::Cifar10 { dir, .. } => Some(dir),
            Self::Synthetic => None,
        }
    }

    /// The default number of validation images, if it is not the usual fraction.
    pub(super) fn validation_size(&self) -> Option<usize> {
        match self {
            Self::Cifar10 { .. } => None,
            Self::Synthetic => Some(SYNTHETIC_VALIDATION),
        }
    }

    /// All images. Standard error gets a line for each batch that is not as large as the original's
    /// in an archive with the original's name.
    ///
    /// # Errors
    /// `Error::File` or `Error::Io` if a file is damaged or cannot be read.
    pub(super) fn load(&self) -> Result<Cifar10> {
        match self {
            Self::Cifar10 { source, .. } => load(source),
            Self::Synthetic => Ok(Cifar10 {
                train: synthetic(SYNTHETIC_TRAINING, SYNTHETIC_SEEDS[0])?,
                test: Some(synthetic(SYNTHETIC_TEST, SYNTHETIC_SEEDS[1])?),
                warnings: Vec::new(),
            }),
        }
    }
}

/// Loads CIFAR-10 and shows its warnings on standard error.
///
/// # Errors
/// Those of [`Source::load`].
pub(super) fn load(source: &Source) -> Result<Cifar10> {
    let cifar = source.load()?;
    for warning in &cifar.warnings {
        warn(format_args!("{}: {warning}", source.path.display()));
    }
    Ok(cifar)
}
