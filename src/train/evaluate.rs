//! Loss and accuracy of a network over a set of pictures, batch by batch.

use crate::{
    data::{ImageSet, Normalization},
    error::Result,
    gemm::Gemm,
    kernels::Element,
    matrix::MatRef,
    nn::{FullyConnectedNet, Mode, Passes, Workspace},
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

    /// Evaluates `net` on the pictures `indices` of a feed, without allocating, and shows the
    /// logits of each batch to `on_batch`. The numbers do not depend on the size of the batches.
    ///
    /// # Errors
    /// As [`Feed::batch`] and [`FullyConnectedNet::forward`].
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
            // One chain over all pictures, whatever the batches.
            for &loss in net.row_losses(workspace, labels)? {
                total += loss.to_f64();
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

/// Evaluates networks of one shape on images of a set, batch by batch. After construction nothing
/// is allocated. With more threads than the calling one, construct and run it inside of the rayon
/// pool that it is to use.
pub struct Evaluator<'a, T: Element> {
    workspace: Workspace<T>,
    feed: Feed<'a, T>,
    evaluation: Evaluation,
}

impl<'a, T: Element> Evaluator<'a, T> {
    /// Plans for networks like `net` and batches of up to `batch_size` pictures; the results do
    /// not depend on that size.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if `batch_size` is 0, or the threads of `gemm` are
    /// more than the calling one and it is in no rayon pool;
    /// [`Error::Shape`](crate::Error::Shape) if the network does not fit the images.
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

    /// Loss and accuracy of `net` on the pictures `indices`.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if an index names no image, if the network has
    /// another shape than planned, or if there are several threads and the calling one is in no rayon
    /// pool; [`Error::Label`](crate::Error::Label) if the network knows fewer classes than the images.
    pub fn run(&mut self, net: &FullyConnectedNet<T>, indices: &[u32]) -> Result<&Evaluation> {
        self.run_with(net, indices, &mut |_, _| ())
    }

    /// As [`run`](Self::run), and shows the indices of each batch and its logits,
    /// (batch, classes), to `on_batch`.
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

/// Evaluates a network on all pictures of a set, in batches of up to `batch_size`.
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
