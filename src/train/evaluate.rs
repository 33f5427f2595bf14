//! Loss and accuracy of a network over a set of pictures, batch by batch.

use crate::{
    context::Context,
    data::{ImageSet, Normalization},
    error::Result,
    infer::best_class,
    kernels::Element,
    matrix::MatRef,
    nn::{CrossEntropy, Mode, Network, Passes, Plan},
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
    /// As [`Feed::batch`] and [`Plan::forward`].
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
            // One chain over all pictures, whatever the batches.
            for &loss in plan.row_losses(CrossEntropy::default(), labels)? {
                total += loss.to_f64();
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

/// Evaluates networks of one shape on pictures of a set, batch by batch. After construction nothing
/// is allocated. Construct and run it inside of the rayon pool that it is to use.
pub struct Evaluator<'a, T: Element> {
    plan: Plan<T>,
    feed: Feed<'a, T>,
    evaluation: Evaluation,
}

impl<'a, T: Element> Evaluator<'a, T> {
    /// Plans for networks like `net` and batches of up to `batch_size` pictures; the results do
    /// not depend on that size.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if `batch_size` is 0,
    /// [`Error::Shape`](crate::Error::Shape) if the network does not fit the pictures.
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

    /// Loss and accuracy of `net` on the pictures `indices`.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if an index names no picture,
    /// [`Error::Label`](crate::Error::Label) if the network knows fewer classes than the pictures,
    /// [`Error::Shape`](crate::Error::Shape) if it has another shape than planned.
    pub fn run(&mut self, network: &Network<T>, indices: &[u32]) -> Result<&Evaluation> {
        self.run_with(network, indices, &mut |_, _| ())
    }

    /// As [`run`](Self::run), and shows the indices of each batch and its logits,
    /// (batch, classes), to `on_batch`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
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

/// Evaluates a network on all pictures of a set, in batches of up to `batch_size`.
///
/// # Errors
/// As [`Evaluator::new`] and [`Evaluator::run`].
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
