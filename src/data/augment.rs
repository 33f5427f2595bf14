//! `Augmentation`: random flips, shifts and cutouts of images, as bytes, when a batch is made.

use std::{fmt, str::FromStr};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::images::ImageShape;
use crate::{
    config::with_fields,
    error::{Error, Result},
};

/// The padding of shifted images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Border {
    /// The image mirrored at its edge, which is not repeated.
    #[default]
    Reflect,
    /// The bytes that normalization brings closest to 0.
    Zeros,
}

impl Border {
    /// The name that [`FromStr`] parses: "reflect" or "zeros".
    pub fn name(self) -> &'static str {
        match self {
            Self::Reflect => "reflect",
            Self::Zeros => "zeros",
        }
    }
}

impl fmt::Display for Border {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Border {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = [Self::Reflect, Self::Zeros].into_iter().find(|border| border.name() == name);
        known.ok_or_else(|| Error::setting("border", name, "reflect or zeros"))
    }
}

/// Random augmentation of training images. It depends only on the seed, the epoch and the image, not
/// on threads or batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Augmentation {
    /// Flip images horizontally with probability 0.5.
    pub flip: bool,
    /// Random shift along both axes: at most this many pixels.
    pub shift: usize,
    /// The padding of shifted images.
    pub border: Border,
    /// Side of a square around a random pixel that is set to zeros (DeVries & Taylor 2017,
    /// "cutout"); the part outside of the image is ignored. 0 is none.
    pub cutout: usize,
}

with_fields! {
    Augmentation {
        flip with_flip: bool,
        shift with_shift: usize,
        border with_border: Border,
        cutout with_cutout: usize,
    }
}

impl Augmentation {
    /// Whether images are left unchanged.
    pub fn is_none(&self) -> bool {
        !self.flip && self.shift == 0 && self.cutout == 0
    }

    /// # Errors
    /// [`Error::Setting`] if images of this shape are too small for the settings.
    pub fn check(&self, shape: ImageShape) -> Result<()> {
        let side = shape.height.min(shape.width);
        for (name, found, limit) in [("shift", self.shift, side), ("cutout", self.cutout, side + 1)]
        {
            if found >= limit {
                let expected = format!("below {limit} for images of {side} pixels");
                return Err(Error::setting(name, found, expected));
            }
        }
        Ok(())
    }

