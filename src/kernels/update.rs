//! Update rules: one step of each on a vector of parameters, and the pass that takes the step over
//! a whole tensor. Fused updates of weights take the same steps, so they have the same bits.

use crate::{float::Float, simd::Isa};

/// A rule with the factors of one step; `SLOTS` values are kept for each parameter.
pub(crate) trait Rule<T: Float, const SLOTS: usize>: Copy {
    /// The parameters after the step from `w`. `gradient` is that of the loss; the slots change.
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        gradient: S::Vector,
        slots: &mut [S::Vector; SLOTS],
    ) -> S::Vector;
}

/// `g = decay w + gradient; w = -rate g + w`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descent<T> {
    pub(crate) rate: T,
    pub(crate) decay: T,
}

impl<T: Float> Rule<T, 0> for Descent<T> {
    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        gradient: S::Vector,
        _slots: &mut [S::Vector; 0],
    ) -> S::Vector {
        let gradient = isa.mul_add(isa.splat(self.decay), w, gradient);
        isa.mul_add(isa.splat(-self.rate), gradient, w)
    }
}

/// `g = decay w + gradient; v = -rate g + momentum v; w = w + v`, and with `nesterov` in place of
/// the last `w = w + (-rate g + momentum v)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Momentum<T> {
    pub(crate) rate: T,
    pub(crate) decay: T,
    pub(crate) momentum: T,
    pub(crate) nesterov: bool,
}

impl<T: Float> Rule<T, 1> for Momentum<T> {
    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        gradient: S::Vector,
        [velocity]: &mut [S::Vector; 1],
    ) -> S::Vector {
        let gradient = isa.mul_add(isa.splat(self.decay), w, gradient);
        let (rate, momentum) = (isa.splat(-self.rate), isa.splat(self.momentum));
        *velocity = roll_on(isa, momentum, *velocity, rate, gradient);
        let next = if self.nesterov {
            roll_on(isa, momentum, *velocity, rate, gradient)
        } else {
            *velocity
        };
        isa.add(w, next)
    }
}

/// `momentum velocity + factor push`.
#[inline(always)]
fn roll_on<S: Isa<T>, T: Float>(
    isa: S,
    momentum: S::Vector,
    velocity: S::Vector,
    factor: S::Vector,
    push: S::Vector,
) -> S::Vector {
    isa.mul_add(factor, push, isa.mul(momentum, velocity))
}

/// `g = decay w + gradient; s = g g + s; w = -rate (g / (sqrt(s) + epsilon)) + w`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdaGrad<T> {
    pub(crate) rate: T,
    pub(crate) decay: T,
    pub(crate) epsilon: T,
}

impl<T: Float> Rule<T, 1> for AdaGrad<T> {
    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        gradient: S::Vector,
        [squares]: &mut [S::Vector; 1],
    ) -> S::Vector {
        let gradient = isa.mul_add(isa.splat(self.decay), w, gradient);
        *squares = isa.mul_add(gradient, gradient, *squares);
        let scale = isa.add(isa.sqrt(*squares), isa.splat(self.epsilon));
        isa.mul_add(isa.splat(-self.rate), isa.div(gradient, scale), w)
    }
}

/// An exponential moving average: `keep average + take value`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Average<T> {
    pub(crate) keep: T,
    pub(crate) take: T,
}

impl<T: Float> Average<T> {
    #[inline(always)]
    fn next<S: Isa<T>>(self, isa: S, average: S::Vector, value: S::Vector) -> S::Vector {
        isa.mul_add(isa.splat(self.keep), average, isa.mul(isa.splat(self.take), value))
    }
}

/// The average stands in place of the parameters, the value in place of the gradient.
impl<T: Float> Rule<T, 0> for Average<T> {
    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        average: S::Vector,
        value: S::Vector,
        _slots: &mut [S::Vector; 0],
    ) -> S::Vector {
        self.next(isa, average, value)
    }
}

/// `g = decay w + gradient; s = average of g g; d = g / (sqrt(s) + epsilon)`. Without momentum
/// `w = -rate d + w`; with a second slot `v = -rate d + momentum v; w = w + v`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RmsProp<T> {
    pub(crate) rate: T,
    pub(crate) decay: T,
    pub(crate) squares: Average<T>,
    pub(crate) epsilon: T,
    pub(crate) momentum: T,
}

impl<T: Float> RmsProp<T> {
    /// The gradient over its root mean square.
    #[inline(always)]
    fn direction<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        gradient: S::Vector,
        squares: &mut S::Vector,
    ) -> S::Vector {
        let gradient = isa.mul_add(isa.splat(self.decay), w, gradient);
        *squares = self.squares.next(isa, *squares, isa.mul(gradient, gradient));
        isa.div(gradient, isa.add(isa.sqrt(*squares), isa.splat(self.epsilon)))
    }
}

impl<T: Float> Rule<T, 1> for RmsProp<T> {
    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        gradient: S::Vector,
        [squares]: &mut [S::Vector; 1],
    ) -> S::Vector {
        let direction = self.direction(isa, w, gradient, squares);
        isa.mul_add(isa.splat(-self.rate), direction, w)
    }
}

