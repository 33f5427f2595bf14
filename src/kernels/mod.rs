//! The innermost loops, written once over `simd::Isa` and stamped out for every instruction set.
//!
//! `set` holds one [`KernelSet`] for each instruction set and element type; its methods, in
//! `checked`, check every length once and are safe to call; `stamp` fills it in. Nothing above this
//! module names an architecture. `map` and `reduce` are for element-wise work; a new function needs
//! no place in the set. `product` says what another type of operands takes.

mod bf16;
mod block;
mod checked;
mod dropout;
pub mod epilogue;
mod finish;
mod map;
#[cfg(feature = "matrixmultiply")]
mod matrixmultiply;
mod pack;
mod peak;
mod product;
mod reduce;
mod set;
mod stamp;
mod tile;
mod update;

pub use bf16::Bf16ToF32;
pub(crate) use block::SHALLOW;
pub(crate) use checked::Beside;
pub(crate) use epilogue::{Average, DropoutMask, Epilogue};
pub(crate) use map::{AddScaled, Map, Relu, ReluGradient};
pub use pack::GatheredRows;
pub(crate) use pack::{Along, Source};
pub use product::{PanelElement, Types};
pub use set::{Element, Product};
pub(crate) use set::{KernelSet, Packer, Panels};
pub(crate) use update::MAX_SLOTS;
