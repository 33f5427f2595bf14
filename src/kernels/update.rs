//! Updates of parameters by their gradient: the description of one step, and its vector code, which
//! serves both the pass over a tensor and the epilogue of the product that computes the gradient.
//!
//! Every step begins with the regularization, in this order, each line one multiply-add:
//!
//! ```text
//! g1 = l2 w + sum                the gradient of the loss; here gradients are clipped
//! g  = weight_decay w + g1       the gradient of the step
//! ```
//!
//! A pass over gradients that are stored, and perhaps clipped, gets `g1` and an `l2` of 0: the
//! first line then changes nothing, so fused and unfused steps have the same bits.

use crate::{float::Float, kernels::map::Map, simd::Isa};

/// One step of an optimizer: the regularization, and how the gradient moves a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update<T> {
    /// Factor of a weight in the gradient of the loss's L2 term: twice that of the squared
    /// weights in the loss. 0 if the gradient has it already.
    pub l2: T,
    /// Factor of a weight in what is added to the gradient of the loss.
    pub weight_decay: T,
    /// How the gradient moves a parameter.
    pub rule: Rule<T>,
}

/// How a gradient g moves a parameter w. The slots are what is kept for each parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rule<T> {
    /// No slots.
    Descent(Descent<T>),
    /// A slot: the velocity.
    Momentum(Momentum<T>),
    /// A slot: the sum of the squared gradients.
    AdaGrad(AdaGrad<T>),
    /// A slot: the mean of the squared gradients.
    RmsProp(RmsProp<T>),
    /// Two slots: the mean of the squared gradients, and the velocity.
    RmsPropMomentum(RmsPropMomentum<T>),
    /// Two slots: the means of the gradients and of their squares.
    Adam(Adam<T>),
}

/// `w = -learning_rate g + w`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descent<T> {
    /// Length of the step.
    pub learning_rate: T,
}

/// `v = -learning_rate g + momentum v; w = w + v`, and with `nesterov` in place of the last
/// `w = w + (-learning_rate g + momentum v)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum<T> {
    /// Length of the step.
    pub learning_rate: T,
    /// Factor of the velocity.
    pub momentum: T,
    /// Whether w moves by the velocity that the same gradient would make next.
    pub nesterov: bool,
}

/// `s = g g + s; w = -learning_rate (g / (sqrt(s) + epsilon)) + w`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaGrad<T> {
    /// Length of the step.
    pub learning_rate: T,
    /// Added to the root.
    pub epsilon: T,
}

/// `s = average of g g; d = g / (sqrt(s) + epsilon); w = -learning_rate d + w`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp<T> {
    /// Length of the step.
    pub learning_rate: T,
    /// The average of the squares.
    pub squares: Average<T>,
    /// Added to the root.
    pub epsilon: T,
}

/// d as for [`RmsProp`]; `v = -learning_rate d + momentum v; w = w + v`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsPropMomentum<T> {
    /// Learning rate, average and epsilon.
    pub rms_prop: RmsProp<T>,
    /// Factor of the velocity.
    pub momentum: T,
}

/// `m = average of g; s = average of g g;
/// w = -learning_rate (m / (root_scale sqrt(s) + epsilon)) + (w - shrink w)`. The learning rate and
/// the scale of the root have the corrections of the averages' bias in them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam<T> {
    /// Length of the step.
    pub learning_rate: T,
    /// Decoupled weight decay: the learning rate times the decay of AdamW, 0 for Adam.
    pub shrink: T,
    /// The average of the gradients.
    pub gradients: Average<T>,
    /// The average of their squares.
    pub squares: Average<T>,
    /// Factor of the root.
    pub root_scale: T,
    /// Added to the root.
    pub epsilon: T,
}

/// An exponential moving average: `keep average + take value`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Average<T> {
    /// Factor of the average.
    pub keep: T,
    /// Factor of the value.
    pub take: T,
}

/// Slots of the rule that has most.
pub(crate) const MAX_SLOTS: usize = 2;

