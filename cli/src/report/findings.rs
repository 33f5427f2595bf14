//! The test results of a run's network: the confusion matrix, the most confident mistakes, and the
//! weights of the first layer as images.

use crate::{
    classify, console, network,
    report::images::{montage, png},
    run_dir::RunFiles,
};
use tilewise::{
    Precision,
    data::{Cifar10, ImageSet},
    error::Result,
    io::model,
    nn::{Network, ParameterKind},
};

/// Most mistakes that are shown.
const MISTAKES: usize = 24;
/// Most units of the first layer that are shown.
const UNITS: usize = 100;

/// The test results of a network.
pub(super) struct Findings {
    /// The network in a line.
    pub(super) network: String,
    pub(super) parameters: usize,
    pub(super) class_names: Vec<String>,
    /// Images of each class (row) that were classified as each class (column).
    pub(super) confusion: Vec<Vec<usize>>,
    /// The most confident first.
    pub(super) mistakes: Vec<Mistake>,
    /// The first layer's weights as one image, if it is a linear layer over the images.
    pub(super) weights: Option<Weights>,
}

/// A misclassified image.
pub(super) struct Mistake {
    pub(super) png: Vec<u8>,
    pub(super) label: usize,
    pub(super) predicted: usize,
    pub(super) probability: f64,
}

/// Images of the units with the largest weights, and how many there are of how many units.
pub(super) struct Weights {
    pub(super) png: Vec<u8>,
    pub(super) shown: usize,
    pub(super) units: usize,
}

impl Findings {
    /// Correct predictions and images of class `class`.
    pub(super) fn class(&self, class: usize) -> (usize, usize) {
        let row = &self.confusion[class];
        (row[class], row.iter().sum())
    }

    /// Correct predictions and images.
    pub(super) fn all(&self) -> (usize, usize) {
        let classes = (0..self.confusion.len()).map(|class| self.class(class));
        classes.fold((0, 0), |sum, class| (sum.0 + class.0, sum.1 + class.1))
    }
}

/// Tests a run's network on the caller's pool.
///
/// # Errors
/// Why the network cannot be tested.
pub(super) fn find(files: &RunFiles, data: &Cifar10) -> Result<Findings, String> {
    let path = files.model.as_ref().ok_or("the run has no model")?;
    let test = data.test.as_ref().ok_or("the data set has no test images")?;
    let loaded = model::load::<f32>(path);
    let (network, info) = loaded.map_err(|error| error.to_string())?;
    let normalization =
        info.normalization.ok_or("the model has no normalization in its metadata")?;
    if !info.class_names.is_empty() && info.class_names != test.class_names() {
        return Err("the classes of the images are not those of the model".into());
    }
    let precision = match info.precision {
        Some(Precision::Bf16) => Precision::Bf16,
        _ => Precision::F32,
    };
    let probabilities = classify::probabilities(&network, precision, test, &normalization);
    let probabilities = probabilities.map_err(|error| error.to_string())?;
    examine(&network, test, &probabilities).map_err(|error| error.to_string())
}

fn examine(network: &Network<f32>, test: &ImageSet, probabilities: &[f64]) -> Result<Findings> {
    let classes = network.classes();
    let mut confusion = vec![vec![0; classes]; classes];
    let mut wrong = Vec::new();
    for (index, (row, &label)) in probabilities.chunks(classes).zip(test.labels()).enumerate() {
        let (label, best) = (label as usize, classify::top(row, 1)[0]);
        confusion[label][best] += 1;
        if best != label {
            wrong.push((index, label, best, row[best]));
        }
    }
    wrong.sort_by(|a, b| b.3.total_cmp(&a.3));
    let mistake = |&(index, label, predicted, probability): &(usize, usize, usize, f64)| {
        let image = test.image(index).unwrap_or_default();
        let png = png(&montage(&[image.to_vec()], test.shape(), 1))?;
        Ok(Mistake { png, label, predicted, probability })
    };
    Ok(Findings {
        network: network::describe(network),
        parameters: network.parameter_count(),
        class_names: test.class_names().iter().map(|text| console::name(text)).collect(),
        confusion,
        mistakes: wrong.iter().take(MISTAKES).map(mistake).collect::<Result<_>>()?,
        weights: weights(network, test)?,
    })
}

/// The weights of each unit of the first layer as an image: gray is 0, and the largest of a unit is
/// full color. None of a network that does not begin with a linear layer over the images.
fn weights(network: &Network<f32>, test: &ImageSet) -> Result<Option<Weights>> {
    let Some((tensor, weight)) = network.parameters().iter().next() else { return Ok(None) };
    let &[inputs, units] = tensor.shape() else { return Ok(None) }; // (in, out)
    if tensor.kind() != ParameterKind::Weight || inputs != test.features() {
        return Ok(None);
    }
    let column = |unit: usize| weight.iter().skip(unit).step_by(units).map(|&w| f64::from(w));
    let norm = |unit: usize| column(unit).map(|w| w * w).sum::<f64>();
    let mut order: Vec<(usize, f64)> = (0..units).map(|unit| (unit, norm(unit))).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order.truncate(UNITS);
    let image = |&(unit, _): &(usize, f64)| -> Vec<u8> {
        let largest = column(unit).map(f64::abs).fold(f64::MIN_POSITIVE, f64::max);
        column(unit).map(|w| (127.5 * (1.0 + w / largest)).round() as u8).collect()
    };
    let images: Vec<_> = order.iter().map(image).collect();
    let columns = images.len().clamp(1, 20);
    Ok(Some(Weights {
        png: png(&montage(&images, test.shape(), columns))?,
        shown: images.len(),
        units,
    }))
}
