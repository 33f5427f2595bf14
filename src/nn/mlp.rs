//! Multilayer perceptrons, the networks of the study, as [`Network`]s.

use crate::{
    config::with_fields,
    error::{Error, Result},
    kernels::Element,
    nn::{init::Init, network::Network, shape::Shape},
};

/// The configuration of a multilayer perceptron.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MlpConfig {
    /// Features of an example.
    pub input: usize,
    /// Widths of the hidden layers; without any, the network is a linear classifier.
    pub hidden: Vec<usize>,
    /// Number of classes.
    pub classes: usize,
    /// Initial weights.
    pub init: Init,
    /// Probability of dropping a hidden activation in training.
    pub dropout: f64,
    /// Seed of the initial weights and of the dropout masks.
    pub seed: u64,
}

with_fields! {
    MlpConfig {
        input with_input: usize,
        hidden with_hidden: Vec<usize>,
        classes with_classes: usize,
        init with_init: Init,
        dropout with_dropout: f64,
        seed with_seed: u64,
    }
}

impl Default for MlpConfig {
    /// The two-layer network of the CIFAR-10 study: 3072-200-10, weight scale 0.01.
    fn default() -> Self {
        Self {
            input: 3072,
            hidden: vec![200],
            classes: 10,
            init: Init::Normal { std: 0.01 },
            dropout: 0.0,
            seed: 0,
        }
    }
}

/// A multilayer perceptron:
/// `x -> [linear -> ReLU -> dropout] * hidden layers -> linear -> logits`, with dropout layers only
/// if the probability is above 0.
///
/// # Errors
/// [`Error::Setting`] if a size is 0 or another setting is invalid; [`Error::SizeOverflow`] if
/// there is not enough memory for the weights.
pub fn mlp<T: Element>(config: &MlpConfig) -> Result<Network<T>> {
    let MlpConfig { input, hidden, classes, init, dropout, seed } = config;
    if hidden.contains(&0) {
        return Err(Error::setting("hidden", format!("{hidden:?}"), "layer sizes of at least 1"));
    }
    let mut builder = Network::builder(Shape::Features(*input)).seed(*seed);
    for &width in hidden {
        builder = builder.linear_with(width, *init).relu();
        if *dropout != 0.0 {
            builder = builder.dropout(*dropout);
        }
    }
    builder.linear_with(*classes, *init).build()
}