impl<T> Rule<T> {
    /// What is kept for each parameter, in the order of the slots.
    pub fn slot_names(&self) -> &'static [&'static str] {
        match self {
            Self::Descent(_) => &[],
            Self::Momentum(_) => &["velocity"],
            Self::AdaGrad(_) => &["sum_of_squares"],
            Self::RmsProp(_) => &["mean_square"],
            Self::RmsPropMomentum(_) => &["mean_square", "velocity"],
            Self::Adam(_) => &["mean", "mean_square"],
        }
    }
}

/// The vector code of a rule.
trait Step<T: Float>: Copy {
    /// Slots in use.
    const SLOTS: usize;

    /// The parameters after the step from `w` with the gradient `g`; the slots change.
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        g: S::Vector,
        slots: &mut [S::Vector; MAX_SLOTS],
    ) -> S::Vector;
}

impl<T: Float> Step<T> for Descent<T> {
    const SLOTS: usize = 0;

    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        g: S::Vector,
        _slots: &mut [S::Vector; MAX_SLOTS],
    ) -> S::Vector {
        isa.mul_add(isa.splat(-self.learning_rate), g, w)
    }
}

/// `momentum velocity + factor push`.
#[inline(always)]
fn next_velocity<S: Isa<T>, T: Float>(
    isa: S,
    momentum: S::Vector,
    velocity: S::Vector,
    factor: S::Vector,
    push: S::Vector,
) -> S::Vector {
    isa.mul_add(factor, push, isa.mul(momentum, velocity))
}

impl<T: Float> Step<T> for Momentum<T> {
    const SLOTS: usize = 1;

    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        g: S::Vector,
        [velocity, _]: &mut [S::Vector; MAX_SLOTS],
    ) -> S::Vector {
        let (rate, momentum) = (isa.splat(-self.learning_rate), isa.splat(self.momentum));
        *velocity = next_velocity(isa, momentum, *velocity, rate, g);
        let next = if self.nesterov {
            next_velocity(isa, momentum, *velocity, rate, g)
        } else {
            *velocity
        };
        isa.add(w, next)
    }
}

impl<T: Float> Step<T> for AdaGrad<T> {
    const SLOTS: usize = 1;

    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        g: S::Vector,
        [squares, _]: &mut [S::Vector; MAX_SLOTS],
    ) -> S::Vector {
        *squares = isa.mul_add(g, g, *squares);
        let scale = isa.add(isa.sqrt(*squares), isa.splat(self.epsilon));
        isa.mul_add(isa.splat(-self.learning_rate), isa.div(g, scale), w)
    }
}

impl<T: Float> Average<T> {
    /// The average after `value`.
    #[inline(always)]
    pub(crate) fn next<S: Isa<T>>(self, isa: S, average: S::Vector, value: S::Vector) -> S::Vector {
        isa.mul_add(isa.splat(self.keep), average, isa.mul(isa.splat(self.take), value))
    }
}

/// The next average: of the value and the average.
impl<T: Float> Map<T, 2> for Average<T> {
    #[inline(always)]
    fn apply<S: Isa<T>>(self, isa: S, [value, average]: [S::Vector; 2]) -> S::Vector {
        self.next(isa, average, value)
    }
}

impl<T: Float> RmsProp<T> {
    /// The gradient over its root mean square.
    #[inline(always)]
    fn direction<S: Isa<T>>(self, isa: S, g: S::Vector, squares: &mut S::Vector) -> S::Vector {
        *squares = self.squares.next(isa, *squares, isa.mul(g, g));
        isa.div(g, isa.add(isa.sqrt(*squares), isa.splat(self.epsilon)))
    }
}

impl<T: Float> Step<T> for RmsProp<T> {
    const SLOTS: usize = 1;

    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        g: S::Vector,
        [squares, _]: &mut [S::Vector; MAX_SLOTS],
    ) -> S::Vector {
        let direction = self.direction(isa, g, squares);
        isa.mul_add(isa.splat(-self.learning_rate), direction, w)
    }
}

