//! `OptimizerState`: what an update rule keeps from step to step, in one aligned block, and its
//! steps.

use crate::{
    aligned::{ALIGNMENT, AlignedBuf},
    error::{Error, Result},
    gemm::{Finish, Gemm},
    kernels::{AdaGrad, Adam, Average, Descent, Element, MAX_SLOTS, Momentum, RmsProp, Update},
    matrix::MatMut,
    threads::{cut, divide},
    train::optim::{Optimizer, UpdateRule},
};

/// What the parameters of a tensor are, which says how they are regularised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParameterKind {
    /// Weights: weight decay applies, and the gradient of the loss's L2 term.
    Weights {
        /// Factor of the squared weights in the loss; 0 if their gradient is in the one given.
        l2: f64,
    },
    /// Biases: neither applies.
    Biases,
}

/// The state of an [`Optimizer`] for the parameter tensors of a network, and its steps.
///
/// A step begins with [`begin_step`](Self::begin_step); then every tensor is updated once, by
/// [`update`](Self::update) with a stored gradient, or while its gradient is computed with
/// [`weight_finish`](Self::weight_finish): the bits are the same. Nothing allocates after
/// construction, and the bits depend neither on threads nor on the fused instruction set.
#[derive(Clone, Debug)]
pub struct OptimizerState<T: Element> {
    optimizer: Optimizer,
    tensors: Vec<Tensor>,
    block: AlignedBuf<T>,
    steps: u64,
    /// `1 - beta^steps` for the averages of Adam.
    corrections: [f64; 2],
}

/// A tensor's place in the block: its slots, one after another.
#[derive(Clone, Copy, Debug)]
struct Tensor {
    len: usize,
    start: usize,
    /// Elements from one slot to the next: whole cache lines, at least one.
    stride: usize,
}

impl<T: Element> OptimizerState<T> {
    /// State for tensors of these lengths, before the first step.
    ///
    /// # Errors
    /// [`Error::Setting`] if a setting makes no sense, or an epsilon is 0 in the precision of the
    /// parameters; [`Error::SizeOverflow`] if the memory exceeds the address space.
    pub fn new(optimizer: &Optimizer, lengths: &[usize]) -> Result<Self> {
        optimizer.check()?;
        if let UpdateRule::AdaGrad { epsilon }
        | UpdateRule::RmsProp { epsilon, .. }
        | UpdateRule::Adam { epsilon, .. }
        | UpdateRule::AdamW { epsilon, .. } = optimizer.rule
            && T::from_f64(epsilon) == T::ZERO
        {
            return Err(Error::setting("epsilon", epsilon, format!("above 0 in {}", T::NAME)));
        }
        let slots = optimizer.slot_names().len();
        let mut tensors = Vec::with_capacity(lengths.len());
        let mut end = 0usize;
        for &len in lengths {
            let overflow =
                || Error::SizeOverflow { what: "state of the optimizer", rows: slots, cols: len };
            let line = ALIGNMENT / size_of::<T>();
            let stride = len.max(1).checked_next_multiple_of(line).ok_or_else(overflow)?;
            tensors.push(Tensor { len, start: end, stride });
            let all = stride.checked_mul(slots).ok_or_else(overflow)?;
            end = end.checked_add(all).ok_or_else(overflow)?;
        }
        let (block, corrections) = (AlignedBuf::zeroed(end)?, [0.0; 2]);
        Ok(Self { optimizer: *optimizer, tensors, block, steps: 0, corrections })
    }

