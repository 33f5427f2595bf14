//! Training and evaluation of networks on sets of pictures.

#[cfg(feature = "model-files")]
mod checkpoint;
mod evaluate;
mod feed;
mod history;
#[cfg(feature = "model-files")]
mod identity;
#[cfg(feature = "model-files")]
pub mod model_file;
pub mod optim;
mod predictor;
mod schedule;
mod solver;
mod trainer;

pub use evaluate::{Evaluation, Evaluator, evaluate};
pub use history::{EpochRecord, History};
pub use optim::{Optimizer, OptimizerState, UpdateRule};
pub use schedule::{Curve, Schedule, WarmUp};
pub use solver::{Best, LastBatch, Progress, Solver, SolverConfig, TrainingData};
pub use trainer::{StepStats, StepTimes, Trainer, TrainerConfig};
