//! The images of an epoch in random order, and batches gathered into matrices without allocating.

use std::ops::Range;

use rand::{SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};

use super::{images::ImageSet, normalize::FeatureMap};
use crate::{
    error::{Error, Result},
    float::Float,
    matrix::MatMut,
};

/// The order of a range of images in an epoch.
#[derive(Clone, Debug)]
pub struct EpochOrder {
    start: u32,
    indices: Vec<u32>,
    seed: u64,
}

impl EpochOrder {
    /// The images in their original order, until the first [`EpochOrder::shuffle`].
    ///
    /// # Errors
    /// [`Error::Setting`] if the range is empty or reaches beyond `u32::MAX`.
    pub fn new(images: Range<usize>, seed: u64) -> Result<Self> {
        match (u32::try_from(images.start), u32::try_from(images.end)) {
            (Ok(start), Ok(end)) if start < end => {
                Ok(Self { start, indices: (start..end).collect(), seed })
            }
            _ => {
                let expected = format!("a range that is not empty within 0..{}", u32::MAX);
                Err(Error::setting("images", format!("{images:?}"), expected))
            }
        }
    }

    /// Shuffles the images for an epoch. The order depends only on the seed and the epoch, so a
    /// resumed run sees the same batches. Does not allocate.
    pub fn shuffle(&mut self, epoch: u64) {
        for (index, image) in self.indices.iter_mut().zip(self.start..) {
            *index = image;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch);
        self.indices.shuffle(&mut rng);
    }

    /// Restores the original order.
    pub fn range(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.indices.len()
    }

    /// The images in the current order.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The images in groups of `batch`; the last group may be smaller.
    ///
    /// # Panics
    /// If `batch` is 0.
    pub fn batches(&self, batch: usize) -> impl Iterator<Item = &[u32]> {
        self.indices.chunks(batch)
    }
}

/// Writes the normalized images `indices` into the rows of `out`, shape (batch, features), which must
/// be contiguous. Does not allocate.
///
/// # Errors
/// [`Error::Shape`] if `out` has another shape, [`Error::Length`] if the map has another number
/// of features than the images, [`Error::Setting`] if the rows of `out` are not contiguous or an index
/// is out of range; rows before it are then written.
pub fn gather<T: Float>(
    set: &ImageSet,
    indices: &[u32],
    map: &FeatureMap<T>,
    out: &mut MatMut<'_, T>,
) -> Result<()> {
    out.expect_shape("gathered images", (indices.len(), set.features()))?;
    let expected = set.features();
    for (what, values) in [("scales of features", &map.scale), ("shifts of features", &map.shift)] {
        if values.len() != expected {
            return Err(Error::Length { what, expected, found: values.len() });
        }
    }
    for (row, &index) in indices.iter().enumerate() {
        let image = set.image(index as usize).ok_or_else(|| no_image(set, index))?;
        let col_stride = out.col_stride();
        let values = out
            .row_mut(row)
            .ok_or_else(|| Error::setting("column stride of gathered images", col_stride, "1"))?;
        let features = image.iter().zip(&map.scale).zip(&map.shift);
        for (value, ((&pixel, &scale), &shift)) in values.iter_mut().zip(features) {
            *value = T::from_f64(f64::from(pixel)).mul_add(scale, shift);
        }
    }
    Ok(())
}

/// Writes the labels of the images `indices` into `out`, which has the same length. Does not
/// allocate.
///
/// # Errors
/// [`Error::Length`] if `out` has a different length, [`Error::Setting`] if an index is out of range;
/// labels before it are then written.
pub fn gather_labels(set: &ImageSet, indices: &[u32], out: &mut [u32]) -> Result<()> {
    if out.len() != indices.len() {
        let (expected, found) = (indices.len(), out.len());
        return Err(Error::Length { what: "gathered labels", expected, found });
    }
    for (label, &index) in out.iter_mut().zip(indices) {
        *label = *set.labels().get(index as usize).ok_or_else(|| no_image(set, index))?;
    }
    Ok(())
}

