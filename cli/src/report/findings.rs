//! What a run's network makes of the test pictures: who is taken for whom, the most confident
//! mistakes, and the weights of the first layer as pictures.

use crate::{
    classify, console,
    report::pictures::{montage, png},
    run_dir::RunFiles,
};
use tilewise::{
    data::{Cifar10, ImageSet},
    error::Result,
    nn::FullyConnectedNet,
    train::model_file,
};

/// Most mistakes that are shown.
const MISTAKES: usize = 24;
/// Most units of the first layer that are shown.
const UNITS: usize = 100;

/// What is known of a network.
pub(super) struct Findings {
    /// Sizes of the input, of the hidden layers and of the output.
    pub(super) dims: Vec<usize>,
    pub(super) parameters: usize,
    pub(super) class_names: Vec<String>,
    /// Pictures of each class (row) that were taken for each class (column).
    pub(super) confusion: Vec<Vec<usize>>,
    /// The most confident first.
    pub(super) mistakes: Vec<Mistake>,
    /// The first layer's weights as one picture, and how many units it shows of how many.
    pub(super) weights: Weights,
}

/// A picture that was taken for something else.
pub(super) struct Mistake {
    pub(super) png: Vec<u8>,
    pub(super) label: usize,
    pub(super) taken_for: usize,
    pub(super) probability: f64,
}

/// Pictures of the units with the largest weights.
pub(super) struct Weights {
    pub(super) png: Vec<u8>,
    pub(super) shown: usize,
    pub(super) units: usize,
}

impl Findings {
    /// Right predictions and pictures of class `class`.
    pub(super) fn class(&self, class: usize) -> (usize, usize) {
        let row = &self.confusion[class];
        (row[class], row.iter().sum())
    }

    /// Right predictions and pictures.
    pub(super) fn all(&self) -> (usize, usize) {
        let classes = (0..self.confusion.len()).map(|class| self.class(class));
        classes.fold((0, 0), |sum, class| (sum.0 + class.0, sum.1 + class.1))
    }
}

/// Tests a run's network on the caller's pool.
///
/// # Errors
/// Why nothing can be said.
pub(super) fn find(files: &RunFiles, data: &Cifar10) -> Result<Findings, String> {
    let path = files.model.as_ref().ok_or("the run has no model")?;
    let test = data.test.as_ref().ok_or("the data set has no test pictures")?;
    let loaded = model_file::load::<f32>(path);
    let (net, info) = loaded.map_err(|error| error.to_string())?;
    let normalization = info.normalization.ok_or("the model says nothing of normalisation")?;
    if !info.class_names.is_empty() && info.class_names != test.class_names() {
        return Err("the pictures are of other classes than those of the model".into());
    }
    let probabilities = classify::probabilities(&net, test, &normalization);
    let probabilities = probabilities.map_err(|error| error.to_string())?;
    examine(&net, test, &probabilities).map_err(|error| error.to_string())
}

fn examine(
    net: &FullyConnectedNet<f32>,
    test: &ImageSet,
    probabilities: &[f64],
) -> Result<Findings> {
    let classes = net.classes();
    let mut confusion = vec![vec![0; classes]; classes];
    let mut wrong = Vec::new();
    for (index, (row, &label)) in probabilities.chunks(classes).zip(test.labels()).enumerate() {
        let (label, best) = (usize::from(label), classify::top(row, 1)[0]);
        confusion[label][best] += 1;
        if best != label {
            wrong.push((index, label, best, row[best]));
        }
    }
    wrong.sort_by(|a, b| b.3.total_cmp(&a.3));
    let mistake = |&(index, label, taken_for, probability): &(usize, usize, usize, f64)| {
        let picture = test.picture(index).unwrap_or_default();
        let png = png(&montage(&[picture.to_vec()], test.shape(), 1))?;
        Ok(Mistake { png, label, taken_for, probability })
    };
    Ok(Findings {
        dims: net.dims(),
        parameters: net.parameter_count(),
        class_names: test.class_names().iter().map(|text| console::name(text)).collect(),
        confusion,
        mistakes: wrong.iter().take(MISTAKES).map(mistake).collect::<Result<_>>()?,
        weights: weights(net, test)?,
    })
}

/// The weights of each unit as a picture: grey is 0, and the largest of a unit is full colour.
fn weights(net: &FullyConnectedNet<f32>, test: &ImageSet) -> Result<Weights> {
    let weight = net.layers()[0].weight(); // (in, out)
    let units = weight.cols();
    let column = |unit: usize| (0..weight.rows()).map(move |row| f64::from(weight.get(row, unit)));
    let norm = |unit: usize| column(unit).map(|w| w * w).sum::<f64>();
    let mut order: Vec<(usize, f64)> = (0..units).map(|unit| (unit, norm(unit))).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order.truncate(UNITS);
    let picture = |&(unit, _): &(usize, f64)| -> Vec<u8> {
        let largest = column(unit).map(f64::abs).fold(f64::MIN_POSITIVE, f64::max);
        column(unit).map(|w| (127.5 * (1.0 + w / largest)).round() as u8).collect()
    };
    let pictures: Vec<_> = order.iter().map(picture).collect();
    let columns = pictures.len().clamp(1, 20);
    Ok(Weights {
        png: png(&montage(&pictures, test.shape(), columns))?,
        shown: pictures.len(),
        units,
    })
}
