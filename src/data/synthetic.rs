//! `synthetic`: images of ten shapes drawn from a seed, for tests, demonstrations and benchmarks
//! without a download.
//!
//! The class is the shape. Position, size, tilt, colors, textures, contrast, background and noise
//! vary within a class, and in some images the shape is darker than the background, so no
//! single pixel or color identifies the class. Only integers, the four basic operations and square
//! roots are used: a seed gives the same bytes on every machine.

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::images::{ImageSet, ImageShape};
use crate::error::{Error, Result};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const SHAPE: ImageShape = ImageShape { channels: 3, height: SIDE, width: SIDE };

/// Names of the classes, by label.
const CLASSES: [&str; 10] =
    ["disc", "square", "triangle", "plus", "ring", "saltire", "diamond", "frame", "bar", "pillar"];

/// How much the images of a class differ; chosen so that on 10,000 images a softmax classifier has
/// an accuracy of about a half and a network with 200 hidden units of four fifths.
mod variety {
    /// Largest distance of the shape's center from the image's, in pixels.
    pub const SHIFT: f32 = 4.0;
    /// Smallest and largest distance from the shape's center to its edge, in pixels.
    pub const RADIUS: (f32, f32) = (7.0, 12.5);
    /// Largest tilt: the tangent of half the angle.
    pub const TILT: f32 = 0.12;
    /// Fraction of the images whose shape is darker than its background.
    pub const DARK: f32 = 0.2;
    /// Smallest and largest difference in brightness between shape and background.
    pub const CONTRAST: (f32, f32) = (28.0, 110.0);
    /// Largest difference between the color of a shape and gray, per channel.
    pub const COLOR: f32 = 50.0;
    /// Largest amplitude of a texture.
    pub const TEXTURE: f32 = 30.0;
    /// Smallest and largest standard deviation of the noise.
    pub const NOISE: (f32, f32) = (4.0, 30.0);
}

/// `images` images, 3 x 32 x 32, of ten shapes in random order and nearly equal numbers.
///
/// Image `i` depends on the seed and on `i` alone: a smaller set is the beginning of a larger.
///
/// # Errors
/// [`Error::Setting`] for no images, [`Error::SizeOverflow`] if they exceed the address space.
pub fn synthetic(images: usize, seed: u64) -> Result<ImageSet> {
    let features = SHAPE.features();
    let overflow = || Error::SizeOverflow { what: "synthetic", rows: images, cols: features };
    let bytes = images.checked_mul(features).ok_or_else(overflow)?;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(bytes).map_err(|_| overflow())?;
    pixels.resize(bytes, 0);
    let mut labels = Vec::with_capacity(images);
    for (index, image) in pixels.chunks_exact_mut(features).enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        let class = rng.random_range(0..CLASSES.len());
        draw(class, &mut rng, image);
        labels.push(class as u32);
    }
    ImageSet::new(SHAPE, CLASSES.map(String::from).to_vec(), pixels, labels)
}

/// Draws one image, shape (3, 32, 32).
fn draw(class: usize, rng: &mut ChaCha8Rng, image: &mut [u8]) {
    let outline = Outline::random(class, rng);
    let sign = if rng.random::<f32>() < variety::DARK { -1.0 } else { 1.0 };
    let contrast = sign * between(rng, variety::CONTRAST);
    let room = contrast.abs() / 2.0 + 30.0;
    let middle = between(rng, (room, 255.0 - room));
    let background = Paint::random(middle - contrast / 2.0, rng);
    let foreground = Paint::random(middle + contrast / 2.0, rng);
    let noise = between(rng, variety::NOISE);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let at = (x as f32, y as f32);
            let coverage = outline.coverage(at);
            let (behind, front) = (background.texture(at), foreground.texture(at));
            let mut random = [0; 12];
            rng.fill_bytes(&mut random);
            for channel in 0..SHAPE.channels {
                let behind = background.color[channel] + behind;
                let front = foreground.color[channel] + front;
                let clean = behind + coverage * (front - behind);
                let value = clean + noise * bell(&random[4 * channel..]);
                image[channel * PLANE + y * SIDE + x] = (value + 0.5) as u8;
            }
        }
    }
}

/// A number from `low` to `high`.
fn between(rng: &mut ChaCha8Rng, (low, high): (f32, f32)) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

/// A number from `-bound` to `bound`.
fn within(rng: &mut ChaCha8Rng, bound: f32) -> f32 {
    between(rng, (-bound, bound))
}

/// Nearly normal, with mean 0 and standard deviation 1: the scaled sum of four random bytes.
fn bell(random: &[u8]) -> f32 {
    let sum: u32 = random[..4].iter().map(|&byte| u32::from(byte)).sum();
    (sum as f32 - 510.0) / 147.8
}

/// The edge of a shape: its center, size and tilt.
struct Outline {
    class: usize,
    center: (f32, f32),
    radius: f32,
    cos: f32,
    sin: f32,
}

impl Outline {
    fn random(class: usize, rng: &mut ChaCha8Rng) -> Self {
        let middle = (SIDE as f32 - 1.0) / 2.0;
        let mut coordinate = || middle + within(rng, variety::SHIFT);
        let center = (coordinate(), coordinate());
        let radius = between(rng, variety::RADIUS);
        let tilt = within(rng, variety::TILT);
        let length = 1.0 + tilt * tilt;
        let (cos, sin) = ((1.0 - tilt * tilt) / length, 2.0 * tilt / length);
        Self { class, center, radius, cos, sin }
    }