impl<T: Float> Step<T> for RmsPropMomentum<T> {
    const SLOTS: usize = 2;

    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        g: S::Vector,
        [squares, velocity]: &mut [S::Vector; MAX_SLOTS],
    ) -> S::Vector {
        let direction = self.rms_prop.direction(isa, g, squares);
        let rate = isa.splat(-self.rms_prop.learning_rate);
        *velocity = next_velocity(isa, isa.splat(self.momentum), *velocity, rate, direction);
        isa.add(w, *velocity)
    }
}

impl<T: Float> Step<T> for Adam<T> {
    const SLOTS: usize = 2;

    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        g: S::Vector,
        [mean, squares]: &mut [S::Vector; MAX_SLOTS],
    ) -> S::Vector {
        *mean = self.gradients.next(isa, *mean, g);
        *squares = self.squares.next(isa, *squares, isa.mul(g, g));
        let (scale, epsilon) = (isa.splat(self.root_scale), isa.splat(self.epsilon));
        let direction = isa.div(*mean, isa.mul_add(scale, isa.sqrt(*squares), epsilon));
        let w = isa.mul_add(isa.splat(-self.shrink), w, w);
        isa.mul_add(isa.splat(-self.learning_rate), direction, w)
    }
}

/// Rows of a matrix from some element on; each row is contiguous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRows<P> {
    pub(crate) ptr: P,
    /// Elements from one row to the next.
    pub(crate) row_stride: isize,
}

/// Parameters, and what stands beside them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters<T> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) w: RawRows<*mut T>,
    pub(crate) gradient: RawRows<*const T>,
    /// Those that the rule has.
    pub(crate) slots: [RawRows<*mut T>; MAX_SLOTS],
}

/// Takes a step with all parameters.
///
/// # Safety
/// All `rows * cols` elements of w, of the gradient and of the rule's slots are readable, those of
/// w and of the slots also writable and touched by nobody else.
#[inline(always)]
pub(crate) unsafe fn update<S: Isa<T>, T: Float>(
    isa: S,
    update: &Update<T>,
    parameters: &Parameters<T>,
) {
    // SAFETY: the caller's promises are passed on.
    unsafe {
        match update.rule {
            Rule::Descent(rule) => steps(isa, update, rule, parameters),
            Rule::Momentum(rule) => steps(isa, update, rule, parameters),
            Rule::AdaGrad(rule) => steps(isa, update, rule, parameters),
            Rule::RmsProp(rule) => steps(isa, update, rule, parameters),
            Rule::RmsPropMomentum(rule) => steps(isa, update, rule, parameters),
            Rule::Adam(rule) => steps(isa, update, rule, parameters),
        }
    }
}

/// # Safety
/// As for [`update`].
#[inline(always)]
unsafe fn steps<S: Isa<T>, T: Float, R: Step<T>>(
    isa: S,
    update: &Update<T>,
    rule: R,
    parameters: &Parameters<T>,
) {
    let Parameters { rows, cols, w, gradient, slots } = *parameters;
    let (l2, weight_decay) = (isa.splat(update.l2), isa.splat(update.weight_decay));
    for i in 0..rows as isize {
        let w = w.ptr.wrapping_offset(i * w.row_stride);
        let gradient = gradient.ptr.wrapping_offset(i * gradient.row_stride);
        let slots = slots.map(|slot| slot.ptr.wrapping_offset(i * slot.row_stride));
        let mut at = 0;
        while at < cols {
            let count = S::LANES.min(cols - at);
            // SAFETY: `count` elements are left of the row, of the gradient's and of those of the
            // rule's slots.
            unsafe {
                let mut kept = [isa.splat(T::ZERO); MAX_SLOTS];
                for (kept, slot) in kept.iter_mut().zip(slots).take(R::SLOTS) {
                    *kept = isa.load_up_to(slot.add(at), count);
                }
                let value = isa.load_up_to(w.add(at), count);
                let sum = isa.load_up_to(gradient.add(at), count);
                let g = isa.mul_add(weight_decay, value, isa.mul_add(l2, value, sum));
                let value = rule.step(isa, value, g, &mut kept);
                for (&kept, slot) in kept.iter().zip(slots).take(R::SLOTS) {
                    isa.store_up_to(slot.add(at), kept, count);
                }
                isa.store_up_to(w.add(at), value, count);
            }
            at += S::LANES;
        }
    }
}
