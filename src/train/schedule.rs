//! Learning-rate schedules: the learning rate of every step as a pure function of its number.

use std::{f64::consts::PI, str::FromStr};

use crate::{
    config::with_fields,
    error::{Error, Result},
};

/// How the learning rate changes over a run: a warm-up and then a curve.
///
/// ```
/// use tilewise::train::{Curve, Schedule, WarmUp};
///
/// // 10 epochs of 100 steps, the first of them to warm up.
/// let cosine = Schedule::from(Curve::Cosine { minimum: 0.0 });
/// let schedule = cosine.with_warm_up(WarmUp::Epochs(1.0));
/// let rate = |step| schedule.rate(0.4, step, 100, 1000);
/// assert!(rate(0) < 0.005 && rate(100) == 0.4 && rate(999) < 1e-5);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Schedule {
    /// The learning rate after the warm-up.
    pub curve: Curve,
    /// Steps before the curve.
    pub warm_up: WarmUp,
}

with_fields! {
    Schedule {
        curve with_curve: Curve,
        warm_up with_warm_up: WarmUp,
    }
}

/// The learning rate of step t (from 0) of T, in epoch e (from 0), from the base rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Curve {
    /// `base`.
    #[default]
    Constant,
    /// `base factor^e`: PyTorch's `ExponentialLR`, once an epoch.
    EpochDecay {
        /// Above 0.
        factor: f64,
    },
    /// `base factor^floor(e / every)`: PyTorch's `StepLR`, once an epoch.
    Step {
        /// Epochs from one change to the next, at least 1.
        every: usize,
        /// Above 0.
        factor: f64,
    },
    /// `minimum + (base - minimum) (1 + cos(pi t / T)) / 2`: one cycle of Loshchilov and Hutter,
    /// "SGDR: Stochastic gradient descent with warm restarts" (2016); PyTorch's
    /// `CosineAnnealingLR` with `T_max = T`, once a step.
    Cosine {
        /// The learning rate at step T; from 0 to the base rate.
        minimum: f64,
    },
    /// Half a cosine up from `base / initial_divisor` to `base` at step `share T - 1`, and another
    /// down to `base / (initial_divisor final_divisor)` at step T - 1: the policy of Smith and
    /// Topin, "Super-convergence" (2017), as PyTorch's `OneCycleLR` shapes it, once a step. The
    /// momentum is not changed.
    OneCycle {
        /// Fraction of the steps in which the learning rate rises, from 0 to below 1.
        share: f64,
        /// At least 1; PyTorch's default is 25.
        initial_divisor: f64,
        /// At least 1; PyTorch's default is 1e4.
        final_divisor: f64,
    },
}

/// Linear warm-up of the learning rate. Of W steps, step t has `(t + 1) / (W + 1)` of the curve's
/// first rate. The curve, with its epochs, starts after the warm-up. In PyTorch, a `SequentialLR` of `LinearLR(start_factor = 1 / (W + 1), total_iters = W)`
/// and the curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WarmUp {
    /// This many steps; 0 is no warm-up.
    Steps(u64),
    /// This many epochs, rounded to whole steps.
    Epochs(f64),
}

impl Default for WarmUp {
    /// None.
    fn default() -> Self {
        Self::Steps(0)
    }
}

impl From<Curve> for Schedule {
    /// Without warm-up.
    fn from(curve: Curve) -> Self {
        Self { curve, warm_up: WarmUp::default() }
    }
}

impl Schedule {
    /// The learning rate of step number `step` (from 0) of a run of `total_steps`, in epochs of
    /// `steps_per_epoch`; steps after the end of the run have the rate of the last step.
    pub fn rate(&self, base: f64, step: u64, steps_per_epoch: u64, total_steps: u64) -> f64 {
        let warm_up = match self.warm_up {
            WarmUp::Steps(steps) => steps,
            WarmUp::Epochs(epochs) => (epochs * steps_per_epoch as f64).round() as u64,
        };
        let total = total_steps.saturating_sub(warm_up).max(1);
        let behind = |step: u64| self.curve.rate(base, step.min(total - 1), steps_per_epoch, total);
        if step < warm_up {
            behind(0) * ((step + 1) as f64 / (warm_up as f64 + 1.0))
        } else {
            behind(step - warm_up)
        }
    }

