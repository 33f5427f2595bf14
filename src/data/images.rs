//! `ImageSet`: labelled pictures of one shape in a single store of bytes, and exact statistics of
//! their channels.

use std::ops::Range;

use crate::error::{Error, Result};

/// The most classes that a label of one byte can tell apart.
/// Longest name of a class, in characters; ImageNet's longest has 131.
const MAX_NAME_CHARS: usize = 256;

/// Checks that names of classes are short enough for tables and pages.
///
/// # Errors
/// Which one is not.
pub(crate) fn check_class_names(names: &[String]) -> Result<(), String> {
    for (label, name) in names.iter().enumerate() {
        let length = name.chars().count();
        if length > MAX_NAME_CHARS {
            return Err(format!(
                "the name of class {label} has {length} characters: expected at most \
                 {MAX_NAME_CHARS}"
            ));
        }
    }
    Ok(())
}

/// Extent of a picture whose bytes are stored channel by channel, each row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Colour planes.
    pub channels: usize,
    /// Rows of a plane.
    pub height: usize,
    /// Columns of a plane.
    pub width: usize,
}

impl ImageShape {
    /// Bytes of one picture: `channels * height * width`.
    pub fn features(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Bytes of one colour plane.
    pub(crate) fn plane(&self) -> usize {
        self.height * self.width
    }

    fn checked_features(&self) -> Option<usize> {
        self.channels.checked_mul(self.height)?.checked_mul(self.width)
    }
}

/// Mean and population standard deviation of each channel, of pixels divided by 255.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelStatistics {
    /// One mean per channel.
    pub mean: Vec<f64>,
    /// One standard deviation per channel.
    pub std: Vec<f64>,
}

/// Labelled pictures of one shape, one after another in a single store of bytes.
#[derive(Debug)]
pub struct ImageSet {
    shape: ImageShape,
    class_names: Vec<String>,
    pixels: Vec<u8>,  // (pictures, channels, height, width)
    labels: Vec<u32>, // (images)
}

