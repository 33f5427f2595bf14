//! `tilewise report`: compares training runs in one self-contained HTML file.

mod findings;
mod images;
mod page;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use crate::{
    console::{self, Console, print},
    dataset::DatasetArgs,
    in_pool, options,
    run_dir::RunFiles,
};
use tilewise::{
    atomic_file,
    data::Cifar10,
    error::{Error, Result},
};

use findings::Findings;

/// Arguments of `tilewise report`.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Output directories of `tilewise train`.
    #[arg(value_name = "DIR", required = true)]
    runs: Vec<PathBuf>,
    /// HTML file to write; an earlier one is replaced.
    #[arg(long, value_name = "FILE.html", default_value = "report.html")]
    out: PathBuf,
    /// Images to test the networks on [default: those of each run]
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Number of threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = options::threads)]
    threads: Option<usize>,
}

/// A run as the page shows it.
struct Run {
    /// Its directory, or the last part of it where that is enough.
    name: String,
    files: RunFiles,
    /// The tests of its network, or why there are none.
    findings: Result<Findings, String>,
}

/// Runs `tilewise report`.
///
/// # Errors
/// [`Error::Io`] or [`Error::File`] if a directory is not that of a run, `--data` holds no
/// images, or the page cannot be written.
pub fn run(args: &ReportArgs) -> Result<()> {
    let console = Console::new(true);
    let mut data = DataSets { args: &args.dataset, loaded: Vec::new() };
    let mut runs = Vec::new();
    for (path, name) in args.runs.iter().zip(names(&args.runs)) {
        let files = RunFiles::read(path)?;
        let findings = match data.of_run(&files, &console)? {
            Ok(data) => in_pool(args.threads, || Ok(findings::find(&files, data)))?,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = &findings {
            print(&format!("{name}: curves and settings only, because {reason}\n"))?;
        }
        runs.push(Run { name, files, findings });
    }
    let refused = |error: &dyn Display| Error::file(&args.out, format!("not written: {error}"));
    let page = page::page(&runs).map_err(|error| refused(&error))?;
    atomic_file::write(&args.out, |file| file.write_all(page.as_bytes()))?;
    print(&format!("written to {}\n", args.out.display()))
}

/// The images that runs were trained on, each set loaded once.
struct DataSets<'a> {
    args: &'a DatasetArgs,
    loaded: Vec<(Option<PathBuf>, Cifar10)>,
}

impl DataSets<'_> {
    /// Those that the command line names, else those of the run; the inner error says why a run's
    /// own are not there.
    fn of_run(&mut self, run: &RunFiles, console: &Console) -> Result<Result<&Cifar10, String>> {
        let origin = if self.args.is_given() {
            self.args.find(console)?
        } else {
            match DatasetArgs::of_run(&run.settings).find(console) {
                Ok(origin) => origin,
                Err(error) => return Ok(Err(error.to_string())),
            }
        };
        let dir = origin.dir().map(Path::to_owned);
        let place = match self.loaded.iter().position(|(known, _)| *known == dir) {
            Some(place) => place,
            None => {
                self.loaded.push((dir, origin.load()?));
                self.loaded.len() - 1
            }
        };
        Ok(Ok(&self.loaded[place].1))
    }
}

/// A name for each directory: its last part, or all of it where two would be alike.
fn names(dirs: &[PathBuf]) -> Vec<String> {
    let last = |dir: &PathBuf| dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let lasts: Vec<_> = dirs.iter().map(last).collect();
    let name = |(dir, last): (&PathBuf, &Option<String>)| match last {
        Some(last) if lasts.iter().flatten().filter(|other| *other == last).count() == 1 => {
            console::name(last)
        }
        _ => console::path(dir),
    };
    dirs.iter().zip(&lasts).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let names = |dirs: &[&str]| names(&dirs.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["runs/a", "runs/b/", "c"]), ["a", "b", "c"]);
        assert_eq!(names(&["x/a", "y/a", "b"]), ["x/a", "y/a", "b"]);
        assert_eq!(names(&["."]), ["."]);
    }
}
