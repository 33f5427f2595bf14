//! The innermost loops, written once over `simd::Isa` and stamped out for every instruction set.
//!
//! `table` holds one [`KernelSet`] for each instruction set and element type; its methods check
//! every length once and are safe to call. Nothing above this module names an architecture.

mod block;
mod elementwise;
mod matrixmultiply;
mod output;
mod pack;
mod peak;
mod table;
mod tile;

pub(crate) use elementwise::DropoutMask;
pub(crate) use output::Output;
pub use table::Element;
pub(crate) use table::{BlockFinish, BlockStart, KernelSet, Panels};
