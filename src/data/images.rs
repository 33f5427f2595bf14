//! `ImageSet`: labeled images of one shape in one block of bytes, and exact statistics of their
//! channels.

use std::ops::Range;

use crate::error::{Error, Result};

/// The largest number of classes for labels of one byte.
/// Longest name of a class, in characters; ImageNet's longest has 131.
const MAX_NAME_CHARS: usize = 256;

/// Checks that class names are short enough for tables and pages.
///
/// # Errors
/// The name that is too long.
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

/// Shape of an image whose bytes are stored channel by channel, each row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Color planes.
    pub channels: usize,
    /// Rows of a plane.
    pub height: usize,
    /// Columns of a plane.
    pub width: usize,
}

impl ImageShape {
    /// Bytes of one image: `channels * height * width`.
    pub fn features(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Bytes of one color plane.
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

/// Labeled images of one shape in one block of bytes.
#[derive(Debug)]
pub struct ImageSet {
    shape: ImageShape,
    class_names: Vec<String>,
    pixels: Vec<u8>,  // (images, channels, height, width)
    labels: Vec<u32>, // (images)
}

impl ImageSet {
    /// A set of `labels.len()` images of the given shape.
    ///
    /// # Errors
    /// [`Error::Setting`] for no images, an empty shape, no classes, or a name of more than 256
    /// characters; [`Error::Length`] if the number of pixels does not match the labels;
    /// [`Error::Label`] for a label out of range.
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
            return Err(Error::setting("image shape", found, "at least one byte per image"));
        }
        let classes = class_names.len();
        if classes == 0 {
            return Err(Error::setting("classes", classes, "at least 1 class name"));
        }
        check_class_names(&class_names)
            .map_err(|found| Error::setting("class names", found, "shorter names"))?;
        if labels.is_empty() {
            return Err(Error::setting("images", 0, "at least one image"));
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

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images; never true for a set from [`ImageSet::new`].
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Bytes of one image.
    pub fn features(&self) -> usize {
        self.shape.features()
    }

    /// Names of the classes; the class of label `c` is `class_names()[c]`.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// One label per image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The bytes of image `index`, channel by channel; `None` after the last image.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        let start = index.checked_mul(self.features())?;
        self.pixels.get(start..)?.get(..self.features())
    }

    /// The bytes of all images.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Number of images of each class.
    pub fn label_histogram(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// Mean and standard deviation of each channel over the given images.
    ///
    /// The sums are integers, so the result does not depend on their order or on rounding.
    ///
    /// # Errors
    /// [`Error::Setting`] if the range is empty or ends after the last image.
    pub fn channel_statistics(&self, images: Range<usize>) -> Result<ChannelStatistics> {
        if images.is_empty() || images.end > self.len() {
            let expected = format!("a range that is not empty within 0..{}", self.len());
            return Err(Error::setting("images", format!("{images:?}"), expected));
        }
        let plane = self.shape.plane();
        let count = images.len() as u128 * plane as u128;
        let features = self.features();
        let bytes = &self.pixels[images.start * features..images.end * features];
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for channel in 0..self.shape.channels {
            let (mut sum, mut squares) = (0u64, 0u64);
            for image in bytes.chunks_exact(features) {
                for &pixel in &image[channel * plane..][..plane] {
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
        assert_eq!(set.image(1), Some(&[0, 255, 51, 51][..]));
        assert_eq!(set.image(3), None);
        assert_eq!(set.image(usize::MAX / 2), None);
    }

    #[test]
    fn statistics_need_images_that_exist() {
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
        assert!(matches!(set(1, 0, vec![]), Error::Setting { name: "images", .. }));
        assert!(matches!(set(0, 4, vec![0]), Error::Setting { name: "classes", .. }));
        let many = ImageSet::new(SHAPE, names(1000), vec![0; 4], vec![999]).unwrap();
        assert_eq!((many.classes(), many.labels()), (1000, &[999][..]));
        let huge = ImageShape { channels: usize::MAX, height: 2, width: 1 };
        let error = ImageSet::new(huge, names(1), vec![], vec![0]).unwrap_err();
        assert!(matches!(error, Error::SizeOverflow { .. }), "{error}");
        let empty = ImageShape { channels: 0, height: 2, width: 1 };
        let error = ImageSet::new(empty, names(1), vec![], vec![0]).unwrap_err();
        assert!(matches!(error, Error::Setting { name: "image shape", .. }), "{error}");
    }
}
