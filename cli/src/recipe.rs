//! Flags for the optimizer and the learning rate, which `config.toml` repeats with the defaults of
//! each optimizer and schedule.

use clap::builder::PossibleValuesParser;
use serde::Serialize;

use crate::options;
use tilewise::{
    error::{Error, Result},
    train::{Curve, Optimizer, OptimizerRule, Schedule, WarmUp},
};

/// Flags for the optimizer.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct OptimizerArgs {
    /// Optimizer.
    #[arg(long, value_name = "NAME", default_value = "sgd",
          value_parser = PossibleValuesParser::new(Optimizer::NAMES))]
    optimizer: String,
    /// Momentum coefficient of momentum, nesterov and rmsprop [default: 0.9, rmsprop 0]
    #[arg(long, value_name = "COEFFICIENT", value_parser = options::fraction)]
    momentum: Option<f64>,
    /// Decay of the running mean of the gradient in adam and adamw [default: 0.9]
    #[arg(long, value_name = "DECAY", value_parser = options::fraction)]
    beta1: Option<f64>,
    /// Decay of the running mean of the squared gradient in adam and adamw [default: 0.999]
    #[arg(long, value_name = "DECAY", value_parser = options::fraction)]
    beta2: Option<f64>,
    /// Decay of the running mean of the squared gradient in rmsprop, PyTorch's alpha [default:
    /// 0.99]
    #[arg(long, value_name = "DECAY", value_parser = options::fraction)]
    rms_decay: Option<f64>,
    /// Term added to the denominator for numerical stability in adagrad, rmsprop, adam and adamw
    /// [default: 1e-8, adagrad 1e-10]
    #[arg(long, value_name = "NUMBER", value_parser = options::positive)]
    epsilon: Option<f64>,
    /// Weight decay of weights, not of biases; decoupled in adamw [default: 0, adamw 0.01]
    #[arg(long, value_name = "FACTOR", value_parser = options::not_negative)]
    weight_decay: Option<f64>,
}

impl OptimizerArgs {
    /// The optimizer, and all flags with their values.
    ///
    /// # Errors
    /// [`Error::Setting`] if a flag was given that the optimizer does not use.
    pub(super) fn settle(&self) -> Result<(Optimizer, Self)> {
        let (mut all, mut optimizer) = (self.clone(), self.optimizer.parse::<Optimizer>()?);
        let name = optimizer.name();
        let [mut momentum, mut beta1, mut beta2, mut rms_decay, mut epsilon] = [const { None }; 5];
        match &mut optimizer.rule {
            OptimizerRule::Sgd => {}
            OptimizerRule::Momentum { momentum: share }
            | OptimizerRule::Nesterov { momentum: share } => {
                momentum = Some(share);
            }
            OptimizerRule::AdaGrad { epsilon: number } => epsilon = Some(number),
            OptimizerRule::RmsProp { decay, epsilon: number, momentum: share } => {
                (rms_decay, epsilon, momentum) = (Some(decay), Some(number), Some(share));
            }
            OptimizerRule::Adam { beta1: first, beta2: second, epsilon: number }
            | OptimizerRule::AdamW { beta1: first, beta2: second, epsilon: number } => {
                (beta1, beta2, epsilon) = (Some(first), Some(second), Some(number));
            }
        }
        settle("momentum", &mut all.momentum, momentum, name)?;
        settle("beta1", &mut all.beta1, beta1, name)?;
        settle("beta2", &mut all.beta2, beta2, name)?;
        settle("rms-decay", &mut all.rms_decay, rms_decay, name)?;
        settle("epsilon", &mut all.epsilon, epsilon, name)?;
        let weight_decay = Some(&mut optimizer.weight_decay);
        settle("weight-decay", &mut all.weight_decay, weight_decay, name)?;
        Ok((optimizer, all))
    }
}

