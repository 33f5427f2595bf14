//! Values of options: what the flags of several subcommands accept, checked while they are read.

use std::ops::RangeInclusive;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use tilewise::{
    data::{Border, NormalizeMode},
    train::LastBatch,
};

/// The element type to compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Dtype {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

/// Threads that a pool may have; more are a slip of the pen.
const THREADS: RangeInclusive<usize> = 1..=4096;

/// A whole number, at least 1.
pub(super) fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a whole number above 0".into())
}

/// A number of threads.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| THREADS.contains(n)).ok_or_else(|| {
        format!("expected a whole number from {} to {}", THREADS.start(), THREADS.end())
    })
}

/// A finite number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "expected a finite number above 0")
}

/// A finite number, 0 or above.
pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "expected a finite number, 0 or above")
}

/// A share that may be nothing, but not the whole.
pub(super) fn share(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "expected a number from 0 to below 1")
}

fn number(text: &str, fits: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && fits(*x)).ok_or_else(|| expected.into())
}

/// Reads "mean" or "mean-std".
pub(super) fn normalize_mode() -> impl TypedValueParser<Value = NormalizeMode> {
    PossibleValuesParser::new([NormalizeMode::Mean, NormalizeMode::MeanStd].map(|m| m.name()))
        .try_map(|name| name.parse::<NormalizeMode>())
}

/// Reads "reflect" or "zeros".
pub(super) fn border() -> impl TypedValueParser<Value = Border> {
    PossibleValuesParser::new([Border::Reflect, Border::Zeros].map(|border| border.name()))
        .try_map(|name| name.parse::<Border>())
}

/// What [`last_batch`] reads for each policy.
pub(super) fn last_batch_name(last_batch: LastBatch) -> &'static str {
    match last_batch {
        LastBatch::Drop => "drop",
        LastBatch::Keep => "keep",
    }
}

/// Reads "drop" or "keep".
pub(super) fn last_batch() -> impl TypedValueParser<Value = LastBatch> {
    const ALL: [LastBatch; 2] = [LastBatch::Drop, LastBatch::Keep];
    PossibleValuesParser::new(ALL.map(last_batch_name)).try_map(|name| {
        ALL.into_iter().find(|&policy| last_batch_name(policy) == name).ok_or("drop or keep")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused() {
        for text in ["0", "-1", "1.5", "", "x", "99999999999999999999999"] {
            assert!(count(text).is_err(), "{text:?}");
            assert!(threads(text).is_err(), "{text:?}");
        }
        for text in ["nan", "inf", "-inf", "-1e-9", "", "x"] {
            assert!(positive(text).is_err(), "{text:?}");
            assert!(not_negative(text).is_err(), "{text:?}");
            assert!(share(text).is_err(), "{text:?}");
        }
        assert!(positive("0").is_err());
        assert!(share("1").is_err());
        assert!(threads("5000").is_err());
        assert_eq!((count("3"), threads("3")), (Ok(3), Ok(3)));
        assert_eq!(
            (positive("1e-3"), not_negative("0"), share("0.5")),
            (Ok(1e-3), Ok(0.0), Ok(0.5))
        );
    }
}
