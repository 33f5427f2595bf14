//! Networks: layers, parameters, loss, plans, gradient checks.
//!
//! Shapes are written (rows, columns); a batch is a matrix with one row for each example. A
//! [`Network`] holds layers and parameters; a [`Plan`] holds the memory and the order of its passes.
//! Nothing here allocates after construction.

mod elementwise;
pub mod gradcheck;
mod init;
mod layer;
pub mod layers;
mod loss;
mod mlp;
mod network;
mod parameters;
mod plan;
mod regularization;
mod shape;
mod softmax;

pub use init::Init;
pub use layer::{
    Backward, Forward, Fusion, Layer, LayerConfig, LayerMemory, MakeLayer, Mode, Needs,
    RandomPlace, Setting,
};
pub use loss::CrossEntropy;
pub use mlp::{MlpConfig, mlp};
pub use network::{BlockBuilder, Network, NetworkBuilder, NodeConfig};
pub use parameters::{
    Arena, Fill, ParameterKind, ParameterSettings, Slices, SlicesMut, Tensor, TensorLayout,
    TensorSpec,
};
pub use plan::{Gradients, PassTimes, Passes, Plan, Sink};
pub use regularization::L2;
pub use shape::Shape;
pub use softmax::softmax;

pub(crate) use elementwise::{move_average, scale, sum_of_squares};
pub(crate) use network::Structure;
pub(crate) use plan::{PackedWeights, Part, Weights};
