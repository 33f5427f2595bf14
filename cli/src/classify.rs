//! Classification of images: the probability of every class.

use tilewise::{
    Context, Element, Precision,
    data::{ImageSet, Normalization},
    error::Result,
    infer::top_classes,
    matrix::MatMut,
    nn::{Network, softmax},
    threads::Threads,
    train::Evaluator,
};

/// Images in a batch; changes the speed, not the result.
const BATCH: usize = 256;

/// The probabilities of the classes, the softmax of a network's logits in f64: (images, classes),
/// row by row. Runs on the caller's pool.
///
/// # Errors
/// Same as [`Evaluator::new`] and [`Evaluator::run`].
pub(super) fn probabilities<T: Element>(
    network: &Network<T>,
    precision: Precision,
    images: &ImageSet,
    normalization: &Normalization,
) -> Result<Vec<f64>> {
    let context = Context::on(Threads::Pool)?.with_precision(precision)?;
    let mut evaluator = Evaluator::new(network, context, images, normalization, BATCH)?;
    let indices: Vec<u32> = (0..images.len() as u32).collect();
    let classes = network.classes();
    let mut all = Vec::with_capacity(images.len() * classes);
    evaluator.run_with(network, &indices, &mut |_, logits| {
        for row in 0..logits.rows() {
            all.extend((0..classes).map(|class| logits.get(row, class).to_f64()));
        }
    })?;
    softmax(MatMut::new(&mut all, images.len(), classes)?)?;
    Ok(all)
}

/// The `count` most probable classes, best first; ties in the order of the classes.
pub(super) fn top(probabilities: &[f64], count: usize) -> Vec<usize> {
    let mut classes = vec![0; count.min(probabilities.len())];
    top_classes(probabilities, &mut classes);
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::perceptron;
    use tilewise::{data::synthetic, train::evaluate};

    #[test]
    fn probabilities_agree_with_the_evaluation() {
        let images = synthetic(300, 5).unwrap();
        let normalization = Normalization::new(vec![0.01; 3], vec![-1.0; 3]).unwrap();
        let network = perceptron::<f64>((3072, 10), &[20], 0.0, Some(0.01), 0).unwrap();
        let all = crate::in_pool(Some(2), || {
            probabilities(&network, Precision::F64, &images, &normalization)
        });
        let all = all.unwrap();
        let rows = || all.chunks(10).zip(images.labels());
        let right = rows().filter(|(row, label)| top(row, 1) == [**label as usize]).count();
        let loss = rows().map(|(row, &label)| -row[label as usize].ln()).sum::<f64>() / 300.0;
        let expected =
            evaluate(&network, Context::new().unwrap(), &images, &normalization, 77).unwrap();
        assert_eq!((all.len(), right), (3000, expected.correct));
        assert!((loss - expected.loss).abs() < 1e-12, "{loss} {}", expected.loss);
    }

    #[test]
    fn the_likeliest_come_first() {
        assert_eq!(top(&[0.1, 0.3, 0.1, 0.5], 3), [3, 1, 0]);
        assert_eq!(top(&[0.5, 0.5], 9), [0, 1]);
    }
}
