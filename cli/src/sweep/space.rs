//! What a sweep tries: grids of values, and draws from ranges that depend on the seed and the
//! trial alone.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use toml::Value;

use crate::{
    config::{Flags, Settings},
    train::TrainArgs,
};

/// Settings that belong to the sweep as a whole.
const COMMON: [&str; 7] = ["data", "synthetic", "threads", "out", "overwrite", "quiet", "resume"];
/// Most trials of a sweep, and most values of a setting. All are kept in memory and checked before
/// the first is trained.
const MAX_TRIALS: usize = 10_000;

/// A setting that is varied.
#[derive(Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) key: String,
    pub(super) values: Values,
}

/// Where an axis has its values from.
#[derive(Debug, PartialEq)]
pub(super) enum Values {
    /// Each of them, combined with those of the other axes.
    Grid(Vec<Value>),
    /// One of them at random.
    Choice(Vec<Value>),
    /// A number between two, at random; on a logarithmic scale each factor is as likely.
    Range { low: f64, high: f64, log: bool, whole: bool },
}

/// How random settings are drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws {
    pub(super) seed: u64,
    /// Draws for each point of the grid.
    pub(super) trials: usize,
}

impl Axis {
    /// Reads `key=value,value`.
    ///
    /// # Errors
    /// What would be right.
    pub(super) fn grid(text: &str, flags: &Flags<TrainArgs>) -> Result<Self, String> {
        let (key, list) = parts(text)?;
        let key = flags.name(key);
        Ok(Self { key: key.to_owned(), values: Values::Grid(values(key, list, flags)?) })
    }

    /// Reads `key=low..high`, `key=log:low..high` or `key=value,value`.
    ///
    /// # Errors
    /// What would be right.
    pub(super) fn random(text: &str, flags: &Flags<TrainArgs>) -> Result<Self, String> {
        let (key, range) = parts(text)?;
        let key = flags.name(key);
        let (log, ends) = match range.strip_prefix("log:") {
            Some(ends) => (true, ends),
            None => (false, range),
        };
        let Some((low, high)) = ends.split_once("..") else {
            if log {
                return Err(format!("{key}={range}: expected {key}=log:LOW..HIGH"));
            }
            return Ok(Self {
                key: key.to_owned(),
                values: Values::Choice(values(key, ends, flags)?),
            });
        };
        let wrong = |expected: &str| Err(format!("{key}={range}: expected {expected}"));
        let Some(whole) = flags.is_whole(key) else {
            return wrong("a list of values: only numbers have ranges");
        };
        for end in [low, high] {
            flags.value(key, end)?;
        }
        let (Ok(low), Ok(high)) = (low.parse::<f64>(), high.parse::<f64>()) else {
            return wrong("a number on either side of `..`");
        };
        if low >= high {
            return wrong("the smaller number first");
        }
        if log && low <= 0.0 {
            return wrong("numbers above 0 on a logarithmic scale");
        }
        Ok(Self { key: key.to_owned(), values: Values::Range { low, high, log, whole } })
    }
}

fn parts(text: &str) -> Result<(&str, &str), String> {
    let Some((key, values)) = text.split_once('=') else {
        return Err(format!("{text:?}: expected FLAG=VALUES, as in lr=0.1,0.2"));
    };
    if COMMON.contains(&key) {
        return Err(format!("{key}: cannot be varied, it is the same for all trials"));
    }
    Ok((key, values))
}

fn values(key: &str, list: &str, flags: &Flags<TrainArgs>) -> Result<Vec<Value>, String> {
    let count = list.split(',').count();
    if count > MAX_TRIALS {
        return Err(format!("{key}: {count} values, expected at most {MAX_TRIALS}"));
    }
    list.split(',').map(|text| flags.value(key, text)).collect()
}

