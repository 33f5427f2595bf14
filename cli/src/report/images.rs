//! Images of a data set's form as PNG, several in one.

use std::io::Cursor;

use image::{ImageFormat, Rgba, RgbaImage};

use tilewise::{
    data::ImageShape,
    error::{Error, Result},
};

/// Pixels between images.
const GAP: usize = 2;

/// Images of bytes, plane by plane, in rows of `columns`; what is between them is transparent.
/// One plane is gray, of more the first three are red, green and blue.
pub(super) fn montage(images: &[Vec<u8>], shape: ImageShape, columns: usize) -> RgbaImage {
    let extent = |count: usize, side: usize| (count * (side + GAP)).saturating_sub(GAP) as u32;
    let rows = images.len().div_ceil(columns);
    let mut all = RgbaImage::new(extent(columns, shape.width), extent(rows, shape.height));
    let plane = shape.width * shape.height;
    for (number, image) in images.iter().enumerate() {
        let left = number % columns * (shape.width + GAP);
        let top = number / columns * (shape.height + GAP);
        for at in 0..plane {
            let channel = |c: usize| image[c.min(shape.channels - 1) * plane + at];
            let (x, y) = (left + at % shape.width, top + at / shape.width);
            let pixel = Rgba([channel(0), channel(1), channel(2), 255]);
            all.put_pixel(x as u32, y as u32, pixel);
        }
    }
    all
}

/// An image as a PNG file.
///
/// # Errors
/// [`Error::File`] if it has no pixels.
pub(super) fn png(image: &RgbaImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|error| Error::file("image", error.to_string()))?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_in_rows_with_gaps() {
        let shape = ImageShape { channels: 3, height: 1, width: 2 };
        let images = [vec![1, 2, 3, 4, 5, 6], vec![7; 6], vec![9, 9, 8, 8, 7, 7]];
        let all = montage(&images, shape, 2);
        assert_eq!(all.dimensions(), (2 + 2 + 2, 1 + 2 + 1));
        assert_eq!(all.get_pixel(1, 0), &Rgba([2, 4, 6, 255]));
        assert_eq!(all.get_pixel(2, 0), &Rgba([0; 4]));
        assert_eq!(all.get_pixel(4, 0), &Rgba([7, 7, 7, 255]));
        assert_eq!(all.get_pixel(0, 3), &Rgba([9, 8, 7, 255]));
        let gray = ImageShape { channels: 1, height: 1, width: 1 };
        let read = image::load_from_memory(&png(&montage(&[vec![77]], gray, 1)).unwrap()).unwrap();
        assert_eq!(read.to_rgba8().get_pixel(0, 0), &Rgba([77, 77, 77, 255]));
    }
}
