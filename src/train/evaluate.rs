//! Loss and accuracy of a network over a set of pictures, batch by batch.

use crate::{
    data::{ImageSet, Normalization},
    error::Result,
    gemm::Gemm,
    kernels::Element,
    nn::{FullyConnectedNet, Mode},
    train::feed::Feed,
};

/// What a network made of a set of pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Pictures seen.
    pub images: usize,
    /// Mean cross-entropy, without regularisation.
    pub loss: f64,
    /// Pictures whose largest logit is their label's.
    pub correct: usize,
    /// For each class, its pictures that were predicted right, and all of its pictures.
    pub classes: Vec<(usize, usize)>,
}

impl Evaluation {
    /// An empty result with room for `classes` classes.
    pub(super) fn new(classes: usize) -> Self {
        Self { classes: vec![(0, 0); classes], ..Self::default() }
    }

    /// The share of right predictions, from 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }

    /// Evaluates `net` on the pictures `indices` of a feed, without allocating. The numbers do
    /// not depend on the size of the feed's batches.
    ///
    /// # Errors
    /// As [`Feed::load`] and [`FullyConnectedNet::forward`].
    pub(super) fn run<T: Element>(
        &mut self,
        net: &FullyConnectedNet<T>,
        feed: &mut Feed<'_, T>,
        indices: &[u32],
    ) -> Result<()> {
        self.classes.fill((0, 0));
        self.correct = 0;
        self.images = indices.len();
        let mut total = 0.0;
        for batch in indices.chunks(feed.workspace.capacity()) {
            let (workspace, labels) = feed.load(batch)?;
            net.forward(workspace, batch.len(), Mode::Evaluation)?;
            // One chain over all pictures, whatever the batches.
            for &loss in net.row_losses(workspace, labels)? {
                total += loss.to_f64();
            }
            let predictions = FullyConnectedNet::predictions(workspace.logits(batch.len())?);
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

/// Evaluates a network on all pictures of a set, in batches of up to `batch_size`.
///
/// # Errors
/// [`Error::Setting`](crate::Error::Setting) if `batch_size` is 0,
/// [`Error::Shape`](crate::Error::Shape) if the network does not fit the pictures.
pub fn evaluate<T: Element>(
    net: &FullyConnectedNet<T>,
    gemm: Gemm<T>,
    images: &ImageSet,
    normalization: &Normalization,
    batch_size: usize,
) -> Result<Evaluation> {
    let workspace = net.workspace(gemm, batch_size.min(images.len()))?;
    let mut feed = Feed::new(images, normalization.table(), workspace)?;
    let indices: Vec<u32> = (0..images.len() as u32).collect();
    let mut evaluation = Evaluation::new(images.classes().max(net.classes()));
    evaluation.run(net, &mut feed, &indices)?;
    Ok(evaluation)
}