/// Flags for the learning rate.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ScheduleArgs {
    /// Learning rate at the start of the schedule; the highest of a one-cycle.
    #[arg(long, value_name = "RATE", default_value = "0.1", value_parser = options::positive)]
    pub(super) lr: f64,
    /// Learning-rate schedule.
    #[arg(long, value_name = "NAME", default_value = "epoch-decay",
          value_parser = PossibleValuesParser::new(Curve::NAMES))]
    schedule: String,
    /// Factor of the learning rate after each epoch of epoch-decay, or at each step of step
    /// [default: 0.95, step 0.1]
    #[arg(long, value_name = "FACTOR", value_parser = options::positive)]
    lr_decay: Option<f64>,
    /// Epochs between steps of the learning rate in step [default: 10]
    #[arg(long, value_name = "EPOCHS", value_parser = options::count)]
    lr_step_epochs: Option<usize>,
    /// Learning rate at the end of cosine [default: 0]
    #[arg(long, value_name = "RATE", value_parser = options::not_negative)]
    lr_min: Option<f64>,
    /// Fraction of the steps in which the learning rate of one-cycle rises [default: 0.3]
    #[arg(long, value_name = "FRACTION", value_parser = options::fraction)]
    one_cycle_share: Option<f64>,
    /// Highest learning rate of one-cycle divided by its first [default: 25]
    #[arg(long, value_name = "NUMBER", value_parser = options::positive)]
    one_cycle_initial_divisor: Option<f64>,
    /// First learning rate of one-cycle divided by its last [default: 10000]
    #[arg(long, value_name = "NUMBER", value_parser = options::positive)]
    one_cycle_final_divisor: Option<f64>,
    /// Epochs of linear warm-up of the learning rate, whole or not.
    #[arg(long, value_name = "EPOCHS", default_value = "0", value_parser = options::not_negative)]
    warm_up_epochs: f64,
}

impl ScheduleArgs {
    /// The schedule, and all flags with their values.
    ///
    /// # Errors
    /// [`Error::Setting`] if a flag was given that the curve does not use.
    pub(super) fn settle(&self) -> Result<(Schedule, Self)> {
        let (mut all, mut curve) = (self.clone(), self.schedule.parse::<Curve>()?);
        let name = curve.name();
        let [mut decay, mut min, mut rise, mut first, mut last] = [const { None }; 5];
        let mut epochs = None;
        match &mut curve {
            Curve::Constant => {}
            Curve::EpochDecay { factor } => decay = Some(factor),
            Curve::Step { every, factor } => (epochs, decay) = (Some(every), Some(factor)),
            Curve::Cosine { minimum } => min = Some(minimum),
            Curve::OneCycle { share, initial_divisor, final_divisor } => {
                (rise, first, last) = (Some(share), Some(initial_divisor), Some(final_divisor));
            }
        }
        settle("lr-decay", &mut all.lr_decay, decay, name)?;
        settle("lr-step-epochs", &mut all.lr_step_epochs, epochs, name)?;
        settle("lr-min", &mut all.lr_min, min, name)?;
        settle("one-cycle-share", &mut all.one_cycle_share, rise, name)?;
        settle("one-cycle-initial-divisor", &mut all.one_cycle_initial_divisor, first, name)?;
        settle("one-cycle-final-divisor", &mut all.one_cycle_final_divisor, last, name)?;
        Ok((Schedule::from(curve).with_warm_up(WarmUp::Epochs(self.warm_up_epochs)), all))
    }
}

/// Makes a flag and its place in a setting equal: the flag's value counts, where it was given.
fn settle<V: Copy + ToString>(
    name: &'static str,
    flag: &mut Option<V>,
    place: Option<&mut V>,
    of: &str,
) -> Result<()> {
    match (flag, place) {
        (Some(value), Some(place)) => *place = *value,
        (flag, Some(place)) => *flag = Some(*place),
        (Some(value), None) => {
            return Err(Error::setting(
                name,
                *value,
                format!("to be left out: {of} does not use it"),
            ));
        }
        (None, None) => {}
    }
    Ok(())
}
