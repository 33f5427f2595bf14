//! `Normalization`: an affine map per channel from bytes to numbers, and `FeatureMap`, the same for
//! each feature, as kernels take it.

use std::{fmt, str::FromStr};

use super::images::ChannelStatistics;
use crate::{
    error::{Error, Result},
    float::Float,
};

/// How pixels are normalized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormalizeMode {
    /// `pixel / 255 - mean`.
    #[default]
    Mean,
    /// `(pixel / 255 - mean) / std`.
    MeanStd,
}

impl NormalizeMode {
    /// The name that [`FromStr`] parses: "mean" or "mean-std".
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::MeanStd => "mean-std",
        }
    }
}

impl fmt::Display for NormalizeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for NormalizeMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = [Self::Mean, Self::MeanStd].into_iter().find(|mode| mode.name() == name);
        known.ok_or_else(|| Error::setting("normalize", name, "mean or mean-std"))
    }
}

/// `value = pixel * scale + shift`, with a scale and a shift for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Normalization {
    /// One scale and one shift per channel.
    ///
    /// # Errors
    /// [`Error::Length`] if the numbers of scales and shifts differ, [`Error::Setting`] if there are
    /// none or a number is not finite.
    pub fn new(scale: Vec<f64>, shift: Vec<f64>) -> Result<Self> {
        if scale.len() != shift.len() {
            let (expected, found) = (scale.len(), shift.len());
            return Err(Error::Length { what: "shifts of a normalization", expected, found });
        }
        if scale.is_empty() {
            return Err(Error::setting("channels", 0, "at least one channel"));
        }
        match scale.iter().chain(&shift).find(|number| !number.is_finite()) {
            Some(number) => Err(Error::setting("normalization", number, "finite numbers")),
            None => Ok(Self { scale, shift }),
        }
    }

    /// The map that gives images with these statistics a mean of 0, and with
    /// [`NormalizeMode::MeanStd`] a standard deviation of 1.
    ///
    /// # Errors
    /// [`Error::Setting`] if a channel to be divided by its standard deviation is constant; the
    /// errors of [`Normalization::new`].
    pub fn from_statistics(stats: &ChannelStatistics, mode: NormalizeMode) -> Result<Self> {
        let (expected, found) = (stats.mean.len(), stats.std.len());
        if expected != found {
            return Err(Error::Length { what: "standard deviations", expected, found });
        }
        let mean = stats.mean.iter();
        match mode {
            NormalizeMode::Mean => {
                Self::new(vec![1.0 / 255.0; stats.mean.len()], mean.map(|mean| -mean).collect())
            }
            NormalizeMode::MeanStd => {
                if let Some(channel) = stats.std.iter().position(|&std| std == 0.0) {
                    let expected = format!("mean, because channel {channel} is constant");
                    return Err(Error::setting("normalize", mode, expected));
                }
                Self::new(
                    stats.std.iter().map(|std| 1.0 / (255.0 * std)).collect(),
                    mean.zip(&stats.std).map(|(mean, std)| -mean / std).collect(),
                )
            }
        }
    }

    /// One factor per channel.
    pub fn scale(&self) -> &[f64] {
        &self.scale
    }

    /// One summand per channel.
    pub fn shift(&self) -> &[f64] {
        &self.shift
    }

    /// The map for each feature of images with `plane` pixels in a channel, channel after
    /// channel.
    pub fn per_feature<T: Float>(&self, plane: usize) -> FeatureMap<T> {
        let spread = |values: &[f64]| {
            let values = values.iter().map(|&value| T::from_f64(value));
            values.flat_map(|value| std::iter::repeat_n(value, plane)).collect()
        };
        FeatureMap { scale: spread(&self.scale), shift: spread(&self.shift) }
    }
}

/// `value = pixel * scale + shift` with a scale and a shift for each feature, as
/// [`GatheredRows`](crate::gemm::GatheredRows) takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureMap<T> {
    /// Factors: (features).
    pub scale: Vec<T>,
    /// Summands: (features).
    pub shift: Vec<T>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_the_map_of_their_channel() {
        let map = Normalization::new(vec![1.0 / 255.0, 0.3], vec![-0.47, 7.0]).unwrap();
        let map = map.per_feature::<f32>(2);
        assert_eq!(map.scale, [1.0 / 255.0, 1.0 / 255.0, 0.3, 0.3]);
        assert_eq!(map.shift, [-0.47, -0.47, 7.0, 7.0]);
    }

    #[test]
    fn modes_follow_their_formulas() {
        let stats = ChannelStatistics { mean: vec![0.25, 0.5], std: vec![0.5, 0.125] };
        let mean = Normalization::from_statistics(&stats, NormalizeMode::Mean).unwrap();
        assert_eq!((mean.scale(), mean.shift()), (&[1.0 / 255.0; 2][..], &[-0.25, -0.5][..]));
        let both = Normalization::from_statistics(&stats, NormalizeMode::MeanStd).unwrap();
        assert_eq!(both.shift(), [-0.5, -4.0]);
        let FeatureMap { scale, shift } = both.per_feature::<f64>(1);
        let white = 255f64.mul_add(scale[1], shift[1]);
        assert!((white - 4.0).abs() < 1e-12, "{white}");
    }

    #[test]
    fn a_constant_channel_cannot_be_divided_by_its_deviation() {
        let stats = ChannelStatistics { mean: vec![0.25, 0.5], std: vec![0.5, 0.0] };
        assert!(Normalization::from_statistics(&stats, NormalizeMode::Mean).is_ok());
        let error = Normalization::from_statistics(&stats, NormalizeMode::MeanStd).unwrap_err();
        assert!(error.to_string().contains("channel 1"), "{error}");
    }

    #[test]
    fn numbers_that_make_no_map_are_errors() {
        assert!(Normalization::new(vec![1.0], vec![]).is_err());
        assert!(Normalization::new(vec![], vec![]).is_err());
        assert!(Normalization::new(vec![1.0], vec![f64::NAN]).is_err());
        assert!(Normalization::new(vec![f64::INFINITY], vec![0.0]).is_err());
    }

    #[test]
    fn names_of_modes_can_be_read_back() {
        for mode in [NormalizeMode::Mean, NormalizeMode::MeanStd] {
            assert_eq!(mode.to_string().parse::<NormalizeMode>().unwrap(), mode);
        }
        let error = "std".parse::<NormalizeMode>().unwrap_err();
        assert!(error.to_string().contains("mean or mean-std"), "{error}");
    }
}