    /// The rule and its settings.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Size of the memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.block[..])
    }

    /// Steps begun so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Goes on as if so many steps had been begun: for a state whose slots were stored.
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

    /// What is kept, to be stored: name, number of the tensor, and an element for each of its
    /// parameters.
    pub fn slots(&self) -> impl Iterator<Item = (&'static str, usize, &[T])> {
        let names = self.optimizer.slot_names();
        self.tensors.iter().enumerate().flat_map(move |(index, tensor)| {
            names.iter().enumerate().map(move |(slot, &name)| {
                let start = tensor.start + slot * tensor.stride;
                (name, index, &self.block[start..start + tensor.len])
            })
        })
    }

    /// As [`slots`](Self::slots), to be read back.
    pub fn slots_mut(&mut self) -> impl Iterator<Item = (&'static str, usize, &mut [T])> {
        let names = self.optimizer.slot_names();
        let mut rest = &mut self.block[..];
        self.tensors.iter().enumerate().flat_map(move |(index, tensor)| {
            // All slots of a tensor at once: the closure cannot lend from `rest` later.
            let (slots, behind) =
                std::mem::take(&mut rest).split_at_mut(names.len() * tensor.stride);
            rest = behind;
            names
                .iter()
                .zip(slots.chunks_mut(tensor.stride))
                .map(move |(&name, slot)| (name, index, &mut slot[..tensor.len]))
        })
    }

    /// Updates tensor number `tensor` with its gradient, both as long as planned, in one pass that
    /// is divided among the tasks of `gemm`.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such tensor, no step was begun, or the threads of `gemm` are
    /// more than the calling one and it is in no rayon pool; [`Error::Length`] if the parameters or
    /// the gradient have another length.
    pub fn update(
        &mut self,
        gemm: &Gemm<T>,
        tensor: usize,
        parameters: &mut [T],
        gradient: &[T],
        learning_rate: f64,
        kind: ParameterKind,
    ) -> Result<()> {
        let expected = self.tensor(tensor)?.len;
        for (what, found) in [("parameters", parameters.len()), ("gradient", gradient.len())] {
            if found != expected {
                return Err(Error::Length { what, expected, found });
            }
        }
        let tasks = gemm.tasks_for(expected)?;
        let rule = self.rule(learning_rate, kind);
        let slots = self.slots_of(tensor)?;
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
            &|(w, g, slots)| gemm.kernels().update(rule, w, g, slots),
        );
        Ok(())
    }

    /// What makes a product that computes the gradient of the weights of tensor number `tensor`,
    /// of the given shape, update them instead of storing it; `None` if the rule has no such
    /// finish. `l2` is the factor of the squared weights in the loss.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such tensor or no step was begun; [`Error::Length`] if it
    /// has another number of elements.
    pub fn weight_finish(
        &mut self,
        tensor: usize,
        (rows, cols): (usize, usize),
        learning_rate: f64,
        l2: f64,
    ) -> Result<Option<Finish<'_, T>>> {
        let expected = self.tensor(tensor)?.len;
        if rows.checked_mul(cols) != Some(expected) {
            let found = rows.saturating_mul(cols);
            return Err(Error::Length {
                what: "weights of an optimizer's tensor",
                expected,
                found,
            });
        }
        let (learning_rate, l2) = (T::from_f64(learning_rate), self.l2_factor(l2));
        let (momentum, nesterov) = match self.optimizer.rule {
            UpdateRule::Sgd => return Ok(Some(Finish::Descent { learning_rate, l2 })),
            UpdateRule::Momentum { momentum } => (T::from_f64(momentum), false),
            UpdateRule::Nesterov { momentum } => (T::from_f64(momentum), true),
            _ => return Ok(None),
        };
        let [velocity, _] = self.slots_of(tensor)?;
        let velocity = MatMut::new(velocity, rows, cols)?;
        Ok(Some(Finish::Momentum { velocity, learning_rate, momentum, nesterov, l2 }))
    }

    /// Half of what the gradient gets of the weights: the loss's L2 term and coupled decay.
    fn l2_factor(&self, l2: f64) -> T {
        T::from_f64(match self.optimizer.rule {
            UpdateRule::AdamW { .. } => l2,
            _ => l2 + 0.5 * self.optimizer.weight_decay,
        })
    }

    /// The rule with this step's factors.
    fn rule(&self, learning_rate: f64, kind: ParameterKind) -> Update<T> {
        let (l2, weight_decay) = match kind {
            ParameterKind::Weights { l2 } => (self.l2_factor(l2), self.optimizer.weight_decay),
            ParameterKind::Biases => (T::ZERO, 0.0),
        };
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

    fn tensor(&self, index: usize) -> Result<Tensor> {
        if self.steps == 0 {
            return Err(Error::setting("steps", 0, "begin_step before an update"));
        }
        self.tensors
            .get(index)
            .copied()
            .ok_or_else(|| Error::setting("tensor", index, format!("below {}", self.tensors.len())))
    }

    /// The slots of a tensor; those that the rule does not have are empty.
    fn slots_of(&mut self, index: usize) -> Result<[&mut [T]; MAX_SLOTS]> {
        let Tensor { len, start, stride } = self.tensor(index)?;
        let slots = self.optimizer.slot_names().len();
        let mut all = self.block[start..start + slots * stride].chunks_mut(stride);
        Ok(std::array::from_fn(|_| all.next().map_or(&mut [][..], |slot| &mut slot[..len])))
    }
}
