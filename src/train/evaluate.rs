//! Loss and accuracy of a network over a set of images, batch by batch.

use crate::{
    context::Context,
    data::{ImageSet, Normalization},
    error::{Error, Result},
    infer::best_class,
    kernels::Element,
    matrix::MatRef,
    nn::{CrossEntropy, Mode, Network, Passes, Plan},
    train::feed::Feed,
};

/// The results of a network on a set of images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Number of images.
    pub images: usize,
    /// Mean cross-entropy, without regularization.
    pub loss: f64,
    /// Number of images that were classified correctly: the largest logit is that of the label.
    pub correct: usize,
    /// For each class, the number of correctly classified images, and of all images.
    pub classes: Vec<(usize, usize)>,
}

impl Evaluation {
    /// An empty result with room for `classes` classes.
    pub(super) fn new(classes: usize) -> Self {
        Self { classes: vec![(0, 0); classes], ..Self::default() }
    }

    /// The fraction of correct predictions, from 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }

    /// Evaluates `net` on the images `indices` of a feed, without allocating, and calls `on_batch`
    /// with the logits of each batch. The results do not depend on the size of the batches.
    ///
    /// # Errors
    /// Same as [`Feed::batch`] and [`Plan::forward`], and [`Error::NotFinite`] with the
    /// first image whose logits, or whose loss, are not finite; `self` is invalid then.
    pub(super) fn run<T: Element>(
        &mut self,
        network: &Network<T>,
        plan: &mut Plan<T>,
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
            plan.forward(network, x, Mode::Evaluation)?;
            let fault = first_not_finite(plan.logits(batch.len())?);
            let mut fault = fault.map(|(row, logit)| (row, "a logit", logit));
            // One chain over all images, whatever the batches.
            let losses = plan.row_losses(CrossEntropy::default(), labels)?;
            for (row, &loss) in losses.iter().enumerate() {
                total += loss.to_f64();
                if !total.is_finite() && fault.is_none_or(|(first, ..)| row < first) {
                    fault = Some((row, "the loss", total));
                }
            }
            if let Some((row, what, value)) = fault {
                return Err(Error::NotFinite { image: batch[row] as usize, what, value });
            }
            let logits = plan.logits(batch.len())?;
            on_batch(batch, logits);
            for (row, &label) in labels.iter().enumerate() {
                let prediction = logits.row(row).map_or(0, best_class);
                let right = usize::from(prediction == label as usize);
                let class = &mut self.classes[label as usize];
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
/// is allocated. With several threads, construct and run it inside of the rayon pool that it is to
/// use.
pub struct Evaluator<'a, T: Element> {
    plan: Plan<T>,
    feed: Feed<'a, T>,
    evaluation: Evaluation,
}

impl<'a, T: Element> Evaluator<'a, T> {
    /// Plans for networks like `net` and batches of up to `batch_size` images; the results do
    /// not depend on that size.
    ///
    /// # Errors
    /// [`Error::Setting`] if `batch_size` is 0; [`Error::OutsidePool`] if the threads of `context`
    /// are more than the calling one and it is in no rayon pool; [`Error::Shape`] if the network does not fit the images.
    pub fn new(
        network: &Network<T>,
        context: Context<T>,
        images: &'a ImageSet,
        normalization: &Normalization,
        batch_size: usize,
    ) -> Result<Self> {
        network.expect_inputs(images.features())?;
        let capacity = batch_size.min(images.len());
        Ok(Self {
            plan: Plan::new(network, capacity, Passes::Forward, context)?,
            feed: Feed::new(images, normalization, capacity)?,
            evaluation: Evaluation::new(images.classes().max(network.classes())),
        })
    }

    /// Loss and accuracy of `net` on the images `indices`.
    ///
    /// # Errors
    /// [`Error::Setting`] if an index is out of range, the network has other layers than planned, or
    /// there are several threads and the calling one is not in a rayon pool; [`Error::Label`] if the
    /// network has fewer classes than the images; [`Error::NotFinite`] with the first image whose
    /// logits, or whose loss, are not finite: the accuracy of such a network has no meaning.
    pub fn run(&mut self, network: &Network<T>, indices: &[u32]) -> Result<&Evaluation> {
        self.run_with(network, indices, &mut |_, _| ())
    }

    /// Same as [`run`](Self::run), and calls `on_batch` with the indices of each batch and its
    /// logits, (batch, classes), which are all finite.
    ///
    /// # Errors
    /// Same as [`run`](Self::run).
    pub fn run_with(
        &mut self,
        network: &Network<T>,
        indices: &[u32],
        on_batch: &mut dyn FnMut(&[u32], MatRef<'_, T>),
    ) -> Result<&Evaluation> {
        let Self { plan, feed, evaluation } = self;
        evaluation.run(network, plan, feed, indices, on_batch)?;
        Ok(evaluation)
    }
}

/// Evaluates a network on all images of a set, in batches of up to `batch_size`.
///
/// # Errors
/// Same as [`Evaluator::new`] and [`Evaluator::run`].
pub fn evaluate<T: Element>(
    network: &Network<T>,
    context: Context<T>,
    images: &ImageSet,
    normalization: &Normalization,
    batch_size: usize,
) -> Result<Evaluation> {
    let indices: Vec<u32> = (0..images.len() as u32).collect();
    let mut evaluator = Evaluator::new(network, context, images, normalization, batch_size)?;
    evaluator.run(network, &indices).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::ImageShape,
        nn::{MlpConfig, mlp},
    };

    /// Images of two pixels and two classes: black ones, and a white one at `white`.
    fn images(white: usize) -> ImageSet {
        let pixels = (0..10).flat_map(|index| [if index == white { 255 } else { 0 }; 2]);
        let shape = ImageShape { channels: 1, height: 1, width: 2 };
        let names = vec!["a".into(), "b".into()];
        ImageSet::new(shape, names, pixels.collect(), vec![0; 10]).unwrap()
    }

    /// A linear classifier with these weights, (2, 2).
    fn linear(weights: &[f32]) -> Network<f32> {
        let config = MlpConfig { input: 2, hidden: vec![], classes: 2, ..MlpConfig::default() };
        let mut network = mlp(&config).unwrap();
        network.parameters_mut().get_mut("0.weight").unwrap().copy_from_slice(weights);
        network
    }

    /// A network whose logits for the white image are these; those for a black one are 0.
    fn evaluated(logits: [f32; 2], white: usize, batch: usize) -> Result<Evaluation> {
        let weights = logits.map(|logit| logit / 2.0);
        let network = linear(&[weights, weights].concat());
        let normalization = Normalization::new(vec![1.0 / 255.0], vec![0.0]).unwrap();
        let context = Context::new().unwrap();
        evaluate(&network, context, &images(white), &normalization, batch)
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
            let network = linear(&[0.0, -3e38, 0.0, -3e38]);
            let normalization = Normalization::new(vec![1.0 / 255.0], vec![0.0]).unwrap();
            for batch in [1, 4, 10] {
                let context = Context::new().unwrap();
                let error = evaluate(&network, context, &images(white), &normalization, batch);
                let Err(Error::NotFinite { image, what, value }) = error else {
                    panic!("{error:?}");
                };
                assert_eq!((image, what, value), (white, "a logit", f64::NEG_INFINITY));
            }
        }
    }
}
