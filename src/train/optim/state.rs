//! `OptimizerState`: what an optimizer keeps for each parameter from step to step, in arenas, and
//! its steps.

use std::sync::Arc;

use crate::{
    aligned::ALIGNMENT,
    context::Context,
    error::{Error, Result},
    gemm::Finish,
    kernels::{AdaGrad, Adam, Average, Descent, Element, MAX_SLOTS, Momentum, RmsProp, Update},
    matrix::MatMut,
    nn::{Arena, TensorLayout},
    threads::{cut, divide},
    train::optim::{Optimizer, UpdateRule},
};

/// What a step of one parameter depends on beside the optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepSettings {
    /// Learning rate of the parameter.
    pub learning_rate: f64,
    /// Factor of the squared parameter in the loss; 0 if its gradient is in the one given.
    pub l2: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// The state of an [`Optimizer`] for the parameters of a network, and its steps.
///
/// A step begins with [`begin_step`](Self::begin_step); then every parameter is updated once, by
/// [`update`](Self::update) with a stored gradient, or while its gradient is computed with
/// [`weight_finish`](Self::weight_finish): the bits are the same. Nothing allocates after
/// construction, and the bits depend neither on threads nor on the fused instruction set.
#[derive(Debug)]
pub struct OptimizerState<T: Element> {
    optimizer: Optimizer,
    layout: Arc<TensorLayout>,
    /// One for each of the optimizer's slots.
    slots: Vec<Arena<T>>,
    steps: u64,
    /// `1 - beta^steps` for the averages of Adam.
    corrections: [f64; 2],
}

impl<T: Element> OptimizerState<T> {
    /// State for parameters of this layout, before the first step.
    ///
    /// # Errors
    /// [`Error::Setting`] if a setting makes no sense, or an epsilon is 0 in the precision of the
    /// parameters; [`Error::SizeOverflow`] if the memory exceeds what there is.
    pub fn new(optimizer: &Optimizer, layout: &Arc<TensorLayout>) -> Result<Self> {
        optimizer.check()?;
        if let UpdateRule::AdaGrad { epsilon }
        | UpdateRule::RmsProp { epsilon, .. }
        | UpdateRule::Adam { epsilon, .. }
        | UpdateRule::AdamW { epsilon, .. } = optimizer.rule
            && T::from_f64(epsilon) == T::ZERO
        {
            return Err(Error::setting("epsilon", epsilon, format!("above 0 in {}", T::NAME)));
        }
        let slots = optimizer.slot_names().iter().map(|_| Arena::zeros(Arc::clone(layout)));
        Ok(Self {
            optimizer: *optimizer,
            layout: Arc::clone(layout),
            slots: slots.collect::<Result<_>>()?,
            steps: 0,
            corrections: [0.0; 2],
        })
    }

    /// The optimizer and its settings.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// The parameters that it is for.
    pub fn layout(&self) -> &Arc<TensorLayout> {
        &self.layout
    }

    /// Size of the memory.
    pub fn bytes(&self) -> usize {
        self.slots.iter().map(Arena::bytes).sum()
    }

