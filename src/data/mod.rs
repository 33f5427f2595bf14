//! Labelled pictures: reading, generating, normalising and batching them.

mod batches;
mod images;
mod normalize;
mod split;

pub use batches::{EpochOrder, gather, gather_labels};
pub use images::{ChannelStatistics, ImageSet, ImageShape};
pub use normalize::{Normalization, NormalizeMode, PixelTable};
pub use split::Split;