impl ImageSet {
    /// Takes `labels.len()` images of the given shape.
    ///
    /// # Errors
    /// [`Error::Setting`] for no images, an empty shape, no classes, or a name of more than 256
    /// characters; [`Error::Length`] unless there are exactly as many pixels as the labels ask for;
    /// [`Error::Label`] for a label that names no class.
    pub fn new(
        shape: ImageShape,
        class_names: Vec<String>,
        pixels: Vec<u8>,
        labels: Vec<u32>,
    ) -> Result<Self> {
        let overflow = || Error::SizeOverflow {
            what: "image set",
            rows: labels.len(),
            cols: shape.checked_features().unwrap_or(usize::MAX),
        };
        let features = shape.checked_features().ok_or_else(overflow)?;
        if features == 0 {
            let found = format!("{} x {} x {}", shape.channels, shape.height, shape.width);
            return Err(Error::setting("picture shape", found, "at least one byte per picture"));
        }
        let classes = class_names.len();
        if classes == 0 {
            return Err(Error::setting("classes", classes, "at least 1 class name"));
        }
        check_class_names(&class_names)
            .map_err(|found| Error::setting("class names", found, "shorter names"))?;
        if labels.is_empty() {
            return Err(Error::setting("pictures", 0, "at least one picture"));
        }
        let expected = labels.len().checked_mul(features).ok_or_else(overflow)?;
        if pixels.len() != expected {
            return Err(Error::Length {
                what: "pixels of an image set",
                expected,
                found: pixels.len(),
            });
        }
        match labels.iter().position(|&label| label as usize >= classes) {
            Some(row) => Err(Error::Label { label: labels[row], row, classes }),
            None => Ok(Self { shape, class_names, pixels, labels }),
        }
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no pictures; never true of a set that [`ImageSet::new`] accepted.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Extent of every picture.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Bytes of one picture.
    pub fn features(&self) -> usize {
        self.shape.features()
    }

    /// Names of the classes; label `c` means `class_names()[c]`.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// One label per picture.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The bytes of picture `index`, channel by channel; `None` behind the last picture.
    pub fn picture(&self, index: usize) -> Option<&[u8]> {
        let start = index.checked_mul(self.features())?;
        self.pixels.get(start..)?.get(..self.features())
    }

    /// The bytes of all pictures, one after another.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Number of pictures of each class.
    pub fn label_histogram(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// Mean and standard deviation of each channel over the given pictures.
    ///
    /// The sums are whole numbers, so the result depends neither on order nor on rounding.
    ///
    /// # Errors
    /// [`Error::Setting`] if the range is empty or reaches behind the last picture.
    pub fn channel_statistics(&self, pictures: Range<usize>) -> Result<ChannelStatistics> {
        if pictures.is_empty() || pictures.end > self.len() {
            let expected = format!("a range that is not empty within 0..{}", self.len());
            return Err(Error::setting("pictures", format!("{pictures:?}"), expected));
        }
        let plane = self.shape.plane();
        let count = pictures.len() as u128 * plane as u128;
        let features = self.features();
        let bytes = &self.pixels[pictures.start * features..pictures.end * features];
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for channel in 0..self.shape.channels {
            let (mut sum, mut squares) = (0u64, 0u64);
            for picture in bytes.chunks_exact(features) {
                for &pixel in &picture[channel * plane..][..plane] {
                    sum += u64::from(pixel);
                    squares += u64::from(pixel) * u64::from(pixel);
                }
            }
            let (sum, squares) = (u128::from(sum), u128::from(squares));
            mean.push(sum as f64 / (255 * count) as f64);
            let scaled_variance = count * squares - sum * sum;
            std.push((scaled_variance as f64).sqrt() / (255 * count) as f64);
        }
        Ok(ChannelStatistics { mean, std })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape { channels: 2, height: 1, width: 2 };

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|c| format!("class {c}")).collect()
    }

    #[test]
    fn statistics_are_those_of_the_definition() {
        let pixels = vec![9, 9, 9, 9, 0, 255, 51, 51, 255, 0, 102, 102];
        let set = ImageSet::new(SHAPE, names(3), pixels, vec![2, 0, 2]).unwrap();
        let found = set.channel_statistics(1..3).unwrap();
        for (found, expected) in found.mean.iter().zip([0.5, 0.3]) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
        for (found, expected) in found.std.iter().zip([0.5, 0.1]) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
        assert_eq!(set.label_histogram(), [1, 0, 2]);
        assert_eq!(set.picture(1), Some(&[0, 255, 51, 51][..]));
        assert_eq!(set.picture(3), None);
        assert_eq!(set.picture(usize::MAX / 2), None);
    }

    #[test]
    fn statistics_need_pictures_that_exist() {
        let set = ImageSet::new(SHAPE, names(1), vec![0; 8], vec![0, 0]).unwrap();
        assert!(set.channel_statistics(0..0).is_err());
        assert!(set.channel_statistics(1..3).is_err());
        assert!(set.channel_statistics(1..2).is_ok());
    }

    #[test]
    fn a_set_that_does_not_fit_together_is_an_error() {
        let set = |classes, pixels, labels| {
            ImageSet::new(SHAPE, names(classes), vec![0; pixels], labels).unwrap_err()
        };
        assert!(matches!(set(1, 7, vec![0, 0]), Error::Length { expected: 8, found: 7, .. }));
        let error = set(3, 8, vec![2, 3]);
        assert!(matches!(error, Error::Label { label: 3, row: 1, classes: 3 }), "{error}");
        assert!(matches!(set(1, 0, vec![]), Error::Setting { name: "pictures", .. }));
        assert!(matches!(set(0, 4, vec![0]), Error::Setting { name: "classes", .. }));
        let many = ImageSet::new(SHAPE, names(1000), vec![0; 4], vec![999]).unwrap();
        assert_eq!((many.classes(), many.labels()), (1000, &[999][..]));
        let huge = ImageShape { channels: usize::MAX, height: 2, width: 1 };
        let error = ImageSet::new(huge, names(1), vec![], vec![0]).unwrap_err();
        assert!(matches!(error, Error::SizeOverflow { .. }), "{error}");
        let empty = ImageShape { channels: 0, height: 2, width: 1 };
        let error = ImageSet::new(empty, names(1), vec![], vec![0]).unwrap_err();
        assert!(matches!(error, Error::Setting { name: "picture shape", .. }), "{error}");
    }
}
