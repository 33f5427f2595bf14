//! `tilewise predict`: what a saved network sees in PNG and JPEG files.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageDecoder, ImageReader, imageops::FilterType};
use serde_json::json;

use crate::{classify, console::print, in_pool, options};
use tilewise::{
    data::{ImageSet, ImageShape, Normalization},
    error::{Error, Result},
    nn::FullyConnectedNet,
    train::model_file,
};

/// Arguments of `tilewise predict`.
#[derive(Debug, clap::Args)]
pub struct PredictArgs {
    /// The network, a safetensors file of `tilewise train`.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Pictures, PNG or JPEG of any size; they are scaled to the size that the network takes.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Classes to show for each picture, the likeliest first.
    #[arg(long, value_name = "K", default_value = "3", value_parser = options::count)]
    top: usize,
    /// Print one JSON object a line for each picture and nothing else.
    #[arg(long)]
    json: bool,
}

/// Runs `tilewise predict`.
///
/// # Errors
/// What the model file refuses, [`Error::File`] if the network is none for pictures or a file is
/// no picture, and [`Error::Io`] if one cannot be read or nothing can be printed.
pub fn run(args: &PredictArgs) -> Result<()> {
    let (net, info) = model_file::load::<f32>(&args.model)?;
    let wrong = |detail: String| Error::file(&args.model, detail);
    let normalization = info.normalization.ok_or_else(|| {
        wrong("says nothing of normalisation, without which pictures mean nothing to it".into())
    })?;
    let shape = shape(&net, &normalization).map_err(wrong)?;
    let class_names = match info.class_names {
        names if names.is_empty() => (0..net.classes()).map(|c| format!("class {c}")).collect(),
        names => names,
    };
    let mut pixels = Vec::with_capacity(args.images.len() * shape.features());
    for path in &args.images {
        pixels.extend(planes(&read(path)?, shape));
    }
    let set = ImageSet::new(shape, class_names, pixels, vec![0; args.images.len()])?;
    let all = in_pool(None, || classify::probabilities(&net, &set, &normalization))?;

    let mut text = String::new();
    let names = set.class_names();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (path, row) in args.images.iter().zip(all.chunks(net.classes())) {
        let top = classify::top(row, args.top);
        // Writing to a string cannot fail.
        if args.json {
            let classes = top.iter().map(
                |&class| json!({ "class": names[class], "label": class, "probability": row[class] }),
            );
            let classes: Vec<_> = classes.collect();
            let object = json!({ "image": path.to_string_lossy(), "classes": classes });
            let _ = writeln!(text, "{object}");
        } else {
            let _ = writeln!(text, "{}", path.display());
            for class in top {
                let _ = writeln!(text, "  {:width$}  {:.4}", names[class], row[class]);
            }
        }
    }
    print(&text)
}

/// The pictures that a network takes: square, of as many channels as are normalised.
///
/// # Errors
/// Why it takes none.
fn shape(
    net: &FullyConnectedNet<f32>,
    normalization: &Normalization,
) -> Result<ImageShape, String> {
    let (input, channels) = (net.input(), normalization.scale().len());
    let side = (input / channels).isqrt();
    if side == 0 || side * side * channels != input || !matches!(channels, 1 | 3) {
        return Err(format!(
            "takes {input} inputs and normalises {channels} channels: no square pictures, grey or \
             of three colours"
        ));
    }
    Ok(ImageShape { channels, height: side, width: side })
}

/// Reads a picture, upright.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is no whole PNG or JPEG file.
fn read(path: &Path) -> Result<DynamicImage> {
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let reader = reader.map_err(Error::io("read", path))?;
    let wrong = |error| Error::file(path, format!("not a whole PNG or JPEG picture ({error})"));
    let mut decoder = reader.into_decoder().map_err(wrong)?;
    let orientation = decoder.orientation().map_err(wrong)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(wrong)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// A picture in the given shape, plane by plane.
fn planes(picture: &DynamicImage, shape: ImageShape) -> Vec<u8> {
    let (width, height) = (shape.width as u32, shape.height as u32);
    let scaled;
    let picture = if (picture.width(), picture.height()) == (width, height) {
        picture
    } else {
        scaled = picture.resize_exact(width, height, FilterType::CatmullRom);
        &scaled
    };
    match shape.channels {
        1 => picture.to_luma8().into_raw(),
        _ => {
            let pixels = picture.to_rgb8().into_raw();
            (0..3).flat_map(|c| pixels.iter().skip(c).step_by(3).copied()).collect()
        }
    }
}
