//! Optimizers: how gradients update parameters.
//!
//! Each step takes parameters w, the gradient g of the loss, a learning rate lr, and the optimizer's
//! state for each parameter (its slots):
//!
//! | optimizer | step | source |
//! |---|---|---|
//! | SGD | `w -= lr g` | Robbins & Monro 1951 |
//! | momentum | `v = rho v - lr g; w += v` | Polyak 1964 |
//! | Nesterov | `v = rho v - lr g; w += rho v - lr g` | Sutskever et al. 2013; w is the look-ahead |
//! | AdaGrad | `s += g²; w -= lr g / (sqrt(s) + eps)` | Duchi, Hazan & Singer 2011 |
//! | RMSProp | `s = d s + (1 - d) g²; w -= lr g / (sqrt(s) + eps)`, also with momentum | Tieleman & Hinton 2012 |
//! | Adam | `m = b1 m + (1 - b1) g; s = b2 s + (1 - b2) g²; w -= lr m' / (sqrt(s') + eps)` with `m' = m / (1 - b1^t)`, `s' = s / (1 - b2^t)` | Kingma & Ba 2015 |
//! | AdamW | as Adam, and `w -= lr decay w` | Loshchilov & Hutter 2019 |
//!
//! They agree with those of PyTorch. Velocities include the learning rate here and not in PyTorch;
//! the steps are the same while the learning rate is constant.
//!
//! Weight decay is added to the gradient after the L2 term and after clipping, `g += decay w`,
//! rounded once, whether the update is fused or not. In AdamW it is decoupled: it shrinks the weights
//! directly. Like the L2 term of the loss, whose gradient is `2 l2 w`, it applies to weight matrices
//! and not to biases; PyTorch decays all parameters that it is given.
//!
//! Full-batch gradient descent is SGD whose batch is the data set.

mod state;

pub use state::{OptimizerState, StepSettings};

use std::{fmt, str::FromStr};

use crate::{
    config::with_fields,
    error::{Error, Result},
};

/// An optimizer and its settings; [`OptimizerState`] performs the steps.
///
/// ```
/// use tilewise::train::Optimizer;
///
/// let optimizer = Optimizer::momentum(0.9).with_weight_decay(1e-4);
/// assert_eq!(optimizer.to_string(), "momentum");
/// assert_eq!("adam".parse::<Optimizer>()?, Optimizer::adam());
/// # Ok::<(), tilewise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Optimizer {
    /// How a gradient becomes a step.
    pub rule: OptimizerRule,
    /// Weight decay; see the module's documentation.
    pub weight_decay: f64,
}

with_fields! {
    Optimizer {
        rule with_rule: OptimizerRule,
        weight_decay with_weight_decay: f64,
    }
}

/// How a gradient becomes a step; see the module's documentation for the formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum OptimizerRule {
    /// Stochastic gradient descent.
    #[default]
    Sgd,
    /// SGD with momentum.
    Momentum {
        /// Momentum coefficient, in [0, 1).
        momentum: f64,
    },
    /// Nesterov momentum: the gradient is taken at the look-ahead.
    Nesterov {
        /// Momentum coefficient, in [0, 1).
        momentum: f64,
    },
    /// Gradients are divided by the root of the sum of their squares.
    AdaGrad {
        /// Added to the root for numerical stability, above 0.
        epsilon: f64,
    },
    /// Gradients are divided by the root of the running mean of their squares.
    RmsProp {
        /// Decay of the running mean of the squared gradient, in [0, 1).
        decay: f64,
        /// Added to the root for numerical stability, above 0.
        epsilon: f64,
        /// Momentum coefficient, in [0, 1); without momentum if 0.
        momentum: f64,
    },
    /// The running mean of the gradient divided by the root of that of its square.
    Adam {
        /// Decay of the running mean of the gradient, in [0, 1).
        beta1: f64,
        /// Decay of the running mean of the squared gradient, in [0, 1).
        beta2: f64,
        /// Added to the root for numerical stability, above 0.
        epsilon: f64,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Decay of the running mean of the gradient, in [0, 1).
        beta1: f64,
        /// Decay of the running mean of the squared gradient, in [0, 1).
        beta2: f64,
        /// Added to the root for numerical stability, above 0.
        epsilon: f64,
    },
}

impl From<OptimizerRule> for Optimizer {
    /// Without weight decay.
    fn from(rule: OptimizerRule) -> Self {
        Self { rule, weight_decay: 0.0 }
    }
}

