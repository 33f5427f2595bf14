//! Loss and accuracy of a network over a set of images, batch by batch.

use crate::{
    data::{ImageSet, Normalization},
    error::{Error, Result},
    gemm::Gemm,
    kernels::Element,
    matrix::MatRef,
    nn::{FullyConnectedNet, Mode, Passes, Workspace},
    train::feed::Feed,
};

/// What a network made of a set of images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Images seen.
    pub images: usize,
    /// Mean cross-entropy, without regularisation.
    pub loss: f64,
    /// Images whose largest logit is their label's.
    pub correct: usize,
    /// For each class, its images that were predicted right, and all of its images.
    pub classes: Vec<(usize, usize)>,
}

impl Evaluation {
    /// An empty result with room for `classes` classes.
    pub(super) fn new(classes: usize) -> Self {
        Self { classes: vec![(0, 0); classes], ..Self::default() }
    }

    /// The fraction of right predictions, from 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }

    /// Evaluates `net` on the images `indices` of a feed, without allocating, and shows the
    /// logits of each batch to `on_batch`. The numbers do not depend on the size of the batches.
    ///
    /// # Errors
    /// As [`Feed::batch`] and [`FullyConnectedNet::forward`], and [`Error::NotFinite`] with the
    /// first image whose logits, or whose loss, are not finite; `self` is of no use then.
    pub(super) fn run<T: Element>(
        &mut self,
        net: &FullyConnectedNet<T>,
        workspace: &mut Workspace<T>,
        feed: &mut Feed<'_, T>,
        indices: &[u32],
        on_batch: &mut dyn FnMut(&[u32], MatRef<'_, T>),
    ) -> Result<()> {
        self.classes.fill((0, 0));
        self.correct = 0;
        self.images = indices.len();
        let mut total = 0.0;
        for batch in indices.chunks(feed.capacity()) {
            let (x, labels) = feed.batch(batch)?;
            net.forward(x, workspace, Mode::Evaluation)?;
            let fault = first_not_finite(workspace.logits(batch.len())?);
            let mut fault = fault.map(|(row, logit)| (row, "a logit", logit));
            // One chain over all images, whatever the batches.
            for (row, &loss) in net.row_losses(workspace, labels)?.iter().enumerate() {
                total += loss.to_f64();
                if !total.is_finite() && fault.is_none_or(|(first, ..)| row < first) {
                    fault = Some((row, "the loss", total));
                }
            }
            if let Some((row, what, value)) = fault {
                return Err(Error::NotFinite { image: batch[row] as usize, what, value });
            }
            let logits = workspace.logits(batch.len())?;
            on_batch(batch, logits);
            let predictions = FullyConnectedNet::predictions(logits);
            for (prediction, &label) in predictions.zip(labels) {
                let right = usize::from(prediction == usize::from(label));
                let class = &mut self.classes[usize::from(label)];
                *class = (class.0 + right, class.1 + 1);
                self.correct += right;
            }
        }
        self.loss = total / self.images.max(1) as f64;
        Ok(())
    }
}

/// The first row with a number that is not finite, and that number.
fn first_not_finite<T: Element>(logits: MatRef<'_, T>) -> Option<(usize, f64)> {
    (0..logits.rows()).find_map(|row| {
        let mut values = (0..logits.cols()).map(|class| logits.get(row, class).to_f64());
        Some((row, values.find(|value| !value.is_finite())?))
    })
}

/// Evaluates networks of one shape on images of a set, batch by batch. After construction nothing
/// is allocated. With more threads than the calling one, construct and run it inside of the rayon
/// pool that it is to use.
pub struct Evaluator<'a, T: Element> {
    workspace: Workspace<T>,
    feed: Feed<'a, T>,
    evaluation: Evaluation,
}

impl<'a, T: Element> Evaluator<'a, T> {
    /// Plans for networks like `net` and batches of up to `batch_size` images; the results do
    /// not depend on that size.
    ///
    /// # Errors
    /// [`Error::Setting`] if `batch_size` is 0, or the threads of `gemm` are more than the calling one
    /// and it is in no rayon pool; [`Error::Shape`] if the network does not fit the images.
    pub fn new(
        net: &FullyConnectedNet<T>,
        gemm: Gemm<T>,
        images: &'a ImageSet,
        normalization: &Normalization,
        batch_size: usize,
    ) -> Result<Self> {
        net.expect_inputs(images.features())?;
        let capacity = batch_size.min(images.len());
        Ok(Self {
            workspace: net.workspace_for(gemm, capacity, Passes::Forward)?,
            feed: Feed::new(images, normalization, capacity)?,
            evaluation: Evaluation::new(images.classes().max(net.classes())),
        })
    }