    /// How much of a pixel lies inside of the shape, from 0 to 1.
    fn coverage(&self, (x, y): (f32, f32)) -> f32 {
        let (x, y) = (x - self.center.0, y - self.center.1);
        let u = (x * self.cos + y * self.sin) / self.radius;
        let v = (y * self.cos - x * self.sin) / self.radius;
        (0.5 - distance(self.class, u, v) * self.radius).clamp(0.0, 1.0)
    }
}

/// Roughly the distance from a point to the edge of a shape of radius 1, negative inside.
fn distance(class: usize, u: f32, v: f32) -> f32 {
    let (a, b) = (u.abs(), v.abs());
    let diagonal = 0.707_106_77;
    let center = (u * u + v * v).sqrt();
    let rectangle = |width: f32, height: f32| (a - width).max(b - height);
    match CLASSES[class] {
        "disc" => center - 0.95,
        "square" => rectangle(0.82, 0.82),
        "triangle" => ((2.0 * a - v - 0.9) * 0.447_213_6).max(v - 0.85),
        "plus" => rectangle(1.0, 0.3).min(rectangle(0.3, 1.0)),
        "ring" => (center - 0.72).abs() - 0.25,
        "saltire" => {
            let (along, across) = ((u + v).abs() * diagonal, (u - v).abs() * diagonal);
            (along - 1.1).max(across - 0.28).min((across - 1.1).max(along - 0.28))
        }
        "diamond" => (a + b - 1.1) * diagonal,
        "frame" => (a.max(b) - 0.7).abs() - 0.2,
        "bar" => rectangle(1.1, 0.45),
        _ => rectangle(0.45, 1.1),
    }
}

/// The color and texture of the shape or of its background.
struct Paint {
    color: [f32; 3],
    pattern: u32,
    amplitude: f32,
    direction: (f32, f32),
    phase: f32,
}

impl Paint {
    fn random(brightness: f32, rng: &mut ChaCha8Rng) -> Self {
        let tint: [f32; 3] = std::array::from_fn(|_| within(rng, variety::COLOR));
        let gray = (tint[0] + tint[1] + tint[2]) / 3.0;
        Self {
            color: tint.map(|part| brightness + part - gray),
            pattern: rng.random_range(0..4),
            amplitude: variety::TEXTURE * rng.random::<f32>(),
            direction: (within(rng, 1.0), within(rng, 1.0)),
            phase: rng.random(),
        }
    }

    /// What the texture adds to all channels of a pixel.
    fn texture(&self, (x, y): (f32, f32)) -> f32 {
        let along = x * self.direction.0 + y * self.direction.1;
        let across = x * self.direction.1 - y * self.direction.0;
        let wave = |position: f32| {
            let turn = position / 5.0 + self.phase;
            if turn - turn.floor() < 0.5 { 1.0 } else { -1.0 }
        };
        self.amplitude
            * match self.pattern {
                0 => 0.0,
                1 => wave(along),
                2 => wave(along) * wave(across),
                _ => (along - 15.5 * (self.direction.0 + self.direction.1)) / 15.5,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_set_begins_a_larger_one() {
        let large = synthetic(300, 5).unwrap();
        let small = synthetic(20, 5).unwrap();
        assert_eq!(small.pixels(), &large.pixels()[..small.pixels().len()]);
        assert_eq!(small.labels(), &large.labels()[..20]);
        assert_ne!(synthetic(20, 6).unwrap().pixels(), small.pixels());
    }

    #[test]
    fn classes_are_balanced_and_mixed() {
        let set = synthetic(2000, 1).unwrap();
        for (class, count) in set.label_histogram().into_iter().enumerate() {
            assert!((150..250).contains(&count), "class {class}: {count} of 2000");
        }
        let changes = set.labels().windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes > 1700, "{changes}");
    }

    /// A change here changes every result on synthetic images.
    #[test]
    fn the_images_of_a_seed_stay_what_they_were() {
        let set = synthetic(20, 3).unwrap();
        let labels = set.labels().iter().map(|&label| label as u8);
        let bytes = labels.chain(set.pixels().iter().copied());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        assert_eq!(hash, 7_791_138_054_371_398_902);
    }

    #[test]
    fn the_mean_color_does_not_give_the_class_away() {
        let set = synthetic(4000, 2).unwrap();
        let color = |index: usize| -> [f64; 3] {
            let image = set.image(index).unwrap();
            std::array::from_fn(|c| image[c * PLANE..][..PLANE].iter().map(|&p| p as f64).sum())
        };
        let mut sums = [([0.0; 3], 0.0); 10];
        for index in 0..3000 {
            let (sum, count) = &mut sums[set.labels()[index] as usize];
            *count += 1.0;
            for (sum, part) in sum.iter_mut().zip(color(index)) {
                *sum += part;
            }
        }
        let nearest = |color: [f64; 3]| {
            let distance = |(sum, count): &([f64; 3], f64)| -> f64 {
                sum.iter().zip(color).map(|(sum, part)| (sum / count - part).powi(2)).sum()
            };
            (0..10).min_by(|&a, &b| distance(&sums[a]).total_cmp(&distance(&sums[b]))).unwrap()
        };
        let test = 3000..4000;
        let right = test.filter(|&i| nearest(color(i)) == set.labels()[i] as usize).count();
        assert!(right < 200, "{right} of 1000 by the mean color");
    }

    #[test]
    fn no_images_are_an_error() {
        assert!(matches!(synthetic(0, 1), Err(Error::Setting { name: "images", .. })));
        assert!(matches!(synthetic(usize::MAX / 2, 1), Err(Error::SizeOverflow { .. })));
    }
}