/// The constructors use PyTorch's defaults for settings that are not given.
impl Optimizer {
    /// Names of all optimizers, as [`FromStr`] parses them.
    pub const NAMES: [&'static str; 7] =
        ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"];

    /// Plain stochastic gradient descent.
    pub fn sgd() -> Self {
        OptimizerRule::Sgd.into()
    }

    /// SGD with momentum.
    pub fn momentum(momentum: f64) -> Self {
        OptimizerRule::Momentum { momentum }.into()
    }

    /// SGD with Nesterov's momentum.
    pub fn nesterov(momentum: f64) -> Self {
        OptimizerRule::Nesterov { momentum }.into()
    }

    /// AdaGrad with epsilon 1e-10.
    pub fn ada_grad() -> Self {
        OptimizerRule::AdaGrad { epsilon: 1e-10 }.into()
    }

    /// RMSProp with decay 0.99, epsilon 1e-8 and no momentum.
    pub fn rms_prop() -> Self {
        OptimizerRule::RmsProp { decay: 0.99, epsilon: 1e-8, momentum: 0.0 }.into()
    }

    /// Adam with betas 0.9 and 0.999, epsilon 1e-8.
    pub fn adam() -> Self {
        OptimizerRule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }.into()
    }

    /// AdamW with betas 0.9 and 0.999, epsilon 1e-8. PyTorch's weight decay is 0.01.
    pub fn adam_w(weight_decay: f64) -> Self {
        let rule = OptimizerRule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
        Self { rule, weight_decay }
    }

    /// The optimizer's usual name.
    pub fn name(&self) -> &'static str {
        match self.rule {
            OptimizerRule::Sgd => "sgd",
            OptimizerRule::Momentum { .. } => "momentum",
            OptimizerRule::Nesterov { .. } => "nesterov",
            OptimizerRule::AdaGrad { .. } => "adagrad",
            OptimizerRule::RmsProp { .. } => "rmsprop",
            OptimizerRule::Adam { .. } => "adam",
            OptimizerRule::AdamW { .. } => "adamw",
        }
    }

    /// Names of the slots: the state for each parameter.
    pub fn slot_names(&self) -> &'static [&'static str] {
        match self.rule {
            OptimizerRule::Sgd => &[],
            OptimizerRule::Momentum { .. } | OptimizerRule::Nesterov { .. } => &["velocity"],
            OptimizerRule::AdaGrad { .. } => &["sum_of_squares"],
            OptimizerRule::RmsProp { momentum: 0.0, .. } => &["mean_square"],
            OptimizerRule::RmsProp { .. } => &["mean_square", "velocity"],
            OptimizerRule::Adam { .. } | OptimizerRule::AdamW { .. } => &["mean", "mean_square"],
        }
    }

    /// # Errors
    /// [`Error::Setting`] if a setting is invalid.
    pub fn check(&self) -> Result<()> {
        let share = |name, value: f64| {
            let expected = "a number from 0 to below 1";
            if (0.0..1.0).contains(&value) {
                Ok(())
            } else {
                Err(Error::setting(name, value, expected))
            }
        };
        let above_0 = |epsilon: f64| {
            if epsilon.is_finite() && epsilon > 0.0 {
                Ok(())
            } else {
                Err(Error::setting("epsilon", epsilon, "a finite number above 0"))
            }
        };
        match self.rule {
            OptimizerRule::Sgd => {}
            OptimizerRule::Momentum { momentum } | OptimizerRule::Nesterov { momentum } => {
                share("momentum", momentum)?;
            }
            OptimizerRule::AdaGrad { epsilon } => above_0(epsilon)?,
            OptimizerRule::RmsProp { decay, epsilon, momentum } => {
                share("rms_decay", decay)?;
                above_0(epsilon)?;
                share("momentum", momentum)?;
            }
            OptimizerRule::Adam { beta1, beta2, epsilon }
            | OptimizerRule::AdamW { beta1, beta2, epsilon } => {
                share("beta1", beta1)?;
                share("beta2", beta2)?;
                above_0(epsilon)?;
            }
        }
        if self.weight_decay.is_finite() && self.weight_decay >= 0.0 {
            Ok(())
        } else {
            let expected = "a finite number, 0 or above";
            Err(Error::setting("weight_decay", self.weight_decay, expected))
        }
    }
}

impl fmt::Display for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Optimizer {
    type Err = Error;

    /// The optimizer of that name with PyTorch's settings: AdamW with weight decay 0.01, the others
    /// without; momentum 0.9, for which PyTorch has no default.
    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "sgd" => Self::sgd(),
            "momentum" => Self::momentum(0.9),
            "nesterov" => Self::nesterov(0.9),
            "adagrad" => Self::ada_grad(),
            "rmsprop" => Self::rms_prop(),
            "adam" => Self::adam(),
            "adamw" => Self::adam_w(0.01),
            _ => return Err(Error::setting("optimizer", name, Self::NAMES.join(", "))),
        })
    }
}
