//! Labeled images: loading, downloading, generating, normalizing and batching them.
//!
//! [`load`] reads CIFAR-10 in its distributed forms and [`synthetic`] draws images from a seed; both
//! give an [`ImageSet`], one block of bytes. [`Split`] divides it into training and validation
//! images, [`Normalization`] turns bytes into numbers, and [`EpochOrder`] with [`gather`] makes
//! batches without allocating.

#[cfg(feature = "archives")]
mod archive;
mod augment;
mod batch_files;
mod batches;
mod cifar10;
#[cfg(feature = "download")]
mod download;
mod images;
mod normalize;
#[cfg(feature = "archives")]
mod pickle;
#[cfg(feature = "archives")]
mod pickle_scan;
mod split;
mod synthetic;

pub use augment::{Augmentation, Border};
pub use batches::{EpochOrder, gather, gather_labels};
pub use cifar10::{Cifar10, Form, Source, class_names, find, load, locate};
#[cfg(feature = "download")]
pub use download::{DownloadOptions, DownloadProgress, download};
#[cfg(feature = "model-files")]
pub(crate) use images::check_class_names;
pub use images::{ChannelStatistics, ImageSet, ImageShape};
pub use normalize::{FeatureMap, Normalization, NormalizeMode};
pub use split::Split;
pub use synthetic::synthetic;
