//! Inference: networks packed once and shared by threads, the memory of a prediction, and ranking.

mod load;
mod predictor;
mod ranking;
mod scratch_pool;

pub use predictor::{Examples, Predictor, Scratch};
pub use ranking::{top_classes, top_k};
pub use scratch_pool::{PooledScratch, ScratchPool};

pub(crate) use ranking::best_class;
