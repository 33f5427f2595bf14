//! The innermost loops, written once over `simd::Isa` and stamped out for every instruction set.
//!
//! `table` holds one [`KernelSet`] for each instruction set and element type; its methods check
//! every length once and are safe to call. Nothing above this module names an architecture.

mod block;
mod dropout;
mod elementwise;
pub mod epilogue;
mod finish;
#[cfg(feature = "matrixmultiply")]
mod matrixmultiply;
mod pack;
mod peak;
mod table;
mod tile;
mod update;

pub(crate) use epilogue::{Average, DropoutMask, Epilogue};
pub(crate) use pack::Along;
pub use pack::GatheredRows;
pub use table::Element;
pub(crate) use table::{KernelSet, Panels};
pub(crate) use update::MAX_SLOTS;
