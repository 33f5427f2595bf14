//! `Feed`: batches of images, as rows that are gathered and normalized when they are used, and
//! their labels.

use crate::{
    data::{Augmentation, FeatureMap, ImageSet, Normalization, gather_labels},
    error::{Error, Result},
    gemm::GatheredRows,
    kernels::Element,
    threads::{Tasks, cut, divide},
};

/// A set of images, how their bytes become inputs, and room for the labels of a batch.
pub(super) struct Feed<'a, T: Element> {
    images: &'a ImageSet,
    map: FeatureMap<T>,
    labels: Vec<u32>,
    augmented: Option<Augmented>,
}

/// Memory for the augmented images of a batch, and the settings of augmentation.
struct Augmented {
    augmentation: Augmentation,
    seed: u64,
    /// The byte that becomes closest to 0, for each channel.
    zeros: Vec<u8>,
    pixels: Vec<u8>,
    /// Rows of `pixels` in their order.
    indices: Vec<u32>,
}

impl<'a, T: Element> Feed<'a, T> {
    /// For batches of up to `capacity` images.
    ///
    /// # Errors
    /// [`Error::Length`] if the images have a different number of channels than the normalization.
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
        Ok(Self { images, map, labels: vec![0; capacity], augmented: None })
    }

    /// Augments the images in [`training_batch`](Self::training_batch).
    ///
    /// # Errors
    /// [`Error::Setting`] if the images are too small for the settings.
    pub(super) fn with_augmentation(
        self,
        augmentation: Augmentation,
        normalization: &Normalization,
        seed: u64,
    ) -> Result<Self> {
        augmentation.check(self.images.shape())?;
        if augmentation.is_none() {
            return Ok(self);
        }
        let channels = normalization.scale().iter().zip(normalization.shift());
        let zeros = channels.map(|(scale, shift)| (-shift / scale).round().clamp(0.0, 255.0) as u8);
        let (zeros, capacity) = (zeros.collect(), self.capacity());
        let pixels = vec![0; capacity * self.images.features()];
        let indices = (0..capacity as u32).collect();
        let augmented = Augmented { augmentation, seed, zeros, pixels, indices };
        Ok(Self { augmented: Some(augmented), ..self })
    }

    /// Same as [`batch`](Self::batch), with the augmentation of the epoch, on up to `tasks` tasks.
    ///
    /// # Errors
    /// Same as [`batch`](Self::batch).
    pub(super) fn training_batch<'b>(
        &'b mut self,
        indices: &'b [u32],
        epoch: u64,
        tasks: Tasks,
    ) -> Result<(GatheredRows<'b, T>, &'b [u32])> {
        if self.augmented.is_none() {
            return self.batch(indices);
        }
        self.load_labels(indices)?;
        let Self { images, map: FeatureMap { scale, shift }, labels, augmented } = self;
        let Some(Augmented { augmentation, seed, zeros, pixels, indices: rows }) = augmented else {
            unreachable!("images are changed here")
        };
        let features = images.features();
        let pixels = &mut pixels[..indices.len() * features];
        divide(
            (indices, &mut *pixels),
            tasks,
            &|(indices, pixels): (&[u32], &mut [u8]), left, parts| {
                let at = cut(indices.len(), 1, left, parts);
                let (first, second) = pixels.split_at_mut(at * features);
                ((&indices[..at], first), (&indices[at..], second))
            },
            &|(indices, pixels): (&[u32], &mut [u8])| {
                for (&index, out) in indices.iter().zip(pixels.chunks_exact_mut(features)) {
                    let image = images.image(index as usize).expect("its label was there");
                    augmentation.apply(images.shape(), (*seed, epoch, index), image, zeros, out);
                }
            },
        );
        let batch = indices.len();
        Ok((GatheredRows::new(pixels, &rows[..batch], scale, shift)?, &labels[..batch]))
    }

    /// The images.
    #[cfg(feature = "model-files")]
    pub(super) fn images(&self) -> &'a ImageSet {
        self.images
    }

    /// Scale and shift of each channel.
    #[cfg(feature = "model-files")]
    pub(super) fn channel_map(&self) -> Vec<[f64; 2]> {
        let FeatureMap { scale, shift } = &self.map;
        let channels = scale.iter().zip(shift).step_by(self.images.shape().plane());
        channels.map(|(scale, shift)| [scale.to_f64(), shift.to_f64()]).collect()
    }

    /// The largest batch.
    pub(super) fn capacity(&self) -> usize {
        self.labels.len()
    }

    /// The images `indices` and their labels.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`] if there are too many, [`Error::Setting`] if an index names no
    /// image.
    pub(super) fn batch<'b>(
        &'b mut self,
        indices: &'b [u32],
    ) -> Result<(GatheredRows<'b, T>, &'b [u32])> {
        self.load_labels(indices)?;
        let FeatureMap { scale, shift } = &self.map;
        let rows = GatheredRows::new(self.images.pixels(), indices, scale, shift)?;
        Ok((rows, &self.labels[..indices.len()]))
    }

    fn load_labels(&mut self, indices: &[u32]) -> Result<()> {
        let (batch, capacity) = (indices.len(), self.labels.len());
        let labels =
            self.labels.get_mut(..batch).ok_or(Error::BatchTooLarge { batch, capacity })?;
        gather_labels(self.images, indices, labels)
    }
}
