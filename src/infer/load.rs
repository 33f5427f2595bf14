//! A `Predictor` of images and of model files.

#[cfg(feature = "model-files")]
use std::path::Path;

#[cfg(feature = "model-files")]
use crate::{
    context::Context,
    io::model::{self, ModelInfo},
    nn::{Network, layers},
};
use crate::{
    data::{FeatureMap, Normalization},
    error::{Error, Result},
    infer::predictor::Predictor,
    kernels::Element,
};

impl<T: Element> Predictor<T> {
    /// Adds a normalization, for images of bytes that are stored channel by channel.
    ///
    /// # Errors
    /// [`Error::Length`] if the channels do not divide the features of an example;
    /// [`Error::Setting`] if a number of the normalization is too large for the element type.
    pub fn with_normalization(self, normalization: &Normalization) -> Result<Self> {
        let (features, channels) = (self.in_features(), normalization.scale().len());
        let plane = features / channels;
        if plane * channels != features {
            let what = "features of a network for images of these channels";
            return Err(Error::Length { what, expected: plane * channels, found: features });
        }
        let FeatureMap { scale, shift } = normalization.per_feature(plane);
        self.with_byte_map(scale, shift)
    }

    /// The network in a safetensors file, saved here or by PyTorch: see
    /// [`model`]. It takes images of bytes if the file has a normalization.
    ///
    /// It computes in the precision that the network was trained in ([`model::precision`]) if that has
    /// parameters of type `T`, else in that of `T`. For another one, use
    /// [`load_with_context`](Self::load_with_context).
    ///
    /// # Errors
    /// Same as [`model::load`]; [`Error::File`] if the normalization does not fit the network.
    #[cfg(feature = "model-files")]
    pub fn load(path: &Path) -> Result<Self> {
        Self::load_with_info(path).map(|(predictor, _)| predictor)
    }

    /// Same as [`load`](Self::load), also returns the metadata of the file.
    ///
    /// # Errors
    /// Same as [`load`](Self::load).
    #[cfg(feature = "model-files")]
    pub fn load_with_info(path: &Path) -> Result<(Self, ModelInfo)> {
        let (network, info, precision) = model::load_with_precision(path, &layers::from_config)?;
        let mut context = Context::new()?;
        if precision.fits::<T>() {
            context = context.with_precision(precision)?;
        }
        Self::of_file(path, &network, info, context)
    }

    /// Same as [`load_with_info`](Self::load_with_info), in the precision and with the kernels of
    /// `context`.
    ///
    /// # Errors
    /// Same as [`load`](Self::load).
    #[cfg(feature = "model-files")]
    pub fn load_with_context(path: &Path, context: Context<T>) -> Result<(Self, ModelInfo)> {
        let (network, info) = model::load(path)?;
        Self::of_file(path, &network, info, context)
    }

    #[cfg(feature = "model-files")]
    fn of_file(
        path: &Path,
        network: &Network<T>,
        info: ModelInfo,
        context: Context<T>,
    ) -> Result<(Self, ModelInfo)> {
        let mut predictor = Self::with_context(network, context)?;
        if let Some(normalization) = &info.normalization {
            predictor = predictor
                .with_normalization(normalization)
                .map_err(|error| Error::file(path, error.to_string()).with_source(error))?;
        }
        Ok((predictor, info))
    }
}
