//! Fast neural-network training and inference on CPUs: a cache-blocked SIMD GEMM, layers fused
//! into it, and a training loop that allocates nothing and gives the same bits on any number of
//! threads.
//!
//! Modules, from the lowest layer to the highest:
//! - [`gemm`]: products of matrices with epilogues; [`matrix`]: the strided views they work on;
//!   [`simd`]: the instruction sets; [`threads`]: how work is divided.
//! - [`Context`]: the kernels, the precision and the threads of a computation.
//! - [`nn`]: networks of layers, their parameters, loss, plans, gradient checks.
//! - [`data`]: CIFAR-10 and synthetic images, normalization, batches; `io`: model files.
//! - [`train`]: trainer, solver, optimizers, evaluation; [`infer`]: predictors.
//! - `cblas`, with the feature of that name: products for programs that use BLAS.
//! - `ndarray`, with the feature of that name: arrays of that crate as views of this one.
//!
//! Builds with `RUSTFLAGS="--cfg tilewise_portable"` do not use `std::arch`, see [`simd`].
//!
//! A value `x` of a type is read by `x()`; `with_x(...)` returns the same with another value, and
//! `set_x(...)` changes it in place. Configurations are `#[non_exhaustive]`, with a default and a
//! `with_` method for each field.
//!
//! Errors are [`Error`], with the sizes, the path or the setting in it. The library starts
//! no threads: operations run on the calling thread or, where asked to, on the caller's rayon pool;
//! see [`threads::Threads`].

#![warn(missing_docs)]

pub mod aligned;
#[cfg(feature = "model-files")]
pub mod atomic_file;
pub mod bf16;
#[cfg(feature = "capi")]
mod capi;
#[cfg(feature = "cblas")]
pub mod cblas;
mod config;
pub mod context;
pub mod data;
pub mod error;
pub mod float;
pub mod gemm;
pub mod infer;
pub mod input_file;
#[cfg(feature = "model-files")]
pub mod io;
mod kernels;
pub mod matrix;
#[cfg(feature = "ndarray")]
pub mod ndarray;
pub mod nn;
pub mod precision;
pub mod printable;
pub mod simd;
pub mod threads;
pub mod train;

pub use bf16::Bf16;
pub use context::Context;
pub use error::{Error, Result};
pub use kernels::Element;
pub use precision::Precision;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/networks.md")]
struct Networks;

#[cfg(doctest)]
#[doc = include_str!("../docs/bf16.md")]
struct Bf16Networks;

#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