    /// Loss and accuracy of `net` on the images `indices`.
    ///
    /// # Errors
    /// [`Error::Setting`] if an index names no image, the network has another shape than planned,
    /// or there are several threads and the calling one is in no rayon pool; [`Error::Label`] if the network knows fewer
    /// classes than the images, [`Error::NotFinite`] with the first image whose logits, or whose loss, are not finite: an
    /// accuracy would say nothing of such a network.
    pub fn run(&mut self, net: &FullyConnectedNet<T>, indices: &[u32]) -> Result<&Evaluation> {
        self.run_with(net, indices, &mut |_, _| ())
    }

    /// As [`run`](Self::run), and shows the indices of each batch and its logits,
    /// (batch, classes), all of them finite, to `on_batch`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(
        &mut self,
        net: &FullyConnectedNet<T>,
        indices: &[u32],
        on_batch: &mut dyn FnMut(&[u32], MatRef<'_, T>),
    ) -> Result<&Evaluation> {
        let Self { workspace, feed, evaluation } = self;
        evaluation.run(net, workspace, feed, indices, on_batch)?;
        Ok(evaluation)
    }
}

/// Evaluates a network on all images of a set, in batches of up to `batch_size`.
///
/// # Errors
/// As [`Evaluator::new`] and [`Evaluator::run`].
pub fn evaluate<T: Element>(
    net: &FullyConnectedNet<T>,
    gemm: Gemm<T>,
    images: &ImageSet,
    normalization: &Normalization,
    batch_size: usize,
) -> Result<Evaluation> {
    let indices: Vec<u32> = (0..images.len() as u32).collect();
    let mut evaluator = Evaluator::new(net, gemm, images, normalization, batch_size)?;
    evaluator.run(net, &indices).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::ImageShape, gemm::Gemm, nn::NetConfig};

    /// Images of two pixels and two classes: black ones, and a white one at `white`.
    fn images(white: usize) -> ImageSet {
        let pixels = (0..10).flat_map(|index| [if index == white { 255 } else { 0 }; 2]);
        let shape = ImageShape { channels: 1, height: 1, width: 2 };
        let names = vec!["a".into(), "b".into()];
        ImageSet::new(shape, names, pixels.collect(), vec![0; 10]).unwrap()
    }

    /// A network whose logits for the white image are these; those for a black one are 0.
    fn evaluated(logits: [f32; 2], white: usize, batch: usize) -> Result<Evaluation> {
        let config = NetConfig { input: 2, hidden: vec![], classes: 2, ..NetConfig::default() };
        let mut net = FullyConnectedNet::<f32>::new(&config).unwrap();
        let weights = logits.map(|logit| logit / 2.0);
        net.layers_mut()[0].parameters_mut()[0].copy_from_slice(&[weights, weights].concat());
        let normalization = Normalization::new(vec![1.0 / 255.0], vec![0.0]).unwrap();
        let gemm = Gemm::new().unwrap().threads(crate::threads::Threads::Caller);
        evaluate(&net, gemm, &images(white), &normalization, batch)
    }

    #[test]
    fn what_is_not_finite_is_an_error_with_the_first_image() {
        for batch in [1, 3, 10] {
            // Weights that are not finite give NaN on black images already.
            for weight in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                let error = evaluated([0.0, weight], 7, batch).unwrap_err();
                let Error::NotFinite { image: 0, what: "a logit", value } = error else {
                    panic!("{error}");
                };
                assert!(value.is_nan(), "{value}");
            }
            // Finite logits that are further apart than the largest number.
            let error = evaluated([-3e38, 3e38], 7, batch).unwrap_err();
            let Error::NotFinite { image: 7, what: "the loss", value } = error else {
                panic!("{error}");
            };
            assert_eq!(value, f64::INFINITY);
        }
        assert_eq!(evaluated([1.0, 0.0], 7, 4).unwrap().correct, 10);
    }

    #[test]
    fn a_sum_that_overflows_is_a_logit_that_is_not_finite() {
        // Each weight is finite, twice the weight is not.
        for white in [0, 5, 9] {
            let config = NetConfig { input: 2, hidden: vec![], classes: 2, ..NetConfig::default() };
            let mut net = FullyConnectedNet::<f32>::new(&config).unwrap();
            net.layers_mut()[0].parameters_mut()[0].copy_from_slice(&[0.0, -3e38, 0.0, -3e38]);
            let normalization = Normalization::new(vec![1.0 / 255.0], vec![0.0]).unwrap();
            for batch in [1, 4, 10] {
                let gemm = Gemm::new().unwrap().threads(crate::threads::Threads::Caller);
                let error = evaluate(&net, gemm, &images(white), &normalization, batch);
                let Err(Error::NotFinite { image, what, value }) = error else {
                    panic!("{error:?}");
                };
                assert_eq!((image, what, value), (white, "a logit", f64::NEG_INFINITY));
            }
        }
    }
}
