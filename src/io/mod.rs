//! Files of named tensors: models, and checkpoints of training.
//!
//! Both are safetensors files. A model has the names, shapes and layout of a PyTorch state dict; a
//! checkpoint has arenas as they are in memory.

pub(crate) mod checkpoint;
pub mod model;
mod tensors;
