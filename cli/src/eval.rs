//! `tilewise eval`: loss and accuracy of a saved network on the test set, in total and by class.

use std::{fmt::Write as _, path::PathBuf};

use serde_json::json;

use crate::{
    console::{Console, decimal, name, print},
    dataset::{DatasetArgs, Origin},
    in_pool, options,
};
use tilewise::{
    Context, Element, Precision,
    data::{ImageSet, Normalization, NormalizeMode, Split},
    error::{Error, Result},
    io::model,
    nn::Network,
    threads::Threads,
    train::{Evaluation, evaluate},
};

/// Arguments of `tilewise eval`.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Model to evaluate: a safetensors file of `tilewise train`, or the state dict of a PyTorch
    /// nn.Sequential.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Batch size, in images; it does not change the result.
    #[arg(long, value_name = "N", default_value = "512", value_parser = options::count)]
    batch: usize,
    /// Precision of the computations [default: the one that the model was trained in]
    #[arg(long, value_name = "NAME", alias = "dtype", value_parser = options::precision())]
    precision: Option<Precision>,
    /// Number of threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = options::threads)]
    threads: Option<usize>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

/// Runs `tilewise eval`.
///
/// # Errors
/// Those of the model file or the data set, and [`Error::Io`] if nothing can be printed.
pub fn run(args: &EvalArgs) -> Result<()> {
    let precision = args.precision.map_or_else(|| model::precision(&args.model), Ok)?;
    match precision {
        Precision::F32 | Precision::Bf16 => run_with::<f32>(args, precision),
        Precision::F64 => run_with::<f64>(args, precision),
    }
}

fn run_with<T: Element>(args: &EvalArgs, precision: Precision) -> Result<()> {
    let console = Console::new(args.json);
    let (network, info) = model::load::<T>(&args.model)?;
    let origin = args.dataset.find(&console)?;
    let data = origin.load()?;
    let test = data.test.ok_or_else(|| {
        let dir = origin.dir().unwrap_or(&args.model);
        Error::file(
            dir,
            "has no test_batch.bin: add it, or download CIFAR-10 into another directory",
        )
    })?;
    check(args, &network, &info.class_names, &test)?;
    let normalization = match info.normalization {
        Some(normalization) => normalization,
        None => {
            console
                .line("the model has no normalization: using the mean of the training images")?;
            let train = Split::new(data.train.len(), None, origin.validation_size())?.train;
            let statistics = data.train.channel_statistics(train)?;
            Normalization::from_statistics(&statistics, NormalizeMode::Mean)?
        }
    };
    let channels = test.shape().channels;
    if normalization.scale().len() != channels {
        let found = normalization.scale().len();
        let detail = format!("normalizes {found} channels, but the images have {channels}");
        return Err(Error::file(&args.model, detail));
    }
    let evaluation = in_pool(args.threads, || {
        let context = Context::on(Threads::Pool)?.with_precision(precision)?;
        evaluate(&network, context, &test, &normalization, args.batch)
    });
    let evaluation = evaluation.map_err(|error| match error {
        Error::NotFinite { .. } => Error::file(&args.model, format!("test set, {error}")),
        other => other,
    })?;
    print(&if args.json {
        as_json(&origin, &test, precision, &evaluation)
    } else {
        as_text(&origin, &test, precision, &evaluation)
    })
}

/// Checks that the network was made for such images and classes.
fn check<T: Element>(
    args: &EvalArgs,
    network: &Network<T>,
    class_names: &[String],
    test: &ImageSet,
) -> Result<()> {
    let expected = (test.features(), test.classes());
    let found = (network.in_features(), network.classes());
    if expected != found {
        let detail = format!(
            "has {} inputs and {} classes, but the test images have {} values and {} classes",
            found.0, found.1, expected.0, expected.1
        );
        return Err(Error::file(&args.model, detail));
    }
    if !class_names.is_empty() && class_names != test.class_names() {
        let detail = format!(
            "was trained on the classes {}, but the test images have {}; choose others with --data \
             or --synthetic",
            class_names.join(", "),
            test.class_names().join(", ")
        );
        return Err(Error::file(&args.model, detail));
    }
    Ok(())
}

/// The fraction of correct predictions; none for a class without images.
fn accuracy((correct, all): (usize, usize)) -> Option<f64> {
    (all > 0).then(|| correct as f64 / all as f64)
}

fn as_json(
    origin: &Origin,
    test: &ImageSet,
    precision: Precision,
    evaluation: &Evaluation,
) -> String {
    let classes: Vec<_> = test
        .class_names()
        .iter()
        .zip(&evaluation.classes)
        .map(|(name, &counts)| {
            let (correct, images) = counts;
            json!({ "class": name, "images": images, "correct": correct,
                    "accuracy": accuracy(counts) })
        })
        .collect();
    let object = json!({
        "data": origin.to_string(),
        "precision": precision.name(),
        "images": evaluation.images,
        "correct": evaluation.correct,
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy(),
        "classes": classes,
    });
    format!("{object}\n")
}

fn as_text(
    origin: &Origin,
    test: &ImageSet,
    precision: Precision,
    evaluation: &Evaluation,
) -> String {
    let mut text = format!(
        "test set  {} images of {origin}, in {precision}\n\
         loss      {}\n\
         accuracy  {:.4}\n\n",
        evaluation.images,
        decimal(evaluation.loss, 4),
        evaluation.accuracy()
    );
    let names: Vec<String> = test.class_names().iter().map(|text| name(text)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut line = |line: std::fmt::Arguments| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    line(format_args!("{:width$}  images  correct  accuracy", "class"));
    for (name, &counts) in names.iter().zip(&evaluation.classes) {
        let (correct, images) = counts;
        let accuracy = accuracy(counts).map_or("-".into(), |fraction| format!("{fraction:.4}"));
        line(format_args!("{name:width$}  {images:6}  {correct:7}  {accuracy:>8}"));
    }
    text
}