impl<T: Float> Rule<T, 2> for RmsProp<T> {
    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        gradient: S::Vector,
        [squares, velocity]: &mut [S::Vector; 2],
    ) -> S::Vector {
        let direction = self.direction(isa, w, gradient, squares);
        let (rate, momentum) = (isa.splat(-self.rate), isa.splat(self.momentum));
        *velocity = roll_on(isa, momentum, *velocity, rate, direction);
        isa.add(w, *velocity)
    }
}

/// `g = decay w + gradient; m = average of g; s = average of g g;
/// w = -rate (m / (root_scale sqrt(s) + epsilon)) + (w - shrink w)`. The rate and the scale of the
/// root have the corrections of the averages' bias in them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adam<T> {
    pub(crate) rate: T,
    pub(crate) decay: T,
    pub(crate) shrink: T,
    pub(crate) gradients: Average<T>,
    pub(crate) squares: Average<T>,
    pub(crate) root_scale: T,
    pub(crate) epsilon: T,
}

impl<T: Float> Rule<T, 2> for Adam<T> {
    #[inline(always)]
    fn step<S: Isa<T>>(
        self,
        isa: S,
        w: S::Vector,
        gradient: S::Vector,
        [mean, squares]: &mut [S::Vector; 2],
    ) -> S::Vector {
        let gradient = isa.mul_add(isa.splat(self.decay), w, gradient);
        *mean = self.gradients.next(isa, *mean, gradient);
        *squares = self.squares.next(isa, *squares, isa.mul(gradient, gradient));
        let (scale, epsilon) = (isa.splat(self.root_scale), isa.splat(self.epsilon));
        let direction = isa.div(*mean, isa.mul_add(scale, isa.sqrt(*squares), epsilon));
        let w = isa.mul_add(isa.splat(-self.shrink), w, w);
        isa.mul_add(isa.splat(-self.rate), direction, w)
    }
}

/// Slots of the rule that has most.
pub(crate) const MAX_SLOTS: usize = 2;

/// Any rule.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Update<T> {
    Descent(Descent<T>),
    Momentum(Momentum<T>),
    AdaGrad(AdaGrad<T>),
    RmsProp(RmsProp<T>),
    /// With its second slot.
    RmsPropMomentum(RmsProp<T>),
    Adam(Adam<T>),
    /// Of the values in place of the gradient.
    Average(Average<T>),
}

impl<T> Update<T> {
    /// Values that the rule keeps for each parameter.
    pub(crate) fn slots(&self) -> usize {
        match self {
            Self::Descent(_) | Self::Average(_) => 0,
            Self::Momentum(_) | Self::AdaGrad(_) | Self::RmsProp(_) => 1,
            Self::RmsPropMomentum(_) | Self::Adam(_) => 2,
        }
    }
}

/// Takes a step with all parameters `w`.
///
/// # Safety
/// `gradient` and as many slots as the rule has are as long as `w`.
#[inline(always)]
pub(crate) unsafe fn update<S: Isa<T>, T: Float>(
    isa: S,
    rule: Update<T>,
    w: &mut [T],
    gradient: &[T],
    [first, second]: [&mut [T]; MAX_SLOTS],
) {
    // SAFETY: the caller vouches for the lengths of those that the rule has.
    unsafe {
        match rule {
            Update::Descent(rule) => pass(isa, rule, w, gradient, []),
            Update::Momentum(rule) => pass(isa, rule, w, gradient, [first]),
            Update::AdaGrad(rule) => pass(isa, rule, w, gradient, [first]),
            Update::RmsProp(rule) => pass(isa, rule, w, gradient, [first]),
            Update::RmsPropMomentum(rule) => pass(isa, rule, w, gradient, [first, second]),
            Update::Adam(rule) => pass(isa, rule, w, gradient, [first, second]),
            Update::Average(rule) => pass(isa, rule, w, gradient, []),
        }
    }
}

/// # Safety
/// `gradient` and the slots are as long as `w`.
#[inline(always)]
unsafe fn pass<S: Isa<T>, T: Float, R: Rule<T, SLOTS>, const SLOTS: usize>(
    isa: S,
    rule: R,
    w: &mut [T],
    gradient: &[T],
    mut slots: [&mut [T]; SLOTS],
) {
    let mut at = 0;
    while at < w.len() {
        let count = S::LANES.min(w.len() - at);
        // SAFETY: `count` elements are left in all slices.
        unsafe {
            let mut kept = [isa.splat(T::ZERO); SLOTS];
            for (kept, slot) in kept.iter_mut().zip(&slots) {
                *kept = isa.load_up_to(slot.as_ptr().add(at), count);
            }
            let value = rule.step(
                isa,
                isa.load_up_to(w.as_ptr().add(at), count),
                isa.load_up_to(gradient.as_ptr().add(at), count),
                &mut kept,
            );
            for (&kept, slot) in kept.iter().zip(&mut slots) {
                isa.store_up_to(slot.as_mut_ptr().add(at), kept, count);
            }
            isa.store_up_to(w.as_mut_ptr().add(at), value, count);
        }
        at += S::LANES;
    }
}
