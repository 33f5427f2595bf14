//! `Shape`: the shape of one example between two layers.

use std::fmt;

/// The shape of one example. A batch is a matrix with one row for each example. The row of an image
/// holds its pixels from the top left, with the channels of a pixel contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shape {
    /// A vector of this many features.
    Features(usize),
    /// An image, channels last.
    Image {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Number of channels.
        channels: usize,
    },
}

impl Shape {
    /// Number of values in one example: columns of a batch. `None` if it exceeds the address space.
    pub fn values(self) -> Option<usize> {
        match self {
            Self::Features(features) => Some(features),
            Self::Image { height, width, channels } => {
                height.checked_mul(width)?.checked_mul(channels)
            }
        }
    }

    /// Number of values in one example, for a shape that was checked before.
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
