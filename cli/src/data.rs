//! `tilewise data`: information about the CIFAR-10 in a directory, and its download.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{
    console::{name, print},
    dataset::{self, DEFAULT_DIR, dir_of_environment},
    options,
};
use tilewise::{
    data::{
        ChannelStatistics, Cifar10, DownloadOptions, DownloadProgress, Form, ImageSet, Source,
        download, find,
    },
    error::Result,
    printable,
};

/// Longest reason for another attempt, in characters.
const MAX_REASON_CHARS: usize = 500;
/// Labels that `info` lists.
const FIRST_LABELS: usize = 100;
/// Labels in a line.
const LABELS_PER_LINE: usize = 20;

/// Arguments of `tilewise data`.
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DataCommand {
    /// Show file format, number of images, statistics and first labels of CIFAR-10.
    Info(InfoArgs),
    /// Download CIFAR-10, or resume an interrupted download.
    Download(DownloadArgs),
}

#[derive(Debug, clap::Args)]
struct InfoArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DownloadArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Download the binary archive from this URL instead of the official one.
    #[arg(long, value_parser = options::url)]
    url: Option<String>,
    /// MD5 sum that the archive must have instead of the official one's.
    #[arg(long, value_parser = options::md5)]
    md5: Option<String>,
}

#[derive(Debug, clap::Args)]
struct DirArgs {
    /// Directory of CIFAR-10 [default: the environment variable TILEWISE_DATA, else data/]
    dir: Option<PathBuf>,
}

impl DirArgs {
    fn path(&self) -> PathBuf {
        let dir = self.dir.clone().or_else(dir_of_environment);
        dir.unwrap_or_else(|| DEFAULT_DIR.into())
    }
}

/// Runs `tilewise data`.
///
/// # Errors
/// Those of the data set or the download, and [`Error::Io`](tilewise::Error::Io) if nothing can be printed.
pub fn run(args: &DataArgs) -> Result<()> {
    match &args.command {
        DataCommand::Info(args) => info(args),
        DataCommand::Download(args) => fetch(args),
    }
}

fn info(args: &InfoArgs) -> Result<()> {
    let source = find(&args.dir.path())?;
    let cifar = dataset::load(&source)?;
    let statistics = cifar.train.channel_statistics(0..cifar.train.len())?;
    print(&if args.json {
        as_json(&source, &cifar, &statistics)
    } else {
        as_text(&source, &cifar, &statistics)
    })
}

fn first_labels(set: &ImageSet) -> &[u32] {
    &set.labels()[..set.len().min(FIRST_LABELS)]
}

fn as_json(source: &Source, cifar: &Cifar10, statistics: &ChannelStatistics) -> String {
    let form = match source.form {
        Form::BinaryFiles => "binary-files",
        Form::PickledFiles => "pickled-files",
        Form::BinaryArchive => "binary-archive",
        Form::PickledArchive => "pickled-archive",
    };
    let shape = cifar.train.shape();
    let set =
        |set: &ImageSet| json!({ "images": set.len(), "label_histogram": set.label_histogram() });
    let object = json!({
        "source": { "form": form, "path": source.path.to_string_lossy() },
        "shape": { "channels": shape.channels, "height": shape.height, "width": shape.width },
        "class_names": cifar.train.class_names(),
        "train": set(&cifar.train),
        "test": cifar.test.as_ref().map(set),
        "mean": statistics.mean,
        "std": statistics.std,
        "first_labels": first_labels(&cifar.train),
    });
    format!("{object}\n")
}

fn as_text(source: &Source, cifar: &Cifar10, statistics: &ChannelStatistics) -> String {
    let (train, test) = (&cifar.train, cifar.test.as_ref());
    let shape = train.shape();
    let test_count = test.map_or("none".into(), |test| format!("{} images", test.len()));
    let mut text = format!(
        "source    {source}\n\
         training  {} images\n\
         test      {test_count}\n\
         shape     {} x {} x {} (channels x height x width)\n\n",
        train.len(),
        shape.channels,
        shape.height,
        shape.width
    );
    let (train_histogram, test_histogram) =
        (train.label_histogram(), test.map(ImageSet::label_histogram));
    let names: Vec<String> = train.class_names().iter().map(|text| name(text)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut line = |line: std::fmt::Arguments| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    line(format_args!("label  {:width$}  training    test", "class"));
    for (label, name) in names.iter().enumerate() {
        let test = test_histogram.as_ref().map_or("-".into(), |counts| counts[label].to_string());
        line(format_args!("{label:5}  {name:width$}  {:8}  {test:>6}", train_histogram[label]));
    }
    line(format_args!("\nchannel      mean       std  (training images, of pixels / 255)"));
    for (channel, (mean, std)) in statistics.mean.iter().zip(&statistics.std).enumerate() {
        line(format_args!("{channel:7}  {mean:8.6}  {std:8.6}"));
    }
    let labels = first_labels(train);
    line(format_args!("\nfirst {} training labels", labels.len()));
    for labels in labels.chunks(LABELS_PER_LINE) {
        let labels: Vec<String> = labels.iter().map(u32::to_string).collect();
        line(format_args!("{}", labels.join(" ")));
    }
    text
}

fn fetch(args: &DownloadArgs) -> Result<()> {
    let mut options = DownloadOptions::new(args.dir.path());
    if let Some(url) = &args.url {
        options = options.with_url(url.clone());
    }
    if let Some(md5) = &args.md5 {
        options = options.with_md5(md5.clone());
    }
    let mut report = Report::new(io::stderr().is_terminal());
    let path = download(&options, &mut |progress| report.show(progress))?;
    report.finish();
    print(&format!("CIFAR-10 is in {}\n", path.display()))
}

/// Shows the progress of a download: a bar on a terminal, else a line for every tenth.
struct Report {
    bar: Option<ProgressBar>,
    tenths: Option<u64>,
}

impl Report {
    fn new(terminal: bool) -> Self {
        let bar = terminal.then(|| {
            let bar = ProgressBar::no_length();
            let template = "{msg:9} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, tenths: None }
    }

    fn show(&mut self, progress: DownloadProgress) {
        match (&self.bar, progress) {
            (Some(bar), DownloadProgress::Fetching { received, total }) => {
                bar.set_message("fetching");
                if let Some(total) = total {
                    bar.set_length(total);
                }
                bar.set_position(received);
            }
            (None, DownloadProgress::Fetching { received, total }) => {
                let tenths = total.filter(|&total| total > 0).map(|total| 10 * received / total);
                if self.tenths.is_none() || self.tenths != tenths {
                    match total {
                        Some(total) => eprintln!("fetched {received} of {total} bytes"),
                        None if self.tenths.is_none() => eprintln!("fetched {received} bytes"),
                        None => {}
                    }
                    self.tenths = tenths.or(Some(0));
                }
            }
            (bar, DownloadProgress::Retrying { attempt, reason }) => {
                // The reason may quote the server.
                let line = printable::inline(&reason, MAX_REASON_CHARS);
                let line = format!("{line}; attempt {attempt} follows");
                match bar {
                    Some(bar) => bar.println(line),
                    None => eprintln!("{line}"),
                }
            }
            (bar, stage) => {
                let name =
                    if stage == DownloadProgress::Verifying { "verifying" } else { "unpacking" };
                match bar {
                    Some(bar) => bar.set_message(name),
                    None => eprintln!("{name}"),
                }
            }
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
