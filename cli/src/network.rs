//! Networks in the program's output: a perceptron by its widths, any other by its layers.

use tilewise::{
    Element,
    error::Result,
    nn::{Init, MlpConfig, Network, NodeConfig, Shape, mlp},
};

/// Default widths of the hidden layers of a perceptron.
pub(super) const HIDDEN: &str = "512";

/// A perceptron for these sizes, as `train` makes it.
///
/// # Errors
/// Same as [`mlp`].
pub(super) fn perceptron<T: Element>(
    (input, classes): (usize, usize),
    hidden: &[usize],
    dropout: f64,
    weight_scale: Option<f64>,
    seed: u64,
) -> Result<Network<T>> {
    let init = weight_scale.map_or(Init::He, |std| Init::Normal { std });
    mlp(&MlpConfig::default()
        .with_input(input)
        .with_hidden(hidden.to_vec())
        .with_classes(classes)
        .with_init(init)
        .with_dropout(dropout)
        .with_seed(seed))
}

/// A network in a line: "3072-512-10" for a perceptron, its layers for any other.
pub(super) fn describe<T: Element>(network: &Network<T>) -> String {
    let widths = widths(network).map(|widths| joined(&widths));
    widths.unwrap_or_else(|| network.to_string())
}

/// Sizes of layers as "3072-512-10".
pub(super) fn joined(widths: &[usize]) -> String {
    widths.iter().map(usize::to_string).collect::<Vec<_>>().join("-")
}

/// The sizes of a perceptron: of its input, of its hidden layers, and its classes. None of another
/// network.
fn widths<T: Element>(network: &Network<T>) -> Option<Vec<usize>> {
    let Shape::Features(input) = network.input_shape() else { return None };
    let (layers, mut widths) = (network.config(), vec![input]);
    let mut before = "relu";
    for layer in &layers {
        let NodeConfig::Layer(layer) = layer else { return None };
        match (before, layer.kind.as_str()) {
            ("relu" | "dropout", "linear") => widths.push(layer.count("out_features").ok()?),
            ("linear", "relu") => {}
            ("relu", "dropout") if widths.len() > 1 => {}
            _ => return None,
        }
        before = &layer.kind;
    }
    (before == "linear").then_some(widths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perceptron_is_its_widths() {
        for (hidden, dropout, expected) in
            [(&[][..], 0.0, "12-3"), (&[7], 0.1, "12-7-3"), (&[7, 5, 6], 0.0, "12-7-5-6-3")]
        {
            let network = perceptron::<f32>((12, 3), hidden, dropout, None, 0).unwrap();
            assert_eq!(describe(&network), expected);
        }
    }

    #[test]
    fn any_other_network_is_its_layers() {
        let features = || Network::<f32>::builder(Shape::Features(6));
        let image = Shape::Image { height: 2, width: 1, channels: 3 };
        for (network, expected) in [
            (features().linear(3).linear(3), "6 features -> linear(in_features = 6"),
            (features().dropout(0.1).linear(3), "6 features -> dropout(probability = 0.1)"),
            (features().linear(3).relu(), "6 features -> linear("),
            (features().linear(3).dropout(0.5).linear(3), "6 features -> linear("),
            (Network::builder(image).flatten().linear(3), "2x1x3 -> flatten -> linear("),
            (
                features().residual(|block| block.linear(6).relu()).linear(3),
                "6 features -> residual(",
            ),
        ] {
            let found = describe(&network.build().unwrap());
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
