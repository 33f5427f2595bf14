//! Labelled pictures: loading, downloading, generating, normalising and batching them.
//!
//! [`load`] reads CIFAR-10 in the forms it is spread in and [`synthetic`] draws pictures from a
//! seed; both give an [`ImageSet`], bytes in one store. [`Split`] says which of them train,
//! [`Normalization`] turns bytes into numbers, and [`EpochOrder`] with [`gather`] makes batches
//! of them without allocating.

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
