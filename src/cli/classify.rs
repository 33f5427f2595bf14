//! What a network makes of pictures: the probability of every class.

use crate::{
    data::{ImageSet, Normalization, gather},
    error::{Error, Result},
    gemm::Gemm,
    kernels::Element,
    nn::{FullyConnectedNet, Mode},
    threads::Threads,
};

/// Pictures in a batch; changes the speed, not the result.
const BATCH: usize = 256;

/// The probabilities of the classes, the softmax of a network's logits: (pictures, classes), row
/// by row. Runs on the caller's pool.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Length`] if the network or the normalisation does not fit the
/// pictures.
pub(super) fn probabilities<T: Element>(
    net: &FullyConnectedNet<T>,
    images: &ImageSet,
    normalization: &Normalization,
) -> Result<Vec<f64>> {
    let gemm = Gemm::new()?.threads(Threads::Pool);
    let mut workspace = net.workspace(gemm, BATCH.min(images.len()))?;
    let table = normalization.table();
    let last = u32::try_from(images.len()).map_err(|_| {
        let expected = format!("at most {}", u32::MAX);
        Error::setting("pictures", images.len(), expected)
    })?;
    let indices: Vec<u32> = (0..last).collect();
    let mut all = Vec::with_capacity(images.len() * net.classes());
    for batch in indices.chunks(workspace.capacity()) {
        gather(images, batch, &table, &mut workspace.input_mut(batch.len())?)?;
        net.forward(&mut workspace, batch.len(), Mode::Evaluation)?;
        let logits = workspace.logits(batch.len())?; // (batch, classes)
        for row in 0..batch.len() {
            let logit = |class| logits.get(row, class).to_f64();
            let largest = (0..net.classes()).map(logit).fold(f64::NEG_INFINITY, f64::max);
            let exps = || (0..net.classes()).map(|class| (logit(class) - largest).exp());
            let sum: f64 = exps().sum();
            all.extend(exps().map(|exp| exp / sum));
        }
    }
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
    use crate::{data::synthetic, nn::NetConfig, train::evaluate};

    #[test]
    fn probabilities_agree_with_the_evaluation() {
        let images = synthetic(300, 5).unwrap();
        let normalization = Normalization::new(vec![0.01; 3], vec![-1.0; 3]).unwrap();
        let config = NetConfig { hidden: vec![20], ..NetConfig::default() };
        let net = FullyConnectedNet::<f64>::new(&config).unwrap();
        let all = probabilities(&net, &images, &normalization).unwrap();
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