fn no_image(set: &ImageSet, index: u32) -> Error {
    Error::setting("image index", index, format!("an index from 0 to {}", set.len() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{images::ImageShape, normalize::Normalization};

    #[test]
    fn an_order_depends_on_seed_and_epoch_alone() {
        let mut order = EpochOrder::new(10..1010, 7).unwrap();
        order.shuffle(3);
        let third = order.indices().to_vec();
        order.shuffle(4);
        assert_ne!(order.indices(), third);
        let mut fresh = EpochOrder::new(10..1010, 7).unwrap();
        fresh.shuffle(3);
        assert_eq!(fresh.indices(), third);
        let mut other_seed = EpochOrder::new(10..1010, 8).unwrap();
        other_seed.shuffle(3);
        assert_ne!(other_seed.indices(), third);
    }

    #[test]
    fn an_order_is_a_permutation_in_batches() {
        let mut order = EpochOrder::new(5..28, 1).unwrap();
        order.shuffle(0);
        let sizes: Vec<usize> = order.batches(10).map(<[u32]>::len).collect();
        assert_eq!(sizes, [10, 10, 3]);
        let mut seen: Vec<u32> = order.batches(10).flatten().copied().collect();
        assert_ne!(seen, (5..28).collect::<Vec<_>>());
        seen.sort_unstable();
        assert_eq!(seen, (5..28).collect::<Vec<_>>());
    }

    /// A change here changes every training run with a given seed.
    #[test]
    fn the_order_of_a_seed_stays_what_it_was() {
        let mut order = EpochOrder::new(0..10, 42).unwrap();
        order.shuffle(1);
        assert_eq!(order.indices(), [8, 9, 5, 3, 2, 1, 0, 7, 6, 4]);
    }

    #[test]
    fn ranges_without_images_are_errors() {
        assert!(EpochOrder::new(3..3, 0).is_err());
        assert!(EpochOrder::new(0..usize::MAX, 0).is_err());
    }

    fn set() -> ImageSet {
        let shape = ImageShape { channels: 2, height: 1, width: 2 };
        let names = vec!["a".to_string(), "b".to_string()];
        ImageSet::new(shape, names, vec![1, 2, 3, 4, 5, 6, 7, 8], vec![0, 1]).unwrap()
    }

    #[test]
    fn images_are_gathered_and_normalized() {
        let map = Normalization::new(vec![1.0, 10.0], vec![0.0, 0.5]).unwrap().per_feature(2);
        let mut padded = [-1.0f32; 11];
        let mut out = MatMut::strided(&mut padded, 0, (2, 4), (6, 1)).unwrap();
        gather(&set(), &[1, 0], &map, &mut out).unwrap();
        assert_eq!(padded, [5.0, 6.0, 70.5, 80.5, -1.0, -1.0, 1.0, 2.0, 30.5, 40.5, -1.0]);
        let mut labels = [9; 3];
        gather_labels(&set(), &[1, 0, 1], &mut labels).unwrap();
        assert_eq!(labels, [1, 0, 1]);
    }

    #[test]
    fn what_cannot_be_gathered_is_an_error() {
        let map = Normalization::new(vec![1.0; 2], vec![0.0; 2]).unwrap().per_feature(2);
        let mut values = [0.0f32; 8];
        let mut out = MatMut::new(&mut values, 2, 4).unwrap();
        let error = gather(&set(), &[0, 2], &map, &mut out).unwrap_err();
        assert!(error.to_string().contains("from 0 to 1"), "{error}");
        assert!(matches!(gather(&set(), &[0], &map, &mut out), Err(Error::Shape { .. })));
        let gray = Normalization::new(vec![1.0], vec![0.0]).unwrap().per_feature(2);
        assert!(matches!(gather(&set(), &[0, 1], &gray, &mut out), Err(Error::Length { .. })));
        let mut transposed = MatMut::strided(&mut values, 0, (2, 4), (1, 2)).unwrap();
        let error = gather(&set(), &[0, 1], &map, &mut transposed).unwrap_err();
        assert!(error.to_string().contains("column stride"), "{error}");
        assert!(gather_labels(&set(), &[0], &mut [0; 2]).is_err());
        assert!(gather_labels(&set(), &[7], &mut [0; 1]).is_err());
    }
}
