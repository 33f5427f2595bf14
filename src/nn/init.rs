//! Initial weights.

use rand::{SeedableRng, rngs::ChaCha8Rng};
use rand_distr::{Distribution, StandardNormal};

use crate::{
    error::{Error, Result},
    float::Float,
    matrix::MatMut,
};

/// The distribution of a linear layer's initial weights. Biases start at 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation (the "weight scale").
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Normal with variance 2 / in_features (He et al. 2015, "Delving deep into rectifiers").
    He,
    /// Normal with variance 2 / (in_features + out_features) (Glorot and Bengio 2010).
    Xavier,
}

impl Init {
    /// Fills `weight`, (in, out), for layer number `layer` of a network. The same seed gives
    /// f32 and f64 networks the same numbers, rounded.
    ///
    /// # Errors
    /// [`Error::Setting`] if a standard deviation is negative or not finite.
    pub fn fill<T: Float>(self, mut weight: MatMut<'_, T>, seed: u64, layer: u64) -> Result<()> {
        let (in_features, out_features) = weight.shape();
        let std = match self {
            Self::Normal { std } => std,
            Self::He => (2.0 / in_features as f64).sqrt(),
            Self::Xavier => (2.0 / (in_features + out_features) as f64).sqrt(),
        };
        if !(std.is_finite() && std >= 0.0) {
            return Err(Error::setting("weight_scale", std, "a finite number, 0 or above"));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(layer);
        for i in 0..in_features {
            for j in 0..out_features {
                let sample: f64 = StandardNormal.sample(&mut rng);
                weight.set(i, j, T::from_f64(std * sample));
            }
        }
        Ok(())
    }
}
