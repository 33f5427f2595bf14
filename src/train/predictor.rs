//! A `Predictor` with what belongs to pictures and to model files.

#[cfg(feature = "model-files")]
use std::path::Path;

#[cfg(feature = "model-files")]
use crate::train::model_file::{self, ModelInfo};
use crate::{
    data::{FeatureMap, Normalization},
    error::{Error, Result},
    kernels::Element,
    nn::Predictor,
};

impl<T: Element> Predictor<T> {
    /// The same for pictures of bytes that are stored channel by channel, normalised as in
    /// training.
    ///
    /// # Errors
    /// [`Error::Length`] if the channels do not divide the features of an example;
    /// [`Error::Setting`] if a number of the normalisation is too large for the element type.
    pub fn with_normalization(self, normalization: &Normalization) -> Result<Self> {
        let (features, channels) = (self.in_features(), normalization.scale().len());
        let plane = features / channels;
        if plane * channels != features {
            let what = "features of a network for pictures of these channels";
            return Err(Error::Length { what, expected: plane * channels, found: features });
        }
        let FeatureMap { scale, shift } = normalization.per_feature(plane);
        self.with_pixel_map(scale, shift)
    }

    /// The network in a safetensors file, saved here or by PyTorch: see
    /// [`model_file`]. It takes pictures if the file has a normalisation.
    ///
    /// # Errors
    /// As [`model_file::load`]; [`Error::File`] if the normalisation does not fit the network.
    #[cfg(feature = "model-files")]
    pub fn load(path: &Path) -> Result<Self> {
        Self::load_with_info(path).map(|(predictor, _)| predictor)
    }

    /// As [`load`](Self::load), with what else the file says.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    #[cfg(feature = "model-files")]
    pub fn load_with_info(path: &Path) -> Result<(Self, ModelInfo)> {
        let (net, info) = model_file::load(path)?;
        let mut predictor = Self::new(&net)?;
        if let Some(normalization) = &info.normalization {
            predictor = predictor
                .with_normalization(normalization)
                .map_err(|error| Error::file(path, error.to_string()))?;
        }
        Ok((predictor, info))
    }
}
