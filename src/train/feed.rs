//! `Feed`: batches of pictures, as rows that are gathered and normalised where they are used, and
//! their labels.

use crate::{
    data::{FeatureMap, ImageSet, Normalization, gather_labels},
    error::{Error, Result},
    gemm::GatheredRows,
    kernels::Element,
};

/// A set of pictures, how their bytes become inputs, and room for the labels of a batch.
pub(super) struct Feed<'a, T: Element> {
    images: &'a ImageSet,
    map: FeatureMap<T>,
    labels: Vec<u8>,
}

impl<'a, T: Element> Feed<'a, T> {
    /// For batches of up to `capacity` pictures.
    ///
    /// # Errors
    /// [`Error::Length`] if the pictures have another number of channels than the normalisation.
    pub(super) fn new(
        images: &'a ImageSet,
        normalization: &Normalization,
        capacity: usize,
    ) -> Result<Self> {
        let (expected, found) = (images.shape().channels, normalization.scale().len());
        if expected != found {
            return Err(Error::Length { what: "channels of a normalization", expected, found });
        }
        let map = normalization.per_feature(images.shape().plane());
        Ok(Self { images, map, labels: vec![0; capacity] })
    }

    /// The largest batch.
    pub(super) fn capacity(&self) -> usize {
        self.labels.len()
    }

    /// The pictures `indices` and their labels.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`] if there are too many, [`Error::Setting`] if an index names no
    /// picture.
    pub(super) fn batch<'b>(
        &'b mut self,
        indices: &'b [u32],
    ) -> Result<(GatheredRows<'b, T>, &'b [u8])> {
        let (batch, capacity) = (indices.len(), self.labels.len());
        let labels =
            self.labels.get_mut(..batch).ok_or(Error::BatchTooLarge { batch, capacity })?;
        gather_labels(self.images, indices, labels)?;
        let FeatureMap { scale, shift } = &self.map;
        Ok((GatheredRows::new(self.images.pixels(), indices, scale, shift)?, labels))
    }
}
