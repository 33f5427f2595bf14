//! The innermost loops, written once over `simd::Isa` and stamped out for every instruction set.
//!
//! `table` holds one [`KernelSet`] for each instruction set and element type; its methods check
//! every length once and are safe to call. Nothing above this module names an architecture.

mod block;
mod elementwise;
#[cfg(feature = "matrixmultiply")]
mod matrixmultiply;
mod pack;
mod peak;
mod table;
mod tile;
mod update;

pub use elementwise::DropoutMask;
pub(crate) use pack::Along;
pub use pack::GatheredRows;
pub use table::Element;
pub(crate) use table::{BlockFinish, BlockStart, KernelSet, Panels};
pub(crate) use update::{AdaGrad, Adam, Average, Descent, MAX_SLOTS, Momentum, RmsProp, Update};