    /// Writes image number `image` to `out`, augmented for `seed` and `epoch`. `zeros` has a byte for
    /// each channel. The settings must fit the shape, see [`check`](Self::check).
    ///
    /// # Panics
    /// If the length of the image or of `out` does not match the shape.
    pub fn apply(
        &self,
        shape: ImageShape,
        (seed, epoch, image): (u64, u64, u32),
        pixels: &[u8],
        zeros: &[u8],
        out: &mut [u8],
    ) {
        assert_eq!((pixels.len(), out.len()), (shape.features(), shape.features()));
        let ImageShape { height, width, .. } = shape;
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xa067_1357_9bdf_2468);
        rng.set_stream(epoch << 32 | u64::from(image));
        // Always drawn, so that one setting does not change the effect of another.
        let mirrored = rng.random::<bool>() && self.flip;
        let mut step = || rng.random_range(0..=2 * self.shift) as isize - self.shift as isize;
        let (down, right) = (step(), step());
        let (row, col) = (rng.random_range(0..height), rng.random_range(0..width));
        let hole = |center: usize, side: usize| {
            let start = (center + 1).saturating_sub(self.cutout.div_ceil(2));
            start..(center + 1 + self.cutout / 2).min(side)
        };
        let plane = shape.plane();
        let planes = pixels.chunks_exact(plane).zip(out.chunks_exact_mut(plane)).zip(zeros);
        for ((from, to), &zero) in planes {
            for (y, to) in to.chunks_exact_mut(width).enumerate() {
                match self.source(y as isize - down, height) {
                    Some(y) => self.shift_row(&from[y * width..][..width], right, zero, to),
                    None => to.fill(zero),
                }
                if mirrored {
                    to.reverse();
                }
                if self.cutout > 0 && hole(row, height).contains(&y) {
                    to[hole(col, width)].fill(zero);
                }
            }
        }
    }

    /// `from` moved to the right by `right` pixels.
    fn shift_row(&self, from: &[u8], right: isize, zero: u8, to: &mut [u8]) {
        let (len, by) = (from.len(), right.unsigned_abs());
        if right >= 0 {
            to[by..].copy_from_slice(&from[..len - by]);
        } else {
            to[..len - by].copy_from_slice(&from[by..]);
        }
        let edge = if right >= 0 { 0..by } else { len - by..len };
        for x in edge {
            to[x] = self.source(x as isize - right, len).map_or(zero, |x| from[x]);
        }
    }

    /// The source of the pixel at `at` of a line of `len`; none if it is a zero.
    fn source(&self, at: isize, len: usize) -> Option<usize> {
        let last = len as isize - 1;
        match self.border {
            _ if (0..=last).contains(&at) => Some(at as usize),
            Border::Reflect if at < 0 => Some(-at as usize),
            Border::Reflect => Some((2 * last - at) as usize),
            Border::Zeros => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape { channels: 2, height: 5, width: 6 };

    fn image() -> Vec<u8> {
        (1..=60).collect()
    }

    fn applied(augmentation: Augmentation, epoch: u64, number: u32) -> Vec<u8> {
        let mut out = vec![0; 60];
        augmentation.apply(SHAPE, (7, epoch, number), &image(), &[200, 201], &mut out);
        out
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        assert!(Augmentation::default().is_none());
        assert_eq!(applied(Augmentation::default(), 1, 2), image());
    }

    #[test]
    fn half_of_the_images_are_mirrored() {
        let flip = Augmentation { flip: true, ..Augmentation::default() };
        let mut mirrored = image();
        mirrored.chunks_mut(6).for_each(<[u8]>::reverse);
        let results: Vec<_> = (0..400).map(|number| applied(flip, 1, number)).collect();
        let count = results.iter().filter(|&result| *result == mirrored).count();
        assert!((150..250).contains(&count), "{count} of 400");
        assert!(results.iter().all(|result| *result == mirrored || *result == image()));
    }

    /// Every shift by definition, pixel by pixel.
    fn shifted(border: Border, down: isize, right: isize) -> Vec<u8> {
        let reflect = |at: isize, len: isize| {
            if at < 0 {
                -at
            } else if at >= len {
                2 * len - 2 - at
            } else {
                at
            }
        };
        let mut out = Vec::new();
        for c in 0..2 {
            for y in 0..5isize {
                for x in 0..6isize {
                    let (y, x) = (y - down, x - right);
                    let inside = (0..5).contains(&y) && (0..6).contains(&x);
                    out.push(match border {
                        Border::Zeros if !inside => 200 + c as u8,
                        _ => image()[(c * 30 + reflect(y, 5) * 6 + reflect(x, 6)) as usize],
                    });
                }
            }
        }
        out
    }

    #[test]
    fn shifts_are_all_of_those_allowed_and_no_others() {
        for border in [Border::Reflect, Border::Zeros] {
            let shift = Augmentation { shift: 2, border, ..Augmentation::default() };
            let moves = (-2..=2).flat_map(|down| (-2..=2).map(move |right| (down, right)));
            let allowed: Vec<_> = moves.map(|(d, r)| shifted(border, d, r)).collect();
            let mut seen = [false; 25];
            for number in 0..1000 {
                let result = applied(shift, 3, number);
                let found = allowed.iter().position(|allowed| *allowed == result);
                seen[found.expect("a shift by up to 2")] = true;
            }
            assert!(seen.iter().all(|&seen| seen), "{border}: {seen:?}");
        }
    }

    #[test]
    fn a_cutout_is_a_square_of_zeros() {
        let cutout = Augmentation { cutout: 3, ..Augmentation::default() };
        let mut largest = 0;
        for number in 0..200 {
            let result = applied(cutout, 1, number);
            for (channel, zero) in [(0, 200), (1, 201)] {
                let plane = &result[channel * 30..][..30];
                let holes: Vec<usize> = (0..30).filter(|&i| plane[i] == zero).collect();
                let rows = holes.iter().map(|i| i / 6);
                let cols = holes.iter().map(|i| i % 6);
                let extent = |values: &mut dyn Iterator<Item = usize>| {
                    let values: Vec<_> = values.collect();
                    values.iter().max().unwrap() - values.iter().min().unwrap() + 1
                };
                let (height, width) =
                    (extent(&mut rows.into_iter()), extent(&mut cols.into_iter()));
                assert!(height <= 3 && width <= 3 && holes.len() == height * width, "{plane:?}");
                assert!(height >= 2 && width >= 2, "around a pixel inside: {plane:?}");
                largest = largest.max(holes.len());
                let kept = (0..30).filter(|i| !holes.contains(i));
                assert!({ kept }.all(|i| plane[i] == image()[channel * 30 + i]));
            }
        }
        assert_eq!(largest, 9);
    }

    #[test]
    fn epochs_and_images_differ_and_repeat() {
        let all = Augmentation { flip: true, shift: 2, cutout: 2, ..Augmentation::default() };
        assert_eq!(applied(all, 4, 5), applied(all, 4, 5));
        let others: Vec<_> =
            (0..20).map(|i| (applied(all, i, 5), applied(all, 4, i as u32))).collect();
        assert!(others.windows(2).any(|pair| pair[0].0 != pair[1].0));
        assert!(others.windows(2).any(|pair| pair[0].1 != pair[1].1));
    }

    #[test]
    fn settings_that_exceed_the_image_are_errors() {
        for bad in [
            Augmentation { shift: 5, ..Augmentation::default() },
            Augmentation { cutout: 6, ..Augmentation::default() },
        ] {
            assert!(bad.check(SHAPE).is_err(), "{bad:?}");
        }
        let largest = Augmentation { shift: 4, cutout: 5, ..Augmentation::default() };
        largest.check(SHAPE).unwrap();
        for number in 0..50 {
            applied(largest, 1, number);
            applied(Augmentation { border: Border::Zeros, ..largest }, 1, number);
        }
        assert_eq!("zeros".parse::<Border>().unwrap(), Border::Zeros);
        assert!("mirror".parse::<Border>().is_err());
    }
}