/// The number of trials.
///
/// # Errors
/// The number, if it is too large.
fn count(axes: &[Axis], draws: Draws) -> Result<usize, String> {
    let mut factors: Vec<(String, usize)> = Vec::new();
    for axis in axes {
        if let Values::Grid(values) = &axis.values {
            factors.push((format!("{} values of {}", values.len(), axis.key), values.len()));
        }
    }
    if factors.len() < axes.len() {
        factors.push((format!("--trials {}", draws.trials), draws.trials));
    }
    let product = factors.iter().try_fold(1, |all: usize, (_, count)| all.checked_mul(*count));
    match product {
        Some(count) if count <= MAX_TRIALS => Ok(count),
        other => {
            let texts: Vec<&str> = factors.iter().map(|(text, _)| text.as_str()).collect();
            let count =
                other.map_or_else(|| format!("more than {}", usize::MAX), |n| n.to_string());
            Err(format!(
                "{count} trials ({}): expected at most {MAX_TRIALS} in a sweep",
                texts.join(" x ")
            ))
        }
    }
}

/// The settings of all trials: the last axis of the grid changes first, and each of its points
/// has its draws one after another.
///
/// # Errors
/// That there are too many, or a draw that the setting does not take.
pub(super) fn points(
    axes: &[Axis],
    draws: Draws,
    flags: &Flags<TrainArgs>,
) -> Result<Vec<Settings>, String> {
    let count = count(axes, draws)?;
    let mut points = vec![Settings::new()];
    for axis in axes {
        let Values::Grid(values) = &axis.values else { continue };
        let with = |point: &Settings, value: &Value| {
            let mut point = point.clone();
            point.insert(axis.key.clone(), value.clone());
            point
        };
        points = points.iter().flat_map(|p| values.iter().map(move |v| with(p, v))).collect();
    }
    if axes.iter().all(|axis| matches!(axis.values, Values::Grid(_))) {
        return Ok(points);
    }
    let mut trials = Vec::with_capacity(count);
    for point in &points {
        for _ in 0..draws.trials {
            let mut rng = ChaCha8Rng::seed_from_u64(draws.seed);
            rng.set_stream(trials.len() as u64);
            let mut trial = point.clone();
            for axis in axes {
                let value = match &axis.values {
                    Values::Grid(_) => continue,
                    Values::Choice(values) => values[rng.random_range(0..values.len())].clone(),
                    &Values::Range { low, high, log, whole } => {
                        let number = draw(rng.random(), low, high, log);
                        let text =
                            if whole { format!("{:.0}", number) } else { number.to_string() };
                        flags.value(&axis.key, &text).map_err(|e| format!("--random {e}"))?
                    }
                };
                trial.insert(axis.key.clone(), value);
            }
            trials.push(trial);
        }
    }
    Ok(trials)
}

