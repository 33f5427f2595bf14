//! `Split`: the training and validation images of a set.
//! Training images are the first of the set, validation images the last.

use std::ops::Range;

use crate::error::{Error, Result};

/// The images for training and those for validation, which never overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The first images of the set.
    pub train: Range<usize>,
    /// The last images of the set.
    pub validation: Range<usize>,
}

impl Split {
    /// Splits `total` images. By default a fifth is for validation (10,000 of 50,000) and the rest
    /// for training.
    ///
    /// # Errors
    /// [`Error::Setting`] for a size of 0 or sizes that together exceed `total`.
    pub fn new(
        total: usize,
        train_size: Option<usize>,
        validation_size: Option<usize>,
    ) -> Result<Self> {
        let validation = validation_size.unwrap_or(total / 5);
        if validation == 0 || validation >= total {
            return Err(Error::setting(
                "validation_size",
                validation,
                format!("at least 1 and fewer than all {total} images"),
            ));
        }
        let rest = total - validation;
        let train = train_size.unwrap_or(rest);
        if train == 0 || train > rest {
            let expected =
                format!("1 to {rest}: {validation} of {total} images are for validation");
            return Err(Error::setting("train_size", train, expected));
        }
        Ok(Self { train: 0..train, validation: rest..total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_validates_unless_told_otherwise() {
        let split = |total, train, validation| Split::new(total, train, validation).unwrap();
        let cifar = split(50_000, None, None);
        assert_eq!(cifar, Split { train: 0..40_000, validation: 40_000..50_000 });
        assert_eq!(split(10, Some(3), Some(4)), Split { train: 0..3, validation: 6..10 });
        assert_eq!(split(10, None, Some(1)), Split { train: 0..9, validation: 9..10 });
        assert_eq!(split(10, Some(8), None), Split { train: 0..8, validation: 8..10 });
    }

    #[test]
    fn sizes_that_do_not_fit_name_the_setting_and_the_total() {
        let cases = [
            (10, Some(0), None, "train_size = 0"),
            (10, Some(9), None, "train_size = 9"),
            (10, None, Some(0), "validation_size = 0"),
            (10, None, Some(10), "validation_size = 10"),
            (10, Some(usize::MAX), Some(1), "train_size"),
            (1, None, None, "validation_size = 0"),
        ];
        for (total, train, validation, start) in cases {
            let message = Split::new(total, train, validation).unwrap_err().to_string();
            assert!(message.starts_with(start), "{message}");
            assert!(message.contains(&format!("{total} images")), "{message}");
        }
    }
}
