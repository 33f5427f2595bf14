//! `OptimizerState`: an optimizer's state for each parameter, in arenas, and its steps.

use std::sync::Arc;

use crate::{
    aligned::ALIGNMENT,
    context::Context,
    error::{Error, Result},
    gemm::{
        Companion, Companions, Epilogue, Rule, Update,
        epilogue::{AdaGrad, Adam, Average, Descent, Momentum, RmsProp, RmsPropMomentum},
    },
    kernels::{Element, MAX_SLOTS},
    matrix::MatMut,
    nn::{Arena, TensorLayout},
    threads::{cut, divide},
    train::optim::{Optimizer, OptimizerRule},
};

/// The settings of one parameter's step, besides the optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepSettings {
    /// Learning rate of the parameter.
    pub learning_rate: f64,
    /// L2 factor of the parameter in the loss; 0 if the gradient already includes the L2 term.
    pub l2: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// The state of an [`Optimizer`] for the parameters of a network, and its steps.
///
/// A step begins with [`begin_step`](Self::begin_step); then every parameter is updated once, by
/// [`update`](Self::update) with a stored gradient, or while its gradient is computed with
/// [`fused_update`](Self::fused_update): the bits are the same. Nothing allocates after
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
    /// [`Error::Setting`] if a setting is invalid, or an epsilon is 0 in the precision of the
    /// parameters; [`Error::SizeOverflow`] if there is not enough memory.
    pub fn new(optimizer: &Optimizer, layout: &Arc<TensorLayout>) -> Result<Self> {
        optimizer.check()?;
        if let OptimizerRule::AdaGrad { epsilon }
        | OptimizerRule::RmsProp { epsilon, .. }
        | OptimizerRule::Adam { epsilon, .. }
        | OptimizerRule::AdamW { epsilon, .. } = optimizer.rule
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

    /// Sets the number of steps begun, for a state whose slots were loaded.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
        if let OptimizerRule::Adam { beta1, beta2, .. }
        | OptimizerRule::AdamW { beta1, beta2, .. } = self.optimizer.rule
        {
            self.corrections = [beta1, beta2].map(|beta| 1.0 - libm::pow(beta, steps as f64));
        }
    }

    /// Begins a step, the first included.
    pub fn begin_step(&mut self) {
        self.set_steps(self.steps.saturating_add(1));
    }

    /// The slots of each parameter, named as in [`Optimizer::slot_names`].
    pub fn slots(&self) -> impl Iterator<Item = (&'static str, &Arena<T>)> {
        self.optimizer.slot_names().iter().copied().zip(&self.slots)
    }

    /// Same as [`slots`](Self::slots), mutable.
    pub fn slots_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Arena<T>)> {
        self.optimizer.slot_names().iter().copied().zip(&mut self.slots)
    }

    /// Updates parameter number `number` with its gradient in one pass that is divided among the
    /// threads of the context. Both have the length of the parameter.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such parameter, no step was begun, or the context has several
    /// threads and the calling one is not in a rayon pool; [`Error::Length`] if the parameter or the
    /// gradient has a different length.
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
        let update = self.step(settings);
        let slots = self.slots_of(number);
        let line = ALIGNMENT / size_of::<T>();
        divide(
            (parameters, gradient, slots),
            tasks,
            &|(w, g, slots): (&mut [T], &[T], [&mut [T]; MAX_SLOTS]), left, parts| {
                let at = cut(w.len(), line, left, parts);
                let ((w1, w2), (g1, g2)) = (w.split_at_mut(at), g.split_at(at));
                // A slot that the optimizer does not have is empty.
                let [(a1, a2), (b1, b2)] = slots.map(|slot| slot.split_at_mut(at.min(slot.len())));
                ((w1, g1, [a1, b1]), (w2, g2, [a2, b2]))
            },
            &|(w, g, slots)| context.kernels().update(&update, w, g, slots),
        );
        Ok(())
    }

    /// The epilogue that fuses the update of parameter number `number`, a weight matrix, into the
    /// product that computes its gradient.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such parameter, it is no matrix, or no step was begun.
    pub fn fused_update(
        &mut self,
        number: usize,
        settings: StepSettings,
    ) -> Result<Epilogue<'_, T>> {
        self.check(number)?;
        let layout = Arc::clone(&self.layout);
        let &[rows, cols] = layout.tensors()[number].shape() else {
            let found = format!("{:?}", layout.tensors()[number].shape());
            return Err(Error::setting("shape of weights", found, "rows and columns"));
        };
        let update = self.step(settings);
        let mut companions = [None, None];
        let used = update.rule.slot_names().len();
        for (companion, slot) in companions.iter_mut().zip(self.slots_of(number)).take(used) {
            *companion = Some(Companion::Exclusive(MatMut::new(slot, rows, cols)?));
        }
        Ok(Epilogue::update(update, Companions::from(companions)))
    }

    /// This step of a parameter, with its factors.
    fn step(&self, settings: StepSettings) -> Update<T> {
        let StepSettings { learning_rate, l2, weight_decay } = settings;
        // The weight decay of AdamW is decoupled.
        let decoupled = matches!(self.optimizer.rule, OptimizerRule::AdamW { .. });
        Update {
            l2: T::from_f64(2.0 * l2),
            weight_decay: T::from_f64(if decoupled { 0.0 } else { weight_decay }),
            rule: self.rule(learning_rate, if decoupled { weight_decay } else { 0.0 }),
        }
    }

    /// How the gradient moves a parameter in this step. AdamW also shrinks it by the learning rate
    /// times `decay`.
    fn rule(&self, learning_rate: f64, decay: f64) -> Rule<T> {
        let average =
            |keep: f64| Average { keep: T::from_f64(keep), take: T::from_f64(1.0 - keep) };
        let rate = T::from_f64(learning_rate);
        let with_momentum = |momentum: f64, nesterov: bool| {
            let momentum = T::from_f64(momentum);
            Rule::Momentum(Momentum { learning_rate: rate, momentum, nesterov })
        };
        match self.optimizer.rule {
            OptimizerRule::Sgd => Rule::Descent(Descent { learning_rate: rate }),
            OptimizerRule::Momentum { momentum } => with_momentum(momentum, false),
            OptimizerRule::Nesterov { momentum } => with_momentum(momentum, true),
            OptimizerRule::AdaGrad { epsilon } => {
                Rule::AdaGrad(AdaGrad { learning_rate: rate, epsilon: T::from_f64(epsilon) })
            }
            OptimizerRule::RmsProp { decay, epsilon, momentum } => {
                let (squares, epsilon) = (average(decay), T::from_f64(epsilon));
                let rms_prop = RmsProp { learning_rate: rate, squares, epsilon };
                if momentum == 0.0 {
                    Rule::RmsProp(rms_prop)
                } else {
                    let momentum = T::from_f64(momentum);
                    Rule::RmsPropMomentum(RmsPropMomentum { rms_prop, momentum })
                }
            }
            OptimizerRule::Adam { beta1, beta2, epsilon }
            | OptimizerRule::AdamW { beta1, beta2, epsilon } => {
                let [of_mean, of_squares] = self.corrections;
                Rule::Adam(Adam {
                    learning_rate: T::from_f64(learning_rate / of_mean),
                    shrink: T::from_f64(learning_rate * decay),
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

    /// The slots of a parameter; those that the optimizer does not have are empty.
    fn slots_of(&mut self, number: usize) -> [&mut [T]; MAX_SLOTS] {
        let mut all = self.slots.iter_mut();
        std::array::from_fn(|_| all.next().map_or(&mut [][..], |slot| slot.tensor_mut(number)))
    }
}
