//! Fast neural-network training and inference on CPUs.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs, clippy::undocumented_unsafe_blocks)]

pub mod aligned;
#[cfg(feature = "model-files")]
mod atomic_file;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod error;
pub mod float;
pub mod gemm;
mod kernels;
pub mod matrix;
pub mod nn;
pub mod simd;
pub mod threads;
pub mod train;

pub use error::{Error, Result};
pub use kernels::Element;
