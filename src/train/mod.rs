//! Training and evaluation of networks on sets of images.

#[cfg(feature = "model-files")]
mod checkpoint;
mod evaluate;
mod feed;
mod history;
#[cfg(feature = "model-files")]
mod identity;
pub mod optim;
mod schedule;
mod solver;
mod trainer;

pub use evaluate::{Evaluation, Evaluator, evaluate};
pub use history::{EpochRecord, History};
pub use optim::{Optimizer, OptimizerRule, OptimizerState};
pub use schedule::{Curve, Schedule, WarmUp};
pub use solver::{Best, LastBatch, Progress, Solver, SolverConfig, TrainingData};
pub use trainer::{StepStats, StepTimes, Trainer, TrainerConfig};
