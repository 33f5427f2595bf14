//! `tilewise predict`: classifies PNG and JPEG images with a saved network.

use std::{
    fmt::Write as _,
    io::Cursor,
    path::{Path, PathBuf},
};

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, imageops::FilterType,
};
use serde_json::json;

use crate::{
    classify,
    console::{self, print},
    in_pool, options,
};
use tilewise::{
    Element, Precision,
    data::{ImageSet, ImageShape, Normalization},
    error::{Error, Result},
    input_file,
    io::model,
    nn::{Network, Shape},
};

/// Largest width and height in pixels. The largest sensors of phones, 200 megapixels, have 16,320.
const MAX_SIDE: u32 = 16_384;
/// Most bytes of a decoded image: room for those 200 megapixels in RGB of 8 bits. The largest that
/// are accepted take 650 MiB of memory, or 1.9 GiB if they are progressive JPEGs.
const MAX_DECODED_BYTES: u64 = 640 << 20;
/// Largest file.
const MAX_FILE_BYTES: u64 = 512 << 20;
/// A whole JPEG has at least a bit for each block of 8 x 8 pixels, a byte for 512 pixels.
const MAX_JPEG_PIXELS_PER_BYTE: u64 = 512;

/// Arguments of `tilewise predict`.
#[derive(Debug, clap::Args)]
pub struct PredictArgs {
    /// Model: a safetensors file of `tilewise train`.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Images, PNG or JPEG, up to 16,384 pixels wide and high; they are scaled to the network's size
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Classes to print for each image, the most probable first.
    #[arg(long, value_name = "K", default_value = "3", value_parser = options::count)]
    top: usize,
    /// Print one line with a JSON object for each image and nothing else.
    #[arg(long)]
    json: bool,
}

/// Runs `tilewise predict`.
///
/// # Errors
/// Those of the model file, [`Error::File`] if the network is not for images or a file is not an
/// image, and [`Error::Io`] if one cannot be read or nothing can be printed.
pub fn run(args: &PredictArgs) -> Result<()> {
    match model::precision(&args.model)? {
        precision @ (Precision::F32 | Precision::Bf16) => run_with::<f32>(args, precision),
        precision @ Precision::F64 => run_with::<f64>(args, precision),
    }
}

/// Classifies in the precision that the model was trained in.
fn run_with<T: Element>(args: &PredictArgs, precision: Precision) -> Result<()> {
    let (network, info) = model::load::<T>(&args.model)?;
    let wrong = |detail: String| Error::file(&args.model, detail);
    let normalization = info.normalization.ok_or_else(|| {
        wrong("has no normalization in its metadata, which classifying images needs".into())
    })?;
    let shape = shape(&network, &normalization).map_err(wrong)?;
    let class_names = match info.class_names {
        names if names.is_empty() => (0..network.classes()).map(|c| format!("class {c}")).collect(),
        names => names,
    };
    let mut pixels = Vec::with_capacity(args.images.len() * shape.features());
    for path in &args.images {
        pixels.extend(planes(&read(path)?, shape));
    }
    let set = ImageSet::new(shape, class_names, pixels, vec![0; args.images.len()])?;
    let all = in_pool(None, || classify::probabilities(&network, precision, &set, &normalization));
    let all = all.map_err(|error| match error {
        Error::NotFinite { image, .. } => {
            let path = args.images[image].display();
            Error::file(&args.model, format!("{path}: {error}"))
        }
        other => other,
    })?;

    let mut text = String::new();
    let names: Vec<String> = set.class_names().iter().map(|text| console::name(text)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (path, row) in args.images.iter().zip(all.chunks(network.classes())) {
        let top = classify::top(row, args.top);
        // Writing to a string cannot fail.
        if args.json {
            let classes = top.iter().map(
                |&class| json!({ "class": set.class_names()[class], "label": class, "probability": row[class] }),
            );
            let classes: Vec<_> = classes.collect();
            let object = json!({ "image": path.to_string_lossy(), "classes": classes });
            let _ = writeln!(text, "{object}");
        } else {
            let _ = writeln!(text, "{}", console::path(path));
            for class in top {
                let _ = writeln!(text, "  {:width$}  {:.4}", names[class], row[class]);
            }
        }
    }
    print(&text)
}

/// The images that a network takes: of its input shape, square if it takes features, with as many
/// channels as are normalized.
///
/// # Errors
/// Why it accepts none.
fn shape<T: Element>(
    network: &Network<T>,
    normalization: &Normalization,
) -> Result<ImageShape, String> {
    let (input, channels) = (network.in_features(), normalization.scale().len());
    let (height, width) = match network.input_shape() {
        Shape::Image { height, width, .. } => (height, width),
        _ => ((input / channels).isqrt(), (input / channels).isqrt()),
    };
    if height * width * channels != input || !matches!(channels, 1 | 3) {
        return Err(format!(
            "takes {} and normalizes {channels} channels; expected square images, gray or RGB",
            network.input_shape()
        ));
    }
    Ok(ImageShape { channels, height, width })
}

/// Reads an image, upright. Its size is checked before it is decoded.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is no whole PNG or JPEG file, or
/// too large.
fn read(path: &Path) -> Result<DynamicImage> {
    let wrong = |error: ImageError| match error {
        ImageError::Limits(_) => too_large(path, "it is larger".into()),
        error => Error::file(path, format!("not a whole PNG or JPEG image ({error})")),
    };
    let bytes = input_file::read(path, MAX_FILE_BYTES)?;
    let file_bytes = bytes.len() as u64;
    let reader = ImageReader::new(Cursor::new(bytes));
    let mut reader = reader.with_guessed_format().map_err(Error::io("read", path))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let format = reader.format();
    let mut decoder = reader.into_decoder().map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    let decoded = decoder.total_bytes();
    if decoded > MAX_DECODED_BYTES {
        let found = format!("its {width} x {height} pixels take {decoded} bytes");
        return Err(too_large(path, found));
    }
    let pixels = u64::from(width) * u64::from(height);
    if format == Some(ImageFormat::Jpeg) && pixels / MAX_JPEG_PIXELS_PER_BYTE > file_bytes {
        let detail = format!(
            "not a whole PNG or JPEG image ({file_bytes} bytes cannot hold {width} x {height} \
             pixels)"
        );
        return Err(Error::file(path, detail));
    }
    let orientation = decoder.orientation().map_err(wrong)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(wrong)?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn too_large(path: &Path, found: String) -> Error {
    let detail = format!(
        "expected at most {MAX_SIDE} x {MAX_SIDE} pixels and {} MiB decoded, but {found}; scale it \
         down",
        MAX_DECODED_BYTES >> 20
    );
    Error::file(path, detail)
}

/// An image in the given shape, plane by plane.
fn planes(image: &DynamicImage, shape: ImageShape) -> Vec<u8> {
    let (width, height) = (shape.width as u32, shape.height as u32);
    let scaled;
    let image = if (image.width(), image.height()) == (width, height) {
        image
    } else {
        scaled = image.resize_exact(width, height, FilterType::CatmullRom);
        &scaled
    };
    match shape.channels {
        1 => image.to_luma8().into_raw(),
        _ => {
            let pixels = image.to_rgb8().into_raw();
            (0..3).flat_map(|c| pixels.iter().skip(c).step_by(3).copied()).collect()
        }
    }
}
