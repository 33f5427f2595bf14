//! `OptimizerState`: what an update rule keeps from step to step, in one aligned block, and its
//! steps.

use crate::{
    aligned::{ALIGNMENT, AlignedBuf},
    error::{Error, Result},
    gemm::{
        Companion, Companions, Epilogue, Gemm, Rule, Update,
        epilogue::{AdaGrad, Adam, Average, Descent, Momentum, RmsProp, RmsPropMomentum},
    },
    kernels::{Element, MAX_SLOTS},
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
/// [`fused_update`](Self::fused_update): the bits are the same. Nothing allocates after
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
    /// [`Error::Setting`] if there is no such tensor or no step was begun; [`Error::Length`] if
    /// the parameters or the gradient have another length.
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
        let update = self.step(learning_rate, kind);
        let slots = self.slots_of(tensor)?;
        let line = ALIGNMENT / size_of::<T>();
        divide(
            (parameters, gradient, slots),
            gemm.tasks_for(expected),
            &|(w, g, slots): (&mut [T], &[T], [&mut [T]; MAX_SLOTS]), left, parts| {
                let at = cut(w.len(), line, left, parts);
                let ((w1, w2), (g1, g2)) = (w.split_at_mut(at), g.split_at(at));
                // A slot that the rule does not have is empty.
                let [(a1, a2), (b1, b2)] = slots.map(|slot| slot.split_at_mut(at.min(slot.len())));
                ((w1, g1, [a1, b1]), (w2, g2, [a2, b2]))
            },
            &|(w, g, slots)| gemm.kernels().update(&update, w, g, slots),
        );
        Ok(())
    }

    /// The epilogue of a product that computes the gradient of the weights of tensor number
    /// `tensor`, of the given shape, which makes it update them instead. `l2` is the factor of the
    /// squared weights in the loss.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such tensor or no step was begun; [`Error::Length`] if it
    /// has another number of elements.
    pub fn fused_update(
        &mut self,
        tensor: usize,
        (rows, cols): (usize, usize),
        learning_rate: f64,
        l2: f64,
    ) -> Result<Epilogue<'_, T>> {
        let expected = self.tensor(tensor)?.len;
        if rows.checked_mul(cols) != Some(expected) {
            let found = rows.saturating_mul(cols);
            return Err(Error::Length {
                what: "weights of an optimizer's tensor",
                expected,
                found,
            });
        }
        let update = self.step(learning_rate, ParameterKind::Weights { l2 });
        let used = update.rule.slot_names().len();
        let mut companions = [None, None];
        for (companion, slot) in companions.iter_mut().zip(self.slots_of(tensor)?).take(used) {
            *companion = Some(Companion::Exclusive(MatMut::new(slot, rows, cols)?));
        }
        Ok(Epilogue::update(update, Companions::from(companions)))
    }

    /// This step, with its factors.
    fn step(&self, learning_rate: f64, kind: ParameterKind) -> Update<T> {
        let (l2, weight_decay) = match kind {
            ParameterKind::Weights { l2 } => (2.0 * l2, self.optimizer.weight_decay),
            ParameterKind::Biases => (0.0, 0.0),
        };
        // AdamW decays the weights apart from the gradient.
        let decoupled = matches!(self.optimizer.rule, UpdateRule::AdamW { .. });
        Update {
            l2: T::from_f64(l2),
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
            UpdateRule::Sgd => Rule::Descent(Descent { learning_rate: rate }),
            UpdateRule::Momentum { momentum } => with_momentum(momentum, false),
            UpdateRule::Nesterov { momentum } => with_momentum(momentum, true),
            UpdateRule::AdaGrad { epsilon } => {
                Rule::AdaGrad(AdaGrad { learning_rate: rate, epsilon: T::from_f64(epsilon) })
            }
            UpdateRule::RmsProp { decay, epsilon, momentum } => {
                let (squares, epsilon) = (average(decay), T::from_f64(epsilon));
                let rms_prop = RmsProp { learning_rate: rate, squares, epsilon };
                if momentum == 0.0 {
                    Rule::RmsProp(rms_prop)
                } else {
                    let momentum = T::from_f64(momentum);
                    Rule::RmsPropMomentum(RmsPropMomentum { rms_prop, momentum })
                }
            }
            UpdateRule::Adam { beta1, beta2, epsilon }
            | UpdateRule::AdamW { beta1, beta2, epsilon } => {
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