/// The number at a place from 0 to 1 between two, to four digits.
fn draw(place: f64, low: f64, high: f64, log: bool) -> f64 {
    let exact = if log { low * (high / low).powf(place) } else { low + (high - low) * place };
    let rounded = format!("{exact:.3e}").parse().unwrap_or(exact);
    f64::clamp(rounded, low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::word;

    fn shown(axes: &[Axis], draws: Draws) -> Vec<String> {
        let points = points(axes, draws, &Flags::new()).unwrap();
        let point = |point: &Settings| point.values().map(word).collect::<Vec<_>>().join(" ");
        points.iter().map(point).collect()
    }

    #[test]
    fn grids_are_combined_with_each_other_and_with_draws() {
        let flags = Flags::new();
        let grid = |text| Axis::grid(text, &flags).unwrap();
        let draws = Draws { seed: 1, trials: 2 };
        let axes = [grid("lr=0.1,1"), grid("hidden=8,16-4")];
        assert_eq!(shown(&axes, draws), ["0.1 8", "0.1 16-4", "1.0 8", "1.0 16-4"]);
        let axes = [grid("lr=0.1,1"), Axis::random("hidden=5..5000", &flags).unwrap()];
        let all = shown(&axes, draws);
        assert_eq!(all.len(), 4);
        let widths: std::collections::BTreeSet<&str> =
            all.iter().map(|text| text.split(' ').next_back().unwrap()).collect();
        assert_eq!(widths.len(), 4, "{all:?}");
        assert_eq!(shown(&axes, draws), all);
        assert_ne!(shown(&axes, Draws { seed: 2, ..draws }), all);
    }

    #[test]
    fn a_setting_is_named_as_its_flag() {
        let axis = Axis::grid("dtype=f32,bf16", &Flags::new()).unwrap();
        assert_eq!(axis.key, "precision");
    }

    #[test]
    fn draws_fill_their_range() {
        let flags = Flags::new();
        let draws = Draws { seed: 0, trials: 400 };
        for (text, low, middle, high) in
            [("lr=log:0.01..1", 0.01, 0.1, 1.0), ("dropout=0..0.5", 0.0, 0.25, 0.5)]
        {
            let axes = [Axis::random(text, &flags).unwrap()];
            let numbers: Vec<f64> =
                shown(&axes, draws).iter().map(|text| text.parse().unwrap()).collect();
            assert!(numbers.iter().all(|x| (low..=high).contains(x)), "{text}: {numbers:?}");
            let below = numbers.iter().filter(|&&x| x < middle).count();
            // Four standard deviations of a fair coin.
            assert!((160..=240).contains(&below), "{text}: {below} of 400 below the middle");
        }
    }

    #[test]
    fn what_cannot_be_tried_is_refused() {
        let flags = Flags::new();
        for (text, expected) in [
            ("lr", "FLAG=VALUES"),
            ("lt=1", "lt: unknown setting; did you mean \"lr\"?"),
            ("learning_rate=1", "did you mean \"lr\"?"),
            ("zzzz=1", "tilewise train --help"),
            ("lr=0.1,", "lr=: expected a finite number above 0"),
            ("lr=0", "lr=0: expected a finite number above 0"),
            ("lr=1e400", "lr=1e400: expected"),
            ("hidden=8,4-x", "hidden=4-x: expected a whole number above 0"),
            ("flip=yes", "flip=yes: expected true or false"),
            ("optimizer=adamax", "optimizer=adamax: expected one of sgd, "),
            ("out=a,b", "out: cannot be varied"),
            ("data=a", "data: cannot be varied"),
        ] {
            let message = Axis::grid(text, &flags).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
            assert!(message.matches("expected").count() < 2, "{text}: {message}");
        }
        for (text, expected) in [
            ("optimizer=adam..sgd", "only numbers have ranges"),
            ("lr=1..0.1", "smaller number first"),
            ("dropout=log:0..0.5", "above 0"),
            ("dropout=0..2", "0 to below 1"),
            ("lr=log:3", "LOW..HIGH"),
            ("epochs=0.5..3", "whole number"),
        ] {
            let message = Axis::random(text, &flags).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn too_many_trials_are_refused_by_their_number_before_they_are_made() {
        let flags = Flags::new();
        let list: Vec<String> = (1..=200).map(|n: usize| n.to_string()).collect();
        let grid = |key: &str| Axis::grid(&format!("{key}={}", list.join(",")), &flags).unwrap();
        let random = Axis::random("lr=0.1..1", &flags).unwrap();
        let refused = |axes: &[Axis], trials: usize| {
            points(axes, Draws { seed: 0, trials }, &flags).unwrap_err()
        };
        let message = refused(&["seed", "hidden", "batch", "epochs"].map(grid), 1);
        assert!(message.starts_with("1600000000 trials (200 values of seed x "), "{message}");
        assert!(message.ends_with("at most 10000 in a sweep"), "{message}");
        let message = refused(&[grid("seed"), random], 1_000_000_000);
        assert!(message.contains("200000000000 trials"), "{message}");
        assert!(message.contains("--trials 1000000000"), "{message}");
        let random = Axis::random("lr=0.1..1", &flags).unwrap();
        let message = refused(&[grid("seed"), random], usize::MAX);
        assert!(message.contains(&format!("more than {}", usize::MAX)), "{message}");
        let long = format!("seed={}", vec!["1"; MAX_TRIALS + 1].join(","));
        let message = Axis::grid(&long, &flags).unwrap_err();
        assert!(message.contains("10001 values"), "{message}");

        let most = Draws { seed: 0, trials: 50 };
        let axes = [grid("seed"), Axis::random("dropout=0..0.5", &flags).unwrap()];
        assert_eq!(points(&axes, most, &flags).unwrap().len(), MAX_TRIALS);
    }
}
