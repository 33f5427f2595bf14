//! What a network makes of pictures: the probability of every class.

use tilewise::{
    Element,
    data::{ImageSet, Normalization},
    error::Result,
    gemm::Gemm,
    nn::FullyConnectedNet,
    threads::Threads,
    train::Evaluator,
};

/// Pictures in a batch; changes the speed, not the result.
const BATCH: usize = 256;

/// The probabilities of the classes, the softmax of a network's logits: (pictures, classes), row
/// by row. Runs on the caller's pool.
///
/// # Errors
/// As [`Evaluator::new`] and [`Evaluator::run`].
pub(super) fn probabilities<T: Element>(
    net: &FullyConnectedNet<T>,
    images: &ImageSet,
    normalization: &Normalization,
) -> Result<Vec<f64>> {
    let gemm = Gemm::new()?.threads(Threads::Pool);
    let mut evaluator = Evaluator::new(net, gemm, images, normalization, BATCH)?;
    let indices: Vec<u32> = (0..images.len() as u32).collect();
    let mut all = Vec::with_capacity(images.len() * net.classes());
    evaluator.run_with(net, &indices, &mut |_, logits| {
        for row in 0..logits.rows() {
            let logit = |class| logits.get(row, class).to_f64();
            let largest = (0..logits.cols()).map(logit).fold(f64::NEG_INFINITY, f64::max);
            let exps = || (0..logits.cols()).map(|class| (logit(class) - largest).exp());
            let sum: f64 = exps().sum();
            all.extend(exps().map(|exp| exp / sum));
        }
    })?;
    Ok(all)
}

/// Classes by falling probability, the first `count` of them; of equals the first comes first.
pub(super) fn top(probabilities: &[f64], count: usize) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..probabilities.len()).collect();
    classes.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    classes.truncate(count);
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::in_pool;
    use tilewise::{data::synthetic, nn::NetConfig, train::evaluate};

    #[test]
    fn probabilities_agree_with_the_evaluation() {
        let images = synthetic(300, 5).unwrap();
        let normalization = Normalization::new(vec![0.01; 3], vec![-1.0; 3]).unwrap();
        let config = NetConfig { hidden: vec![20], ..NetConfig::default() };
        let net = FullyConnectedNet::<f64>::new(&config).unwrap();
        let all = in_pool(Some(2), || probabilities(&net, &images, &normalization)).unwrap();
        let rows = || all.chunks(10).zip(images.labels());
        let right = rows().filter(|(row, label)| top(row, 1) == [usize::from(**label)]).count();
        let loss = rows().map(|(row, &label)| -row[usize::from(label)].ln()).sum::<f64>() / 300.0;
        let expected = evaluate(&net, Gemm::new().unwrap(), &images, &normalization, 77).unwrap();
        assert_eq!((all.len(), right), (3000, expected.correct));
        assert!((loss - expected.loss).abs() < 1e-12, "{loss} {}", expected.loss);
    }

    #[test]
    fn the_likeliest_come_first() {
        assert_eq!(top(&[0.1, 0.3, 0.1, 0.5], 3), [3, 1, 0]);
        assert_eq!(top(&[0.5, 0.5], 9), [0, 1]);
    }
}
