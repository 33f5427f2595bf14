//! `Shape`: what one example looks like between two layers.

use std::fmt;

/// The shape of one example. A batch is a matrix of one row for each example; an image's row holds
/// its pixels from the top left on, the channels of a pixel contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shape {
    /// A vector of so many features.
    Features(usize),
    /// An image, channels last.
    Image {
        /// Rows of pixels.
        height: usize,
        /// Pixels in a row.
        width: usize,
        /// Values of a pixel.
        channels: usize,
    },
}

impl Shape {
    /// Values of one example: columns of a batch. `None` if they exceed the address space.
    pub fn values(self) -> Option<usize> {
        match self {
            Self::Features(features) => Some(features),
            Self::Image { height, width, channels } => {
                height.checked_mul(width)?.checked_mul(channels)
            }
        }
    }

    /// Values of one example of a shape that was checked before.
    pub(crate) fn features(self) -> usize {
        self.values().expect("a checked shape")
    }
}

impl fmt::Display for Shape {
    /// `3072 features`, or `32x32x3` (height x width x channels).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Features(features) => write!(f, "{features} features"),
            Self::Image { height, width, channels } => write!(f, "{height}x{width}x{channels}"),
        }
    }
}
