//! Layers, loss and fully connected networks, with forward and backward passes of their own.
//!
//! Shapes are written (rows, columns); a batch is a matrix of one row for each example. Nothing
//! here allocates after construction: results go into the caller's matrices or into a planned
//! [`Workspace`].

mod dropout;
mod elementwise;
pub mod gradcheck;
mod init;
mod linear;
mod loss;
mod model;
mod predictor;
mod ranking;
mod relu;
mod scratch_pool;
mod workspace;

pub use dropout::{Dropout, DropoutPosition};
pub use init::Init;
pub use linear::{Linear, LinearGradient, LinearRelu};
pub use loss::CrossEntropy;
pub use model::{FullyConnectedNet, Mode, NetConfig, TwoLayerNet};
pub use predictor::{Examples, Predictor, Scratch};
pub use ranking::{softmax, top_classes, top_k};
pub use relu::Relu;
pub use scratch_pool::{PooledScratch, ScratchPool};
pub use workspace::{Passes, Workspace};

pub(crate) use elementwise::{move_average, scale, sum_of_squares};
