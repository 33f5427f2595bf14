//! Values of options: what the flags of several subcommands accept, checked while they are read.

use std::ops::RangeInclusive;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use tilewise::{
    Precision,
    data::{Border, NormalizeMode},
    train::{LastBatch, Optimizer},
};

/// Threads that a pool may have; more are a typing mistake.
const THREADS: RangeInclusive<u64> = 1..=4096;
/// The largest whole number of TOML, which keeps the settings of a run.
const LARGEST: u64 = i64::MAX as u64;

/// A whole number, at least 1.
pub(super) fn count(text: &str) -> Result<usize, String> {
    whole(text, 1..=LARGEST, "expected a whole number above 0")
}

/// A whole number that may be 0.
pub(super) fn size(text: &str) -> Result<usize, String> {
    whole(text, 0..=LARGEST, "expected a whole number, 0 or above")
}

/// A seed of random numbers.
pub(super) fn seed(text: &str) -> Result<u64, String> {
    whole(text, 0..=LARGEST, &format!("expected a whole number from 0 to {LARGEST}"))
}

/// A number of threads.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    let (least, most) = (THREADS.start(), THREADS.end());
    whole(text, THREADS, &format!("expected a whole number from {least} to {most}"))
}

fn whole<N: TryFrom<u64>>(
    text: &str,
    range: RangeInclusive<u64>,
    expected: &str,
) -> Result<N, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.and_then(|number| N::try_from(number).ok()).ok_or_else(|| {
        // Of a number that is not even a `u64`, what is wrong is its size.
        let is_large = is_number && text.parse().is_ok_and(|number: f64| number >= LARGEST as f64);
        if is_large && *range.end() == LARGEST {
            format!("expected a whole number of at most {LARGEST}")
        } else {
            expected.to_owned()
        }
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

/// A fraction that may be 0, but not 1.
pub(super) fn fraction(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "expected a number from 0 to below 1")
}

fn number(text: &str, fits: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && fits(*x)).ok_or_else(|| expected.into())
}

/// An address to download from.
pub(super) fn url(text: &str) -> Result<String, String> {
    let known = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    known.then(|| text.to_owned()).ok_or_else(|| "expected http://... or https://...".into())
}

/// The MD5 sum of a file.
pub(super) fn md5(text: &str) -> Result<String, String> {
    let is_sum = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sum.then(|| text.to_owned()).ok_or_else(|| "expected 32 hexadecimal digits".into())
}

/// Reads an optimizer, with its default settings.
pub(super) fn optimizer() -> impl TypedValueParser<Value = Optimizer> {
    PossibleValuesParser::new(Optimizer::NAMES).try_map(|name| name.parse::<Optimizer>())
}

/// Reads "f32", "f64" or "bf16".
pub(super) fn precision() -> impl TypedValueParser<Value = Precision> {
    let names = Precision::ALL.iter().map(|precision| precision.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Precision>())
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
            assert!(text == "0" || size(text).is_err(), "{text:?}");
            assert!(text == "0" || seed(text).is_err(), "{text:?}");
        }
        for text in ["nan", "inf", "-inf", "-1e-9", "", "x"] {
            assert!(positive(text).is_err(), "{text:?}");
            assert!(not_negative(text).is_err(), "{text:?}");
            assert!(fraction(text).is_err(), "{text:?}");
        }
        assert!(positive("0").is_err());
        assert!(fraction("1").is_err());
        assert!(threads("5000").is_err());
        assert_eq!((count("3"), threads("3")), (Ok(3), Ok(3)));
        assert_eq!((size("0"), seed("0")), (Ok(0), Ok(0)));
        let largest = LARGEST.to_string();
        assert_eq!((count(&largest), seed(&largest)), (Ok(LARGEST as usize), Ok(LARGEST)));
        for text in ["9223372036854775808", "18446744073709551616", &"9".repeat(400)] {
            for error in [count(text).unwrap_err(), seed(text).unwrap_err()] {
                assert!(error.ends_with(&largest), "{text}: {error}");
            }
            assert!(threads(text).unwrap_err().ends_with("4096"));
        }
        let sum = "c32a1d4ab5d03f1284b67883e8d87530";
        assert_eq!(md5(sum).as_deref(), Ok(sum));
        assert!(md5(&sum[1..]).is_err() && md5(&sum.replace('a', "g")).is_err());
        assert_eq!(
            (positive("1e-3"), not_negative("0"), fraction("0.5")),
            (Ok(1e-3), Ok(0.0), Ok(0.5))
        );
    }
}