    /// Steps begun so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Continues as if so many steps had been begun: for a state whose slots were stored.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
        if let UpdateRule::Adam { beta1, beta2, .. } | UpdateRule::AdamW { beta1, beta2, .. } =
            self.optimizer.rule
        {
            self.corrections = [beta1, beta2].map(|beta| 1.0 - beta.powf(steps as f64));
        }
    }

    /// Begins a step, the first included.
    pub fn begin_step(&mut self) {
        self.set_steps(self.steps.saturating_add(1));
    }

    /// What is kept for each parameter, by the names of [`Optimizer::slot_names`].
    pub fn slots(&self) -> impl Iterator<Item = (&'static str, &Arena<T>)> {
        self.optimizer.slot_names().iter().copied().zip(&self.slots)
    }

    /// As [`slots`](Self::slots), to be read back.
    pub fn slots_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Arena<T>)> {
        self.optimizer.slot_names().iter().copied().zip(&mut self.slots)
    }

    /// Updates parameter number `number` with its gradient, both as long as planned, in one pass
    /// that is divided among the threads of the context.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such parameter, no step was begun, or the context has several
    /// threads and the calling one is in no rayon pool; [`Error::Length`] if the parameter or the
    /// gradient has another length.
    pub fn update(
        &mut self,
        context: &Context<T>,
        number: usize,
        parameters: &mut [T],
        gradient: &[T],
        settings: StepSettings,
    ) -> Result<()> {
        let expected = self.check(number)?;
        for (what, found) in [("parameters", parameters.len()), ("gradient", gradient.len())] {
            if found != expected {
                return Err(Error::Length { what, expected, found });
            }
        }
        let tasks = context.tasks_for(expected)?;
        let rule = self.rule(settings);
        let slots = self.slots_of(number);
        let line = ALIGNMENT / size_of::<T>();
        divide(
            (parameters, gradient, slots),
            tasks,
            &|(w, g, slots): (&mut [T], &[T], [&mut [T]; MAX_SLOTS]), left, parts| {
                let at = cut(w.len(), line, left, parts);
                let ((w1, w2), (g1, g2)) = (w.split_at_mut(at), g.split_at(at));
                // A slot that the rule does not have is empty.
                let [(a1, a2), (b1, b2)] = slots.map(|slot| slot.split_at_mut(at.min(slot.len())));
                ((w1, g1, [a1, b1]), (w2, g2, [a2, b2]))
            },
            &|(w, g, slots)| context.kernels().update(rule, w, g, slots),
        );
        Ok(())
    }

    /// What makes a product that computes the gradient of parameter number `number`, a matrix of
    /// weights, update them instead of storing it; `None` if the rule has no such finish.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such parameter, it is no matrix, or no step was begun.
    pub fn weight_finish(
        &mut self,
        number: usize,
        settings: StepSettings,
    ) -> Result<Option<Finish<'_, T>>> {
        self.check(number)?;
        let layout = Arc::clone(&self.layout);
        let &[rows, cols] = layout.tensors()[number].shape() else {
            let found = format!("{:?}", layout.tensors()[number].shape());
            return Err(Error::setting("shape of weights", found, "rows and columns"));
        };
        let StepSettings { learning_rate, .. } = settings;
        let (learning_rate, l2) = (T::from_f64(learning_rate), self.l2_factor(settings));
        let (momentum, nesterov) = match self.optimizer.rule {
            UpdateRule::Sgd => return Ok(Some(Finish::Descent { learning_rate, l2 })),
            UpdateRule::Momentum { momentum } => (T::from_f64(momentum), false),
            UpdateRule::Nesterov { momentum } => (T::from_f64(momentum), true),
            _ => return Ok(None),
        };
        let [velocity, _] = self.slots_of(number);
        let velocity = MatMut::new(velocity, rows, cols)?;
        Ok(Some(Finish::Momentum { velocity, learning_rate, momentum, nesterov, l2 }))
    }

    /// Half of what the gradient gets of the weights: the loss's L2 term and coupled decay.
    fn l2_factor(&self, StepSettings { l2, weight_decay, .. }: StepSettings) -> T {
        T::from_f64(match self.optimizer.rule {
            UpdateRule::AdamW { .. } => l2,
            _ => l2 + 0.5 * weight_decay,
        })
    }

    /// The rule with this step's factors.
    fn rule(&self, settings: StepSettings) -> Update<T> {
        let StepSettings { learning_rate, weight_decay, .. } = settings;
        let l2 = self.l2_factor(settings);
        let (rate, decay) = (T::from_f64(learning_rate), l2 + l2);
        let average =
            |keep: f64| Average { keep: T::from_f64(keep), take: T::from_f64(1.0 - keep) };
        match self.optimizer.rule {
            UpdateRule::Sgd => Update::Descent(Descent { rate, decay }),
            UpdateRule::Momentum { momentum } => {
                let momentum = T::from_f64(momentum);
                Update::Momentum(Momentum { rate, decay, momentum, nesterov: false })
            }
            UpdateRule::Nesterov { momentum } => {
                let momentum = T::from_f64(momentum);
                Update::Momentum(Momentum { rate, decay, momentum, nesterov: true })
            }
            UpdateRule::AdaGrad { epsilon } => {
                Update::AdaGrad(AdaGrad { rate, decay, epsilon: T::from_f64(epsilon) })
            }
            UpdateRule::RmsProp { decay: keep, epsilon, momentum } => {
                let (squares, epsilon) = (average(keep), T::from_f64(epsilon));
                let rule =
                    RmsProp { rate, decay, squares, epsilon, momentum: T::from_f64(momentum) };
                if momentum == 0.0 { Update::RmsProp(rule) } else { Update::RmsPropMomentum(rule) }
            }
            UpdateRule::Adam { beta1, beta2, epsilon }
            | UpdateRule::AdamW { beta1, beta2, epsilon } => {
                let shrink = match self.optimizer.rule {
                    UpdateRule::AdamW { .. } => T::from_f64(learning_rate * weight_decay),
                    _ => T::ZERO,
                };
                let [of_mean, of_squares] = self.corrections;
                Update::Adam(Adam {
                    rate: T::from_f64(learning_rate / of_mean),
                    decay,
                    shrink,
                    gradients: average(beta1),
                    squares: average(beta2),
                    root_scale: T::from_f64(1.0 / of_squares.sqrt()),
                    epsilon: T::from_f64(epsilon),
                })
            }
        }
    }

    /// The length of a parameter.
    fn check(&self, number: usize) -> Result<usize> {
        if self.steps == 0 {
            return Err(Error::setting("steps", 0, "begin_step before an update"));
        }
        let tensors = self.layout.tensors();
        let tensor = tensors.get(number);
        tensor
            .map(|tensor| tensor.len())
            .ok_or_else(|| Error::setting("parameter", number, format!("below {}", tensors.len())))
    }

    /// The slots of a parameter; those that the rule does not have are empty.
    fn slots_of(&mut self, number: usize) -> [&mut [T]; MAX_SLOTS] {
        let mut all = self.slots.iter_mut();
        std::array::from_fn(|_| all.next().map_or(&mut [][..], |slot| slot.tensor_mut(number)))
    }
}
