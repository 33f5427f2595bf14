//! Initial weights.

use std::f64::consts::TAU;

use rand::{Rng, SeedableRng, rngs::ChaCha8Rng};

use crate::{
    error::{Error, Result},
    float::Float,
    matrix::MatMut,
};

/// The distribution of a layer's initial weights. Biases start at 0.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
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
    /// Fills `weight`, (in, out); `tensor` counts the random tensors of a network. The same seed
    /// gives f32 and f64 networks the same numbers, rounded, on every platform.
    ///
    /// # Errors
    /// [`Error::Setting`] if a standard deviation is negative or not finite.
    pub fn fill<T: Float>(self, mut weight: MatMut<'_, T>, seed: u64, tensor: u64) -> Result<()> {
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
        rng.set_stream(tensor);
        let mut normal = Normal { rng, second: None };
        for i in 0..in_features {
            for j in 0..out_features {
                weight.set(i, j, T::from_f64(std * normal.sample()));
            }
        }
        Ok(())
    }
}

/// Samples of the standard normal distribution, computed in pairs (Box and Muller 1958) with
/// functions whose bits do not depend on the platform.
struct Normal {
    rng: ChaCha8Rng,
    /// The second of a pair, until it is used.
    second: Option<f64>,
}

impl Normal {
    fn sample(&mut self) -> f64 {
        if let Some(second) = self.second.take() {
            return second;
        }
        // In steps of 2^-53, above 0 for the logarithm.
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        let (sine, cosine) = libm::sincos(TAU * self.uniform());
        self.second = Some(radius * sine);
        radius * cosine
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(count: usize, seed: u64) -> Vec<f64> {
        let mut weight = vec![0.0; count];
        let matrix = MatMut::new(&mut weight, 1, count).unwrap();
        Init::Normal { std: 1.0 }.fill(matrix, seed, 0).unwrap();
        weight
    }

    #[test]
    fn samples_are_normal() {
        let samples = samples(400_000, 7);
        let moment = |power: i32| samples.iter().map(|x| x.powi(power)).sum::<f64>() / 4e5;
        for (power, expected, tolerance) in
            [(1, 0.0, 0.01), (2, 1.0, 0.01), (3, 0.0, 0.03), (4, 3.0, 0.06), (6, 15.0, 0.8)]
        {
            assert!((moment(power) - expected).abs() < tolerance, "{power}: {}", moment(power));
        }
        let below = |limit: f64| samples.iter().filter(|&&x| x < limit).count() as f64 / 4e5;
        for (limit, expected) in [(-2.0, 0.02275), (-1.0, 0.15866), (0.0, 0.5), (1.5, 0.93319)] {
            assert!((below(limit) - expected).abs() < 0.003, "{limit}: {}", below(limit));
        }
        // No correlation between the two of a pair, or with the next.
        for lag in [1, 2] {
            let pairs = samples.iter().zip(&samples[lag..]);
            assert!((pairs.map(|(a, b)| a * b).sum::<f64>() / 4e5).abs() < 0.01, "{lag}");
        }
    }

    /// The same on every platform; a change here changes every result.
    #[test]
    fn samples_of_a_seed_stay_what_they_were() {
        let bytes = samples(1000, 3).into_iter().flat_map(|x| x.to_bits().to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        assert_eq!(hash, 18_133_598_681_293_134_247);
    }
}
