//! The layers, one file each. A new one adds a line to `layers!` and a file.

use std::sync::Arc;

use crate::{
    error::{Error, Result},
    kernels::Element,
    nn::layer::{Layer, LayerConfig},
};

/// Declares the layers: module, type, and the name of the kind in files.
macro_rules! layers {
    ($($module:ident::$layer:ident = $kind:literal;)*) => {
        $(
            pub(crate) mod $module;
            pub use $module::$layer;
        )*

        /// The kinds of layers in this crate.
        pub const KINDS: &[&str] = &[$($kind),*];

        /// The layer for a configuration.
        ///
        /// # Errors
        /// [`Error::Setting`] if the kind is unknown, or a setting is missing or invalid.
        pub fn from_config<T: Element>(config: &LayerConfig) -> Result<Arc<dyn Layer<T>>> {
            match config.kind.as_str() {
                $($kind => Ok(Arc::new($layer::from_config(config)?)),)*
                other => Err(Error::setting("layer", other, format!("one of {}", KINDS.join(", ")))),
            }
        }
    };
}

layers! {
    dropout::Dropout = "dropout";
    flatten::Flatten = "flatten";
    gelu::Gelu = "gelu";
    linear::Linear = "linear";
    relu::Relu = "relu";
    scale::Scale = "scale";
    silu::Silu = "silu";
}