    /// # Errors
    /// [`Error::Setting`] if a setting is invalid with this base rate.
    pub fn check(&self, base: f64) -> Result<()> {
        let fits = |name, value: f64, fits: bool, expected: &str| {
            if value.is_finite() && fits {
                Ok(())
            } else {
                Err(Error::setting(name, value, expected))
            }
        };
        match self.curve {
            Curve::Constant => {}
            Curve::EpochDecay { factor } => {
                fits("schedule_factor", factor, factor > 0.0, "a finite number above 0")?;
            }
            Curve::Step { every, factor } => {
                fits("schedule_factor", factor, factor > 0.0, "a finite number above 0")?;
                fits("schedule_every", every as f64, every > 0, "at least 1")?;
            }
            Curve::Cosine { minimum } => {
                let expected = "a number from 0 to the learning rate";
                fits("schedule_minimum", minimum, (0.0..=base).contains(&minimum), expected)?;
            }
            Curve::OneCycle { share, initial_divisor, final_divisor } => {
                let expected = "a number from 0 to below 1";
                fits("schedule_share", share, (0.0..1.0).contains(&share), expected)?;
                for (name, divisor) in [
                    ("schedule_initial_divisor", initial_divisor),
                    ("schedule_final_divisor", final_divisor),
                ] {
                    fits(name, divisor, divisor >= 1.0, "a finite number, at least 1")?;
                }
            }
        }
        if let WarmUp::Epochs(epochs) = self.warm_up {
            fits("warm_up_epochs", epochs, epochs >= 0.0, "a finite number, 0 or above")?;
        }
        Ok(())
    }
}

/// The curves with their default settings.
const CURVES: [Curve; 5] = [
    Curve::Constant,
    Curve::EpochDecay { factor: 0.95 },
    Curve::Step { every: 10, factor: 0.1 },
    Curve::Cosine { minimum: 0.0 },
    Curve::OneCycle { share: 0.3, initial_divisor: 25.0, final_divisor: 1e4 },
];

impl FromStr for Curve {
    type Err = Error;

    /// The curve of that name: a decay of 0.95 per epoch, steps of 0.1 every 10 epochs, a cosine to
    /// 0, or one cycle with PyTorch's settings.
    fn from_str(name: &str) -> Result<Self> {
        CURVES
            .into_iter()
            .find(|curve| curve.name() == name)
            .ok_or_else(|| Error::setting("schedule", name, Self::NAMES.join(", ")))
    }
}

impl Curve {
    /// Names of all curves, as [`FromStr`] parses them.
    pub const NAMES: [&'static str; 5] = {
        let mut names = [""; 5];
        let mut i = 0;
        while i < names.len() {
            names[i] = CURVES[i].name();
            i += 1;
        }
        names
    };

    /// The curve's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::EpochDecay { .. } => "epoch-decay",
            Self::Step { .. } => "step",
            Self::Cosine { .. } => "cosine",
            Self::OneCycle { .. } => "one-cycle",
        }
    }

    /// The rate of a step below `total`.
    fn rate(self, base: f64, step: u64, steps_per_epoch: u64, total: u64) -> f64 {
        let power = |factor: f64, exponent: u64| base * libm::pow(factor, exponent as f64);
        let epoch = step / steps_per_epoch.max(1);
        match self {
            Self::Constant => base,
            Self::EpochDecay { factor } => power(factor, epoch),
            Self::Step { every, factor } => power(factor, epoch / every.max(1) as u64),
            Self::Cosine { minimum } => anneal(base, minimum, step as f64 / total as f64),
            Self::OneCycle { share, initial_divisor, final_divisor } => {
                let first = base / initial_divisor;
                let (step, last) = (step as f64, total as f64 - 1.0);
                let top = (share * total as f64 - 1.0).max(0.0);
                if step < top {
                    anneal(first, base, step / top)
                } else if last > top {
                    anneal(base, first / final_divisor, (step - top) / (last - top))
                } else {
                    base
                }
            }
        }
    }
}

/// Half a cosine, from `from` where `share` is 0 to `to` where it is 1.
fn anneal(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * (0.5 * (1.0 + libm::cos(PI * share)))
}
